"""What ``crossentropy bench`` prints: times, as a rate of what must move or be computed, over the limit's and ours."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from .. import bench
from ..bench.linear import contenders
from ..bench.linear import records as linear


def tables(document: dict) -> list[Table]:
    """One for each case: the fastest first."""
    found = [_of(case, records) for case, records in bench.by_case(document["records"]).items()]
    return found + [_linear(case, records) for case, records in linear.by_case(document.get("linear", [])).items()]


def _empty(case, left, right):
    """A table narrow enough for 80 columns."""
    table = Table(title=Text(str(case)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _of(case, records):
    ours = bench.best(records, implementation=bench.OURS)
    table = _empty(case, ("implementation", "ISA"), ("threads", "ms", "GB/s", "roof", "x ours", "JIT, s"))
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


def _linear(case, records):
    """A row for each contender; memory is that beyond the inputs, results included."""
    ours = records.get(contenders.OURS)
    table = _empty(case, ["implementation"], ["ms", "least", "GFLOP/s", "x products", "x ours", "peak, MiB"])
    for name, r in sorted(records.items(), key=lambda item: item[1]["median_s"]):
        table.add_row(
            name,
            f"{1e3 * r['median_s']:.3g}",
            f"{1e3 * r['least_s']:.3g}",
            f"{r['gflop_per_s']:.3g}",
            "" if r["of_products"] is None else f"{r['of_products']:.2f}",
            f"{r['median_s'] / ours['median_s']:.2f}" if ours else "",
            "" if r["peak_bytes"] is None else f"{r['peak_bytes'] / 2**20:.0f}",
            style="bold" if r is ours else "",
        )
    return table
