"""The command line, for the extra ``cli``: app.py puts the commands together, of which each has a file."""
