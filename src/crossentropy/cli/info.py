"""``crossentropy info``: what runs here, and why something does not."""

from __future__ import annotations

import os
import platform

import click
import numpy as np
from rich.table import Table
from rich.text import Text

from .. import __version__, backends
from .outputs import console


@click.command()
def info():
    """Show the version, the backends (and why one is missing), ISA and threads."""
    table = Table(show_header=False, box=None)
    table.add_row("crossentropy", __version__)
    table.add_row(
        "Python", f"{platform.python_version()}, NumPy {np.__version__}, {platform.system()} {platform.machine()}"
    )
    for backend in backends():
        state = "available" if backend.available else f"missing: {backend.reason}"
        table.add_row(f"backend {backend.name}", Text(state))
    if backends()[0].available:
        from .. import native

        table.add_row("ISA", f"{native.current_isa()} (available: {', '.join(native.SUPPORTED_ISAS)})")
        table.add_row("threads", f"{native.current_threads()} ({native.THREADS})")
    for name in (
        "CROSSENTROPY_BACKEND",
        "CROSSENTROPY_ISA",
        "CROSSENTROPY_NUM_THREADS",
        "OMP_NUM_THREADS",
        "CROSSENTROPY_KEEP_MEMORY",
    ):
        if name in os.environ:
            table.add_row(name, Text(os.environ[name]))
    console.print(table)
