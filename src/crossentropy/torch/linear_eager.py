"""Eager losses of hidden states by `torch.autograd.Function`, and the choice between these and the operators.

The gradients of a mean or a sum are computed with the loss, from the same logits: three products in all. What arrives
in the backward is nearly always 1, and multiplies them where they lie when it is not. What arrives at a loss of each
row is a factor of each row of logits, so that these are computed again: one product, and three. So it is, too, where a
program has taken over what forwards keep (checkpointing, offloading): gradients would stay where they are.
"""

from __future__ import annotations

import torch

from . import linear_bridge, linear_composed, linear_ops, private
from .bridge import Weights, weights_of
from .linear_bridge import Layer, Settings, finished, multiplied


class _AtOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, linear_weight, linear_bias, target, settings, *weights):
        layer = Layer(input, linear_weight, linear_bias)
        # AccumulateGrad steals a gradient whose refcount is 1: nothing else may hold these.
        loss, ctx.grads = linear_bridge.loss_and_gradients(
            layer, target, weights_of(weights), settings, ctx.needs_input_grad[:3]
        )
        ctx.save_for_backward(*layer, target, *weights)  # for a double backward
        ctx.dtypes, ctx.settings = linear_bridge.dtypes_of(layer), settings
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        if (grads := ctx.grads) is None:
            ctx.saved_tensors  # noqa: B018 -- PyTorch's error for a graph that is gone
        if torch.is_grad_enabled():
            return *_derivative(ctx, grad_loss), *_NO_MORE
        if private.needs_operator(grad_loss):
            return *linear_ops.multiplied(grads, ctx.dtypes, grad_loss), *_NO_MORE
        keeps = private.keeps_graph()
        if not keeps:
            ctx.grads = None
        return *multiplied(grads, ctx.dtypes, grad_loss, keeps), *_NO_MORE


class _InHalves(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, linear_weight, linear_bias, target, settings, *weights):
        layer = Layer(input, linear_weight, linear_bias)
        ctx.save_for_backward(*layer, target, *weights)
        ctx.settings = settings
        return linear_bridge.loss(layer, target, weights_of(weights), settings)

    @staticmethod
    def backward(ctx, grad_loss):
        if torch.is_grad_enabled():
            return *_derivative(ctx, grad_loss), *_NO_MORE
        layer, target, weights = parted(ctx.saved_tensors)
        wrt = ctx.needs_input_grad[:3]
        if private.needs_operator(grad_loss):
            return *linear_ops.gradients(grad_loss, layer, target, weights, ctx.settings, wrt), *_NO_MORE
        _, grads = linear_bridge.loss_and_gradients(layer, target, weights, ctx.settings, wrt, grad_loss)
        return *finished(grads, linear_bridge.dtypes_of(layer)), *_NO_MORE


_NO_MORE = (None,) * (2 + len(Weights._fields))  # gradients: of the target, the settings and what is beside them


def parted(saved):
    """(layer, target, weights) of what a forward has saved."""
    return Layer(*saved[:3]), saved[3], weights_of(saved[4:])


def _derivative(ctx, grad_loss):
    return linear_composed.loss_derivative(
        grad_loss, *parted(ctx.saved_tensors), ctx.settings, ctx.needs_input_grad[:3]
    )


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


def cross_entropy(layer: Layer, target, weights: Weights, settings: Settings, traced: bool) -> torch.Tensor:
    """The loss of checked arguments, differentiable in the layer's."""
    wrt = _wanted(layer)
    by_row = settings.reduction == "none"
    if traced:  # torch.jit.trace is for what has no backward, and tells calls with and without one apart
        ahead = [wanted and not by_row and not torch.jit.is_tracing() for wanted in wrt]
        return linear_ops.cross_entropy(*layer, target, *weights, *settings, *ahead)[0]
    if not any(wrt):
        return linear_bridge.loss(layer, target, weights, settings)
    at_once = not by_row and not private.has_hooks_on_saved_tensors()
    return (_AtOnce if at_once else _InHalves).apply(*layer, target, settings, *weights)


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
