"""The table that a user sees before training: what every column was taken as, and the words about labels."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from . import labels
from .columns import Column

SINGLY = 25  # more columns than that are shown together with their like


def column_table(columns: list[Column]) -> Table:
    """A row for each column, or for all plain numbers where there are many; those left out last, with the reason."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("column", overflow="fold", max_width=40)
    table.add_column("taken as")
    table.add_column("missing", justify="right")
    table.add_column("", overflow="fold")
    singly = columns if len(columns) <= SINGLY else [c for c in columns if c.missing or c.note or c.kind != "number"]
    if len(columns) > SINGLY:
        plain = [column for column in columns if column not in singly]
        if plain:
            names = plain[0].name if len(plain) == 1 else f"{plain[0].name} … {plain[-1].name} ({len(plain)} columns)"
            table.add_row(Text(names), "number", "", "")
    for column in sorted(singly[:SINGLY], key=lambda column: not column.kind):
        kind = column.kind or Text("left out", style="yellow")
        table.add_row(Text(column.name), kind, str(column.missing or ""), Text(column.note))
    if len(singly) > SINGLY:
        table.add_row(f"and {len(singly) - SINGLY} more", "", "", "in report.html")
    return table


def label_words(name: str, classes: list[str], counts, blank: int) -> list[str]:
    """What must be said of labels: those that are blank, those that look like no classes, and rare ones."""
    words = []
    if blank:
        words.append(f"{blank} observation{'s' * (blank > 1)} without a label left out")
    if labels.looks_continuous(classes, int(counts.sum())):
        words.append(
            f"label {name!r} looks continuous: {len(classes)} different numbers, such as {', '.join(classes[:3])}; "
            "each is taken as a class, which is of little use for a quantity"
        )
    once = [each for each, count in zip(classes, counts, strict=True) if count == 1]
    if once:
        names = ", ".join(map(repr, once[:5])) + " …" * (len(once) > 5)
        words.append(f"{names} occur{'s' * (len(once) == 1)} once: trained on, and not tested")
    strange = [each for each in classes if each.lower() in ("na", "n/a", "nan", "null", "none", "?")]
    words += [f"label {each!r} is taken as a class; --na {each!r} leaves its observations out" for each in strange]
    return words
