"""Every check of what a caller passes, and every message: the name, the rule, the value.

A check returns what the rest of the package works with; nothing past this file looks at an argument again.
"""

from __future__ import annotations

import math
import operator
from typing import NamedTuple

import numpy as np

from . import _device

FLOATS = {"float16", "bfloat16", "float32", "float64"}
_NATIVE = {np.dtype(np.float32), np.dtype(np.float64)}
REDUCTIONS = ("none", "sum", "mean")


class Options(NamedTuple):
    """The options of a loss as backends get them.

    class_weight is float64 (C,) or None, sample_weight float64 (N,) or None, both contiguous; ignore_index is None
    where no target can equal it; probabilities says which kind the targets are.
    """

    class_weight: np.ndarray | None
    sample_weight: np.ndarray | None
    ignore_index: int | None
    label_smoothing: float
    z_loss: float
    probabilities: bool


class Loss(NamedTuple):
    """A checked call of a loss: x has its class axis last; rows_shape is the shape before it.

    sources are the arguments as arrays, before any conversion: what an ``out`` must not share memory with.
    """

    x: np.ndarray
    targets: np.ndarray
    options: Options
    rows_shape: tuple[int, ...]
    axis: int
    reduction: str
    normalizer: float | None
    empty: float
    sources: dict[str, np.ndarray | None]


def is_float(dtype: np.dtype) -> bool:
    """One of the four supported types, in either byte order (a longdouble of 64 bits is none of them)."""
    return dtype in _NATIVE or (dtype.name in FLOATS and dtype.char != "g")


