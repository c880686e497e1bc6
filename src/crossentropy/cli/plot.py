"""``crossentropy plot``: the loss of one observation, drawn."""

from __future__ import annotations

from pathlib import Path

import click

from . import plots
from .inputs import BadInput
from .outputs import check_directory, console, write_all


@click.command()
@click.option(
    "--out", "path", default="figure1.png", type=click.Path(path_type=Path), help="A .png, .pdf or .svg file."
)
def plot(path):
    """Draw the loss -log p of one observation against p, with its gradient."""
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise BadInput(f"--out must end in .png, .pdf or .svg, got {str(path)!r}")
    check_directory(path.parent)
    write_all(path.parent, {path.name: plots.figure_1().savefig})
    console.print(f"wrote {path}", soft_wrap=True, markup=False)
