"""The command line: ``crossentropy train | predict | evaluate | plot | bench | info``, a file for each command."""

from __future__ import annotations

import importlib
import sys

import click

from .. import __version__, logsumexp
from .inputs import BadInput
from .interrupts import none_is_lost

COMMANDS = {
    "train": "Train a classifier on a table; report on held-out data.",
    "predict": "The classes that a trained model gives to a table's rows.",
    "evaluate": "A trained model's report on a table with labels; or one of logits in files.",
    "bench": "Time the kernels beside the machine's memory and other libraries.",
    "plot": "Draw the loss -log p of one observation against p.",
    "info": "What runs here, and why something does not.",
}


class Lazy(click.Group):
    """A group whose commands are imported when they are run: --help needs none of what they need."""

    def list_commands(self, ctx):
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx, name):
        """The command of that name, in the file of that name."""
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f".{name}", __package__), name)

    def format_commands(self, ctx, formatter):
        """Their lines in --help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Lazy,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="crossentropy")
@click.pass_context
def main(context):
    """Cross-entropy: train a classifier with it, use it, draw it, time it, see what runs it."""
    try:
        logsumexp([0.0])  # the environment variables are read here, if not before
    except (ValueError, RuntimeError) as error:
        raise BadInput(str(error)) from None
    if context.invoked_subcommand is None:
        from .tour import tour

        click.echo("\n".join(tour()))


def entry():
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):  # a redirected stream on Windows may lack p with a hat
        stream.reconfigure(errors="replace")
    try:
        with none_is_lost():
            main(prog_name="crossentropy")
    except ModuleNotFoundError as error:  # what a command needs when it is run
        if not error.name or error.name.startswith("crossentropy"):
            raise
        sys.exit(f"crossentropy: the command line needs {error.name}: python -m pip install 'crossentropy[cli]'")
