"""The loss in PyTorch's own operations, for calls that the kernels are not for; also as TorchScript and as ONNX."""

from __future__ import annotations

from typing import Optional

import torch
from torch.nn import functional as F

from . import private
from .bridge import Options, Weights


def by_torch(input, target, weights: Weights, options: Options, dtype=None):
    """PyTorch's own function, with the options beyond it; of a result ``dtype`` if that is given."""
    if dtype is not None:
        input = input.to(dtype) if isinstance(input, torch.Tensor) else input
        weights = Weights(*(x.to(dtype) if isinstance(x, torch.Tensor) else x for x in weights))
    if private.is_onnx_export() and (options.label_smoothing or target.is_floating_point()):
        loss = _for_onnx(input, target, weights, options)
    else:
        loss = composed(input, target, *weights, *options)
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


def all_as_torch_wants(input, target, weights: Weights) -> tuple[torch.Tensor, Weights]:
    """The same of all that is beside the target."""
    target, weight = as_torch_wants(input, target, weights.weight)
    return target, weights._replace(weight=weight)


def composed(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: Optional[torch.Tensor],  # noqa: UP045
    class_prior: Optional[torch.Tensor],  # noqa: UP045
    sample_weight: Optional[torch.Tensor],  # noqa: UP045
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    logit_scale: float,
    softcap: float,
    margin: float,
    focal: float,
    normalizer: Optional[float],  # noqa: UP045
    reduction: str,
) -> torch.Tensor:
    """PyTorch's own function, with the options beyond it, as `torch.jit.script` compiles it, too."""
    beyond = z_loss != 0 or logit_scale != 1 or softcap != 0 or margin != 0 or focal != 0
    if not beyond and class_prior is None and sample_weight is None and normalizer is None:
        return F.cross_entropy(
            input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
    axis = 0 if input.dim() == 1 else 1
    counts = _counts(input, target, ignore_index)
    if sample_weight is not None and not sample_weight.requires_grad:
        counts = counts & (sample_weight != 0)
    # Rows that do not count may hold NaN or inf, which must not reach the gradient.
    z = torch.where(counts.unsqueeze(axis), input, torch.zeros_like(input)) * logit_scale
    if softcap != 0:
        z = softcap * torch.tanh(z / softcap)
    if class_prior is not None:
        z = z + class_prior.to(z.dtype).reshape([-1] + [1] * (z.dim() - axis - 1))
    y = target
    if not target.is_floating_point():
        y = torch.where(counts, target, torch.zeros_like(target))
        if margin != 0:
            lowered = torch.full_like(z.select(axis, 0), -margin).unsqueeze(axis)
            z = z.scatter_add(axis, y.unsqueeze(axis), lowered)
    # Every row has a class here, and so what is ignored is none.
    rows = F.cross_entropy(
        z, y, weight, ignore_index=-4611686018427387904, reduction="none", label_smoothing=label_smoothing
    )
    if focal != 0:
        # (1 - p_y)^focal from the others' log p, which have a slope where p_y is rounded to 1, too; a constant 0 where
        # no other class is possible.
        log_p = F.log_softmax(z, axis).scatter(axis, y.unsqueeze(axis), -float("inf"))
        alone = torch.isneginf(log_p).all(axis)
        log_p = torch.where(alone.unsqueeze(axis), torch.zeros_like(log_p), log_p)
        rows = rows * torch.where(alone, torch.zeros_like(rows), torch.exp(focal * torch.logsumexp(log_p, axis)))
    if z_loss != 0:
        rows = rows + z_loss * torch.logsumexp(z, axis) ** 2
    return _reduced(rows, target, weight, sample_weight, counts, normalizer, reduction)


def _counts(input: torch.Tensor, target: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Which rows count."""
    if target.is_floating_point():
        return torch.ones_like(input.select(0 if input.dim() == 1 else 1, 0), dtype=torch.bool)
    return target != ignore_index


def _reduced(
    rows: torch.Tensor,
    target: torch.Tensor,
    weight: Optional[torch.Tensor],  # noqa: UP045
    sample_weight: Optional[torch.Tensor],  # noqa: UP045
    counts: torch.Tensor,
    normalizer: Optional[float],  # noqa: UP045
    reduction: str,
) -> torch.Tensor:
    """The rows that count, each with a loss, as PyTorch's reductions have them."""
    v = torch.ones_like(rows) if sample_weight is None else sample_weight.to(rows.dtype)
    rows = torch.where(counts, rows * v, torch.zeros_like(rows))
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    if normalizer is not None:
        return rows.sum() / normalizer
    if weight is not None and not target.is_floating_point():
        v = v * weight[torch.where(counts, target, torch.zeros_like(target))]
    return rows.sum() / torch.where(counts, v, torch.zeros_like(v)).sum()


def _for_onnx(input, target, weights: Weights, options: Options):
    """`composed` in smaller operations, for label smoothing and for probabilities.

    With smoothing in PyTorch's function, one exporter leaves it out without a word and the other raises; with
    probabilities both make what cannot be run (torch 2.13).
    """
    weight, prior, v = weights
    axis, epsilon = 0 if input.dim() == 1 else 1, options.label_smoothing
    size = input.shape[axis]
    beside = -1, *[1] * (input.dim() - axis - 1)
    q, z = target, input * options.logit_scale
    if options.softcap:
        z = options.softcap * torch.tanh(z / options.softcap)
    if prior is not None:
        z = z + prior.view(beside)
    if not target.is_floating_point():
        q = target.unsqueeze(axis) == torch.arange(size, device=target.device).view(beside)
        z = z - options.margin * q.to(z.dtype) if options.margin else z
    t = (1 - epsilon) * q.to(input.dtype) + epsilon / size
    if weight is not None:
        t = t * weight.view(beside)
    log_p = F.log_softmax(z, axis)
    rows = -(t * log_p).sum(axis)
    if options.focal:
        rows = rows * (1 - torch.exp((q.to(z.dtype) * log_p).sum(axis))) ** options.focal
    if options.z_loss != 0:
        rows = rows + options.z_loss * torch.logsumexp(z, axis) ** 2
    counts = _counts(input, target, options.ignore_index)
    return _reduced(rows, target, weight, v, counts, options.normalizer, options.reduction)
