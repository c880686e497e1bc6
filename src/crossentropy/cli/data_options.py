"""The options of every command that reads data: how its file is written, and which columns take part."""

from __future__ import annotations

import functools
from typing import NamedTuple

import click

DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " ", "bar": "|"}


class Reading(NamedTuple):
    """How a file is to be read; None is told from the file itself."""

    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: bool | None = None
    na: tuple[str, ...] = ()


def _delimiter(ctx, param, value):
    value = DELIMITERS.get(value, value)
    if value is not None and (len(value) != 1 or value in '"\n\r'):
        raise click.BadParameter(f"must be one character, tab or space, got {value!r}")
    return value


def reading_options(command):
    """Add the options to a command, which gets them as one argument ``reading``."""
    options = [
        click.option("--delimiter", callback=_delimiter, help="Between fields: a character, tab or space."),
        click.option("--decimal", type=click.Choice([".", ","]), help="What stands before decimals."),
        click.option("--encoding", help="Of a text file: utf-8, latin-1, cp1252 ..."),
        click.option("--header/--no-header", default=None, help="Whether names stand above the columns."),
        click.option("--na", multiple=True, metavar="TEXT", help="A missing value, besides '', NA, nan, ? ..."),
    ]

    @functools.wraps(command)
    def wrapped(delimiter, decimal, encoding, header, na, **others):
        return command(reading=Reading(delimiter, decimal, encoding, header, na), **others)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped
