"""The CUDA backend: the public functions on arrays that lie on a device.

`crossentropy.cross_entropy` and the others come here with such arrays. Results stay on the device, in the kind of array
that the logits are, and are computed on the stream that the logits' owner uses now. Nothing is copied between host and
device and nothing is waited for: a bad target gives NaN in its row, and ``config(check=True)``, which looks at the
targets from the host, is the one thing that waits.
"""

from __future__ import annotations

import functools
import math
import operator
from math import nan
from typing import NamedTuple

import numpy as np
from numba import cuda

from ... import _check, _settings
from . import arrays, driver, launch, reductions
from .arrays import DeviceArray
from .kernels import Result
from .plans import Number, Operand, Plan

X, TARGETS, CLASS_WEIGHT, SAMPLE_WEIGHT, GRAD_OUTPUT, OUT, STATISTICS, DIVISOR = range(8)  # the arrays of a loss
MOST_PLANS = 1024


class Options(NamedTuple):
    """The options of a loss that a plan depends on."""

    axis: int
    ignore_index: int | None
    smooths: bool
    reduction: str
    has_normalizer: bool


class Values(NamedTuple):
    """And those that it does not, in the order of `Number`'s places."""

    scale: float  # of the gradient: grad_output over what is known of the divisor
    label_smoothing: float
    z_loss: float
    by: float
    empty: float


class Saved(NamedTuple):
    """What `backward` needs of a `forward`; opaque."""

    given: list[DeviceArray | None]
    options: Options
    values: Values


def unavailable() -> str:
    """Why no device can be used; empty where one can."""
    if driver.SIMULATED:
        return ""
    if not cuda.is_available():
        return "no CUDA device, or no driver for it, is found"
    capability = tuple(cuda.get_current_device().compute_capability)
    return "" if capability >= (8, 0) else f"a device of compute capability 8.0 or later is needed, got {capability}"


def _there(function):
    """A public function, with the device current on which its first argument lies."""

    @functools.wraps(function)
    def call(first, *others, **options):
        if driver.devices() == 1:
            return function(first, *others, **options)
        value = first.given[X].value if isinstance(first, Saved) else getattr(first, "log_p", first)
        with cuda.gpus[arrays.device_of(value)]:
            return function(first, *others, **options)

    return call


# ---------------------------------------------------------------------- row functions


@_there
def log_softmax(x, axis=-1, *, out=None):
    """As `crossentropy.log_softmax`, on the device."""
    return _like_x("log_softmax", x, axis, out)


@_there
def softmax(x, axis=-1, *, out=None):
    """As `crossentropy.softmax`, on the device."""
    return _like_x("softmax", x, axis, out)


def _like_x(name, x, axis, out):
    source = arrays.describe(x, "x")
    given = [source, None if out is None else arrays.beside(source, out, "out")]
    plan = _plan(name, given, (_integer(axis, "axis"),), _plan_like_x)
    if out is not None:
        _require_apart(given[1], {"x": source}, source)
    found = plan.run(given, arrays.stream_of(x))
    return found[plan.grad].value if out is None else out


def _plan_like_x(plan, name, given, scalars):
    axis = _logits_axis(given[0], scalars[0], "x")
    to = _result_operand(plan, given[1], 1, given[0], "x")
    launch.rows(plan, plan.operands[0], axis, Result(writes=name), out=to)
    plan.grad = to.number


@_there
def logsumexp(x, axis=-1, *, keepdims=False):
    """As `crossentropy.logsumexp`, on the device."""
    given = [arrays.describe(x, "x")]
    plan = _plan("logsumexp", given, (_integer(axis, "axis"), bool(keepdims)), _plan_logsumexp)
    return plan.run(given, arrays.stream_of(x))[plan.loss].value


def _plan_logsumexp(plan, name, given, scalars):
    layout, axis = given[0].layout, _logits_axis(given[0], scalars[0], "x")
    kept = (*layout.shape[:axis], 1, *layout.shape[axis + 1 :])
    to = plan.make(kept if scalars[1] else arrays.without(layout.shape, axis), launch.real_of(layout))
    launch.rows(plan, plan.operands[0], axis, Result(loss=True), loss=to)
    plan.loss = to.number


@_there
def log_softmax_backward(saved, grad_output, *, out=None):
    """As `crossentropy.autograd.log_softmax_backward`, on the device."""
    log_p = arrays.describe(saved.log_p, "the log-softmax")
    g = arrays.beside(log_p, grad_output, "grad_output")
    given = [log_p, g, None if out is None else arrays.beside(log_p, out, "out")]
    plan = _plan("log_softmax_backward", given, (saved.axis,), _plan_log_softmax_backward)
    if out is not None:
        _require_apart(given[2], {"the log-softmax": log_p, "grad_output": g}, None)
    found = plan.run(given, arrays.stream_of(saved.log_p))
    return found[plan.grad].value if out is None else out


