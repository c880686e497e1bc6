"""The losses of hidden states as registered operators, for whatever traces calls.

A gradient that is not wanted is a tensor of no elements. The operators of gradients have no derivative themselves:
where gradients are to be differentiated (create_graph), PyTorch's operations compute them.
"""

from __future__ import annotations

import torch
from torch.library import custom_op

from . import linear_bridge, linear_composed, ops
from .bridge import Weights, weights_of
from .linear_bridge import GRADIENTS, Layer, Settings, finished, real, written_dtype

_LAYER = "Tensor input, Tensor linear_weight, Tensor? linear_bias"
_SETTINGS = f"{ops.OPTIONS}, int? rows, ScalarType dtype"
_WRT = "bool of_input, bool of_weight, bool of_bias"
_LOSS = f"{_LAYER}, Tensor target, {ops.WEIGHTS}, {_SETTINGS}, {_WRT}"
_COUNT = len(Settings._fields)
_GRADIENTS = "(Tensor, Tensor, Tensor)"


@custom_op(
    "crossentropy::linear_cross_entropy", mutates_args=(), schema=f"({_LOSS}) -> (Tensor, Tensor, Tensor, Tensor)"
)
def cross_entropy(*arguments):
    """(loss, the gradients that are wanted, of 1)."""
    layer, target, weights, settings, wrt = _call(arguments)
    if not any(wrt):
        return linear_bridge.loss(layer, target, weights, settings), *_filled(layer.input, (None,) * 3)
    loss, grads = linear_bridge.loss_and_gradients(layer, target, weights, settings, wrt)
    return loss, *_filled(layer.input, grads)


@cross_entropy.register_fake
def _(*arguments):
    layer, _, _, settings, wrt = _call(arguments)
    rows = layer.rows_shape if settings.reduction == "none" else ()
    loss = layer.input.new_empty(rows, dtype=real(settings.dtype))
    return loss, *_like(layer, wrt, lambda name, t: written_dtype(name, t, settings.dtype, is_last=False))


@custom_op(
    "crossentropy::linear_cross_entropy_backward",
    mutates_args=(),
    schema=f"(Tensor grad_loss, {_LOSS}) -> {_GRADIENTS}",
)
def cross_entropy_backward(grad_loss, *arguments):
    """The gradients that are wanted, in their parameters' dtypes."""
    layer, target, weights, settings, wrt = _call(arguments)
    _, grads = linear_bridge.loss_and_gradients(layer, target, weights, settings, wrt, grad_loss)
    return _filled(layer.input, finished(grads, linear_bridge.dtypes_of(layer)))


@cross_entropy_backward.register_fake
def _(grad_loss, *arguments):
    layer, _, _, _, wrt = _call(arguments)
    return _like(layer, wrt, lambda name, t: t.dtype)


_CHOSEN = f"{_LAYER}, Tensor index, int? ignore_index, int? rows, ScalarType dtype"


@custom_op("crossentropy::linear_log_probs", mutates_args=(), schema=f"({_CHOSEN}) -> (Tensor, Tensor)")
def log_probs(input, linear_weight, linear_bias, index, *settings):
    """(log_prob, entropy)."""
    return linear_bridge.log_probs(Layer(input, linear_weight, linear_bias), index, *settings)[:2]


@log_probs.register_fake
def _(input, linear_weight, linear_bias, index, ignore_index, rows, dtype):
    def found():
        return input.new_empty(input.shape[:-1], dtype=real(dtype))

    return found(), found()


@custom_op(
    "crossentropy::linear_log_probs_backward",
    mutates_args=(),
    schema=f"(Tensor grad_log_prob, Tensor grad_entropy, {_CHOSEN}, {_WRT}) -> {_GRADIENTS}",
)
def log_probs_backward(grad_log_prob, grad_entropy, input, linear_weight, linear_bias, index, *rest):
    """The gradients that are wanted."""
    layer, settings, wrt = Layer(input, linear_weight, linear_bias), rest[:3], rest[3:]
    _, _, grads = linear_bridge.log_probs(layer, index, *settings, wrt, (grad_log_prob, grad_entropy))
    return _filled(input, finished(grads, linear_bridge.dtypes_of(layer)))


