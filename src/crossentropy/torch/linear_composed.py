"""The losses of hidden states over the logits of all rows at once, in operations that PyTorch differentiates.

For calls that the kernels are not for, and for a gradient that is to be differentiated itself.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .bridge import Weights
from .linear_bridge import Layer, Settings, real


def logits(layer: Layer, dtype: torch.dtype | None) -> torch.Tensor:
    """hidden @ weight.T + bias: float32 or float64, of operands in a dtype; with None as PyTorch has it."""
    if dtype is None:
        return F.linear(*layer)
    wide = real(dtype)
    x, w = (t.to(dtype).to(wide) for t in layer[:2])
    bias = None if layer.bias is None else layer.bias.to(wide)
    if not torch.is_autocast_enabled(x.device.type):
        return F.linear(x, w, bias)
    with torch.autocast(x.device.type, enabled=False):  # which would round them again
        return F.linear(x, w, bias)


def cross_entropy(layer: Layer, target, weights: Weights, settings: Settings) -> torch.Tensor:
    """The loss; also of a weight (C, d1, ..., H), whose logits are (N, C, d1, ...)."""
    from . import cross_entropy as of_logits  # the public function, which imports this module

    named, dtype = settings._asdict() | weights._asdict(), settings.dtype
    del named["rows"], named["dtype"]
    places = layer.weight.shape[1:-1]
    if places:
        flat = Layer(layer.input, layer.weight.flatten(0, -2), None if layer.bias is None else layer.bias.flatten())
        z = logits(flat, dtype).unflatten(-1, layer.weight.shape[:-1])
        return of_logits(z, target, **named)
    z = logits(layer, dtype)
    if z.dim() > 2:
        shape = z.shape[-1:] if target.shape == z.shape else ()
        target, rows, v = target.reshape(-1, *shape), z.shape[:-1], weights.sample_weight
        named["sample_weight"] = None if v is None else v.reshape(-1)
        loss = of_logits(z.reshape(-1, z.shape[-1]), target, **named)
        return loss.reshape(rows) if settings.reduction == "none" else loss
    return of_logits(z, target, **named)


def log_probs(layer: Layer, index, ignore_index: int | None, dtype: torch.dtype | None):
    """(log_prob, entropy) of chosen classes."""
    from . import log_softmax

    z = logits(layer, dtype)
    counts = torch.ones_like(index, dtype=torch.bool) if ignore_index is None else index != ignore_index
    beside = counts.unsqueeze(-1)
    log_p = log_softmax(torch.where(beside, z, 0), -1)  # ignored rows may hold NaN, which must not reach the gradient
    y = torch.where(counts, index, 0).long().unsqueeze(-1)
    p = log_p.exp()
    entropy = -(p * torch.where(p > 0, log_p, 0)).sum(-1)
    return torch.where(counts, log_p.gather(-1, y).squeeze(-1), 0), torch.where(counts, entropy, 0)


# ---------------------------------------------------------------------- gradients that are to be differentiated


def loss_derivative(grad_loss, layer: Layer, target, weights: Weights, settings: Settings, wrt):
    """The gradients of a loss, which can be differentiated further."""

    def loss(views):
        return (cross_entropy(views, target, weights, settings),)

    return _derivative(loss, layer, wrt, (grad_loss,))


def log_probs_derivative(arriving, layer: Layer, index, settings, wrt):
    """The gradients of log-probabilities, the same."""
    ignore_index, _, dtype = settings

    def found(views):
        return log_probs(views, index, ignore_index, dtype)

    return _derivative(found, layer, wrt, arriving)


def _derivative(function, layer: Layer, wrt, arriving):
    # Views stand for the parameters: where one is computed from another, each still gets its own part alone.
    views = Layer(*[t.view_as(t) if wanted else t for t, wanted in zip(layer, wrt, strict=True)])
    with torch.enable_grad():
        values = function(views)
    pairs = [(value, g) for value, g in zip(values, arriving, strict=True) if g is not None]
    wanted = [view for view, is_wanted in zip(views, wrt, strict=True) if is_wanted]
    outputs, grads = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True))
    return [next(found) if is_wanted else None for is_wanted in wrt]
