"""Where results go: the terminal, and files that are all written or none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rich.console import Console

from .inputs import BadInput

console = Console()


def check_directory(directory: Path, option="--out"):
    """Whether results can be written there, before any time is spent; nothing is made yet."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise BadInput(f"{option} {directory}: {existing} is not a directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise BadInput(f"{option} {directory}: {existing} is not writeable")


def write_all(directory: Path, files, option="--out"):
    """Write every file beside the directory's others first, then rename all: nothing is left half-written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".writing-") as temporary:
            for name, write in files.items():
                write(Path(temporary) / name)
            for name in files:
                os.replace(Path(temporary) / name, directory / name)
    except OSError as error:
        raise BadInput(f"{option} {directory}: {error.strerror or error}") from None
