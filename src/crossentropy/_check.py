"""Every check of what a caller passes, and every message: the name, the rule, the value.

The rules are about how arrays lie (`_arrays.Layout`), and so the same on the host and on a device; `_options` has those
of numbers. A check returns what the rest of the package works with. What only one of them asks besides (a device that
numbers be aligned, PyTorch that a call be its own) stands where that is asked.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from . import _arrays, _device, _foreign, _memory
from ._arrays import FLOATS, INTEGERS, Array, Layout
from ._options import ARRAYS, NEED_INDEX, OPTIONS, RowOptions, integer, numeric_of, real, reduction_of
from .reference import HESSIANS, KINDS

# ---------------------------------------------------------------------- rules about how arrays lie, wherever that is


def require_float(a: Layout, name: str) -> None:
    """A TypeError for a dtype that is none of the four; a ValueError where a device could not load its numbers."""
    if a.on_host:
        if a.dtype not in FLOATS:
            raise TypeError(f"{name} must be float16, bfloat16, float32, float64 or integers, got {a.dtype}")
    elif a.dtype not in FLOATS:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64 on a device, got {a.dtype}")


@functools.lru_cache(4096)
def class_axis(x: Layout, number: int, name: str) -> int:
    """The class axis of logits counted from 0; there are classes along it, unless there are no rows."""
    if x.ndim == 0:
        raise ValueError(f"{name} must have a class axis, got a scalar")
    if not -x.ndim <= number < x.ndim:
        raise np.exceptions.AxisError(number, x.ndim)
    number %= x.ndim
    if x.shape[number] == 0 and 0 not in _arrays.without(x.shape, number):
        raise ValueError(f"{name} must have at least one class, got shape {x.shape} with axis {number}")
    return number


Axis = int | tuple[int, ...] | None  # of a row function; None: all axes


def axis_of(value: Any) -> Axis:
    """The axis of a row function as plain integers; a TypeError for what is none, nor several, nor None."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, tuple):
        return tuple(integer(each, "axis") for each in value)
    try:
        return integer(value, "axis")
    except TypeError:
        raise TypeError(f"axis must be an integer, a tuple of integers or None, got {value!r}") from None


@functools.lru_cache(4096)
def class_axes(ndim: int, axis: Axis) -> tuple[int, ...]:
    """The axes over which a row function takes its classes, counted from 0; none of a scalar, which is one class."""
    given = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if axis == ():
        raise ValueError("axis must name one axis or more, or be None for all, got ()")
    most = ndim or 1  # a scalar is taken along its axis -1, or 0, as if it had one
    for number in given:
        if not -most <= number < most:
            raise np.exceptions.AxisError(number, ndim)
    found = tuple(number % most for number in given)
    if len(set(found)) < len(found):
        raise ValueError(f"axis must not name an axis twice, got {axis}")
    return found if ndim else ()


