"""Eager calls by `torch.autograd.Function`, and the choice between these and the operators of ops.py.

An eager call goes by a Function because PyTorch does less for that than for a registered operator before a kernel runs
(docs/performance.md). A traced one must be an operator. Both end in the same kernels (bridge.py) and derivatives.

What a forward keeps may be changed under it: metrics work in place on ``logits.detach().numpy()``. So the gradient is
computed with the loss where its rounding allows that (`_AtOnce`). Elsewhere the forward keeps the logits and the
statistics of each row, from which the backward recomputes the probabilities, and checks a few rows first (kept.py).
"""

from __future__ import annotations

import math

import torch
from torch.autograd.graph import increment_version

from . import bridge, cache, kept, kept_logits, ops, private
from .bridge import Options, Weights, class_axis, weights_of
from .derivatives import log_softmax_second_derivative, second_derivative


class _AtOnce(torch.autograd.Function):
    """The loss whose gradient is computed with it, of float32 or float64: 16-bit types would have it rounded twice.

    It is small calls that are measured by what happens here. So nothing goes through save_for_backward, which takes as
    long as the kernel: the forward notes the versions of what it keeps, and whoever reads that looks.
    """

    @staticmethod
    def forward(ctx, input, found):
        # AccumulateGrad steals a gradient whose refcount is 1, and copies any other; saving it as a tensor would hold a
        # second reference and so force a copy.
        loss, ctx.grad, ctx.kept = found
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        grad = ctx.grad
        if grad is None:
            ctx.saved_tensors  # noqa: B018 -- PyTorch's error for a graph that is gone
        if private.needs_operator(grad_loss):
            return (_differentiable(ctx, grad_loss) if torch.is_grad_enabled() else grad * grad_loss), None
        _, _, (_, target, *weights), (_, version, *versions) = ctx.kept
        if target._version != version or (weights and kept.versions(weights) != versions):
            raise RuntimeError(kept.MODIFIED)
        keeps = private.keeps_graph()
        if torch.is_grad_enabled():
            grad = _differentiable(ctx, grad_loss)
        elif not math.isfinite(factor := grad_loss.item()):
            grad = _overflowed(ctx, grad_loss)
        elif keeps:
            grad = torch.mul(grad, grad_loss, out=cache.empty_like(grad))
        elif factor != 1:
            grad *= grad_loss
        if not keeps:
            ctx.grad = ctx.kept = None
        return grad, None


def found_at_once(input, target, weights, options: Options, number: float, loss, grad):
    """What `_AtOnce` takes beside the logits: loss, gradient, and what it keeps for more than a backward."""
    tensors = input, target, *weights
    return loss, grad, (number, options, tensors, kept.versions(tensors))


# With no transform of torch.func active.
apply_at_once = private.applier(_AtOnce)


def _differentiable(ctx, grad_loss):
    number, options, tensors, versions = ctx.kept
    if tensors[0]._version != versions[0]:
        raise RuntimeError(kept.MODIFIED)
    return _Multiplied.apply(grad_loss, ctx.grad, number, options, *tensors)


def _overflowed(ctx, grad_loss):
    """The gradient where inf or NaN arrives: still 0 in rows that do not count, where a product would be NaN."""
    _, options, (input, target, *weights), versions = ctx.kept
    if input._version != versions[0]:  # rows whose gradient is 0 are taken for such rows
        counts = (ctx.grad != 0).any(class_axis(ctx.grad), keepdim=True)
        return torch.where(counts, ctx.grad * grad_loss, 0)
    weights = weights_of(weights)
    _, *numbers = bridge.forward(input, target, weights, options)
    return bridge.backward(grad_loss, input, target, weights, *numbers, options)


class _Multiplied(torch.autograd.Function):
    """What arrives times the gradient that was computed with the loss, for a double backward."""

    @staticmethod
    def forward(ctx, grad_loss, grad, loss, options, *tensors):
        ctx.save_for_backward(grad_loss, *tensors)
        ctx.loss, ctx.options = loss, options
        return grad * grad_loss

    @staticmethod
    def backward(ctx, h):
        grad_loss, input, target, *weights = ctx.saved_tensors
        weights = weights_of(weights)
        if private.needs_operator(h):
            _, _, divisor = ops.cross_entropy(input, target, *weights, *ctx.options)
        else:
            loss, _, divisor = bridge.forward(input, target, weights, ctx.options)
            kept.check_loss(ctx.loss, loss, target)
        on_loss, on_logits = second_derivative(h, grad_loss, input, target, weights, divisor, ctx.options)
        return on_loss, None, None, None, on_logits, None, *[None] * len(weights)


_NO_MORE = (None,) * (2 + len(Weights._fields))  # gradients: of the target, the options and what is beside them


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, options, *weights):
        loss, *numbers = bridge.forward(input, target, weights_of(weights), options)
        ctx.save_for_backward(*numbers, input, target, *weights)
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        return _backward(grad_loss, ctx.options, *ctx.saved_tensors), *_NO_MORE


def _backward(grad_loss, options, *tensors):
    """The gradient on the logits, itself differentiable where create_graph asks for that."""
    if private.needs_operator(grad_loss):
        return ops.cross_entropy_backward(grad_loss, *tensors, *options)
    if torch.is_grad_enabled():
        return _Gradient.apply(grad_loss, options, *tensors)
    return _gradient(grad_loss, options, *tensors)


