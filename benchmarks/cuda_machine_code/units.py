"""What there is to compile: every kernel that `launch` can choose, and a sample of them."""

import heapq
import itertools
from functools import cache
from typing import NamedTuple

from crossentropy._backends.cuda import launch, weighted
from crossentropy._backends.cuda.groups import WARP, Shape
from crossentropy._backends.cuda.kernels import Result

KINDS = ("bfloat16", "float32", "float16", "float64")
CAPABILITIES = (80, 90, 100, 120)
CARD = 90  # what every kernel is compiled for, beside one other: the H100's
COPIES = (*((kind, kind) for kind in KINDS), ("float32", "bfloat16"), ("bfloat16", "float32"), ("float32", "float16"))
BINARY = ((True, False), (False, True), (False, False), (True, True))  # whether targets are floats, the loss focal
SAMPLE = 44  # kernels of the default run, each for two compute capabilities
THINNED = (
    "Every form of a shape (how threads share a row, vectors kept) x every result x bfloat16 and float32, each for "
    "compute capability 9.0 and one other; shapes of one form, which differ in the number of threads and blocks, take "
    "turns, and so do the other compute capabilities. The other dtypes, and rows that one thread reads alone: as "
    "needed for every pair of form, result, dtype and compute capability."
)
FULLY = ("bfloat16", "float32")


class Unit(NamedTuple):
    """A kernel: of rows, or (shape None) one of `sums`: ``result`` has its name and arguments."""

    shape: Shape | None
    result: Result | tuple
    kind: str

    @property
    def name(self) -> str:
        if self.shape is None:
            return f"{self.result[0]}({', '.join(map(str, self.result[1:]))})"
        return f"{result_name(self.result)}, {self.kind}, {shape_name(self.shape)}"


def result_name(result: Result) -> str:
    parts = [result.reads if result.reads != "row" else "", "loss" if result.loss else "", result.writes]
    parts += [f"saves {result.saves}" if result.saves else "", "spreads" if result.spreads else ""]
    parts += [f"q {result.q}" if result.q else "", f"to {result.to}" if result.to else ""]
    parts.append("plain" if result.plain else "")
    parts += ["transforms" if result.transforms else "", "focal" if result.focal else ""]
    return " + ".join(filter(None, parts))


def shape_name(shape: Shape) -> str:
    parts = [f"{shape.threads} threads", f"{shape.rows} rows" if shape.rows > 1 else "", f"keeps {shape.kept}"]
    parts += ["alone" if shape.alone else "", f"{shape.blocks} blocks" if shape.blocks > 1 else ""]
    return " ".join(filter(None, parts))


def form(shape: Shape) -> tuple:
    """What the code of a shape depends on but for numbers of threads and blocks."""
    level = 2 if shape.blocks > 1 else int(shape.threads > WARP)
    return level, shape.kept, shape.alone


@cache
def shapes(limit: int, least: int = 0, among: tuple[bool, ...] = (True, False)) -> list[Shape]:
    """All that `launch.shape_for` can give for rows of at least so many vectors, with clusters and without."""
    ends = [row[0] for row in launch.TABLE] + [launch.TABLE[-1][0] + 1]
    found = {
        launch.shape_for(vectors, alone, most, clusters, limit): None
        for clusters in among
        for alone in (False, True)
        for most in (limit, 0)
        for vectors in ends
        if vectors >= least
    }
    return list(found)


def results(kind: str) -> list[Result]:
    """What the public functions launch over whole rows."""
    found = []
    for extra in ({}, {"spreads": True}, {"spreads": True, "q": kind}):
        found += [Result(loss=True, **extra), Result(loss=True, writes="gradient", **extra)]
        found += [Result(loss=True, saves="row", **extra), Result(reads="statistics", writes="gradient", **extra)]
    for few in ({"transforms": True}, {"focal": True}, {"transforms": True, "focal": True, "spreads": True}):
        found += [Result(loss=True, writes="gradient", **few), Result(loss=True, saves="row", **few)]
        found += [Result(reads="statistics", writes="gradient", **few)]
    if kind == "float32":  # of hidden states of 16 bits
        for extra in ({}, {"spreads": True}, {"spreads": True, "q": kind}):
            found += [Result(loss=True, writes="gradient", to=to, **extra) for to in ("bfloat16", "float16")]
    found += [Result(writes="log_softmax"), Result(writes="log_softmax", saves="row"), Result(writes="softmax")]
    return [*found, Result(writes="log_softmax_backward", q=kind)]


def units() -> list[Unit]:
    """Every kernel of rows."""
    found = {}
    for kind in KINDS:
        for result in results(kind):
            for shape in shapes(launch.limit_for(kind, result)):
                found[Unit(shape, result, kind)] = None
                if not shape.alone and not (result.transforms or result.focal):  # as `launch` has it
                    found[Unit(shape, result._replace(plain=True), kind)] = None
        # Rows cut into parts: these, what puts them together, and what writes.
        for result in results(kind):
            if result.reads != "row":
                continue
            for shape in shapes(launch.limit_for(kind, result), launch.PART, (False,)):
                of_part, together, *writing = launch.by_parts(shape, result)
                for step in (together, of_part, *writing):
                    found[Unit(*step, kind)] = None
    return list(found)