def _plan_log_softmax_backward(plan, name, given, scalars):
    log_p, g, _ = given
    arrays.require_float(g, "grad_output")
    if g.layout.shape != log_p.layout.shape:
        raise ValueError(f"grad_output must have shape {log_p.layout.shape}, got {g.layout.shape}")
    to = _result_operand(plan, given[2], 2, log_p, "the log-softmax")
    x, q, _ = plan.operands
    launch.rows(plan, x, scalars[0], Result(writes=name, q=g.layout.dtype), q=q, out=to)
    plan.grad = to.number


# ---------------------------------------------------------------------- the loss


@_there
def cross_entropy(logits, targets, **options):
    """As `crossentropy.cross_entropy`, on the device."""
    given, options, values = _given(logits, targets, **options)
    plan, found = _run("loss", given, options, values)
    return found[plan.loss].value


@_there
def cross_entropy_and_grad(logits, targets, *, grad_output=1.0, out=None, **options):
    """As `crossentropy.cross_entropy_and_grad`, on the device: the pair."""
    given, options, values = _given(logits, targets, **options)
    plan, found = _run("both", given, options, _with_gradient(given, values, grad_output, out))
    return found[plan.loss].value, found[plan.grad].value if out is None else out


@_there
def forward(logits, targets, **options):
    """As `crossentropy.autograd.forward`, on the device."""
    given, options, values = _given(logits, targets, **options)
    plan, found = _run("forward", given, options, values)
    given[STATISTICS] = found[plan.statistics]
    given[DIVISOR] = None if plan.divisor is None else found[plan.divisor]
    return found[plan.loss].value, Saved(given, options, values)


@_there
def backward(saved, grad_output=1.0, *, out=None):
    """As `crossentropy.autograd.backward`, on the device."""
    given = list(saved.given)
    plan, found = _run("backward", given, saved.options, _with_gradient(given, saved.values, grad_output, out))
    return found[plan.grad].value if out is None else out


def numbers_of(saved):
    """As `crossentropy.autograd.numbers_of`, on the device."""
    divisor = saved.given[DIVISOR]
    return saved.given[STATISTICS].value, None if divisor is None else divisor.value


@_there
def restored(statistics, divisor, logits, targets, **options):
    """As `crossentropy.autograd.restored`, on the device."""
    given, options, values = _given(logits, targets, **options)
    x, axis = given[X].layout, _logits_axis(given[X], options.axis, "logits")
    rows = math.prod(arrays.without(x.shape, axis))
    given[STATISTICS] = _plain_numbers(given[X], statistics, "statistics", (rows, 3))
    if divisor is not None:
        given[DIVISOR] = _plain_numbers(given[X], divisor, "divisor", ())
    return Saved(given, options, values)


def _plain_numbers(x, value, name, shape):
    """Real numbers in C order, as kernels take them without another look."""
    a = arrays.beside(x, value, name)
    layout, wanted = a.layout, arrays.plain(shape, launch.real_of(x.layout))
    fits = (layout.shape, layout.dtype) == (shape, wanted.dtype)
    if fits and layout.size:
        strides = zip(shape, layout.strides, wanted.strides, strict=True)
        fits = all(size == 1 or got == plain for size, got, plain in strides)
    if not fits:
        raise ValueError(f"{name} must be {wanted.dtype} of shape {shape}, as `numbers_of` gave it")
    return a


def _given(
    logits,
    targets,
    axis=-1,
    class_weight=None,
    sample_weight=None,
    ignore_index=None,
    label_smoothing=0.0,
    z_loss=0.0,
    reduction="mean",
    normalizer=None,
    empty=nan,
):
    """The arrays of a call, and its other options, checked as far as they need no array."""
    x = arrays.describe(logits, "logits")
    smoothing, z_loss = _check.smoothing_of(label_smoothing), _check.z_loss_of(z_loss)
    reduction, normalizer, empty = _check.reduction_of(reduction, normalizer, empty)
    given = [x, arrays.beside(x, targets, "targets"), None, None, None, None, None, None]
    if class_weight is not None:
        given[CLASS_WEIGHT] = arrays.beside(x, class_weight, "class_weight")
    if sample_weight is not None:
        given[SAMPLE_WEIGHT] = arrays.beside(x, sample_weight, "sample_weight")
    by = normalizer or 1.0
    axis, ignore_index = (
        _integer(axis, "axis"),
        None if ignore_index is None else _integer(ignore_index, "ignore_index"),
    )
    options = Options(axis, ignore_index, smoothing > 0, reduction, normalizer is not None)
    return given, options, Values(1.0 / by, smoothing, z_loss, by, empty)


