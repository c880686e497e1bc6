"""Eager calls by `torch.autograd.Function`, and the choice between these and the operators of ops.py.

An eager call goes by a Function because PyTorch does less for that than for a registered operator before a kernel runs
(docs/performance.md). A traced one must be an operator. Both end in the same kernels (bridge.py) and derivatives.

The forward keeps the logits and the statistics of each row; the backward recomputes the probabilities from these.
"""

from __future__ import annotations

import math

import torch
from torch.autograd.graph import increment_version

from . import bridge, kept_logits, ops, private
from .bridge import Options, class_axis
from .derivatives import log_softmax_second_derivative, second_derivative

# Elements: below this the gradient is computed with the loss and kept in place of statistics. So few logits are in a
# cache, where writing the gradient early costs less than computing the exponentials again in the backward.
FUSED_BELOW = 2**18


class _Small(torch.autograd.Function):
    """The loss of a few elements, whose gradient is computed with it. 16-bit types would have theirs rounded twice."""

    @staticmethod
    def forward(ctx, input, target, weight, options):
        # AccumulateGrad steals a gradient whose refcount is 1, and copies any other; saving it as a tensor would hold a
        # second reference and so force a copy.
        loss, ctx.grad = bridge.small(input, target, weight, options)
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
        if torch.is_grad_enabled() or not math.isfinite(factor):  # 0 * inf is NaN: recompute
            _, *numbers = bridge.forward(*saved, options)
            return _backward(grad_loss, *saved, *numbers, options), None, None, None
        if keeps:
            grad = grad * grad_loss
        elif factor != 1:
            grad *= grad_loss
        return grad, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, weight, options):
        loss, *numbers = bridge.forward(input, target, weight, options)
        ctx.save_for_backward(input, target, weight, *numbers)
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        return _backward(grad_loss, *ctx.saved_tensors, ctx.options), None, None, None


def _backward(grad_loss, *rest):
    """The gradient on the logits, itself differentiable where create_graph asks for that."""
    *tensors, options = rest
    if private.needs_operator(grad_loss):
        return ops.cross_entropy_backward(grad_loss, *tensors, *options)
    return (_Gradient.apply if torch.is_grad_enabled() else bridge.backward)(grad_loss, *rest)


class _Gradient(torch.autograd.Function):
    """The backward as a Function of its own, for a double backward."""

    @staticmethod
    def forward(ctx, grad_loss, input, target, weight, statistics, divisor, options):
        ctx.save_for_backward(grad_loss, input, target, weight, divisor)
        ctx.options = options
        return bridge.backward(grad_loss, input, target, weight, statistics, divisor, options)

    @staticmethod
    def backward(ctx, h):
        return *second_derivative(h, *ctx.saved_tensors, ctx.options), *[None] * 5


class _InPlace(torch.autograd.Function):
    """The loss whose gradient overwrites the logits; their version is incremented, so that autograd refuses later uses.

    On the CPU the forward writes the gradient, in the same pass as the loss, and the backward multiplies it by
    grad_loss unless that is 1. In two cases the backward writes it instead. float16: gradients may need the factor of a
    loss scaler before they are rounded. A device: grad_loss is not known on the host, and multiplying by it always
    would take a pass more than recomputing.
    """

    @staticmethod
    def forward(ctx, input, target, weight, options):
        ctx.at_once = input.device.type == "cpu" and input.dtype != torch.float16
        ctx.options = options
        if not ctx.at_once:
            return _CrossEntropy.forward(ctx, input, target, weight, options)
        loss = bridge.forward_backward(input, target, weight, options, input)
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
                return ops.cross_entropy_backward(grad_loss, input, *rest, *ctx.options), None, None, None
            by_row = ctx.options.reduction == "none"
            return grad * (grad_loss.unsqueeze(class_axis(grad)) if by_row else grad_loss), None, None, None
        if not ctx.at_once:
            bridge.backward(grad_loss, input, *rest, ctx.options, out=grad)
            increment_version(input)
        elif ctx.options.reduction == "none":
            grad *= grad_loss.unsqueeze(class_axis(grad))
        elif grad_loss != 1:
            grad *= grad_loss
        return grad, None, None, None


class _LogSoftmax(torch.autograd.Function):
    """Saves its result, as PyTorch does, so that a change of that is noticed; and keeps the logits besides."""

    @staticmethod
    def forward(ctx, input, dim):
        logits, are_few = input.detach(), kept_logits.are_few(input)
        logits = logits.clone() if are_few else logits
        log_p, saved = bridge.log_softmax_forward(logits, dim)
        ctx.save_for_backward(log_p)
        ctx.kept, ctx.dim = kept_logits.kept(logits, saved, are_few), dim
        return log_p

    @staticmethod
    def backward(ctx, grad_output):
        (log_p,), kept, dim = ctx.saved_tensors, ctx.kept, ctx.dim
        if private.needs_operator(grad_output):  # and knows log_p alone: autograd does, and what traces a backward
            return ops.log_softmax_backward(grad_output, *kept_logits.as_logits(log_p, dim), dim), None
        if not private.keeps_graph():
            ctx.kept = None
        if kept is not None and kept_logits.are_unchanged(kept, bridge.statistics_of(kept.numbers), log_p, dim):
            saved = kept.numbers
        else:
            saved = bridge.restored_log_softmax(*kept_logits.as_logits(log_p.detach(), dim), dim)
        if torch.is_grad_enabled():
            return _LogSoftmaxGradient.apply(grad_output, log_p, saved, dim), None
        return bridge.log_softmax_backward(grad_output, log_p, saved), None


class _LogSoftmaxGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad_output, log_p, saved, dim):
        ctx.save_for_backward(grad_output, log_p)
        ctx.dim = dim
        return bridge.log_softmax_backward(grad_output, log_p, saved)

    @staticmethod
    def backward(ctx, h):
        return *log_softmax_second_derivative(h, *ctx.saved_tensors, ctx.dim), None, None


# ---------------------------------------------------------------------- which way a call goes


def cross_entropy(input, target, weight, options: Options, inplace: bool) -> torch.Tensor:
    """The loss of checked arguments, of `bridge.loss_dtype`, differentiable in the logits."""
    if private.is_traced(input, target, weight):
        return ops.cross_entropy(input, target, weight, *options)[0]
    if not (input.requires_grad and torch.is_grad_enabled()):
        return bridge.loss(input, target, weight, options)
    if inplace and not input.is_neg() and 0 not in input.stride():  # lazily negated or expanded: not its own memory
        if input.is_leaf or (input._base is not None and input._base.is_leaf and input._base.requires_grad):
            raise RuntimeError("inplace=True would write the gradient over a leaf that requires grad")
        return _InPlace.apply(input, target, weight, options)
    if input.numel() < FUSED_BELOW and options.reduction != "none" and input.itemsize > 2 and not input.is_cuda:
        return _Small.apply(input, target, weight, options)
    return _CrossEntropy.apply(input, target, weight, options)


def log_softmax(input, dim: int) -> torch.Tensor:
    """The log-softmax of a checked argument, differentiable in it."""
    if private.is_traced(input):
        return ops.log_softmax(input, dim)[0]
    if not (input.requires_grad and torch.is_grad_enabled()):
        return bridge.log_softmax(input, dim)
    return _LogSoftmax.apply(input, dim)
