"""Eager losses of hidden states by `torch.autograd.Function`, and the choice between these and the operators.

The gradients of a mean or a sum are computed with the loss, from the same logits: three products in all. What arrives
in the backward is nearly always 1, and multiplies them where they lie when it is not. What arrives at a loss of each
row is a factor of each row of logits, so that these are computed again: one product, and three. So it is, too, where a
program has taken over what forwards keep (checkpointing, offloading): gradients would stay where they are.
"""

from __future__ import annotations

import torch

from . import linear_bridge, linear_composed, linear_ops, private
from .linear_bridge import Layer, Settings, finished, multiplied


class _AtOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, linear_weight, linear_bias, target, weight, settings):
        layer = Layer(input, linear_weight, linear_bias)
        # AccumulateGrad steals a gradient whose refcount is 1: nothing else may hold these.
        loss, ctx.grads = linear_bridge.loss_and_gradients(layer, target, weight, settings, ctx.needs_input_grad[:3])
        ctx.save_for_backward(*layer, target, weight)  # for a double backward
        ctx.dtypes, ctx.settings = linear_bridge.dtypes_of(layer), settings
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        if (grads := ctx.grads) is None:
            ctx.saved_tensors  # noqa: B018 -- PyTorch's error for a graph that is gone
        if torch.is_grad_enabled():
            return *_derivative(ctx, grad_loss), None, None, None
        if private.needs_operator(grad_loss):
            return *linear_ops.multiplied(grads, ctx.dtypes, grad_loss), None, None, None
        keeps = private.keeps_graph()
        if not keeps:
            ctx.grads = None
        return *multiplied(grads, ctx.dtypes, grad_loss, keeps), None, None, None


class _InHalves(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, linear_weight, linear_bias, target, weight, settings):
        layer = Layer(input, linear_weight, linear_bias)
        ctx.save_for_backward(*layer, target, weight)
        ctx.settings = settings
        return linear_bridge.loss(layer, target, weight, settings)

    @staticmethod
    def backward(ctx, grad_loss):
        if torch.is_grad_enabled():
            return *_derivative(ctx, grad_loss), None, None, None
        *layer, target, weight = ctx.saved_tensors
        layer, wrt = Layer(*layer), ctx.needs_input_grad[:3]
        if private.needs_operator(grad_loss):
            return *linear_ops.gradients(grad_loss, layer, target, weight, ctx.settings, wrt), None, None, None
        _, grads = linear_bridge.loss_and_gradients(layer, target, weight, ctx.settings, wrt, grad_loss)
        return *finished(grads, linear_bridge.dtypes_of(layer)), None, None, None


def _derivative(ctx, grad_loss):
    *layer, target, weight = ctx.saved_tensors
    wrt = ctx.needs_input_grad[:3]
    return linear_composed.loss_derivative(grad_loss, Layer(*layer), target, weight, ctx.settings, wrt)


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, linear_weight, linear_bias, index, *settings):
        layer = Layer(input, linear_weight, linear_bias)
        ctx.save_for_backward(*layer, index)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return linear_bridge.log_probs(layer, index, *settings)[:2]

    @staticmethod
    def backward(ctx, *arriving):
        *layer, index = ctx.saved_tensors
        layer, wrt = Layer(*layer), ctx.needs_input_grad[:3]
        if all(g is None for g in arriving):
            return (None,) * 7
        if torch.is_grad_enabled():
            found = linear_composed.log_probs_derivative(arriving, layer, index, ctx.settings, wrt)
        elif any(g is not None and private.needs_operator(g) for g in arriving):
            found = linear_ops.log_probs_gradients(arriving, layer, index, ctx.settings, wrt)
        else:
            _, _, grads = linear_bridge.log_probs(layer, index, *ctx.settings, wrt, arriving)
            found = finished(grads, linear_bridge.dtypes_of(layer))
        return *found, None, None, None, None


# ---------------------------------------------------------------------- which way a call goes


def cross_entropy(layer: Layer, target, weight, settings: Settings, traced: bool) -> torch.Tensor:
    """The loss of checked arguments, differentiable in the layer's."""
    wrt = _wanted(layer)
    by_row = settings.reduction == "none"
    if traced:  # torch.jit.trace is for what has no backward, and tells calls with and without one apart
        ahead = [wanted and not by_row and not torch.jit.is_tracing() for wanted in wrt]
        return linear_ops.cross_entropy(*layer, target, weight, *settings, *ahead)[0]
    if not any(wrt):
        return linear_bridge.loss(layer, target, weight, settings)
    at_once = not by_row and not private.has_hooks_on_saved_tensors()
    return (_AtOnce if at_once else _InHalves).apply(*layer, target, weight, settings)


def log_probs(layer: Layer, index, settings, traced: bool):
    """(log_prob, entropy) of checked arguments, differentiable in the layer's; settings: ignore_index, rows, dtype."""
    if traced:
        return linear_ops.log_probs(*layer, index, *settings)
    if not any(_wanted(layer)):
        return linear_bridge.log_probs(layer, index, *settings)[:2]
    return _LogProbs.apply(*layer, index, *settings)


def _wanted(layer: Layer) -> list[bool]:
    """Which gradients there will be a backward for, as far as one can know."""
    enabled = torch.is_grad_enabled()
    return [enabled and t is not None and t.requires_grad for t in layer]
