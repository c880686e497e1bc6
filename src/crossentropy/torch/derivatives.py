"""The derivatives of the two backwards, in PyTorch's own operations, which it can differentiate further."""

from __future__ import annotations

import torch

from .._options import DEFAULTS, EXTRAS
from .bridge import Weights, class_axis, loss_dtype
from .composed import all_as_torch_wants, by_torch


def second_derivative(h, grad_loss, input, target, weights, divisor, options):
    """The gradients on grad_loss and on the logits, from ``h``, that on the gradient."""
    real = loss_dtype(input)
    by = 1 / divisor.to(real) if options.reduction == "mean" else torch.ones((), dtype=real, device=input.device)
    by = torch.where(torch.isfinite(by), by, 0)  # where no row counts the divisor is 0
    plain = all(getattr(options, name) == DEFAULTS[name] for name in EXTRAS if name != "z_loss")
    if plain and weights.class_prior is None and weights.sample_weight is None:
        return _by_formula(h, grad_loss, input, target, weights.weight, by, options)
    return _by_autograd(h, grad_loss, input, target, weights, by, options)


def _by_autograd(h, grad_loss, input, target, weights, by, options):
    """Of the loss in PyTorch's operations, whose gradient it differentiates."""
    summed = options._replace(reduction="none" if options.reduction == "none" else "sum", normalizer=None)
    with torch.enable_grad():
        z, g = input.view_as(input), grad_loss.view_as(grad_loss)
        if not z.requires_grad:
            z = z.detach().requires_grad_()
        if not g.requires_grad:
            g = g.detach().requires_grad_()
        wide = Weights(*(None if w is None else w.to(by.dtype) for w in weights))
        target = target.to(by.dtype) if target.is_floating_point() else target
        target, wide = all_as_torch_wants(z.to(by.dtype), target, wide)
        loss = by_torch(z.to(by.dtype), target, wide, summed)
        (grad,) = torch.autograd.grad(loss * by, z, g.to(loss.dtype), create_graph=True)
        on_grad, on_logits = torch.autograd.grad(
            grad, (g, z), h, create_graph=torch.is_grad_enabled(), allow_unused=True, materialize_grads=True
        )
    return on_grad, on_logits


def _by_formula(h, grad_loss, input, target, weight, by, options):
    """The same for the options that frameworks have, and the z-loss.

    A row's loss is sum_c t_c (lse - z_c) + lambda lse^2 with the weighted target t, so its gradient is a p - t with
    a = sum_c t_c + 2 lambda lse, and its Hessian times h, with c = <p, h>, a (p h - p c) + 2 lambda p c.
    """
    epsilon, reduction = options.label_smoothing, options.reduction
    axis = class_axis(input)
    classes = input.shape[axis]
    real = loss_dtype(input)
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
        counts = y != options.ignore_index
        of_class = (y >= 0) & (y < classes)
        y = torch.where(of_class, y, 0)
        w_y = w.expand_as(z).gather(axis, y)
        mass = torch.where(of_class, keep * w_y + floor * w.sum(), torch.nan)  # a bad target's gradient is NaN, too
        towards = keep * w_y * h.gather(axis, y) + floor * (w * h).sum(axis, keepdim=True)
    p = torch.softmax(z, axis)
    along = (p * h).sum(axis, keepdim=True)
    lse = torch.logsumexp(z, axis, keepdim=True)
    z_slope = 2 * options.z_loss
    a = mass + z_slope * lse
    scale = grad_loss.to(real) * by
    scale = scale.unsqueeze(axis) if reduction == "none" else scale
    on_rows, on_logits = a * along - towards, scale * (a * (p * h - p * along) + z_slope * p * along)
    if counts is not None:  # ignored rows may hold NaN or inf, which must not reach the results
        on_rows, on_logits = torch.where(counts, on_rows, 0), torch.where(counts, on_logits, 0)
    on_grad = by * (on_rows.squeeze(axis) if reduction == "none" else on_rows.sum())
    return on_grad.to(grad_loss.dtype), on_logits.to(input.dtype)


def log_softmax_second_derivative(h, g, z, dim):
    """The gradients of g - p sum(g), from ``h``: on g h - sum(p h), on the logits z -sum(g) p (h - sum(p h)).

    z may be the log-softmax itself, whose log-softmax it is.
    """
    real = loss_dtype(z)
    p, wide = torch.softmax(z.to(real), dim), h.to(real)
    moved = wide - (p * wide).sum(dim, keepdim=True)
    on_logits = -p * moved * g.to(real).sum(dim, keepdim=True)
    return moved.to(g.dtype), on_logits.to(z.dtype)