def _gradient(grad_loss, options, statistics, divisor, input, target, *weights, out=None):
    weights = weights_of(weights)
    return bridge.backward(grad_loss, input, target, weights, statistics, divisor, options, out=out, checks=True)


class _Gradient(torch.autograd.Function):
    """The backward as a Function of its own, for a double backward."""

    @staticmethod
    def forward(ctx, grad_loss, options, *tensors):
        ctx.save_for_backward(grad_loss, *tensors)
        ctx.options = options
        return _gradient(grad_loss, options, *tensors)

    @staticmethod
    def backward(ctx, h):
        grad_loss, statistics, divisor, input, target, *weights = ctx.saved_tensors
        weights = weights_of(weights)
        if not private.needs_operator(h):
            bridge.check(input, target, weights, statistics, divisor, ctx.options)
        on_loss, on_logits = second_derivative(h, grad_loss, input, target, weights, divisor, ctx.options)
        return on_loss, None, None, None, on_logits, None, *[None] * len(weights)


class _InPlace(torch.autograd.Function):
    """The loss whose gradient overwrites the logits; their version is incremented, so that autograd refuses later uses.

    On the CPU the forward writes the gradient, in the same pass as the loss, and the backward multiplies it by
    grad_loss unless that is 1. In two cases the backward writes it instead. float16: gradients may need the factor of a
    loss scaler before they are rounded. A device: grad_loss is not known on the host, and multiplying by it always
    would take a pass more than recomputing.
    """

    @staticmethod
    def forward(ctx, input, target, options, *weights):
        ctx.at_once = input.device.type == "cpu" and input.dtype != torch.float16
        ctx.options = options
        if not ctx.at_once:
            return _CrossEntropy.forward(ctx, input, target, options, *weights)
        loss = bridge.forward_backward(input, target, weights_of(weights), options, input)
        increment_version(input)
        ctx.save_for_backward(input)
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        tensors = ctx.saved_tensors
        input = tensors[0] if ctx.at_once else tensors[2]
        with torch.no_grad():
            grad = _gradient_in_place(ctx, grad_loss, input, tensors)
        return _NoMore.apply(grad, input) if torch.is_grad_enabled() else grad, *_NO_MORE


def _gradient_in_place(ctx, grad_loss, input, tensors):
    """Over the logits, unless something else has to see what is done."""
    grad = input.detach()
    if private.needs_operator(grad_loss):
        if not ctx.at_once:
            return ops.cross_entropy_backward(grad_loss, *tensors, *ctx.options)
        by_row = ctx.options.reduction == "none"
        return grad * (grad_loss.unsqueeze(class_axis(grad)) if by_row else grad_loss)
    if not ctx.at_once:
        _gradient(grad_loss, ctx.options, *tensors, out=grad)
        increment_version(input)
    elif ctx.options.reduction == "none":
        grad *= grad_loss.unsqueeze(class_axis(grad))
    elif grad_loss != 1:
        grad *= grad_loss
    return grad


class _NoMore(torch.autograd.Function):
    """A gradient whose logits are gone: an error where it is differentiated, even if what arrived requires no grad."""

    @staticmethod
    def forward(ctx, grad, input):
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx, h):
        raise RuntimeError("inplace=True has written the gradient over the logits: it can't be differentiated again")


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


def cross_entropy(input, target, weights: Weights, options: Options, inplace: bool) -> torch.Tensor:
    """The loss of checked arguments, of `bridge.loss_dtype`, differentiable in the logits."""
    if private.is_traced(input, target, *weights):
        return ops.cross_entropy(input, target, *weights, *options)[0]
    if not (input.requires_grad and torch.is_grad_enabled()):
        return bridge.loss(input, target, weights, options)
    if inplace and not input.is_neg() and 0 not in input.stride():  # lazily negated or expanded: not its own memory
        if input.is_leaf or (input._base is not None and input._base.is_leaf and input._base.requires_grad):
            raise RuntimeError("inplace=True would write the gradient over a leaf that requires grad")
        return _InPlace.apply(input, target, options, *weights)
    if is_at_once(input, options):
        found = bridge.at_once(input, target, weights, options)
        return _AtOnce.apply(input, found_at_once(input, target, weights, options, *found))
    return _CrossEntropy.apply(input, target, options, *weights)


def is_at_once(input, options: Options) -> bool:
    """Whether the gradient is computed with the loss.

    Else it is multiplied by what arrives before it is rounded: where a factor of each row is to come, for 16-bit types,
    and on a device, whose numbers the host does not know. Hooks on saved tensors are there so that nothing is kept.
    """
    if options.reduction == "none" or input.itemsize == 2 or input.is_cuda:
        return False
    return not private.has_hooks_on_saved_tensors()


def log_softmax(input, dim: int) -> torch.Tensor:
    """The log-softmax of a checked argument, differentiable in it."""
    if private.is_traced(input):
        return ops.log_softmax(input, dim)[0]
    if not (input.requires_grad and torch.is_grad_enabled()):
        return bridge.log_softmax(input, dim)
    return _LogSoftmax.apply(input, dim)