@log_probs_backward.register_fake
def _(grad_log_prob, grad_entropy, input, linear_weight, linear_bias, index, *rest):
    return _like(Layer(input, linear_weight, linear_bias), rest[3:], lambda name, t: t.dtype)


def _call(arguments):
    """(layer, target, weights, settings, which gradients) of an operator's arguments."""
    layer, target, rest = Layer(*arguments[:3]), arguments[3], arguments[4:]
    weights, rest = weights_of(rest[: ops.COUNT]), rest[ops.COUNT :]
    return layer, target, weights, Settings(*rest[:_COUNT]), rest[_COUNT:]


def _filled(input, grads):
    return tuple(input.new_empty(0) if grad is None else grad for grad in grads)


def _like(layer, wrt, dtype_of):
    found = []
    for name, t, wanted in zip(GRADIENTS, layer, wrt, strict=True):
        found.append(t.new_empty(t.shape, dtype=dtype_of(name, t)) if wanted else layer.input.new_empty(0))
    return tuple(found)


# ---------------------------------------------------------------------- what backwards call


def multiplied(grads, dtypes, factor):
    """Gradients times what arrives, in their parameters' dtypes, in operations that can be traced."""
    pairs = zip(grads, dtypes, strict=True)
    return [None if grad is None or dtype is None else (grad * factor).to(dtype) for grad, dtype in pairs]


def gradients(grad_loss, layer: Layer, target, weights: Weights, settings: Settings, wrt):
    """The gradients that are wanted, by the operator; None for the others."""
    found = cross_entropy_backward(grad_loss, *layer, target, *weights, *settings, *wrt)
    return [grad if wanted else None for grad, wanted in zip(found, wrt, strict=True)]


def log_probs_gradients(arriving, layer: Layer, index, settings, wrt):
    """The same of log-probabilities."""
    rows, dtype = layer.rows_shape, real(settings[-1])
    arriving = [layer.input.new_zeros(rows, dtype=dtype) if g is None else g for g in arriving]
    found = log_probs_backward(*arriving, *layer, index, *settings, *wrt)
    return [grad if wanted else None for grad, wanted in zip(found, wrt, strict=True)]


def _save_call(ctx, inputs, output):
    layer, target, _, ctx.settings, wrt = _call(inputs)
    weights, needs = inputs[4 : 4 + ops.COUNT], ctx.needs_input_grad[:3]
    ctx.mark_non_differentiable(*output[1:])
    ctx.dtypes = [dtype if need else None for dtype, need in zip(linear_bridge.dtypes_of(layer), needs, strict=True)]
    ctx.at_once = all(has or not need for has, need in zip(wrt, needs, strict=True))
    ctx.save_for_backward(*layer, target, *weights, *(output[1:] if ctx.at_once else ()))


def _call_backward(ctx, grad_loss, *_):
    saved, grads = ctx.saved_tensors[: 4 + ops.COUNT], ctx.saved_tensors[4 + ops.COUNT :]
    layer, target, weights = Layer(*saved[:3]), saved[3], weights_of(saved[4:])
    call = grad_loss, layer, target, weights, ctx.settings, ctx.needs_input_grad[:3]
    if torch.is_grad_enabled():
        found = linear_composed.loss_derivative(*call)
    else:
        found = multiplied(grads, ctx.dtypes, grad_loss) if ctx.at_once else gradients(*call)
    return *found, *[None] * (4 + ops.COUNT + _COUNT)


def _save_log_probs(ctx, inputs, output):
    *tensors, ctx.ignore_index, ctx.rows, ctx.dtype = inputs
    ctx.save_for_backward(*tensors)


def _log_probs_backward(ctx, *arriving):
    *layer, index = ctx.saved_tensors
    call = arriving, Layer(*layer), index, (ctx.ignore_index, ctx.rows, ctx.dtype), ctx.needs_input_grad[:3]
    by = linear_composed.log_probs_derivative if torch.is_grad_enabled() else log_probs_gradients
    return *by(*call), None, None, None, None


cross_entropy.register_autograd(_call_backward, setup_context=_save_call)
log_probs.register_autograd(_log_probs_backward, setup_context=_save_log_probs)