def sums() -> list[Unit]:
    """The kernels of `reductions`, `weighted`, `matrices` and `one_logit`."""
    reals = ("float32", "float64")
    calls = [("loss_sums", real) for real in reals]
    calls += [("loss_total", real, summed) for real in reals for summed in dict.fromkeys((real, "float64"))]
    calls += [(name, real) for name in ("weight_sums", "weight_total") for real in reals]
    calls += [("conversion", kind, real) for kind in (*KINDS, "bool") for real in reals if kind != real]
    threads = [weighted.threads_for(classes) for classes in (64, 1024, 1025)]
    calls += [("weighted_sums", *pair, each) for pair in zip(KINDS, KINDS[::-1], strict=True) for each in threads]
    calls += [("copied", source, to, real_of(source), whole) for source, to in COPIES for whole in (True, False)]
    calls += [(name, kind) for name in ("column_sums", "column_totals") for kind in KINDS]
    calls += [("log_probs", real) for real in reals] + [("widened",)]
    calls += [("log_probs_gradient", real_of(kind), kind) for kind in KINDS]
    calls += [("binary_losses", kind, floats, focal, not focal) for kind in KINDS for floats, focal in BINARY]
    return [Unit(None, call, "float64") for call in calls]


def real_of(kind: str) -> str:
    return "float64" if kind == "float64" else "float32"


def capabilities(unit: Unit) -> list[int]:
    """Those on which it may be launched, and the card's."""
    clusters, old = unit.shape.blocks > 1, is_old(unit)
    return [sm for sm in CAPABILITIES if (sm >= 90 or not clusters) and (sm <= CARD or not old)]


def is_old(unit: Unit) -> bool:
    """Whether it is launched only where there are no clusters: where there are, whole rows have shapes with these."""
    whole = unit.result.reads == "row" and not unit.result.is_part
    return whole and unit.shape not in shapes(launch.limit_for(unit.kind, unit.result), among=(True,))


def generic(unit: Unit) -> Result:
    """The result, whatever the dtype."""
    return unit.result._replace(q=bool(unit.result.q))


def _pairs(unit, sm):
    facts = ("form", form(unit.shape)), ("result", generic(unit)), ("kind", unit.kind), ("sm", sm)
    shape = () if unit.shape.alone else ((("shape", unit.shape),),)  # one that is alone stands for all of its form
    return [*itertools.combinations(facts, 2), *itertools.combinations(facts, 1), *shape]


def chosen(candidates: list[tuple[Unit, int]], most: int) -> list[tuple[Unit, int]]:
    """The candidates, at most so many, that together have as many pairs of values as can be had step by step.

    A value that has not occurred at all counts as much as a hundred pairs. What a candidate adds only shrinks: one
    whose gain, looked at again, is no less than what was last known of the next is the best.
    """
    pairs = [{p: 100 if len(p) == 1 else 1 for sm in {CARD, other} for p in _pairs(u, sm)} for u, other in candidates]
    heap = [(-sum(gain.values()), i) for i, gain in enumerate(pairs)]
    heapq.heapify(heap)
    seen, taken = set(), []
    while heap and len(taken) < most:
        promised, i = heapq.heappop(heap)
        gain = sum(worth for pair, worth in pairs[i].items() if pair not in seen)
        if gain == 0:
            continue
        if gain < -promised:
            heapq.heappush(heap, (-gain, i))
            continue
        seen.update(pairs[i])
        taken.append(candidates[i])
    return taken


def sample() -> list[tuple[Unit, tuple[int, ...]]]:
    candidates = [(unit, sm) for unit in units() for sm in capabilities(unit) if sm != CARD]
    some = sums()[:: len(KINDS)]
    rows = [(u, (sm,) if is_old(u) else (CARD, sm)) for u, sm in chosen(candidates, SAMPLE)]
    return rows + [(u, (CARD,)) for u in some]


def everything() -> list[tuple[Unit, tuple[int, ...]]]:
    """See THINNED."""
    every, groups = units(), {}
    for unit in every:
        if unit.kind in FULLY and not unit.shape.alone:
            groups.setdefault((form(unit.shape), generic(unit), unit.kind), []).append(unit)
    taken = []
    for turn, group in enumerate(groups.values()):
        unit = group[turn % len(group)]
        others = [sm for sm in capabilities(unit) if sm != CARD]
        taken.append((unit, others[turn % len(others)]))
    seen = {pair for unit, other in taken for sm in (CARD, other) for pair in _pairs(unit, sm)}
    for unit in every:
        for sm in capabilities(unit):
            if sm != CARD and not seen.issuperset(_pairs(unit, sm)):
                taken.append((unit, sm))
                seen.update(pair for one in (CARD, sm) for pair in _pairs(unit, one))
    return [(unit, (CARD, sm)) for unit, sm in taken] + [(unit, CAPABILITIES) for unit in sums()]