def _integer(value, name):
    """As a plan is found by: an int, not what may change and yet be the same."""
    if type(value) is int:
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def _with_gradient(given, values, grad_output, out):
    """Put the arrays of a gradient in their places; the values with the number that it is multiplied by."""
    number = 1.0
    if isinstance(grad_output, (int, float, np.number)):
        number = _check.real(grad_output, "grad_output")
    else:
        given[GRAD_OUTPUT] = arrays.beside(given[X], grad_output, "grad_output")
    if out is not None:
        given[OUT] = arrays.beside(given[X], out, "out")
    return values if number == 1.0 else values._replace(scale=number / values.by)


def _run(kind, given, options, values):
    """The plan of a loss, and its arrays, launched."""
    stream = arrays.stream_of(given[X].value)
    plan = _plan(kind, given, options, _plan_loss)
    if given[OUT] is not None:
        names = ("logits", "targets", "class_weight", "sample_weight", "grad_output")
        _require_apart(given[OUT], dict(zip(names, given, strict=False)), given[X])
    if _settings.checks_targets_on_device() and kind != "backward":
        _look_at_targets(given, options, stream)
    if plan.rows is not None:  # what 'mean' divides by is their number
        values = values._replace(scale=values.scale / plan.rows if plan.rows else 0.0, by=plan.rows)
    return plan, plan.run(given, stream, values)


# ---------------------------------------------------------------------- plans

_plans: dict[tuple, Plan] = {}


def _plan(kind, given, scalars, build) -> Plan:
    """The plan for arrays that lie like these, found or made: ``build`` checks the arguments."""
    places = [None if a is None else (a.layout, a.address & 15) for a in given]
    key = kind, scalars, driver.device(), *places
    if (plan := _plans.get(key)) is None:
        plan = Plan(given)
        build(plan, kind, given, scalars)
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        _plans[key] = plan
    return plan


def _logits_axis(x, axis, name):
    layout = x.layout
    arrays.require_float(x, name)
    axis = _check.class_axis(layout, axis, name)
    if layout.shape[axis] == 0 and 0 not in arrays.without(layout.shape, axis):
        raise ValueError(f"{name} must have at least one class, got shape {layout.shape} with axis {axis}")
    return axis


def _result_operand(plan, out, number, x, name):
    """Where a result like x goes: ``out`` if it will do, else a new array."""
    if out is None:
        return plan.make(x.layout.shape, x.layout.dtype)
    to, like = out.layout, x.layout
    if to.shape != like.shape:
        raise ValueError(f"out must have shape {like.shape}, got {to.shape}")
    if to.dtype != like.dtype:
        raise ValueError(f"out must have dtype {like.dtype}, got {to.dtype}")
    if to.read_only:
        raise ValueError("out must be writeable, got a read-only array")
    arrays.require_aligned(out, "out")
    if _check.overlaps_itself(to):
        raise ValueError(f"out must not overlap itself, got strides {to.strides} for shape {to.shape}")
    return plan.operands[number]


def _require_apart(out, inputs, x):
    """A ValueError where ``out`` shares memory with an input, but for being x itself."""
    for name, other in inputs.items():
        if other is None or (other is x and arrays.same_elements(out, other)):
            continue
        if arrays.may_share_memory(out, other):
            rule = f" other than being {name} itself" if other is x else ""
            raise ValueError(f"out must not share memory with {name}{rule}")


class Checked(NamedTuple):
    """A checked call of a loss."""

    x: Operand
    axis: int
    targets: Operand
    probabilities: bool
    class_weight: Operand | None
    sample_weight: Operand | None
    ignore_index: int | None
    options: Options

    @property
    def rows_shape(self):
        """The shape of the rows."""
        return arrays.without(self.x.layout.shape, self.axis)


def _checked(plan, given, options) -> Checked:
    x, targets = given[X].layout, given[TARGETS].layout
    axis = _logits_axis(given[X], options.axis, "logits")
    rows_shape = arrays.without(x.shape, axis)
    probabilities = _are_probabilities(targets, x, rows_shape)
    arrays.require_aligned(given[TARGETS], "targets")
    kind = np.dtype(np.int64 if probabilities else targets.dtype)
    return Checked(
        plan.operands[X],
        axis,
        plan.operands[TARGETS],
        probabilities,
        _numbers(plan, given, CLASS_WEIGHT, "class_weight", (x.shape[axis],)),
        _numbers(plan, given, SAMPLE_WEIGHT, "sample_weight", rows_shape),
        _check.ignored_of(options.ignore_index, kind, probabilities),
        options,
    )


