"""A table as it was read, and which of its columns a user means."""

from __future__ import annotations

from typing import NamedTuple

from .dialect import Numbers
from .source import BadData


class Table(NamedTuple):
    """Columns as they were read: numbers, or text as it was written."""

    name: str
    where: str  # the file, for messages
    frame: object  # a pandas.DataFrame whose columns are 0, 1 ...
    names: list[str]  # of the columns
    header: bool
    said: str  # how the file was read, in a line
    numbers: Numbers = Numbers()


def column_of(label: str, names: list[str], where: str, header=True) -> int:
    """Which column a name, or a number from 1 (from -1 at the end), means."""
    columns = f"its columns are {', '.join(map(repr, names[:30]))}{' …' * (len(names) > 30)}"
    if len(names) == 1:
        columns += ": --delimiter, if something else divides the fields"
    elif not header:
        columns += ", since no header was recognised: --header, if there is one"
    if names.count(label) > 1:
        raise BadData(f"{where}: column {label!r} occurs twice; {columns}")
    if label in names:
        return names.index(label)
    try:
        number = int(label)
    except ValueError:
        number = 0
    if not 1 <= abs(number) <= len(names):
        raise BadData(f"{where}: no column {label!r}; {columns}")
    return number - 1 if number > 0 else len(names) + number
