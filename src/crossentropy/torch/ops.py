"""The functions with their derivatives: as registered operators for what is traced, as a short way for what is not.

An operator is what `torch.compile`, `torch.export` and the like see: it has a fake kernel, which knows shapes alone,
and its derivative is an operator again. Called eagerly, forward and backward of an empty pair of them take 123 us, of
an empty `torch.autograd.Function` 50: so eager calls go through the latter, to the same kernels and derivatives.

The forward keeps the logits and three numbers a row; the backward recomputes the rest. The derivatives of the backward
(for a double backward, and any further one) are written in PyTorch's own operations.
"""

from __future__ import annotations

import math

import torch
from torch.autograd.graph import increment_version
from torch.library import custom_op

from . import kernels, private
from .kernels import Options, class_axis

# Up to here the gradient is computed with the loss, and kept in place of statistics: such logits are in a cache, where
# to compute costs more than to write (1024 x 103, one thread: 82 us, and 150 for the two halves).
FUSED_BELOW = 2**18

# ---------------------------------------------------------------------- operators


def _statistics_dtype(input):
    """On the CPU float64; on a device what the loss is."""
    return torch.float64 if input.device.type != "cuda" or input.dtype == torch.float64 else torch.float32


def _loss_dtype(input):
    return torch.float64 if input.dtype == torch.float64 else torch.float32


