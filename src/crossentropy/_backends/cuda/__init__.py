"""The CUDA backend: the public functions on arrays that lie on a device.

`crossentropy.cross_entropy` and the others come here with such arrays. Results stay on the device, in the kind of array
that the logits are, and are computed on the stream that the logits' owner uses now. Nothing is copied between host and
device and nothing is waited for: a bad target gives NaN in its row, and ``config(check=True)``, which looks at the
targets from the host, is the one thing that waits.
"""

from __future__ import annotations

import functools
import math

from numba import cuda

from ... import _arrays, _check
from ..._options import integer
from ..contract import LogAndSign, Statistics
from . import arrays, block_calls, calls, driver, launch, linear, losses, one_logit_calls, row_calls, second_calls
from . import linear_log_probs as chosen
from .calls import DIVISOR, STATISTICS, Saved, SavedLogSoftmax, X
from .kernels import Result
from .plans import plan_for


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
        value = first
        if isinstance(first, (Saved, SavedLogSoftmax, row_calls.SavedLogProbs)):
            value = first.given[X].value
        with cuda.gpus[arrays.device_of(value)]:
            return function(first, *others, **options)

    return call


# ---------------------------------------------------------------------- row functions


@_there
def log_softmax(x, axis=-1, *, out=None):
    """As `crossentropy.log_softmax`, on the device."""
    return _like_x("log_softmax", x, axis, out)


@_there
def log_softmax_forward(x, axis=-1, *, out=None):
    """As `crossentropy.autograd.log_softmax_forward`, on the device."""
    source, axis = arrays.describe(x, "x"), integer(axis, "axis")
    given = [source, None if out is None else arrays.beside(source, out, "out")]
    plan = plan_for("log_softmax_forward", given, (axis,), _plan_log_softmax_forward)
    if out is not None:
        _check.require_apart(given[1], {"x": source}, None)
    found = plan.run(given, arrays.stream_of(x))
    saved = SavedLogSoftmax([source, found[plan.statistics]], plan.axis)
    return found[plan.grad].value if out is None else out, saved


def _plan_log_softmax_forward(plan, name, given, scalars):
    axis = calls.logits_axis(given[0], scalars[0], "x")
    to = calls.result(plan, given[1], 1, given[0])
    shape = math.prod(_arrays.without(given[0].layout.shape, axis)), len(Statistics._fields)
    statistics = plan.make(shape, launch.real_of(given[0].layout))
    result = Result(writes="log_softmax", saves="row")
    launch.rows(plan, plan.operands[0], axis, result, out=to, statistics=statistics)
    plan.grad, plan.statistics, plan.axis = to.number, statistics.number, axis


@_there
def softmax(x, axis=-1, *, out=None):
    """As `crossentropy.softmax`, on the device."""
    return _like_x("softmax", x, axis, out)


def _like_x(name, x, axis, out):
    source = arrays.describe(x, "x")
    given = [source, None if out is None else arrays.beside(source, out, "out")]
    plan = plan_for(name, given, (_check.axis_of(axis),), _plan_like_x)
    if out is not None:
        _check.require_apart(given[1], {"x": source}, source)
    found = plan.run(given, arrays.stream_of(x))
    return found[plan.grad].value if out is None else out


def _plan_like_x(plan, name, given, scalars):
    calls.require_float(given[0], "x")
    axes = _check.class_axes(given[0].layout.ndim, scalars[0])
    to = calls.result(plan, given[1], 1, given[0])
    plan.grad = to.number
    x, to = calls.row_axes([plan.operands[0], to], axes, "x")
    launch.rows(plan, x, x.layout.ndim - 1, Result(writes=name), out=to)


@_there
def logsumexp(x, axis=-1, *, b=None, keepdims=False, return_sign=False):
    """As `crossentropy.logsumexp`, on the device; weights are floating and lie there, too."""
    source = arrays.describe(x, "x")
    given = [source, None if b is None else arrays.beside(source, b, "b")]
    options = _check.axis_of(axis), bool(keepdims), bool(return_sign)
    plan = plan_for("logsumexp", given, options, _plan_logsumexp)
    found = plan.run(given, arrays.stream_of(x))
    log_sum = found[plan.loss].value
    return LogAndSign(log_sum, found[plan.sign].value) if return_sign else log_sum


def _plan_logsumexp(plan, name, given, scalars):
    axis, keepdims, return_sign = scalars
    x, b = plan.operands
    calls.require_float(given[0], "x")
    shape = x.layout.shape
    if b is not None:
        calls.require_float(given[1], "b")
        shape = _check.together(shape, b.layout.shape)
        x, b = calls.broadcast(x, shape), calls.broadcast(b, shape)
    axes, real = _check.class_axes(len(shape), axis), launch.real_of(x.layout)
    kept = _check.kept_shape(shape, axes, keepdims)
    to, sign = plan.make(kept, real), plan.make(kept, real) if return_sign else None
    plan.loss, plan.sign = to.number, None if sign is None else sign.number
    if not math.prod(to.layout.shape):
        return
    x, b = calls.row_axes([x, b], axes, "x" if b is None else "x and b")
    if b is None and not return_sign and x.layout.size:
        launch.rows(plan, x, x.layout.ndim - 1, Result(loss=True), loss=to)
    else:
        launch.weighted_rows(plan, x, b, to, sign)


@_there
def log_softmax_backward(saved, grad_output, *, out=None):
    """As `crossentropy.autograd.log_softmax_backward`, on the device."""
    x, statistics = saved.given
    g = arrays.beside(x, grad_output, "grad_output")
    given = [x, statistics, g, None if out is None else arrays.beside(x, out, "out")]
    plan = plan_for("log_softmax_backward", given, (saved.axis,), _plan_log_softmax_backward)
    if out is not None:
        _check.require_apart(given[3], {"x": x, "grad_output": g}, None)
    found = plan.run(given, arrays.stream_of(x.value))
    return found[plan.grad].value if out is None else out


