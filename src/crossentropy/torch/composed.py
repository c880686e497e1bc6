"""The loss in PyTorch's own operations, for calls that the kernels are not for; also as TorchScript and as ONNX."""

from __future__ import annotations

from typing import Optional

import torch
from torch.nn import functional as F

from . import private
from .bridge import Options


def by_torch(input, target, weight, options: Options, dtype=None):
    """PyTorch's own function, with the options beyond it; of a result ``dtype`` if that is given."""
    if dtype is not None:
        input, weight = (x.to(dtype) if isinstance(x, torch.Tensor) else x for x in (input, weight))
    if private.is_onnx_export() and (options.label_smoothing or target.is_floating_point()):
        loss = _for_onnx(input, target, weight, options)
    else:
        loss = composed(input, target, weight, *options)
    return loss if dtype is None else loss.to(dtype)


def as_torch_wants(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: Optional[torch.Tensor],  # noqa: UP045 -- as TorchScript reads it
) -> tuple[torch.Tensor, Optional[torch.Tensor]]:  # noqa: UP045
    """(target, weight) in dtypes that PyTorch's function takes: int64 classes, weights of the logits' dtype."""
    if target.is_floating_point():
        return target, weight
    return target.long(), None if weight is None else weight.to(input.dtype)


def composed(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: Optional[torch.Tensor],  # noqa: UP045
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
) -> torch.Tensor:
    """PyTorch's own function, with the options beyond it, as `torch.jit.script` compiles it, too."""
    loss = F.cross_entropy(
        input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )
    if z_loss != 0:
        counts = _counts(input, target, ignore_index)
        axis = 0 if input.dim() == 1 else 1
        # Ignored rows may hold NaN or inf, which must not reach the gradient.
        rows = torch.where(counts.unsqueeze(axis), input, torch.zeros_like(input))
        z = z_loss * torch.logsumexp(rows, axis) ** 2
        loss = loss + _reduced(z, target, weight, counts, reduction)
    return loss


def _counts(input: torch.Tensor, target: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Which rows count."""
    if target.is_floating_point():
        return torch.ones_like(input.select(0 if input.dim() == 1 else 1, 0), dtype=torch.bool)
    return target != ignore_index


def _reduced(
    rows: torch.Tensor,
    target: torch.Tensor,
    weight: Optional[torch.Tensor],  # noqa: UP045
    counts: torch.Tensor,
    reduction: str,
) -> torch.Tensor:
    """The rows that count, each with a loss, as PyTorch's reductions have them."""
    rows = torch.where(counts, rows, torch.zeros_like(rows))
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    weights = torch.ones_like(rows)
    if weight is not None and not target.is_floating_point():
        weights = weight[torch.where(counts, target, torch.zeros_like(target))]
    return rows.sum() / torch.where(counts, weights, torch.zeros_like(weights)).sum()


def _for_onnx(input, target, weight, options: Options):
    """`composed` in smaller operations, for label smoothing and for probabilities.

    With smoothing in PyTorch's function, one exporter leaves it out without a word and the other raises; with
    probabilities both make what cannot be run (torch 2.13).
    """
    axis, epsilon = 0 if input.dim() == 1 else 1, options.label_smoothing
    size = input.shape[axis]
    beside = -1, *[1] * (input.dim() - axis - 1)
    q = target
    if not target.is_floating_point():
        q = target.unsqueeze(axis) == torch.arange(size, device=target.device).view(beside)
    t = (1 - epsilon) * q.to(input.dtype) + epsilon / size
    if weight is not None:
        t = t * weight.view(beside)
    rows = -(t * F.log_softmax(input, axis)).sum(axis)
    if options.z_loss != 0:
        rows = rows + options.z_loss * torch.logsumexp(input, axis) ** 2
    return _reduced(rows, target, weight, _counts(input, target, options.ignore_index), options.reduction)
