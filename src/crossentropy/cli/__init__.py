"""The command line, for the extra ``cli``: app.py has the commands."""

from .app import entry, main

__all__ = ["entry", "main"]
