"""Where results go: the terminal, and files that are all written or none."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console

from .inputs import BadInput

console = Console()
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = 200  # a table in a pipe or a file is not folded for anyone's screen
aside = Console(stderr=True)


def say(text: str, style=None, to: Console | None = None):
    """A line of words as they are, without markup: folded between words on a terminal, and nowhere else."""
    to = to or console
    to.print(text, soft_wrap=not to.is_terminal, markup=False, highlight=False, style=style)


def warn(text: str, to: Console | None = None):
    """A line that nobody should overlook."""
    say(f"note: {text}", "yellow", to)


def check_directory(directory: Path, option="--out"):
    """Whether results can be written there, before any time is spent; nothing is made yet."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise BadInput(f"{option} {directory}: {existing} is not a directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise BadInput(f"{option} {directory}: {existing} is not writeable")


def check_free(directory: Path, names, force: bool, option="--out"):
    """Refuse to write over files that are there, unless forced, or a person who is asked says yes."""
    there = [name for name in names if (directory / name).exists()]
    if not there or force:
        return
    held = f"{directory} already holds {', '.join(there)}"
    if not sys.stdin.isatty():
        raise BadInput(f"{option} {directory}: it already holds {', '.join(there)}: --force writes over them")
    click.confirm(f"{held}. Write over them?", abort=True)


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


@contextlib.contextmanager
def loading(name: str, size: int, to: Console | None = None):
    """What is told while a file is read, from the first moment on: yields progress(done, total), in bytes."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    to = to or console
    if not to.is_terminal:
        say(f"reading {name} ({size / 1e6:.1f} MB)" if size >= 1e5 else f"reading {name} ({size} bytes)", to=to)
        yield lambda done, total: None
        return
    columns = (
        TextColumn("reading {task.description}", markup=False),
        BarColumn(20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=to, transient=size < 5e6) as progress:
        task = progress.add_task(name, total=size or 1)
        last = 0.0

        def update(done, total):
            nonlocal last
            now = time.monotonic()
            if now - last > 0.05 or done == total:
                last = now
                progress.update(task, completed=done, total=total or 1)

        yield update
