"""README's figures of linear losses, from the records of `contest.run`."""

from __future__ import annotations

from collections.abc import Iterator

from .cases import HALF, LOSS, Case, cases
from .contenders import ALLOCATING, CONTENDERS, FLOORS, OURS
from .records import by_case

_COLUMNS = ("ms", "GFLOP/s", "of the products", "peak, MiB", "new arrays")


def lines(document: dict) -> Iterator[str]:
    """Those of a machine's section; none where nothing of the kind was measured."""
    found, on = by_case(document.get("linear", [])), document.get("linear_on", document)
    if not found:
        return
    present = {name for records in found.values() for name in records}
    peers = [name for name in CONTENDERS if name in present and name not in (*FLOORS, OURS, ALLOCATING)]
    versions = {name: on["versions"][name] for name in ("numpy", "torch", "jax") if name in on["versions"]}
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield f"\nLinear cross-entropy, hidden states x features x vocabulary; {libraries}, {on['date']}:\n"
    yield f"| N x H x V | | {' | '.join([*_COLUMNS, *peers])} |"
    yield "|---|---|" + "--:|" * (len(_COLUMNS) + len(peers))
    for case in sorted(found, key=_place):
        records = found[case]
        if (ours := records.get(OURS)) is not None:
            cells = [_case(case), _what(case), *_own(ours), _beside(records.get(ALLOCATING), ours)]
            yield f"| {' | '.join([*cells, *(_beside(records.get(name), ours) for name in peers)])} |"
    yield '\n"of the products" is the time over that of the products alone, by NumPy or torch, whichever is faster;'
    yield "memory is that beyond the inputs, with the gradients. Then how many times as long as ours, and MiB."
    if "torch, fused" in present:
        yield '"fused" is torch\'s own `linear_cross_entropy` with its options, by default and at 512 rows a chunk.'


def _place(case: Case) -> tuple:
    every = cases()
    return (every.index(case) if case in every else len(every)), case.op == LOSS, case


def _case(case: Case) -> str:
    return ", ".join([case.shape_text, *([case.dtype] if case.dtype != "float32" else [])])


def _what(case: Case) -> str:
    text = "loss" if case.op == LOSS else "loss + gradients"
    return f"{text}, {HALF}" if case.option == HALF else text


def _mib(record: dict) -> str:
    return "" if record["peak_bytes"] is None else f"{record['peak_bytes'] / 2**20:.0f}"


def _own(r: dict) -> list[str]:
    ms = 1e3 * r["median_s"]
    of = "–" if r["of_products"] is None else f"{r['of_products']:.2f}×"
    return [f"{ms:.3g}" if ms < 100 else f"{ms:.0f}", f"{r['gflop_per_s']:.0f}", of, _mib(r)]


def _beside(other: dict | None, ours: dict) -> str:
    if other is None:
        return "–"
    return ", ".join(filter(None, [f"{other['median_s'] / ours['median_s']:.2f}×", _mib(other)]))
