"""The arrays and options of a call on a device: described, checked as far as needs no plan, and put in their places."""

from __future__ import annotations

import math
from collections import namedtuple
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from ... import _arrays, _check
from ..._arrays import Array
from ..._options import DEFAULTS, NEED_INDEX, NUMERIC, TRANSFORMS, integer, numeric_of, passed, real, reduction_of
from . import arrays, launch
from .arguments import OF_FEW, PAIRS
from .kernels import Result
from .reading import statistics_of

# The arrays of a loss.
X, TARGETS, CLASS_WEIGHT, SAMPLE_WEIGHT, CLASS_PRIOR, GRAD_OUTPUT, OUT, STATISTICS, DIVISOR = range(9)
PLACES = {"class_weight": CLASS_WEIGHT, "sample_weight": SAMPLE_WEIGHT, "class_prior": CLASS_PRIOR}
INPUTS = ("logits", "targets", *PLACES, "grad_output")  # what an ``out`` must lie apart from


class Fixed(NamedTuple):
    """The options that a plan is found by."""

    axis: int
    ignore_index: int | None
    smooths: bool
    reduction: str
    has_normalizer: bool
    transforms: bool  # what kernels are compiled for: see `kernels.Result`
    focal: bool
    need_index: tuple[str, ...]  # the options that go with classes only


# And the numbers that it is not: each call fills them in, by their places here. ``scale`` is what the gradient is
# multiplied by: grad_output over what is known of the divisor; ``by`` is that divisor.
Values = namedtuple("Values", ["scale", *NUMERIC, "by", "empty", "ratio", *(f"{name}_low" for name in PAIRS)])
_NO_PAIRS = dict.fromkeys(("ratio", *(f"{name}_low" for name in PAIRS)), 0.0)
FEW = ("class_prior", *PAIRS)  # the options that few calls have


class Saved(NamedTuple):
    """What `backward` needs of a `forward`; opaque."""

    given: list[Array | None]
    options: Fixed
    values: Values


class SavedLogSoftmax(NamedTuple):
    """What `log_softmax_backward` needs of a `log_softmax_forward`; opaque."""

    given: list[Array]  # the logits, at X, and their statistics
    axis: int


def given(function: str, logits, targets, options) -> tuple[list[Array | None], Fixed, Values]:
    """The arrays of a loss, and its other options, checked as far as they need no array."""
    options = passed(function, options)
    return of_logits(arrays.describe(logits, "logits"), targets, options)


def of_logits(x: Array, targets, options) -> tuple[list[Array | None], Fixed, Values]:
    """The same of logits that are described; they need not be there. ``options`` are those that are passed."""
    numbers = {name: DEFAULTS[name] for name in NUMERIC} | numeric_of(options)
    few = not options.keys().isdisjoint(FEW)
    transforms = "class_prior" in options or (few and any(numbers[name] != DEFAULTS[name] for name in TRANSFORMS))
    reduction, normalizer, empty = reduction_of(options)
    found = [x, arrays.beside(x, targets, "targets"), *[None] * (DIVISOR - TARGETS)]
    for name, place in PLACES.items():
        if name in options:
            found[place] = arrays.beside(x, options[name], name)
    axis, ignored = (
        None if (value := options.get(name, DEFAULTS[name])) is None else integer(value, name)
        for name in ("axis", "ignore_index")
    )
    if "where" in options:
        found[PLACES["sample_weight"]] = _mask(x, options, axis)
    by = normalizer or 1.0
    smooths, focal = numbers["label_smoothing"] > 0, numbers["focal"] > 0
    need_index = tuple(name for name in NEED_INDEX if name in options)
    fixed = Fixed(axis, ignored, smooths, reduction, normalizer is not None, transforms, focal, need_index)
    numbers |= _pairs(numbers, launch.real_of(x.layout)) if few else _NO_PAIRS
    return found, fixed, Values(1.0 / by, **numbers, by=by, empty=empty)


def _pairs(numbers, kind: str) -> dict[str, float]:
    """What each of PAIRS is short of as a real, and the ratio, with which a capped logit is computed."""
    exact = {name: Fraction(numbers[name]) for name in OF_FEW}
    exact["ratio"] = exact["logit_scale"] / (exact["softcap"] or 1)
    most = Fraction(float(np.finfo(kind).max))
    high = {name: float(np.dtype(kind).type(min(number, most))) for name, number in exact.items()}
    return {"ratio": high["ratio"]} | {f"{name}_low": float(exact[name] - Fraction(high[name])) for name in exact}


def _mask(x: Array, options, axis: int) -> Array:
    """The mask of rows, which is as good as weights of 0 and 1."""
    if "sample_weight" in options:
        raise ValueError(
            "where and sample_weight go together on the host alone: on a device, where nothing is computed from them "
            "first, pass a sample_weight that is 0 where rows do not count"
        )
    a = arrays.beside(x, options["where"], "where")
    _check.require_where(a.layout, x.layout, _check.class_axis(x.layout, axis, "logits"))
    return a