def together(x: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of logits and their weights together."""
    try:
        return np.broadcast_shapes(x, b)
    except ValueError:
        raise ValueError(f"b must have a shape that broadcasts with that of x, {x}, got {b}") from None


@functools.lru_cache(4096)
def kept_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool = False) -> tuple[int, ...]:
    """The shape of one number a row: without these axes, or with 1 in their places."""
    return tuple(1 if a in axes else size for a, size in enumerate(shape) if keepdims or a not in axes)


def are_probabilities(targets: Layout, x: Layout, axis: int, integer_logits: bool = False) -> bool:
    """Whether targets are probabilities, like the logits, and not classes, of the rows' shape."""
    rows_shape = _arrays.without(x.shape, axis)
    if (targets.dtype in INTEGERS or targets.dtype == "bool") and targets.shape == x.shape:
        if targets.on_host:
            return True
        raise TypeError(
            f"targets look one-hot, {targets.dtype} of the shape of logits, {x.shape}: pass their classes, "
            f"targets.argmax({axis}), or floats, on a device where nothing is copied implicitly"
        )
    if targets.dtype in INTEGERS:
        if targets.shape != rows_shape:
            raise ValueError(
                f"targets must have the shape of logits without the class axis, {rows_shape}, got {targets.shape}"
            )
        return False
    if targets.dtype not in FLOATS:
        raise TypeError(f"targets must be integers (classes) or floating (probabilities), got {targets.dtype}")
    if integer_logits and targets.ndim == x.ndim + 1:
        raise TypeError("logits are integers and targets floating with one axis more: arguments swapped?")
    if targets.shape == x.shape:
        return True
    if targets.shape == rows_shape:
        raise TypeError(f"targets of shape {targets.shape} are classes and must be integers, got {targets.dtype}")
    raise ValueError(f"probability targets must have the shape of logits, {x.shape}, got {targets.shape}")


@functools.lru_cache(4096)
def require_weights(w: Layout, x: Layout, axis: int, name: str) -> None:
    """Raise unless an option that is an array is floating, or a mask, with a number for each class, or row."""
    shape = (x.shape[axis],) if OPTIONS[name].over == "classes" else _arrays.without(x.shape, axis)
    if w.dtype != "bool" or not OPTIONS[name].entries.may_be_mask:
        require_float(w, name)
    if w.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {w.shape}")


def ignored(value: Any, targets: Layout, probabilities: bool) -> int | None:
    """The index that is ignored, None where no target can equal it."""
    if value is None:
        return None
    if probabilities:
        raise needs_index("ignore_index")
    index = integer(value, "ignore_index")
    limits = np.iinfo(targets.dtype)
    return index if limits.min <= index <= limits.max else None


def needs_index(name: str) -> ValueError:
    """The error for an option that goes with classes only."""
    way = "; with probability targets use where or sample_weight" * (name == "ignore_index")
    return ValueError(f"{name} is for index targets{way}")


def require_index(left: Mapping[str, Any], probabilities: bool) -> None:
    """Raise where an option that is not at its default goes with classes only, and the targets are probabilities."""
    for name in NEED_INDEX if probabilities else ():
        if name in left:
            raise needs_index(name)


def require_where(w: Layout, x: Layout, axis: int) -> None:
    """Raise unless ``where`` is boolean, of the rows' shape."""
    if w.dtype != "bool":
        raise TypeError(f"where must be boolean, got {w.dtype}")
    if w.shape != (shape := _arrays.without(x.shape, axis)):
        raise ValueError(f"where must have shape {shape}, got {w.shape}")


def best_of(top: Any, index: bool, classes: int | None) -> tuple[int, ...]:
    """The numbers of ``top``, checked; without ``classes`` before there are any."""
    try:
        best = tuple(integer(k, "top") for k in (top if isinstance(top, Iterable) else (top,)))
    except TypeError:
        raise TypeError(f"top must be an integer, or several, got {top!r}") from None
    if best and not index:
        raise ValueError(f"top is for index targets, which have a rank, got top={top!r}")
    for k in best:
        if classes is None:
            if k < 1:
                raise ValueError(f"top must be at least 1, got {k}")
        elif not 1 <= k <= classes:
            raise ValueError(f"top must be of 1 to {classes}, the number of classes, got {k}")
    return best


def require_grad_output(g: Layout, reduction: str, rows_shape: tuple[int, ...], name: str = "grad_output") -> None:
    """Raise unless what arrives at a loss is a number, or one for each row of a loss that has so many."""
    require_float(g, name)
    if g.shape and reduction != "none":
        raise ValueError(f"{name} must be a scalar with reduction={reduction!r}, got shape {g.shape}")
    if g.shape not in ((), rows_shape):
        raise ValueError(f"{name} must be a scalar or have shape {rows_shape}, got {g.shape}")


def require_like(g: Layout, log_p: Layout) -> None:
    """Raise unless what arrives at a log-softmax is floating, and of its shape."""
    require_float(g, "grad_output")
    if g.shape != log_p.shape:
        raise ValueError(f"grad_output must have shape {log_p.shape}, got {g.shape}")


@functools.lru_cache(4096)
def require_result(out: Layout, x: Layout, is_x: bool = False, called: str = "out") -> None:
    """Raise unless a result like x can go to ``out``, as far as that shows in how they lie; ``is_x``: it is x."""
    if out.shape != x.shape:
        raise ValueError(f"{called} must have shape {x.shape}, got {out.shape}")
    if not is_x and (out.dtype != x.dtype or out.swapped):
        swapped = " with its bytes swapped" * out.swapped
        raise ValueError(f"{called} must have dtype {x.dtype}, got {out.dtype}{swapped}")
    if out.read_only:
        raise ValueError(f"{called} must be writeable, got a read-only array")
    if _arrays.overlaps_itself(out):
        raise ValueError(f"{called} must not overlap itself, got strides {out.strides} for shape {out.shape}")


def require_apart(out: Array, inputs: dict[str, Array | None], x: Array | None) -> None:
    """Raise where ``out`` shares memory with an input, but for being x itself: then the call works in place."""
    for name, other in inputs.items():
        if other is None or (other is x and _arrays.same_elements(out, other)):
            continue
        if _arrays.may_share_memory(out, other):
            raise shares_memory(name, other is x)


def shares_memory(name: str, may_be: bool, called: str = "out") -> ValueError:
    """The error for an ``out`` that shares memory with an input; ``may_be``: it would do as that input itself."""
    way = f" other than being {name} itself" if may_be else ""
    return ValueError(f"{called} must not share memory with {name}{way}")


def require_numbers(a: Layout, name: str, dtype: str, shape: tuple[int, ...], in_order: bool = False) -> None:
    """Raise unless an array is as a forward made it; ``in_order``: in C order, too, as kernels on a device take it."""
    if (a.shape, a.dtype) != (shape, dtype):
        raise ValueError(f"{name} must be {dtype} of shape {shape}, got {a.dtype} {a.shape}")
    if not in_order or not a.size:
        return
    strides = zip(shape, a.strides, _arrays.c_strides(shape, a.itemsize), strict=True)
    if not all(size == 1 or got == plain for size, got, plain in strides):
        raise ValueError(f"{name} must be {dtype} of shape {shape} in C order, got strides {a.strides}")


def bad_target(index: tuple[int, ...], value: Any, classes: int) -> IndexError:
    """The error that names the first target that is no class; a value of None is not known."""
    return IndexError(f"{at('targets', index)}{'' if value is None else f' = {value}'} is not in [0, {classes})")


def at(name: str, index: tuple[int, ...]) -> str:
    """A number of an array, as it is written in Python; of a single number its name."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name


# ---------------------------------------------------------------------- gradients of a linear layer's loss, by name

GRADIENTS = ("hidden", "weight", "bias")
_NAMES = ", ".join(map(repr, GRADIENTS))


def gradients_wanted(wrt: Any) -> frozenset[str]:
    """The names of the gradients that a caller asks for."""
    names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    for name in names:
        if name not in GRADIENTS:
            raise ValueError(f"wrt must be of {_NAMES}, got {name!r}")
    return frozenset(names)


def gradients_given(out: Any, accumulate: Any) -> dict[str, Any]:
    """The arrays of ``out``, by name: a mapping, or the result of an earlier call."""
    if not isinstance(accumulate, (bool, np.bool_)):
        raise TypeError(f"accumulate must be True or False, got {accumulate!r}")
    if hasattr(out, "_asdict"):
        out = {name: a for name, a in out._asdict().items() if name in GRADIENTS}
    if out is not None and not isinstance(out, Mapping):
        raise TypeError(f"out must be a mapping with some of {_NAMES}, got {type(out).__name__}")
    for name in out or {}:
        if name not in GRADIENTS:
            raise ValueError(f"out must have no key but {_NAMES}, got {name!r}")
    found = {name: a for name, a in (out or {}).items() if a is not None}
    if accumulate and not found:
        raise ValueError("accumulate=True adds to what out has, and needs out")
    return found


def gradient_not_wanted(name: str) -> ValueError:
    """The error for an array of ``out`` that no gradient would go to."""
    return ValueError(f"out has {name!r}, whose gradient is not asked for")


# ---------------------------------------------------------------------- arrays on the host, as kernels take them


class Loss(NamedTuple):
    """A checked call of a loss on the host: x has its class axis last; rows_shape is the shape before it.

    sources are the arguments as arrays, before any conversion: what an ``out`` must not share memory with.
    """

    x: np.ndarray
    targets: np.ndarray
    options: Any  # _options.RowOptions
    rows_shape: tuple[int, ...]
    axis: int
    reduction: str
    normalizer: float | None
    empty: float
    sources: dict[str, np.ndarray]


def array(value: Any, name: str) -> np.ndarray:
    """The value as a plain array. MaskedArray and matrix are refused: they would lose their mask, or change shape."""
    if type(value) is np.ndarray:
        return value
    if _loses_its_kind(value):
        raise TypeError(f"{name} must be a plain array, got {type(value).__name__}")
    if _device.holds(value):
        raise TypeError(f"{name} is a CUDA array where the others are on the host: nothing is copied implicitly")
    return _foreign.as_array(value, name)


def _loses_its_kind(value: Any) -> bool:
    """Whether it is a MaskedArray or a matrix. NumPy loads numpy.ma, which is large, when its name is first used."""
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", np.matrix)
    return isinstance(value, (np.matrix, masked))


def floats(value: Any, name: str) -> tuple[np.ndarray, Layout]:
    """An array of one of the four floating types, and how it lies; integers become float64."""
    x = array(value, name)
    if x.dtype.kind in "iu":
        x = _memory.copied(x, np.float64)
    lies = _arrays.on_host(x)
    require_float(lies, name)
    return x, lies


def logits(value: Any, axis: Any, name: str = "logits") -> tuple[np.ndarray, tuple[int, ...]]:
    """The logits of a row function as given, and the axes of their classes, of which there may be none."""
    x, _ = floats(value, name)
    return x, class_axes(x.ndim, axis_of(axis))


def rows_of(value: Any, axis: Any, name: str) -> tuple[np.ndarray, int]:
    """The logits of a row function with a backward, and the number of their one class axis."""
    x, _ = floats(value, name)
    if x.ndim == 0:
        raise ValueError(f"{name} must have a class axis, got a scalar")
    (number,) = class_axes(x.ndim, (integer(axis, "axis"),))
    return x, number


def weighted(value: Any, weights: Any, axis: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Logits x and weights b of any sign, each seen in the shape of both together; the axes of the classes there."""
    x, _ = floats(value, "x")
    given = array(weights, "b")
    b, _ = floats(given.astype(np.float64) if given.dtype.kind == "b" else given, "b")
    shape = together(x.shape, b.shape)
    return np.broadcast_to(x, shape), np.broadcast_to(b, shape), class_axes(len(shape), axis_of(axis))


def classes_last(x: np.ndarray, axis: int) -> np.ndarray:
    """A view with the class axis last."""
    return x if axis == x.ndim - 1 else np.moveaxis(x, axis, -1)


def one_class_axis(arrays: list[np.ndarray], axes: tuple[int, ...]) -> list[np.ndarray] | None:
    """Views of arrays of one shape, with these axes as one, which is the last; None where there are no such views."""
    if len(axes) == 1:
        return [classes_last(a, axes[0]) for a in arrays]
    shape = arrays[0].shape
    if (merged := _arrays.merged_axes(axes, shape, [a.strides for a in arrays])) is None:
        return None
    rows, found = kept_shape(shape, axes), []
    for a, stride in zip(arrays, merged[1], strict=True):
        strides = (*(s for n, s in enumerate(a.strides) if n not in axes), stride)
        found.append(np.lib.stride_tricks.as_strided(a, (*rows, merged[0]), strides))
    return found


def axes_last(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """A view with these axes last."""
    return np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))


