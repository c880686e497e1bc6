"""The loss of hidden states against a vocabulary whose rows are spread over ranks, some rows of logits at a time.

The forward makes each rank's logits of some rows, keeps a few numbers of them, and lets them go; the ranks exchange the
numbers of all rows once. The backward makes them again. The hidden states are the same on every rank, and so is their
gradient, which is the sum of what each rank's classes give: an all-reduce, as in every layer parallel in its outputs.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional as F

from . import private, shard_losses, shards
from .bridge import Options, Weights
from .linear_bridge import Layer, Settings, real
from .vocab_parallel import loss_and_divisor
from .vocab_parallel_ops import mark_of, once

LOGITS_AT_ONCE = 2**22


def cross_entropy(layer: Layer, target, weights: Weights, settings: Settings, group, first: int = -1):
    """(loss, divisor) of checked arguments; reduction and normalizer are those of ``settings``."""
    options = Options(*settings[: len(Options._fields)])
    if private.is_traced(layer.input, *layer[1:], target, *weights):
        layer = _converted(layer, settings.dtype)
        hidden = _Copied.apply(layer.input, group.group_name)
        return loss_and_divisor(F.linear(hidden, *layer[1:]), target, weights, options, group, first)
    x = layer.input.reshape(-1, layer.input.shape[-1])
    n, rows_shape = len(x), layer.rows_shape
    like = _logits_like(n, layer, settings)
    with shards.RefusalsTold(group):
        shard_losses.checked(like.reshape(*rows_shape, -1) if n else like, target, weights, options)
    v = weights.sample_weight
    flat = target.reshape(n, -1) if target.is_floating_point() else target.reshape(n)
    weights = weights._replace(sample_weight=None if v is None else v.reshape(n))
    arguments = settings, group, first, x, *layer[1:], flat, *weights
    loss, divisor = _Linear.apply(*arguments)
    return loss.reshape(rows_shape) if options.reduction == "none" else loss, divisor


def _converted(layer: Layer, dtype) -> Layer:
    """The layer as its logits are made: of 16 bits in float32, since they are not rounded in between."""
    to = real(dtype)
    return Layer(*(None if t is None else t.to(to) for t in layer))


def _logits_like(n: int, layer: Layer, settings: Settings) -> torch.Tensor:
    """A tensor of the shape and dtype of this rank's logits, without their memory."""
    shape = n, len(layer.weight)
    return torch.zeros((1, 1), dtype=real(settings.dtype), device=layer.input.device).expand(shape)


def _parts(n: int, settings: Settings, classes: int):
    """Some rows after another."""
    step = settings.rows or max(16, LOGITS_AT_ONCE // max(classes, 1))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def _of_rows(target, weights: Weights, rows: slice):
    v = weights.sample_weight
    return target[rows], weights if v is None else weights._replace(sample_weight=v[rows])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, settings, group, first, x, w, b, target, *weights):
        weights, options = Weights(*weights), Options(*settings[: len(Options._fields)])
        ctx.layer_dtypes = [None if t is None else t.dtype for t in (x, w, b)]
        layer = _converted(Layer(x.detach(), w.detach(), None if b is None else b.detach()), settings.dtype)
        call = shard_losses.Call(_logits_like(len(x), layer, settings), target, weights, options)

        def records(found, to):
            for rows in _parts(len(x), settings, len(w)):
                logits = F.linear(layer.input[rows], layer.weight, layer.bias)
                part = shard_losses.Call(logits, *_of_rows(target, weights, rows), options)
                shard_losses.records(part, found, to[rows])

        with shards.RefusalsTold(group):
            mark, device = mark_of(call, first), shards.device_of(x, group)
        results = functools.partial(shard_losses.results, call)
        (loss, divisor, statistics), found = shards.exchanged(group, mark, call.dtype, records, device, results)
        ctx.mark_non_differentiable(divisor)
        ctx.save_for_backward(x, w, b, target, *weights, statistics, divisor)
        ctx.rest = settings, group, found.start, found.classes
        return loss, divisor

    @staticmethod
    def backward(ctx, grad_loss, _):
        once()
        (x, w, b, target, *weights, statistics, divisor), weights_count = ctx.saved_tensors, len(Weights._fields)
        settings, group, start, classes = ctx.rest
        weights, options = Weights(*weights), Options(*settings[: len(Options._fields)])
        layer = _converted(Layer(x, w, b), settings.dtype)
        g = shard_losses.arriving(grad_loss, divisor, options)
        wants_x, wants_w, wants_b = ctx.needs_input_grad[3:6]
        on_x = torch.empty_like(layer.input) if wants_x else None
        on_w = torch.zeros_like(layer.weight) if wants_w else None
        on_b = torch.zeros_like(layer.bias) if wants_b else None
        for rows in _parts(len(x), settings, len(w)):
            logits = F.linear(layer.input[rows], layer.weight, layer.bias)
            call = shard_losses.Call(logits, *_of_rows(target, weights, rows), options)
            arriving = g if not g.dim() else g[rows], None
            grad = shard_losses.gradient(call, statistics[:, rows], arriving, start, classes)
            if on_x is not None:
                torch.mm(grad, layer.weight, out=on_x[rows])
            if on_w is not None:
                on_w.addmm_(grad.T, layer.input[rows])
            if on_b is not None:
                on_b += grad.sum(0)
        if on_x is not None:
            _all_reduce(on_x, group)
        found = [None if t is None else t.to(to) for t, to in zip((on_x, on_w, on_b), ctx.layer_dtypes, strict=True)]
        return None, None, None, *found, None, *[None] * weights_count


def _all_reduce(t: torch.Tensor, group) -> None:
    import torch.distributed as dist

    dist.all_reduce(t, group=group)


class _Copied(torch.autograd.Function):
    """Hidden states that each rank multiplies by classes of its own: their gradient is the sum of the ranks'."""

    @staticmethod
    def forward(ctx, x, name):
        ctx.name = name
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return private.all_reduce_traced(grad.contiguous(), ctx.name), None
