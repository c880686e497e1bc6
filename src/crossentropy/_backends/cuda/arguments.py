"""The arguments of the kernels of rows: one table, from which their types, their order and this documentation come.

A kernel takes one record, which Numba passes as its fields one by one. A row of the table is all that a new number
needs to reach every kernel: `launch.rows` fills it by its name, and device functions read it by its name. What few
calls have stands in a table of its own, MORE, which only their kernels are given as well.
"""

from __future__ import annotations

from collections import namedtuple
from typing import NamedTuple

import numpy as np
from numba.cuda import types

from ..._options import NUMERIC, OPTIONS

# The numbers that few calls have, whose kernels are compiled for themselves: each a real and what that is short of.
PAIRS = {
    "logit_scale": "a",
    "softcap": "c; 0: none",
    "margin": "m",
    "focal": "gamma",
    "ratio": "a / c, or a where there is no cap",
}
OF_FEW = PAIRS.keys() & set(NUMERIC)

INTEGER, REAL = "integer", "real"  # an int64; the type that a row is computed in: float32, or float64 for float64


class Argument(NamedTuple):
    """A row of the table."""

    name: str
    kind: str  # INTEGER or REAL
    meaning: str
    default: float = 0  # where a launch does not say; an address of 0 is an array that is absent


def _array_of_rows(name: str, what: str) -> tuple[Argument, ...]:
    """An array with classes; row n begins at name + n // inner * name_outer + n % inner * name_row."""
    return (
        Argument(name, INTEGER, f"address of {what}"),
        Argument(f"{name}_outer", INTEGER, f"bytes between rows of {name}, in the outer of two dimensions"),
        Argument(f"{name}_row", INTEGER, f"bytes between rows of {name}, in the inner one"),
        Argument(f"{name}_class", INTEGER, f"bytes between classes of {name}"),
    )


TABLE = (
    *_array_of_rows("x", "the logits"),
    *_array_of_rows("out", "what is written"),
    *_array_of_rows("q", "probability targets, or the gradient that arrives at a log-softmax"),
    Argument("inner", INTEGER, "rows in the inner dimension of rows"),
    Argument("rows", INTEGER, "rows"),
    Argument("classes", INTEGER, "classes of a row"),
    Argument("parts", INTEGER, "parts that a row is cut into; 1: it is whole", 1),
    Argument("part_classes", INTEGER, "classes of a part, but for the last"),
    Argument("targets", INTEGER, "address of the target classes (rows,)"),
    Argument("targets_outer", INTEGER, "bytes between targets, in the outer dimension of rows"),
    Argument("targets_row", INTEGER, "bytes between targets, in the inner one"),
    Argument("target_size", INTEGER, "bytes of a target, negative where its type is signed"),
    Argument("has_ignored", INTEGER, "1 where `ignored` says something"),
    Argument("ignored", INTEGER, "the target whose rows are skipped"),
    Argument("class_weight", INTEGER, "address of reals (classes,)"),
    Argument("sample_weight", INTEGER, "address of reals (rows,)"),
    Argument("row_scale", INTEGER, "address of reals (rows,), or of one: the gradient's factor beside `scale`"),
    Argument("row_scale_step", INTEGER, "bytes between numbers of row_scale; 0 where it is one"),
    Argument("divisor", INTEGER, "address of one real: the gradient is divided by it"),
    Argument("loss", INTEGER, "address of reals (rows,), written"),
    Argument("statistics", INTEGER, "address of reals (rows, fields of contract.Statistics), written or read"),
    Argument("partial", INTEGER, "address of reals (rows, parts, fields of reading.PartStatistics), likewise"),
    Argument("scale", REAL, "the gradient's factor, of every row", 1.0),
    *(Argument(name, REAL, OPTIONS[name].text) for name in NUMERIC if name not in OF_FEW),
)
MORE = (
    Argument("class_prior", INTEGER, "address of pairs of reals (classes, 2): b_c, added to the logits"),
    *(Argument(name, REAL, f"{text}, rounded") for name, text in PAIRS.items()),
    *(Argument(f"{name}_low", REAL, f"what {name} is short of") for name in PAIRS),
)


def _record(name: str, table: tuple[Argument, ...]):
    record = namedtuple(name, [argument.name for argument in table])
    record.__doc__ = "What a kernel of rows is given.\n\n" + "\n".join(
        f"{argument.name} : {argument.kind}, {argument.meaning}" for argument in table
    )
    return record


Arguments = _record("Arguments", TABLE)
ArgumentsOfFew = _record("ArgumentsOfFew", TABLE + MORE)


def _of(result):
    """The record that a kernel takes, and its table."""
    return (ArgumentsOfFew, TABLE + MORE) if result.transforms or result.focal else (Arguments, TABLE)


def takes(result, name: str) -> bool:
    """Whether a kernel has a real argument of that name."""
    return name in _of(result)[0]._fields


def signature(kind: str, result) -> list:
    """The types of a kernel's arguments, of which there is one: the record."""
    real, (record, table) = types.float64 if kind == "float64" else types.float32, _of(result)
    return [types.NamedTuple([real if argument.kind == REAL else types.int64 for argument in table], record)]


# What may differ from call to call in a plain one; the rest has one value, which its kernels have compiled in.
_VARIES = (
    "x", "x_row", "out", "out_row", "q", "q_row", "rows", "classes", "targets", "targets_row", "has_ignored", "ignored",
    "divisor", "loss", "statistics", "scale", *NUMERIC,
)  # fmt: skip
_OF_SAVED = "row_scale", "row_scale_step"


def plain_values(size: int, q_size: int, saved: bool) -> dict[str, float]:
    """The values that a plain call has, by name: of whole rows in one dimension (0 as ``inner``), without weights.

    ``size`` and ``q_size`` are bytes of a number of the two arrays of rows; ``saved``: numbers of rows are from memory.
    """
    varies = {*_VARIES, *(_OF_SAVED if saved else ())}
    fixed = {argument.name: argument.default for argument in TABLE if argument.name not in varies}
    return fixed | {"x_class": size, "out_class": size, "q_class": q_size, "target_size": -8}


def is_plain(given: dict, plain: dict[str, float]) -> bool:
    """Whether a launch has these values, but for what plays no part in it."""
    if given["inner"] != given["rows"]:
        return False
    no_part = {"inner", "x_outer", "out_outer", "q_outer", "targets_outer", "part_classes"}
    no_part |= {f"{name}_class" for name in ("out", "q") if not given.get(name)}
    no_part |= set() if given.get("targets") else {"target_size"}
    return all(given.get(name, value) == value for name, value in plain.items() if name not in no_part)


def plain_of(kind: str, plain: dict[str, float]):
    """The function (a): the arguments with these values in their places, for the compiler to see."""
    real = np.float64 if kind == "float64" else np.float32
    names = {"Arguments": Arguments}
    for argument in TABLE:
        if argument.name in plain:
            names[f"its_{argument.name}"] = (real if argument.kind == REAL else np.int64)(plain[argument.name])
    terms = ", ".join(f"its_{a.name}" if a.name in plain else f"a.{a.name}" for a in TABLE)
    exec(f"def plain(a): return Arguments({terms})", names)
    return names["plain"]


def values_of(given: dict, result) -> list:
    """The values of a launch in the order of the table; a TypeError for a name that it has not."""
    record, table = _of(result)
    if unknown := given.keys() - set(record._fields):
        raise TypeError(f"kernels of rows have no argument {', '.join(sorted(unknown))}")
    return [given.get(argument.name, argument.default) for argument in table]