def _are_probabilities(targets, x, rows_shape):
    if targets.dtype in launch.TARGET_SIZES:
        if targets.shape != rows_shape:
            raise ValueError(
                f"targets must have the shape of logits without the class axis, {rows_shape}, got {targets.shape}"
            )
        return False
    if targets.dtype not in _check.FLOATS:
        raise TypeError(f"targets must be integers (classes) or floating (probabilities), got {targets.dtype}")
    if targets.shape == rows_shape and targets.shape != x.shape:
        raise TypeError(f"targets of shape {targets.shape} are classes and must be integers, got {targets.dtype}")
    if targets.shape != x.shape:
        raise ValueError(f"probability targets must have the shape of logits, {x.shape}, got {targets.shape}")
    return True


def _numbers(plan, given, which, name, shape):
    """Numbers of a row each (or class) as real ones. Their values are not looked at: that would wait for the device."""
    a = given[which]
    if a is None:
        return None
    arrays.require_float(a, name)
    if a.layout.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {a.layout.shape}")
    return launch.as_real(plan, plan.operands[which], given[X].layout)


def _plan_loss(plan, kind, given, options):
    """Plan a loss, its gradient, or the halves of the pair."""
    call, writes, saves = _checked(plan, given, options), kind in ("both", "backward"), kind == "forward"
    row_scale = _grad_output(plan, given, call) if writes else None
    summed, plan.rows = _divisor_of(call)
    array = None
    if summed:
        array = plan.operands[DIVISOR] if kind == "backward" else launch.weight_sum(plan, call)[0]
    real, outputs = launch.real_of(call.x.layout), {}
    if kind == "backward":
        outputs["saved"] = plan.operands[STATISTICS]
    else:
        outputs["loss"] = plan.make(call.rows_shape, real)
    if saves:
        outputs["saved"] = plan.make((math.prod(call.rows_shape), 3), real)
        plan.statistics, plan.divisor = outputs["saved"].number, None if array is None else array.number
    if writes:
        outputs["out"] = _result_operand(plan, given[OUT], OUT, given[X], "logits")
        plan.grad = outputs["out"].number
    q = call.targets.layout.dtype if call.probabilities else ""
    result = Result(
        reads="saved" if kind == "backward" else "row",
        saves="row" if saves else "",
        loss=kind != "backward",
        writes="gradient" if writes else "",
        spreads=call.probabilities or options.smooths,
        q=q,
    )
    numbers = {name: Number(place) for place, name in enumerate(Values._fields)}
    launch.rows(
        plan,
        call.x,
        call.axis,
        result,
        **{"q" if q else "targets": call.targets},
        class_weight=call.class_weight,
        sample_weight=call.sample_weight,
        row_scale=row_scale,
        divisor=array,
        scale=numbers["scale"],
        label_smoothing=numbers["label_smoothing"],
        z_loss=numbers["z_loss"],
        ignored=call.ignore_index,
        **outputs,
    )
    if kind != "backward":
        loss, whole = outputs["loss"], options.reduction == "none"
        plan.loss = (loss if whole else launch.total(plan, loss, array, numbers["by"], numbers["empty"])).number


def _grad_output(plan, given, call):
    """The numbers on the device that a gradient is multiplied by."""
    g = given[GRAD_OUTPUT]
    if g is None:
        return None
    arrays.require_float(g, "grad_output")
    shape = g.layout.shape
    if shape and call.options.reduction != "none":
        reduction = call.options.reduction
        raise ValueError(f"grad_output must be a scalar with reduction={reduction!r}, got shape {shape}")
    if shape not in ((), call.rows_shape):
        raise ValueError(f"grad_output must be a scalar or have shape {call.rows_shape}, got {shape}")
    return launch.as_real(plan, plan.operands[GRAD_OUTPUT], call.x.layout)


def _divisor_of(call):
    """Whether a loss is divided by what must be added up on the device; and the number of rows, if by that."""
    if call.options.reduction != "mean" or call.options.has_normalizer:
        return False, None
    counted = call.class_weight is not None or call.ignore_index is not None
    if call.sample_weight is not None or (counted and not call.probabilities):
        return True, None
    return False, float(math.prod(call.rows_shape))


def _look_at_targets(given, options, stream):
    """Raise for the first target that is no class."""
    given = given[: SAMPLE_WEIGHT + 1]
    plan = _plan("scan", given, options, _plan_scan)
    if plan.first_bad is None:
        return
    n = arrays.item(plan.run(given, stream)[plan.first_bad], stream)
    if n < reductions.NONE:
        shape = given[TARGETS].layout.shape
        index = tuple(map(int, np.unravel_index(n, shape))) if shape else ()
        where, targets = ", ".join(map(str, index)) or "()", given[TARGETS].value
        value = f" = {int(targets[index])}" if hasattr(targets, "__getitem__") else ""  # DLPack alone says no more
        raise IndexError(f"targets[{where}]{value} is not in [0, {plan.classes})")


def _plan_scan(plan, kind, given, options):
    call = _checked(plan, given, options)
    plan.classes = call.x.layout.shape[call.axis]
    plan.first_bad = None if call.probabilities else launch.weight_sum(plan, call)[1].number
