"""The command ``crossentropy``, also as ``python -m crossentropy``."""

import sys


def main():
    """Run the command line, or say what it needs."""
    try:
        from .cli.app import entry
    except KeyboardInterrupt:  # as Click has it once it runs
        sys.exit("\nAborted!")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("crossentropy"):
            raise
        if sys.argv[1:] == ["--version"]:  # which an issue report begins with, whatever is installed
            from . import __version__

            print(f"crossentropy, version {__version__}")
            return
        sys.exit(f"crossentropy: the command line needs {error.name}: python -m pip install 'crossentropy[cli]'")
    entry()


if __name__ == "__main__":
    main()