@custom_op("crossentropy::cross_entropy", mutates_args=())
def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, statistics, divisor)."""
    return kernels.forward(input, target, weight, Options(ignore_index, label_smoothing, z_loss, reduction))


@cross_entropy.register_fake
def _(input, target, weight, ignore_index, label_smoothing, z_loss, reduction):
    axis = class_axis(input)
    rows = (*input.shape[:axis], *input.shape[axis + 1 :])
    count = 1
    for size in rows:
        count = count * size
    loss = input.new_empty(rows if reduction == "none" else (), dtype=_loss_dtype(input))
    numbers = _statistics_dtype(input)
    return loss, input.new_empty((count, 3), dtype=numbers), input.new_empty((), dtype=numbers)


@custom_op("crossentropy::cross_entropy_backward", mutates_args=())
def cross_entropy_backward(
    grad_loss: torch.Tensor,
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    statistics: torch.Tensor,
    divisor: torch.Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
) -> torch.Tensor:
    """The gradient on the logits."""
    options = Options(ignore_index, label_smoothing, z_loss, reduction)
    return kernels.backward(grad_loss, input, target, weight, statistics, divisor, options)


@cross_entropy_backward.register_fake
def _(grad_loss, input, target, weight, statistics, divisor, *options):
    return torch.empty_like(input)


@custom_op("crossentropy::log_softmax", mutates_args=())
def log_softmax(input: torch.Tensor, dim: int) -> torch.Tensor:
    """The log-softmax along an axis."""
    return kernels.log_softmax(input, dim)


@log_softmax.register_fake
def _(input, dim):
    return torch.empty_like(input)


@custom_op("crossentropy::log_softmax_backward", mutates_args=())
def log_softmax_backward(grad_output: torch.Tensor, log_p: torch.Tensor, dim: int) -> torch.Tensor:
    """The gradient on its argument."""
    return kernels.log_softmax_backward(grad_output, log_p, dim)


@log_softmax_backward.register_fake
def _(grad_output, log_p, dim):
    return torch.empty_like(log_p)


# ---------------------------------------------------------------------- their derivatives


def _save_call(ctx, inputs, output):
    input, target, weight, *options = inputs
    _, statistics, divisor = output
    ctx.mark_non_differentiable(statistics, divisor)
    ctx.save_for_backward(input, target, weight, statistics, divisor)
    ctx.options = Options(*options)


def _call_backward(ctx, grad_loss, *_):
    return cross_entropy_backward(grad_loss, *ctx.saved_tensors, *ctx.options), *[None] * 6


def _save_gradient(ctx, inputs, output):
    grad_loss, input, target, weight, _, divisor, *options = inputs
    ctx.save_for_backward(grad_loss, input, target, weight, divisor)
    ctx.options = Options(*options)


def _gradient_backward(ctx, h):
    return *_second_derivative(h, *ctx.saved_tensors, ctx.options), *[None] * 8


def _second_derivative(h, grad_loss, input, target, weight, divisor, options):
    """What arrives at grad_loss and at the logits, where ``h`` arrives at the gradient.

    A row's loss is sum_c t_c (lse - z_c) + lambda lse^2 with the weighted target t, so its gradient is a p - t with
    a = sum_c t_c + 2 lambda lse, and its Hessian times h, with c = <p, h>, a (p h - p c) + 2 lambda p c.
    """
    ignore_index, epsilon, z_loss, reduction = options
    axis = class_axis(input)
    classes = input.shape[axis]
    real = _loss_dtype(input)
    h, z = h.to(real), input.to(real)
    w = torch.ones(classes, dtype=real, device=z.device) if weight is None else weight.to(real)
    w = w.view(-1, *[1] * (z.dim() - axis - 1))  # beside the classes of z
    keep, floor = 1 - epsilon, epsilon / classes
    if target.is_floating_point():
        t = w * (keep * target.to(real) + floor)
        mass, towards = t.sum(axis, keepdim=True), (t * h).sum(axis, keepdim=True)
        counts = None
    else:
        y = target.long().unsqueeze(axis)
        counts = y != ignore_index
        of_class = (y >= 0) & (y < classes)
        y = torch.where(of_class, y, 0)
        w_y = w.expand_as(z).gather(axis, y)
        mass = torch.where(of_class, keep * w_y + floor * w.sum(), torch.nan)  # as the gradient is, on a device
        towards = keep * w_y * h.gather(axis, y) + floor * (w * h).sum(axis, keepdim=True)
    p = torch.exp(call_log_softmax(z, axis))
    along = (p * h).sum(axis, keepdim=True)
    lse = torch.logsumexp(z, axis, keepdim=True)
    a = mass + 2 * z_loss * lse
    by = 1 / divisor.to(real) if reduction == "mean" else torch.ones((), dtype=real, device=z.device)
    by = torch.where(torch.isfinite(by), by, 0)  # no row counts: no gradient
    scale = grad_loss.to(real) * by
    scale = scale.unsqueeze(axis) if reduction == "none" else scale
    on_rows, on_logits = a * along - towards, scale * (a * (p * h - p * along) + 2 * z_loss * p * along)
    if counts is not None:  # rows that do not count may hold anything
        on_rows, on_logits = torch.where(counts, on_rows, 0), torch.where(counts, on_logits, 0)
    on_grad = by * (on_rows.squeeze(axis) if reduction == "none" else on_rows.sum())
    return on_grad.to(grad_loss.dtype), on_logits.to(input.dtype)


def _save_log_softmax(ctx, inputs, output):
    ctx.save_for_backward(output)
    ctx.dim = inputs[1]


def _log_softmax_gradient(ctx, g):
    return log_softmax_backward(g, *ctx.saved_tensors, ctx.dim), None


def _save_log_softmax_backward(ctx, inputs, output):
    grad_output, log_p, ctx.dim = inputs
    ctx.save_for_backward(grad_output, log_p)


def _log_softmax_second(ctx, h):
    """Of g - p sum(g): h - sum(p h) on g; -p h sum(g) on log p."""
    g, log_p = ctx.saved_tensors
    p = torch.exp(log_p)
    return h - (p * h).sum(ctx.dim, keepdim=True), -p * h * g.sum(ctx.dim, keepdim=True), None


cross_entropy.register_autograd(_call_backward, setup_context=_save_call)
cross_entropy_backward.register_autograd(_gradient_backward, setup_context=_save_gradient)
log_softmax.register_autograd(_log_softmax_gradient, setup_context=_save_log_softmax)
log_softmax_backward.register_autograd(_log_softmax_second, setup_context=_save_log_softmax_backward)

# ---------------------------------------------------------------------- the short way


class _Small(torch.autograd.Function):
    """The loss of a few elements, whose gradient is computed at once. Not for 16 bits: they would be rounded twice."""

    @staticmethod
    def forward(ctx, input, target, weight, options):
        # Not among the saved tensors, so that the backward can let go of it: who finds the only reference to a gradient
        # keeps it as a parameter's, and copies it otherwise.
        loss, ctx.grad = kernels.small(input, target, weight, options)
        ctx.save_for_backward(input, target, weight)
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        saved, options, grad = ctx.saved_tensors, ctx.options, ctx.grad
        if private.needs_operator(grad_loss):
            return grad * grad_loss, None, None, None
        keeps = private.keeps_graph()
        if not keeps:
            ctx.grad = None
        factor = grad_loss.item()
        if torch.is_grad_enabled() or not math.isfinite(factor):  # times which a gradient of 0 would be NaN
            _, *numbers = kernels.forward(*saved, options)
            return _backward(grad_loss, *saved, *numbers, options), None, None, None
        if keeps:
            grad = grad * grad_loss
        elif factor != 1:
            grad *= grad_loss
        return grad, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, weight, options):
        loss, *numbers = kernels.forward(input, target, weight, options)
        ctx.save_for_backward(input, target, weight, *numbers)
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        return _backward(grad_loss, *ctx.saved_tensors, ctx.options), None, None, None


def _backward(grad_loss, *rest):
    """The gradient on the logits, itself differentiable where that is asked for."""
    *tensors, options = rest
    if private.needs_operator(grad_loss):
        return cross_entropy_backward(grad_loss, *tensors, *options)
    return (_Gradient.apply if torch.is_grad_enabled() else kernels.backward)(grad_loss, *rest)


class _Gradient(torch.autograd.Function):
    """The backward, as what is differentiated once more."""

    @staticmethod
    def forward(ctx, grad_loss, input, target, weight, statistics, divisor, options):
        ctx.save_for_backward(grad_loss, input, target, weight, divisor)
        ctx.options = options
        return kernels.backward(grad_loss, input, target, weight, statistics, divisor, options)

    @staticmethod
    def backward(ctx, h):
        return *_second_derivative(h, *ctx.saved_tensors, ctx.options), *[None] * 5


class _InPlace(torch.autograd.Function):
    """The gradient takes the place of the logits; autograd is told, so that nothing else takes them for logits.

    On the CPU at once, in one pass, and multiplied in the backward by what arrives, unless that is 1. Not so float16,
    whose gradients may need the factor of a loss scaler before they are rounded; nor on a device, where it is not known
    what arrives and multiplying would be a pass more than recomputing: there the backward writes over the logits.
    """

    @staticmethod
    def forward(ctx, input, target, weight, options):
        ctx.at_once = input.device.type == "cpu" and input.dtype != torch.float16
        ctx.options = options
        if not ctx.at_once:
            return _CrossEntropy.forward(ctx, input, target, weight, options)
        loss = kernels.forward_backward(input, target, weight, options, input)
        increment_version(input)
        ctx.save_for_backward(input)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):
        input, *rest = ctx.saved_tensors
        grad = input.detach()
        if private.needs_operator(grad_loss):
            if not ctx.at_once:
                return cross_entropy_backward(grad_loss, input, *rest, *ctx.options), None, None, None
            by_row = ctx.options.reduction == "none"
            return grad * (grad_loss.unsqueeze(class_axis(grad)) if by_row else grad_loss), None, None, None
        if not ctx.at_once:
            kernels.backward(grad_loss, input, *rest, ctx.options, out=grad)
            increment_version(input)
        elif ctx.options.reduction == "none":
            grad *= grad_loss.unsqueeze(class_axis(grad))
        elif grad_loss != 1:
            grad *= grad_loss
        return grad, None, None, None


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, dim):
        log_p = kernels.log_softmax(input, dim)
        ctx.save_for_backward(log_p)
        ctx.dim = dim
        return log_p

    @staticmethod
    def backward(ctx, grad_output):
        if private.needs_operator(grad_output):
            call = log_softmax_backward
        else:
            call = _LogSoftmaxGradient.apply if torch.is_grad_enabled() else kernels.log_softmax_backward
        return call(grad_output, *ctx.saved_tensors, ctx.dim), None


class _LogSoftmaxGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad_output, log_p, dim):
        ctx.save_for_backward(grad_output, log_p)
        ctx.dim = dim
        return kernels.log_softmax_backward(grad_output, log_p, dim)

    backward = staticmethod(_log_softmax_second)


# ---------------------------------------------------------------------- which way a call goes


def call_cross_entropy(input, target, weight, options: Options, inplace: bool) -> torch.Tensor:
    """The loss of checked arguments, in the real type of the logits, differentiable in the logits."""
    if private.is_traced(input, target, weight):
        return cross_entropy(input, target, weight, *options)[0]
    if not (input.requires_grad and torch.is_grad_enabled()):
        return kernels.loss(input, target, weight, options)
    if inplace and not input.is_neg() and 0 not in input.stride():  # whose elements are not those of its memory
        if input.is_leaf or (input._base is not None and input._base.is_leaf and input._base.requires_grad):
            raise RuntimeError("inplace=True would write the gradient over a leaf that requires grad")
        return _InPlace.apply(input, target, weight, options)
    if input.numel() < FUSED_BELOW and options.reduction != "none" and input.itemsize > 2 and not input.is_cuda:
        return _Small.apply(input, target, weight, options)
    return _CrossEntropy.apply(input, target, weight, options)


def call_log_softmax(input, dim: int) -> torch.Tensor:
    """The log-softmax of a checked argument."""
    if private.is_traced(input):
        return log_softmax(input, dim)
    if not (input.requires_grad and torch.is_grad_enabled()):
        return kernels.log_softmax(input, dim)
    return _LogSoftmax.apply(input, dim)