def copied_rows(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """A copy, in C order and native byte order, with these axes as one, which is the last."""
    moved = axes_last(x, axes)
    copy = _memory.empty(moved.shape, x.dtype.newbyteorder("="))
    copy[...] = moved
    return copy.reshape(*kept_shape(x.shape, axes), -1)


@functools.lru_cache(4096)
def _axis_and_kind(x: Layout, targets: Layout, axis: int, integer_logits: bool) -> tuple[int, bool]:
    """The class axis, and whether targets are probabilities: kept, since they are known by how the two arrays lie."""
    number = class_axis(x, axis, "logits")
    return number, are_probabilities(targets, x, number, integer_logits)


def loss(logits_value: Any, targets_value: Any, left: dict[str, Any]) -> Loss:
    """The arguments that every loss function has; of the options those that are not at their default."""
    given = array(logits_value, "logits")
    x, like = floats(given, "logits")
    sources = {"logits": given, "targets": array(targets_value, "targets")}
    if isinstance(targets_value, list) and not targets_value:
        sources["targets"] = sources["targets"].astype(np.int64)  # [] is float64 to NumPy
    targets = _arrays.on_host(sources["targets"])
    axis, probabilities = _axis_and_kind(like, targets, integer(left.get("axis", -1), "axis"), given is not x)
    options = _arrays_of(left, ARRAYS, like, axis, sources)
    options |= numeric_of(left)
    require_index(left, probabilities)
    if "ignore_index" in left:
        options["ignore_index"] = ignored(left["ignore_index"], targets, probabilities)
    last = classes_last(x, axis)
    t = classes_last(_floating(sources["targets"]), axis) if probabilities else _classes(sources["targets"])
    row = RowOptions(**options, probabilities=probabilities)
    return Loss(last, t, row, last.shape[:-1], axis, *reduction_of(left), sources)


def divergence(temperature: Any, kind: Any, beta: Any) -> tuple[str, float, float]:
    """(kind, temperature, beta) of a distillation."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    t, b = real(temperature, "temperature"), real(beta, "beta")
    if not 0 < t < np.inf:
        raise ValueError(f"temperature must be finite and positive, got {temperature!r}")
    if not 0 < b < 1:
        raise ValueError(f"beta must be in (0, 1), got {beta!r}")
    return kind, t, b


def require_teacher(teacher: Layout, student: Layout) -> None:
    """Raise unless a teacher's logits are floating, and of the shape of the student's."""
    require_float(teacher, "teacher_logits")
    if teacher.shape != student.shape:
        raise ValueError(f"teacher_logits must have the shape of student_logits, {student.shape}, got {teacher.shape}")


def distillation(student: Any, teacher: Any, left: dict[str, Any]) -> Loss:
    """The arguments of a distillation, whose targets are the teacher's logits."""
    sources = {"student_logits": array(student, "student_logits"), "teacher_logits": array(teacher, "teacher_logits")}
    x, like = floats(sources["student_logits"], "student_logits")
    t, lies = floats(sources["teacher_logits"], "teacher_logits")
    require_teacher(lies, like)
    axis = class_axis(like, integer(left.get("axis", -1), "axis"), "student_logits")
    row = RowOptions(**_arrays_of(left, ("sample_weight",), like, axis, sources), probabilities=True)
    last = classes_last(x, axis)
    return Loss(last, classes_last(t, axis), row, last.shape[:-1], axis, *reduction_of(left), sources)


def hessian(kind: Any, vector: Any) -> None:
    """Raise unless this stands for a Hessian, and comes with a vector where it is a product with one."""
    if not isinstance(kind, str) or kind not in HESSIANS:
        raise ValueError(f"hessian must be one of {', '.join(map(repr, HESSIANS))}, got {kind!r}")
    if (vector is not None) != (kind == "gauss_newton_product"):
        wants = "needs a vector" if vector is None else "takes no vector"
        raise ValueError(f"hessian={kind!r} {wants}, got {'None' if vector is None else type(vector).__name__}")


def require_vector(u: Layout, x: Layout) -> None:
    """Raise unless what a Hessian is multiplied by is like the logits."""
    if (u.shape, u.dtype) != (x.shape, x.dtype):
        raise ValueError(f"vector must be {x.dtype} of shape {x.shape}, as logits are, got {u.dtype} {u.shape}")


def vector(value: Any, call: Loss) -> np.ndarray:
    """What a Hessian is multiplied by."""
    u, lies = floats(value, "vector")
    require_vector(lies, _arrays.on_host(np.moveaxis(call.x, -1, call.axis)))
    return u


def _arrays_of(
    left: dict[str, Any], names: tuple[str, ...], x: Layout, axis: int, sources: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The options of those names as kernels take them, with ``where`` in the sample weights; all go to ``sources``."""
    options: dict[str, Any] = {}
    for name in names:
        if name in left:
            if isinstance(left[name], (dict, str)):
                raise no_weights(left[name], x, axis, name)
            sources[name] = array(left[name], name)
            options[name] = _weights(sources[name], x, axis, name)
    if "where" in left:
        sources["where"] = array(left["where"], "where")
        options["sample_weight"] = _masked(options.get("sample_weight"), sources["where"], x, axis)
    return options


def no_weights(value: Any, x: Layout, axis: int, name: str) -> TypeError:
    """The error for what other libraries make weights of: a dict, or the name of a rule."""
    classes, way = x.shape[axis], ""
    if OPTIONS[name].over == "classes":
        way = f": pass [weights.get(c, 1) for c in range({classes})]"
        if isinstance(value, str):
            counts = f"numpy.bincount(y, minlength={classes})"
            way = f": pass len(y) / ({classes} * {counts}) for 'balanced' ones of labels y"
    got = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
    return TypeError(f"{name} must be an array with a number for each {'class' if way else 'row'}, got {got}{way}")


def _weights(value: np.ndarray, x: Layout, axis: int, name: str) -> np.ndarray:
    w, lies = (value, _arrays.on_host(value)) if value.dtype.kind == "b" else floats(value, name)  # False is 0, True 1
    require_weights(lies, x, axis, name)
    flat = np.require(w, np.float64, ["C", "A"]).reshape(-1)
    entries = OPTIONS[name].entries
    bad = ~entries.hold(flat)
    if bad.any():
        first = int(bad.argmax())
        where = at(name, index_of(first, w.shape))
        raise ValueError(f"{name} must be {entries.told}, got {where} = {flat[first]}")
    return flat


def _masked(weights: np.ndarray | None, where: np.ndarray, x: Layout, axis: int) -> np.ndarray:
    """Sample weights that are 0 where ``where`` is False."""
    require_where(_arrays.on_host(where), x, axis)
    counts = where.astype(np.float64).reshape(-1)
    return counts if weights is None else weights * counts


def _floating(t: np.ndarray) -> np.ndarray:
    """Probability targets as kernels read them: integers and booleans, which are one-hot, become floating."""
    if t.dtype.kind not in "biu":
        return t
    if t.dtype.kind != "b" and t.size and not 0 <= t.min() <= t.max() <= 1:
        first = int(((t < 0) | (t > 1)).argmax())
        told = f"{at('targets', index_of(first, t.shape))} = {t.reshape(-1)[first]}"
        raise ValueError(f"integer targets of the shape of logits must be one-hot, 0 or 1, got {told}")
    return _memory.copied(t, np.float32)


def _classes(t: np.ndarray) -> np.ndarray:
    """Index targets as kernels read them: contiguous, aligned, in native byte order, one-dimensional."""
    if t.flags.c_contiguous and t.dtype.isnative and t.flags.aligned:
        return t if t.ndim == 1 else t.reshape(-1)
    return np.require(t, t.dtype.newbyteorder("="), ["C", "A"]).reshape(-1)


def grad_output(value: Any, call: Loss, name: str = "grad_output") -> float | np.ndarray:
    """A float, or float64 (N,) where the loss has a value for each row."""
    if isinstance(value, (int, float)):
        return real(value, name)
    g, lies = floats(value, name)
    require_grad_output(lies, call.reduction, call.rows_shape, name)
    return np.require(g, np.float64, ["C", "A"]).reshape(-1) if g.ndim else float(g)


def statistics(value: Any, rows: int, fields: int) -> np.ndarray:
    """What a forward has kept of so many rows."""
    numbers = array(value, "statistics")
    require_numbers(_arrays.on_host(numbers), "statistics", "float64", (rows, fields))
    return np.require(numbers, None, ["C", "A"])


def row_gradient(value: Any, like: np.ndarray) -> np.ndarray:
    """The grad_output of a log-softmax: floating, like its result."""
    g, lies = floats(value, "grad_output")
    require_like(lies, _arrays.on_host(like))
    return g


def result(
    out: Any,
    x: np.ndarray,
    inputs: dict[str, np.ndarray],
    may_be_x: bool = True,
    name: str = "logits",
    called: str = "out",
) -> np.ndarray:
    """Where a result like x goes: ``out`` if it will do, else a new array. Called last: after it, out is written."""
    if out is None:
        dtype = x.dtype.newbyteorder("=")
        return np.empty_like(x, dtype, subok=False) if x.nbytes < _memory.LARGE else _memory.empty_like(x, dtype)
    if _device.is_tensor(out):
        out = _foreign.as_array(out, called)
    if not isinstance(out, np.ndarray) or _loses_its_kind(out):
        raise TypeError(f"{called} must be a plain array, got {type(out).__name__}")
    out = out.view(np.ndarray)
    sharing = [key for key, value in inputs.items() if np.may_share_memory(out, value)]
    in_place = may_be_x and bool(sharing or not out.size) and _arrays.same_elements(_placed(out), _placed(x))
    require_result(_arrays.on_host(out), _arrays.on_host(x), in_place, called)
    for key in sharing:
        if not (in_place and key == name):
            raise shares_memory(key, may_be_x and key == name, called)
    return out


def _placed(x: np.ndarray) -> Array:
    return Array(x, x.__array_interface__["data"][0], _arrays.on_host(x))


def index_of(first: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of a row by its number."""
    return tuple(map(int, indices_of(first, shape)))


def indices_of(rows: np.ndarray | int, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The indices of rows by their numbers; a single row is all there is."""
    return np.unravel_index(rows, shape) if shape else ()