def array(value, name: str) -> np.ndarray:
    """The value as a plain array. MaskedArray and matrix are refused: they would lose their mask, or change shape."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"{name} must be a plain array, got {type(value).__name__}")
    if _device.holds(value):
        raise TypeError(f"{name} is a CUDA array where the others are on the host: nothing is copied implicitly")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array: {error}") from None


def floats(value, name: str) -> np.ndarray:
    """An array of one of the four floating types; integers become float64."""
    x = array(value, name)
    if x.dtype in _NATIVE or is_float(x.dtype):
        return x
    if x.dtype.kind in "iu":
        return x.astype(np.float64)
    raise TypeError(f"{name} must be float16, bfloat16, float32, float64 or integers, got {x.dtype}")


def class_axis(x: np.ndarray, axis, name: str) -> int:
    """The axis as a number from 0."""
    if x.ndim == 0:
        raise ValueError(f"{name} must have a class axis, got a scalar")
    try:
        number = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {axis!r}") from None
    if not -x.ndim <= number < x.ndim:
        raise np.exceptions.AxisError(number, x.ndim)
    return number % x.ndim


def classes_last(x: np.ndarray, axis: int) -> np.ndarray:
    """A view with the class axis last."""
    return x if axis == x.ndim - 1 else np.moveaxis(x, axis, -1)


def logits(value, axis, name: str = "logits") -> tuple[np.ndarray, int]:
    """The logits as given and the number of their class axis, which has classes unless there are no rows."""
    x = floats(value, name)
    number = class_axis(x, axis, name)
    if x.shape[number] == 0 and math.prod(x.shape[:number] + x.shape[number + 1 :]):
        raise ValueError(f"{name} must have at least one class, got shape {x.shape} with axis {number}")
    return x, number


def real(value, name: str) -> float:
    """One real number."""
    if type(value) is float:
        return value
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, got {value!r}") from None
    except OverflowError:
        raise ValueError(
            f"{name} must be within the range of float64, got an integer of {value.bit_length()} bits"
        ) from None


def _weights(value, name: str, shape: tuple[int, ...]) -> np.ndarray:
    w = floats(value, name)
    if w.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {w.shape}")
    w = np.require(w, np.float64, ["C", "A"]).reshape(-1)
    bad = ~((w >= 0) & (w < np.inf))
    if bad.any():
        first = int(bad.argmax())
        where = ", ".join(map(str, np.unravel_index(first, shape)))
        raise ValueError(f"{name} must be finite and not negative, got {name}[{where}] = {w[first]}")
    return w


def _targets(t: np.ndarray, x: np.ndarray, integer_logits: bool, axis: int, rows_shape: tuple[int, ...]):
    """The targets, one-dimensional or with the class axis last, and whether they are probabilities."""
    if t.dtype.kind in "iu":
        if t.shape != rows_shape:
            raise ValueError(
                f"targets must have the shape of logits without the class axis, {rows_shape}, got {t.shape}"
            )
        if t.flags.c_contiguous and t.dtype.isnative and t.flags.aligned:
            return (t if t.ndim == 1 else t.reshape(-1)), False
        return np.require(t, t.dtype.newbyteorder("="), ["C", "A"]).reshape(-1), False
    if not is_float(t.dtype):
        raise TypeError(f"targets must be integers (classes) or floating (probabilities), got {t.dtype}")
    if integer_logits and t.ndim == x.ndim + 1:
        raise TypeError("logits are integers and targets floating with one axis more: arguments swapped?")
    if t.shape == x.shape:
        return classes_last(t, axis), True
    if t.shape == rows_shape:
        raise TypeError(f"targets of shape {t.shape} are classes and must be integers, got {t.dtype}")
    raise ValueError(f"probability targets must have the shape of logits, {x.shape}, got {t.shape}")


def ignored_of(value, dtype, probabilities: bool) -> int | None:
    if value is None:
        return None
    if probabilities:
        raise ValueError("ignore_index is for index targets; with probability targets use sample_weight")
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"ignore_index must be an integer, got {value!r}") from None
    limits = np.iinfo(dtype)
    return index if limits.min <= index <= limits.max else None


def smoothing_of(value) -> float:
    epsilon = real(value, "label_smoothing")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {value!r}")
    return epsilon


def z_loss_of(value) -> float:
    weight = real(value, "z_loss")
    if not 0 <= weight < math.inf:
        raise ValueError(f"z_loss must be finite and not negative, got {value!r}")
    return weight


def reduction_of(reduction, normalizer, empty) -> tuple[str, float | None, float]:
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
    if normalizer is not None:
        if reduction != "mean":
            raise ValueError(f"normalizer goes with reduction='mean', got reduction={reduction!r}")
        divisor = real(normalizer, "normalizer")
        if not 0 < divisor < math.inf:
            raise ValueError(f"normalizer must be finite and positive, got {normalizer!r}")
        normalizer = divisor
    return reduction, normalizer, real(empty, "empty")


def loss(
    logits_value,
    targets_value,
    axis=-1,
    class_weight=None,
    sample_weight=None,
    ignore_index=None,
    label_smoothing=0.0,
    z_loss=0.0,
    reduction="mean",
    normalizer=None,
    empty=math.nan,
) -> Loss:
    """The arguments that every loss function has."""
    given = array(logits_value, "logits")
    x, axis = logits(given, axis)
    last = classes_last(x, axis)
    rows_shape = last.shape[:-1]
    sources = {"logits": given, "targets": array(targets_value, "targets")}
    if isinstance(targets_value, list) and not targets_value:
        sources["targets"] = sources["targets"].astype(np.int64)  # [] is float64 to NumPy
    if class_weight is not None:
        class_weight = sources["class_weight"] = array(class_weight, "class_weight")
    if sample_weight is not None:
        sample_weight = sources["sample_weight"] = array(sample_weight, "sample_weight")
    targets, probabilities = _targets(sources["targets"], x, given is not x, axis, rows_shape)
    options = Options(
        None if class_weight is None else _weights(class_weight, "class_weight", last.shape[-1:]),
        None if sample_weight is None else _weights(sample_weight, "sample_weight", rows_shape),
        ignored_of(ignore_index, targets.dtype, probabilities),
        smoothing_of(label_smoothing),
        z_loss_of(z_loss),
        probabilities,
    )
    return Loss(last, targets, options, rows_shape, axis, *reduction_of(reduction, normalizer, empty), sources)


def bad_target(targets: np.ndarray, first: int, rows_shape: tuple[int, ...], classes: int) -> IndexError:
    """The error that names the first target that is no class."""
    where = ", ".join(map(str, np.unravel_index(first, rows_shape))) if rows_shape else "()"
    return IndexError(f"targets[{where}] = {targets[first]} is not in [0, {classes})")


def grad_output(value, call: Loss) -> float | np.ndarray:
    """A float, or float64 (N,) where the loss has a value for each row."""
    if isinstance(value, (int, float)):
        return real(value, "grad_output")
    g = floats(value, "grad_output")
    if g.ndim == 0:
        return float(g)
    if call.reduction != "none":
        raise ValueError(f"grad_output must be a scalar with reduction={call.reduction!r}, got shape {g.shape}")
    if g.shape != call.rows_shape:
        raise ValueError(f"grad_output must be a scalar or have shape {call.rows_shape}, got {g.shape}")
    return np.require(g, np.float64, ["C", "A"]).reshape(-1)


def statistics(value, rows: int) -> np.ndarray:
    """What a forward has saved of so many rows."""
    numbers = array(value, "statistics")
    if numbers.shape != (rows, 3) or numbers.dtype != np.float64:
        raise ValueError(f"statistics must be float64 of shape ({rows}, 3), got {numbers.dtype} {numbers.shape}")
    return np.require(numbers, None, ["C", "A"])


def row_gradient(value, like: np.ndarray) -> np.ndarray:
    """The grad_output of a log-softmax: floating, like its result."""
    g = floats(value, "grad_output")
    if g.shape != like.shape:
        raise ValueError(f"grad_output must have shape {like.shape}, got {g.shape}")
    return g


def result(
    out, x: np.ndarray, inputs: dict[str, np.ndarray], may_be_x: bool = True, name: str = "logits"
) -> np.ndarray:
    """Where a result like x goes: ``out`` if it will do, else a new array. Called last: after it, out is written."""
    dtype = x.dtype.newbyteorder("=")
    if out is None:
        return np.empty_like(x, dtype, subok=False)
    if not isinstance(out, np.ndarray) or isinstance(out, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"out must be a plain array, got {type(out).__name__}")
    out = out.view(np.ndarray)
    if out.shape != x.shape:
        raise ValueError(f"out must have shape {x.shape}, got {out.shape}")
    same = may_be_x and _same(out, x)  # in place
    if out.dtype != dtype and not same:
        raise ValueError(f"out must have dtype {dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    if overlaps_itself(out):
        raise ValueError(f"out must not overlap itself, got strides {out.strides} for shape {out.shape}")
    for other, value in inputs.items():
        if value is not None and np.may_share_memory(out, value) and not (other == name and same):
            rule = f" other than being {name} itself" if other == name and may_be_x else ""
            raise ValueError(f"out must not share memory with {other}{rule}")
    return out


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """The same elements in the same places."""
    return (
        a.shape == b.shape
        and a.strides == b.strides
        and a.dtype == b.dtype
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    )


def overlaps_itself(a: np.ndarray) -> bool:
    """Two indices share memory, by a test that is exact for strides that nest and errs towards True."""
    extent = a.itemsize
    for stride, size in sorted(
        (abs(stride), size) for stride, size in zip(a.strides, a.shape, strict=True) if size > 1
    ):
        if stride < extent:
            return a.size > 0
        extent = stride * (size - 1) + extent
    return False
