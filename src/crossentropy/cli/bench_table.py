"""What ``crossentropy bench`` prints: times, as GB/s of the bytes that must move, over the roof's and over ours."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from .. import bench


def tables(document: dict) -> list[Table]:
    """One for each case: the fastest first."""
    return [_of(case, records) for case, records in bench.by_case(document["records"]).items()]


def _of(case, records):
    ours = bench.best(records, implementation=bench.OURS)
    # Narrow enough for 80 columns.
    table = Table(title=Text(str(case)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("implementation", "ISA"):
        table.add_column(heading)
    for heading in ("threads", "ms", "GB/s", "roof", "x ours", "JIT, s"):
        table.add_column(heading, justify="right")
    for r in sorted(records, key=lambda r: r["median_s"]):
        table.add_row(
            r["implementation"],
            r["isa"] or "",
            str(r["threads"] or ""),
            f"{1e3 * r['median_s']:.3g}",
            f"{r['gb_per_s']:.3g}",
            "" if r["roof_fraction"] is None else f"{r['roof_fraction']:.0%}",
            f"{r['median_s'] / ours['median_s']:.2f}" if ours else "",
            "" if r["compile_s"] is None else f"{r['compile_s']:.1f}",
            style="bold" if r is ours else "",
        )
    return table
