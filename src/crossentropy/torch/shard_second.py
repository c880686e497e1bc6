"""The second derivative of a loss whose classes are spread over ranks, in PyTorch's operations and one all-reduce.

A row's loss is a function of a few sums over all classes, whose values the forward has kept. The gradient on a rank's
logits is that of its own terms, times what the loss makes of the sums; so the second derivative needs, beside the
rank's own terms, only what arrives at the sums from all ranks together: three numbers a row.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from . import shard_composed, shard_losses


def gradients(h, g, call: shard_losses.Call, statistics, start: int, classes: int, group):
    """The gradients on what arrives at the rows' losses, ``g``, and on the logits; from ``h``, that on the gradient."""
    with torch.enable_grad():
        g, logits = g.detach().requires_grad_(), call.input.detach().requires_grad_()
        total = (_losses(logits, call, statistics, start, classes, group) * g.expand(call.rows_shape).reshape(-1)).sum()
        (grad,) = torch.autograd.grad(total, logits, create_graph=True)
        on_g, on_logits = torch.autograd.grad(grad, (g, logits), h, allow_unused=True, materialize_grads=True)
    return on_g, on_logits


def _losses(logits, call: shard_losses.Call, statistics, start: int, classes: int, group) -> torch.Tensor:
    """The rows' losses, float64 (N,), as a function of this rank's logits."""
    x, target, named = shard_losses.by_torch(call)
    x, options = logits.reshape(x.shape), shard_composed.options_of(named)
    if not x.shape[1]:
        options["margin"] = 0.0  # of targets, none of which is here
    kept = dict(zip(shard_losses.KEPT, statistics.to(x.device), strict=True))
    v = kept["sample_weight"]
    counts = v != 0  # rows that do not may hold NaN
    x = torch.where(counts[:, None], x, 0)
    m = torch.where(counts, kept["max"], 0)
    y, z, mine, _ = shard_composed.transformed(x, target, start, options)
    t = shard_composed.beside(target, options, classes, x.shape[1], z)
    zero = z.new_zeros(len(z))
    local = torch.stack(
        [
            torch.exp(z - m[:, None]).sum(1),  # of which all ranks' together is 1 + rest
            zero if y is None or not x.shape[1] else torch.where(mine, shard_composed.logit_at(z, y, mine), 0),
            zero if t is None else torch.where(t == 0, 0, t * (m[:, None] - z)).sum(1),
        ]
    )
    whole = torch.stack([torch.where(counts, kept[name], 0) for name in ("rest", "target", "distance")])
    rest, at_target, distance = _Whole.apply(local, whole, group)
    log_sum, epsilon = torch.log1p(rest), options["label_smoothing"]
    loss = distance + kept["mass"] * log_sum
    if y is not None:
        below = m - at_target + log_sum
        own = (1 - epsilon) * kept["class_weight"]
        loss = loss + torch.where(own == 0, 0, own * below)
        if options["focal"]:
            left = -torch.expm1(-below)
            none = left == 0  # where no other class is possible: a constant 0, whose power has no slope
            loss = loss * torch.where(none, 0, torch.where(none, 1, left) ** options["focal"])
    if options["z_loss"]:
        loss = loss + options["z_loss"] * (m + log_sum) ** 2
    return torch.where(counts, v * loss, 0)


class _Whole(torch.autograd.Function):
    """Sums over all ranks from this rank's terms: their values are known, and the same arrives at them everywhere."""

    @staticmethod
    def forward(ctx, local, whole, group):
        ctx.group = group
        return whole.clone()

    @staticmethod
    def backward(ctx, arriving):
        return _Arriving.apply(arriving, ctx.group), None, None


class _Arriving(torch.autograd.Function):
    """What arrives at these sums, which each rank multiplies by its own terms: its gradient is the sum over ranks."""

    @staticmethod
    def forward(ctx, arriving, group):
        ctx.group = group
        return arriving.view_as(arriving)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)  # which others may have, too
        dist.all_reduce(grad, group=ctx.group)
        return grad, None
