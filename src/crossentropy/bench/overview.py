"""A few cases for those who look once: README's table, and the picture of the same figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .contenders import ALLOCATING, OURS
from .linear import cases as linear
from .linear import records as linear_records
from .results import best, by_case
from .suite import SEGMENTATION, VOCABULARY, Case

LOGITS = (
    Case("loss + gradient", (32, 10)),
    Case("loss + gradient", (1048576, 10)),
    Case("loss + gradient", SEGMENTATION[0], axis=1),
    Case("loss + gradient", (65536, 1000)),
    Case("loss", VOCABULARY),
    Case("loss + gradient", VOCABULARY),
)
LINEAR = tuple(linear.Case(linear.GRADIENTS, (2048, 768, 50257), dtype) for dtype in ("float32", "bfloat16"))
PEERS = ("torch", "torch.compile", "JAX", "TensorFlow", "onnxruntime", "scikit-learn")
MARKS = dict(zip(PEERS, "osD^vP", strict=True))


class Line(NamedTuple):
    """A case: what a default call of ours takes, and how many times as long each peer."""

    of: str
    what: str
    seconds: float
    times: dict[str, float]


def overview(documents: dict[str, dict]) -> tuple[dict, list[Line]]:
    """The document with the most of these cases, the newest among such; and a line for each that it has."""
    found = {stem: list(_lines(document)) for stem, document in documents.items()}
    stem = max(found, key=lambda stem: (len(found[stem]), documents[stem]["date"]))
    return documents[stem], found[stem]


def _lines(document: dict) -> Iterator[Line]:
    machine, by = document["machine"], by_case(document["records"])
    for case in LOGITS:
        records = by.get(case, [])
        ours, new = (best(records, implementation=name, isa=machine["isas"][0]) for name in (OURS, ALLOCATING))
        if ours is not None:
            seconds = (new or ours)["median_s"]  # a loss alone makes no array
            yield Line(case.shape_text, case.op, seconds, _beside(seconds, records))
    those = linear_records.by_case(document.get("linear", []))
    for case in LINEAR:
        records = those.get(case, {})
        if OURS in records:
            seconds = records[OURS]["median_s"]
            text = f"hidden states {case.shape[0]} x {case.shape[1]}, {case.shape[2]} words, {case.dtype}"
            yield Line(text, "loss + gradients", seconds, _beside(seconds, list(records.values())))


def _beside(seconds: float, records: list[dict]) -> dict[str, float]:
    found = {name: best(records, implementation=name) for name in PEERS}
    return {name: r["median_s"] / seconds for name, r in found.items() if r is not None}


def ratio(times: float | None) -> str:
    """As in the tables."""
    return "–" if times is None else f"{times:.1f}×" if times < 10 else f"{times:.0f}×"


def table(document: dict, lines: list[Line]) -> Iterator[str]:
    """README's lines."""
    machine, versions = document["machine"], document["versions"]
    peers = [name for name in PEERS if any(name in line.times for line in lines)]
    yield f"| logits, float32 | default call | ms | {' | '.join(peers)} |"
    yield "|---|---|--:|" + "--:|" * len(peers)
    for line in lines:
        ms = 1e3 * line.seconds
        text = f"{ms:.3f}" if ms < 0.1 else f"{ms:.3g}" if ms < 100 else f"{ms:.0f}"
        yield f"| {line.of} | {line.what} | {text} | {' | '.join(ratio(line.times.get(name)) for name in peers)} |"
    names = {"torch": "torch", "jax": "JAX", "tensorflow-cpu": "TensorFlow", "onnxruntime": "onnxruntime"}
    names |= {"scikit-learn": "scikit-learn"}
    libraries = ", ".join(f"{text} {versions[name]}" for name, text in names.items() if name in versions)
    days = " and ".join(sorted({document["date"], document.get("linear_on", document)["date"]}))
    yield f"\n{machine['threads']} threads of {machine['cpu']} ({machine['isas'][0]}), {days}, {libraries}."


def picture(document: dict, lines: list[Line]):
    """How many times as long as ours, a mark for each peer, on a logarithmic scale."""
    from . import plots

    made, (axes,) = plots.figure(7, 0.62 * len(lines) + 1.3)
    for place, line in enumerate(lines):
        axes.plot([1, max(line.times.values(), default=1)], [place, place], color=plots.GREY, lw=1, zorder=1)
    for name, mark in MARKS.items():
        found = [(line.times[name], place) for place, line in enumerate(lines) if name in line.times]
        if found:
            axes.scatter(*zip(*found, strict=True), marker=mark, s=60, color=plots.color_of(name), label=name, zorder=2)
    axes.axvline(1, color=plots.BLUE, lw=2.5)
    axes.set_xscale("log")
    ticks = [1, 2, 5, 10, 20, 50]
    axes.set_xticks(ticks, ["crossentropy", *(f"{tick}×" for tick in ticks[1:])])
    axes.minorticks_off()
    axes.set_xlim(left=0.7)
    axes.set_yticks(range(len(lines)), [f"{_broken(line.of)}\n{line.what}" for line in lines])
    axes.invert_yaxis()
    axes.set_title(f"times as long as a default call of crossentropy takes ({document['date']})", fontsize=11)
    if any(line.times for line in lines):
        made.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=11)
    return made


def _broken(text: str) -> str:
    head, comma, tail = text.partition(", ")
    return f"{head}\n{tail}" if comma and len(text) > 24 else text
