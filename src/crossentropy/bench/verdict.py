"""What a quick run says in words: how fast this machine is, how near its memory, and beside what is installed."""

from __future__ import annotations

from collections.abc import Iterator

from .. import native
from .contenders import ALLOCATING, DROP_IN, OURS, thread_counts
from .results import best, by_case
from .suite import OPS, QUICK, Case

# A call's own cost; a loss and its gradient of few and of many classes, which memory limits.
CASES = (
    Case("loss + gradient", QUICK[0]),
    Case("loss", QUICK[2]),
    Case("loss + gradient", QUICK[2]),
    Case("loss + gradient", QUICK[1]),
)
BUDGET = 20.0  # seconds, after which a case begins without the others: on a busy machine they are what takes long
END = 50.0  # after which none begins: the last one comes on top
# Whoever compiles for seconds (torch.compile, TensorFlow, Numba) is left to the long run.
PEERS = ("torch", "JAX", "onnxruntime", "scikit-learn")


def takes_part(text: str, seconds: float = 0.0) -> bool:
    """Of a case and who computes it, as `run` names them, so late: ours at its best, and what starts at once."""
    isa, threads = native.SUPPORTED_ISAS[0], thread_counts()[-1]
    own = tuple(f", {name}, {isa}, threads {threads}" for name in (OURS, ALLOCATING, DROP_IN))
    peers = *(f", {name}" for name in PEERS), *(f", {name}, threads {threads}" for name in PEERS)
    return seconds < END and text.endswith(own if seconds >= BUDGET else (*own, *peers))


def sentences(document: dict) -> Iterator[str]:
    """The verdict: on the machine, on each case, and on the others."""
    machine, cases = document["machine"], by_case(document["records"])
    if not cases:
        return
    threads = machine["threads"]
    yield f"{threads} thread{'s' * (threads > 1)} of {machine['cpu']}, by {machine['isas'][0]}:"
    shares = []
    for case, records in cases.items():
        ours = _default_call(records)
        if ours is not None:
            shares += [ours["roof_fraction"]] if ours["roof_fraction"] is not None else []
            yield f"  {case.op} of {case.shape_text}: {_time(ours['median_s'])}{_near(case, ours['roof_fraction'])}"
    if shares:
        yield f"  So {_judged(min(shares), max(shares))}"
    others = dict(_others(cases))
    for name, (least, most) in sorted(others.items(), key=lambda item: item[1], reverse=True):
        if most < 1:
            text = f"is faster: it takes {least:.2f}{f' to {most:.2f}' * (least < most)} of the time"
        elif least == most:
            text = f"takes {least:.1f} times as long"
        else:
            text = f"takes {least:.1f} to {most:.1f} times as long"
        yield f"  {name} {text} as a default call."
    if not others:
        yield "  No other library was timed: the extra `peers` brings some."
    missing = [case for case in CASES if case not in cases]
    if missing and len(cases) < len(CASES):
        yield f"  There was no time for {'; '.join(f'{case.op} of {case.shape_text}' for case in missing)}."


def _default_call(records: list[dict]) -> dict | None:
    """With a new array, where there is one."""
    return best(records, implementation=ALLOCATING) or best(records, implementation=OURS)


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.1f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms"


def _near(case: Case, share: float | None) -> str:
    if share is None:
        return ", which is what a call costs"
    does = {"read": "is read", "copy": "is copied", "scale": "is scaled", "combine": "is added"}[OPS[case.op].roof]
    return f", {share:.0%} of the rate at which the same memory {does}"


def _judged(least: float, most: float) -> str:
    if least >= 0.8:
        return "memory is the limit, and the kernels reach it."
    if most >= 0.8:
        return "the kernels reach the memory's rate at best, and are short of it where the classes are few."
    if most >= 0.5:
        return "the kernels are within a factor of two of the memory, if nothing else runs here; again may tell more."
    return "the kernels are far from the memory's rate: other programs run, or `crossentropy info` names the reason."


def _others(cases: dict) -> Iterator[tuple[str, tuple[float, float]]]:
    """The least and the most time of each peer, in default calls of ours."""
    for name in PEERS:
        ratios = []
        for records in cases.values():
            theirs, ours = best(records, implementation=name), _default_call(records)
            if theirs and ours:
                ratios.append(theirs["median_s"] / ours["median_s"])
        if ratios:
            yield name, (min(ratios), max(ratios))
