"""Records of linear losses: whether a result is right, what is written down of it, and how it is read again."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import numpy as np

from ..results import disagreement, six_digits
from ..suite import dtype_named
from .cases import Case, Problem


def sampled(p: Problem, loss, gradients: Mapping) -> tuple[float, dict]:
    """The loss, and a row or two of each gradient, for `disagrees`; they leave their process as lists."""
    rows = {"hidden": np.array([0, -1]), "weight": np.append(p.targets[p.targets >= 0][[0, -1]], 0)}
    samples = {name: np.asarray(a[rows[name]]).astype(np.float64) for name, a in gradients.items()}
    return float(loss), {name: a.tolist() for name, a in samples.items()}


def disagrees(case: Case, found: tuple, right: tuple) -> str:
    """How a result differs from what it should be; empty if it does not."""
    (loss, gradients), (right_loss, right_gradients) = found, right
    arrays, expected = ([np.array(of[name]) for name in right_gradients] for of in (gradients, right_gradients))
    size = dtype_named(case.dtype).itemsize
    return disagreement((loss, arrays), (right_loss, expected), size, 1e-6, slack=2)


def record(case: Case, name: str, threads: int, times: list[float], products: list[float], memory: int | None) -> dict:
    """What is written down of somebody's rounds.

    Parameters
    ----------
    case, name, threads
        What was computed, by whom, on how many threads.
    times : list of float
        Seconds, a round each.
    products : list of float
        What the products alone took in the same rounds; empty where nobody computed them.
    memory : int, optional
        Bytes at the peak, beyond the inputs.
    """
    seconds = median(times)
    quotients = [own / alone for own, alone in zip(times, products, strict=False)]
    found = {
        "op": case.op,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "option": case.option,
        "implementation": name,
        "threads": threads,
        "median_s": seconds,
        "least_s": min(times),
        "rounds": len(times),
        "gflop_per_s": case.operations / seconds / 1e9,
        "of_products": median(quotients) if quotients else None,  # times as long as the products alone
        "peak_bytes": memory,
        "gradient_bytes": case.gradient_bytes,  # of these so many are the result
    }
    return {name: six_digits(value) for name, value in found.items()}


def by_case(records: list[dict]) -> dict[Case, dict[str, dict]]:
    """The records of each case, by who computed it."""
    found: dict = {}
    for r in records:
        case = Case(r["op"], tuple(r["shape"]), r["dtype"], r["option"])
        found.setdefault(case, {})[r["implementation"]] = r
    return found


def merged(old: list[dict], new: list[dict]) -> list[dict]:
    """The old records, without the cases that were measured again, and the new ones."""
    again = by_case(new)
    kept = [found for case, found in by_case(old).items() if case not in again]
    return [r for found in [*kept, *again.values()] for r in found.values()]
