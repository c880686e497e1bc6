"""The command line: ``crossentropy train | plot | bench | info``, a file for each command."""

from __future__ import annotations

import sys

import click

from .. import __version__, logsumexp
from .bench import bench
from .info import info
from .inputs import BadInput
from .plot import plot
from .train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="crossentropy")
def main():
    """Cross-entropy: train a classifier with it, draw it, time it, see what runs it."""
    try:
        logsumexp([0.0])  # the environment variables are read here, if not before
    except (ValueError, RuntimeError) as error:
        raise BadInput(str(error)) from None


for command in (train, bench, plot, info):
    main.add_command(command)


def entry():
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):  # a redirected stream on Windows may lack p with a hat
        stream.reconfigure(errors="replace")
    main(prog_name="crossentropy")
