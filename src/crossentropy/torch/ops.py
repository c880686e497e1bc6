"""The functions as registered operators, for `torch.compile`, `torch.export` and whatever else traces calls.

Each has a fake kernel, which makes results of the right shape and dtype without values. The derivative of a forward is
an operator again; that of a backward consists of PyTorch's own operations (derivatives.py).
"""

from __future__ import annotations

import torch
from torch.library import custom_op

from .._backends.contract import FIELDS_OF_FEW
from .._options import DEFAULTS, TRANSFORMS
from ..autograd import FIELDS
from . import bridge, kept_logits
from .bridge import Options, Weights, class_axis, loss_dtype, weights_of
from .derivatives import log_softmax_second_derivative, second_derivative

OF_FEW = (*TRANSFORMS, "focal")  # with a class prior: see `contract.FIELDS_OF_FEW`


def _statistics_dtype(input):
    """The dtype of statistics and divisor: float64 on the CPU, that of the loss on a device."""
    return loss_dtype(input) if input.device.type == "cuda" else torch.float64


def _fields(input, weights, options) -> int:
    """How many numbers a forward keeps of a row: on a device more of them for few calls."""
    few = weights.class_prior is not None or any(getattr(options, name) != DEFAULTS[name] for name in OF_FEW)
    return FIELDS_OF_FEW if few and input.device.type == "cuda" else FIELDS


_KINDS = {"ignore_index": "int", "normalizer": "float?", "reduction": "str"}  # of the options that are no float
OPTIONS = ", ".join(f"{_KINDS.get(name, 'float')} {name}" for name in Options._fields)
WEIGHTS = ", ".join(f"Tensor? {name}" for name in Weights._fields)
COUNT = len(Weights._fields)  # of these tensors
_CALL = f"Tensor input, Tensor target, {WEIGHTS}, {OPTIONS}"


@custom_op("crossentropy::cross_entropy", mutates_args=(), schema=f"({_CALL}) -> (Tensor, Tensor, Tensor)")
def cross_entropy(input, target, *rest):
    """(loss, statistics, divisor)."""
    return bridge.forward(input, target, *parted(rest))


def parted(rest) -> tuple[Weights, Options]:
    """The tensors beside the target, and the options, from an operator's arguments."""
    return weights_of(rest[:COUNT]), Options(*rest[COUNT:])


@cross_entropy.register_fake
def _(input, target, *rest):
    weights, options = parted(rest)
    reduction = options.reduction
    axis = class_axis(input)
    rows = (*input.shape[:axis], *input.shape[axis + 1 :])
    count = 1
    for size in rows:
        count = count * size
    loss = input.new_empty(rows if reduction == "none" else (), dtype=loss_dtype(input))
    numbers = _statistics_dtype(input)
    fields = _fields(input, weights, options)
    return loss, input.new_empty((count, fields), dtype=numbers), input.new_empty((), dtype=numbers)


_KEPT = f"Tensor statistics, Tensor divisor, {_CALL}"


@custom_op("crossentropy::cross_entropy_backward", mutates_args=(), schema=f"(Tensor grad_loss, {_KEPT}) -> Tensor")
def cross_entropy_backward(grad_loss, statistics, divisor, input, target, *rest):
    """The gradient on the logits."""
    weights, options = parted(rest)
    return bridge.backward(grad_loss, input, target, weights, statistics, divisor, options)


@cross_entropy_backward.register_fake
def _(grad_loss, statistics, divisor, input, target, *rest):
    return torch.empty_like(input)


@custom_op("crossentropy::log_softmax", mutates_args=())
def log_softmax(input: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-softmax along an axis, statistics)."""
    log_p, saved = bridge.log_softmax_forward(input, dim)
    return log_p, bridge.statistics_of(saved)


@log_softmax.register_fake
def _(input, dim):
    rows = input.numel() // input.shape[dim]
    return torch.empty_like(input), input.new_empty((rows, FIELDS), dtype=_statistics_dtype(input))


@custom_op("crossentropy::log_softmax_backward", mutates_args=())
def log_softmax_backward(
    grad_output: torch.Tensor, input: torch.Tensor, statistics: torch.Tensor, dim: int
) -> torch.Tensor:
    """The gradient on the argument of log_softmax, from that on its result."""
    return bridge.log_softmax_backward(grad_output, input, bridge.restored_log_softmax(input, statistics, dim))


@log_softmax_backward.register_fake
def _(grad_output, input, statistics, dim):
    return torch.empty_like(input)


# ---------------------------------------------------------------------- their derivatives


def _save_call(ctx, inputs, output):
    (input, target, *rest), (_, statistics, divisor) = inputs, output
    ctx.mark_non_differentiable(statistics, divisor)
    ctx.save_for_backward(statistics, divisor, input, target, *rest[:COUNT])
    ctx.options = rest[COUNT:]


def _call_backward(ctx, grad_loss, *_):
    grad = cross_entropy_backward(grad_loss, *ctx.saved_tensors, *ctx.options)
    return grad, *[None] * (1 + COUNT + len(Options._fields))


def _save_gradient(ctx, inputs, output):
    grad_loss, _, divisor, input, target, *rest = inputs
    ctx.save_for_backward(grad_loss, divisor, input, target, *rest[:COUNT])
    ctx.options = Options(*rest[COUNT:])


def _gradient_backward(ctx, h):
    grad_loss, divisor, input, target, *weights = ctx.saved_tensors
    found = second_derivative(h, grad_loss, input, target, Weights(*weights), divisor, ctx.options)
    return found[0], None, None, found[1], *[None] * (1 + COUNT + len(Options._fields))


def _save_log_softmax(ctx, inputs, output):
    (input, ctx.dim), (log_p, statistics) = inputs, output
    ctx.mark_non_differentiable(statistics)
    ctx.save_for_backward(log_p)
    ctx.kept = kept_logits.kept(input, statistics)


def _log_softmax_gradient(ctx, g, _):
    (log_p,) = ctx.saved_tensors
    found = ctx.kept
    if kept_logits.are_unchanged(found, found and found.numbers, log_p, ctx.dim):
        logits = found.logits, found.numbers
    else:
        logits = kept_logits.as_logits(log_p, ctx.dim)
    return log_softmax_backward(g, *logits, ctx.dim), None


def _save_log_softmax_backward(ctx, inputs, output):
    grad_output, input, _, ctx.dim = inputs
    ctx.save_for_backward(grad_output, input)


def _log_softmax_gradient_backward(ctx, h):
    return *log_softmax_second_derivative(h, *ctx.saved_tensors, ctx.dim), None, None


cross_entropy.register_autograd(_call_backward, setup_context=_save_call)
cross_entropy_backward.register_autograd(_gradient_backward, setup_context=_save_gradient)
log_softmax.register_autograd(_log_softmax_gradient, setup_context=_save_log_softmax)
log_softmax_backward.register_autograd(_log_softmax_gradient_backward, setup_context=_save_log_softmax_backward)
