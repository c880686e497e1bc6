"""Results: whether one is right, the records that are written down of it, and how they are read again."""

from __future__ import annotations

import json

import numpy as np

from .suite import Case, dtype_named


class WrongResultError(Exception):
    """An implementation does not compute what the case says."""


def sampled(case: Case, loss, array) -> tuple:
    """The loss and the first and the last row, for `check`; None and nothing where the operation has no such."""
    rows = None if array is None else np.moveaxis(np.asarray(array), case.axis, -1)
    ends = [] if rows is None else [rows[(end,) * (rows.ndim - 1)].astype(np.float64) for end in (0, -1)]
    return None if loss is None else float(loss), ends


def disagreement(found: tuple, right: tuple, itemsize: int, least: float, slack: float = 1) -> str:
    """How two results differ that should agree as loosely as arithmetic in the logits' type allows; empty if they do.

    Parameters
    ----------
    found, right : tuple
        The loss (None where there is none) and a list of arrays, of NumPy or of PyTorch.
    itemsize : int
        Bytes of a logit.
    least : float
        The size that an array's entries are taken to have at least.
    slack : float, default 1
        How many times as far off a result may be.
    """
    tolerance = slack * (2e-2 if itemsize == 2 else 1e-3)
    (loss, arrays), (right_loss, right_arrays) = found, right
    if right_loss is not None and not abs(loss - right_loss) <= tolerance * max(1, abs(right_loss)):
        return f"its loss is {loss}, not {right_loss}"
    for array, expected in zip(arrays, right_arrays, strict=True):
        worst = float(abs(array - expected).max())
        if not worst <= tolerance * max(least, float(abs(expected).max())):
            return f"its result differs by {worst:.2g}"
    return ""


def check(case: Case, found: tuple, expected: tuple) -> None:
    """Raise unless two results, as `sampled` has them, agree."""
    sizes = {"log-softmax": 1.0, "softmax": 1 / case.classes}
    unit = sizes.get(case.op, case.classes / case.elements)  # of a mean's gradient
    text = disagreement(found, expected, dtype_named(case.dtype).itemsize, unit)
    if text:
        raise WrongResultError(text)


# ---------------------------------------------------------------------- records


def described(case: Case) -> dict:
    """The fields of a record that say what was computed."""
    return {
        "op": case.op,
        "shape": list(case.shape),
        "axis": case.axis,
        "dtype": case.dtype,
        "inputs": case.inputs,
        "option": case.option,
    }


def six_digits(value):
    """Numbers as they are written down; of a list each, and what is no float as it is."""
    if isinstance(value, list):
        return [six_digits(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def by_case(records: list[dict]) -> dict[Case, list[dict]]:
    """The records of each case."""
    found = {}
    for r in records:
        # Results of before there were options have none.
        case = Case(r["op"], tuple(r["shape"]), r["axis"], r["dtype"], r["inputs"], r.get("option", ""))
        found.setdefault(case, []).append(r)
    return found


def best(records: list[dict], **fields) -> dict | None:
    """The fastest of those records whose fields are these, over the numbers of threads; None where there is none."""
    those = [r for r in records if all(r[name] == value for name, value in fields.items())]
    return min(those, key=lambda r: r["median_s"], default=None)


def to_json(document: dict) -> str:
    """The document of `run`, or of `linear.contest.run`, as text, a record a line."""
    lists = [name for name in ("records", "linear") if name in document]
    parts = [json.dumps({name: value for name, value in document.items() if name not in lists}, indent=1)[:-2]]
    for name in lists:
        lines = ",".join(f"\n  {json.dumps(record)}" for record in document[name])
        parts.append(f' "{name}": [{lines}\n ]' if lines else f' "{name}": []')
    return ",\n".join(parts) + "\n}\n"