def _plan_log_softmax_backward(plan, name, given, scalars):
    x_there, _, g_there, _ = given
    _check.require_like(g_there.layout, x_there.layout)
    arrays.require_aligned(g_there, "grad_output")
    to = calls.result(plan, given[3], 3, x_there)
    x, statistics, q, _ = plan.operands
    launch.rows(plan, x, scalars[0], Result(writes=name, q=g_there.layout.dtype), q=q, out=to, statistics=statistics)
    plan.grad = to.number


# ---------------------------------------------------------------------- the loss


@_there
def cross_entropy(logits, targets, **options):
    """As `crossentropy.cross_entropy`, on the device."""
    given, options, values = calls.given("cross_entropy", logits, targets, options)
    plan, found = losses.run("loss", given, options, values)
    return found[plan.loss].value


@_there
def cross_entropy_and_grad(logits, targets, *, grad_output=1.0, out=None, **options):
    """As `crossentropy.cross_entropy_and_grad`, on the device: the pair."""
    given, options, values = calls.given("cross_entropy_and_grad", logits, targets, options)
    plan, found = losses.run("both", given, options, calls.with_gradient(given, values, grad_output, out))
    return found[plan.loss].value, found[plan.grad].value if out is None else out


@_there
def forward(logits, targets, **options):
    """As `crossentropy.autograd.forward`, on the device."""
    given, options, values = calls.given("forward", logits, targets, options)
    plan, found = losses.run("forward", given, options, values)
    given[STATISTICS] = found[plan.statistics]
    given[DIVISOR] = None if plan.divisor is None else found[plan.divisor]
    return found[plan.loss].value, Saved(given, options, values)


@_there
def backward(saved, grad_output=1.0, *, out=None):
    """As `crossentropy.autograd.backward`, on the device."""
    given = list(saved.given)
    plan, found = losses.run(
        "backward", given, saved.options, calls.with_gradient(given, saved.values, grad_output, out)
    )
    return found[plan.grad].value if out is None else out


def numbers_of(saved):
    """As `crossentropy.autograd.numbers_of`, on the device."""
    if isinstance(saved, SavedLogSoftmax):
        return saved.given[1].value, None
    if isinstance(saved, row_calls.SavedLogProbs):
        return saved.given[row_calls.STATISTICS].value, None
    divisor = saved.given[DIVISOR]
    return saved.given[STATISTICS].value, None if divisor is None else divisor.value


@_there
def restored(statistics, divisor, logits, targets, **options):
    """As `crossentropy.autograd.restored`, on the device."""
    given, options, values = calls.given("restored", logits, targets, options)
    calls.with_statistics(given, options, statistics, divisor)
    return Saved(given, options, values)


@_there
def restored_log_softmax(statistics, x, axis=-1):
    """As `crossentropy.autograd.restored_log_softmax`, on the device."""
    there = arrays.describe(x, "x")
    axis = calls.logits_axis(there, integer(axis, "axis"), "x")
    kept = calls.fields_of(Result(writes="log_softmax"))
    return SavedLogSoftmax([there, calls.statistics_beside(there, axis, statistics, kept)], axis)


@_there
def distillation(student_logits, teacher_logits, divergence, *, grad_output=1.0, out=None, **options):
    """As `crossentropy.distillation`, on the device: the pair. ``divergence`` is (kind, temperature, beta), checked."""
    return second_calls.distillation(
        student_logits, teacher_logits, divergence, grad_output=grad_output, out=out, options=options
    )


@_there
def binary(logits, targets, weight, pos_weight, alpha, gamma, reduction, wants_grad, grad_output=1.0, out=None):
    """As `crossentropy.binary`'s functions, on the device: the pair, of checked numbers; the gradient may be None."""
    return one_logit_calls.losses(
        logits, targets, weight, pos_weight, alpha, gamma, reduction, wants_grad, grad_output, out
    )


@_there
def cross_entropy_grad_hess(logits, targets, *, hessian, vector=None, out=None, hess_out=None, **options):
    """As `crossentropy.cross_entropy_grad_hess`, on the device: the three."""
    given = calls.given("cross_entropy_grad_hess", logits, targets, options)[0]
    more = {} if vector is None else {"vector": arrays.beside(given[X], vector, "vector")}
    for name, each in (("out", out), ("hess_out", hess_out)):
        if each is not None:
            there = arrays.beside(given[X], each, name)
            second_calls.require_apart(there, given, **more)
            more[name] = there
    loss, saved = forward(logits, targets, **options)
    grad = backward(saved, out=out)
    return loss, grad, second_calls.hessian(saved, hessian, vector, hess_out)


# ---------------------------------------------------------------------- the numbers of rows

row_statistics = _there(row_calls.row_statistics)
log_probs_forward = _there(row_calls.log_probs_forward)
log_probs_backward = _there(row_calls.log_probs_backward)
restored_log_probs = _there(row_calls.restored_log_probs)

# ---------------------------------------------------------------------- blocks of classes

forward_block = _there(block_calls.forward_block)
backward_block = _there(block_calls.backward_block)

# ---------------------------------------------------------------------- the loss of hidden states

linear_cross_entropy = _there(linear.linear_cross_entropy)
linear_cross_entropy_and_grad = _there(linear.linear_cross_entropy_and_grad)
linear_log_probs = _there(chosen.linear_log_probs)
linear_log_probs_and_grad = _there(chosen.linear_log_probs_and_grad)