def with_gradient(given, values: Values, grad_output, out) -> Values:
    """Put the arrays of a gradient in their places; the values with the number that it is multiplied by."""
    number, given[GRAD_OUTPUT] = arriving(given[X], grad_output, "grad_output")
    if out is not None:
        given[OUT] = arrays.beside(given[X], out, "out")
    return values if number == 1.0 else values._replace(scale=number / values.by)


def arriving(x: Array, value, name: str) -> tuple[float, Array | None]:
    """What arrives at a result, as a number times an array: 1 where it is an array, and no array where it is none."""
    if isinstance(value, (int, float, np.number)):
        return real(value, name), None
    return 1.0, arrays.beside(x, value, name)


def with_statistics(given, fixed: Fixed, statistics, divisor) -> None:
    """Put what a forward has kept in its places."""
    kept = fields_of(Result(transforms=fixed.transforms, focal=fixed.focal))
    given[STATISTICS] = statistics_beside(given[X], logits_axis(given[X], fixed.axis, "logits"), statistics, kept)
    if divisor is not None:
        given[DIVISOR] = _plain_numbers(given[X], divisor, "divisor", ())


def fields_of(result: Result) -> int:
    """How many numbers a forward keeps of a row."""
    return len(statistics_of(result)._fields)


def statistics_beside(x: Array, axis: int, statistics, kept: int) -> Array:
    """The statistics of the rows of x, as a forward has kept them: so many of each."""
    rows = math.prod(_arrays.without(x.layout.shape, axis))
    return _plain_numbers(x, statistics, "statistics", (rows, kept))


def _plain_numbers(x, value, name, shape):
    """Real numbers in C order, as kernels take them without another look."""
    a = arrays.beside(x, value, name)
    _check.require_numbers(a.layout, name, launch.real_of(x.layout), shape, in_order=True)
    return a


# ---------------------------------------------------------------------- the rules of _check.py, and alignment


def require_float(a: Array, name: str) -> None:
    """Raise unless an array has one of the four dtypes, aligned to it."""
    _check.require_float(a.layout, name)
    arrays.require_aligned(a, name)


def logits_axis(x: Array, axis: int, name: str) -> int:
    """The number from 0 of the class axis of logits that will do."""
    require_float(x, name)
    return _check.class_axis(x.layout, axis, name)


def row_axes(operands: list, axes: tuple[int, ...], name: str) -> list:
    """Arrays of one shape with these axes as one, which is the last: nothing is copied, and so not any axes will do."""
    given = [a for a in operands if a is not None]
    shape, strides = given[0].layout.shape, [a.layout.strides for a in given]
    if (merged := _arrays.merged_axes(axes, shape, strides)) is None:
        raise ValueError(
            f"axis {axes} of {name} must be as one in memory, on a device where nothing is copied implicitly; "
            f"got shape {shape} with strides {' and '.join(map(str, strides))}"
        )
    size, steps = merged
    rows, found = _check.kept_shape(shape, axes), iter(steps)
    return [None if a is None else _with_last(a, rows, axes, size, next(found)) for a in operands]


def _with_last(a, rows: tuple[int, ...], axes: tuple[int, ...], size: int, step: int):
    lies = a.layout
    step = lies.itemsize if size == 1 else step
    strides = (*(s for n, s in enumerate(lies.strides) if n not in axes), step)
    moved = _arrays.layout((*rows, size), strides, lies.dtype, lies.itemsize, lies.read_only, False, lies.device)
    return a._replace(layout=moved)


def broadcast(a, shape: tuple[int, ...]):
    """An array as if it had that shape: with strides of 0."""
    lies = a.layout
    more = len(shape) - lies.ndim
    own = (0 if size == 1 else stride for size, stride in zip(lies.shape, lies.strides, strict=True))
    seen = _arrays.layout(shape, (*[0] * more, *own), lies.dtype, lies.itemsize, lies.read_only, False, lies.device)
    return a._replace(layout=seen)


def weights(plan, given, name: str, axis: int):
    """The option of that name as real numbers. Their values are not looked at: that would wait for the device."""
    a = given[PLACES[name]]
    if a is None:
        return None
    _check.require_weights(a.layout, given[X].layout, axis, name)
    arrays.require_aligned(a, name)
    return launch.as_real(plan, plan.operands[PLACES[name]], given[X].layout)


def prior(plan, given, axis: int):
    """The class prior as pairs of real numbers. Its values are not looked at."""
    a = given[CLASS_PRIOR]
    if a is None:
        return None
    _check.require_weights(a.layout, given[X].layout, axis, "class_prior")
    arrays.require_aligned(a, "class_prior")
    return launch.as_pairs(plan, plan.operands[CLASS_PRIOR], given[X].layout)


def result(plan, out: Array | None, number: int, x: Array):
    """Where a result like x goes: ``out`` if it will do, else a new array."""
    if out is None:
        return plan.make(x.layout.shape, x.layout.dtype)
    _check.require_result(out.layout, x.layout)
    arrays.require_aligned(out, "out")
    return plan.operands[number]
