"""What a mean divides by where a batch is spread over ranks and micro-batches: the number of all its tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch

from . import calls, private
from .shards import device_of, group_of, len_of


def normalizer(
    targets: torch.Tensor | Iterable[torch.Tensor],
    weight: torch.Tensor | None = None,
    *,
    ignore_index: int = -100,
    group: Any = None,
) -> torch.Tensor:
    """The divisor of 'mean' over all ranks' targets of all micro-batches, by one all-reduce of three numbers.

    A mean over the tokens of each rank, averaged over the ranks, is another number than the mean over all tokens,
    wherever the ranks' numbers of tokens differ; so is a mean of the means of micro-batches. The loss that each call
    computes is to be divided by this number instead: ``cross_entropy(..., normalizer=normalizer(...))``.

    Parameters
    ----------
    targets : Tensor, or iterable of Tensor
        The targets of a step on this rank, or those of each of its micro-batches: classes, of any integer dtype and
        shape; or probabilities, floating, (N, C) or (N, C, d1, ...), of which each row counts 1. A rank may have none.
    weight : Tensor, shape (C,), optional
        Of the classes, as for `cross_entropy`: each target counts w_y.
    ignore_index : int, default -100
        Targets that do not count.
    group : ProcessGroup or DeviceMesh, optional
        The data-parallel ranks: those with different rows. By default all; a process that is in no group counts alone.

    Returns
    -------
    Tensor, shape ()
        The number of targets that count, int64; or the sum of their weights, float64. It is on the device of the
        targets, and is not waited for. 1 where nothing counts, so that loss and gradient are 0 there.

    Raises
    ------
    TypeError, ValueError, IndexError
        For what is no tensor, of the wrong dtype, or a target that is no class of ``weight``; on the CPU a RuntimeError
        on the other ranks. For a ``weight`` that some ranks have and some have not, on the CPU, on all of them; on a
        device it is NaN where there is one.

    Notes
    -----
    The sum over all n of v_n w_{y_n} in the cost of the note's algorithm 1. A float32 count would be wrong from 2^24
    tokens on. DistributedDataParallel and FSDP divide gradients by their number of ranks R, which the loss has to make
    up for: ``normalizer=normalizer(...) / R``.

    Examples
    --------
    >>> import torch
    >>> micro_batches = [torch.tensor([3, 1, -100]), torch.tensor([-100, -100, 2])]
    >>> by = crossentropy.torch.normalizer(micro_batches)
    >>> by
    tensor(3)
    >>> sum(crossentropy.torch.cross_entropy(torch.zeros(3, 4), y, normalizer=by) for y in micro_batches)
    tensor(1.3863)
    """
    group = _group_of(group)
    given = [targets] if isinstance(targets, torch.Tensor) or not isinstance(targets, Iterable) else list(targets)
    try:
        total = _here(given, weight, ignore_index)
    except Exception:
        if group is not None and not any(isinstance(t, torch.Tensor) and t.is_cuda for t in (*given, weight)):
            _refuse(group)
        raise
    if group is not None:
        total = _of_all(total, weight is not None, group)
    return torch.where(total == 0, 1, total)


def _group_of(group):
    """The ranks whose targets are counted together; None for those of this process alone."""
    import torch.distributed as dist

    return group_of(group) if group is not None or (dist.is_available() and dist.is_initialized()) else None


def _refuse(group) -> None:
    """Let the others know. Not on a device, where nobody looks: they wait for this rank as for one that is gone."""
    import torch.distributed as dist

    if device_of(None, group).type == "cpu" and not torch.compiler.is_compiling():
        with contextlib.suppress(RuntimeError):  # where they are gone, which is not what is wrong here
            dist.all_reduce(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), group=group)


def _of_all(total: torch.Tensor, has_weight: bool, group) -> torch.Tensor:
    """What all ranks have counted. Each sends three numbers: this, whether it has weights, whether it refuses."""
    import torch.distributed as dist

    found = torch.zeros(3, dtype=torch.float64, device=total.device)
    found[0] = total
    found[1] = float(has_weight)
    dist.all_reduce(found, group=group)
    whole, weighted, refused = found.unbind()
    if found.is_cpu and not private.is_traced(found):
        if refused:
            raise RuntimeError("another rank refused its targets, and raised what is wrong with them")
        if 0 < weighted < len_of(group):
            raise ValueError(f"weight must be given on every rank or on none, got it on {int(weighted)} of them")
    elif has_weight:  # a device is not waited for
        whole = torch.where(weighted == len_of(group), whole, torch.nan)
    return whole.to(total.dtype)


def _here(given, weight, ignore_index) -> torch.Tensor:
    """What is counted on this rank."""
    if weight is not None and (
        not isinstance(weight, torch.Tensor) or weight.dim() != 1 or not weight.is_floating_point()
    ):
        got = f"{weight.dtype} {tuple(weight.shape)}" if isinstance(weight, torch.Tensor) else type(weight).__name__
        raise TypeError(f"weight must be a floating tensor of shape (C,), got {got}")
    ignored = calls.as_number(int, ignore_index)
    if type(ignored) is not int:
        raise TypeError(f"ignore_index must be an integer, got {ignore_index!r}")
    device = given[0].device if given and isinstance(given[0], torch.Tensor) else None
    if device is None and weight is not None:
        device = weight.device
    total = torch.zeros((), dtype=torch.int64 if weight is None else torch.float64, device=device)
    for position, t in enumerate(given):
        total = total + _counted(t, weight, ignored, "targets" if len(given) == 1 else f"targets[{position}]")
    return total


def _counted(t, weight, ignore_index: int, name: str):
    if not isinstance(t, torch.Tensor) or private.is_wrapper(t):
        raise TypeError(f"{name} must be a plain tensor, got {type(t).__name__}")
    if t.is_floating_point():
        classes = t.shape[min(1, t.dim() - 1)] if t.dim() else 0
        if not classes:
            raise ValueError(f"{name} that are probabilities must have an axis of classes, got shape {tuple(t.shape)}")
        return t.numel() // classes
    if t.dtype not in calls.INTEGERS:
        raise TypeError(f"{name} must be classes, integers, or probabilities, floating, got {t.dtype}")
    y = t if t.dtype is torch.int64 else t.long()
    counts = y != ignore_index
    if weight is None:
        return counts.sum()
    if y.is_cpu and not private.is_traced(y, weight):
        bad = counts & ((y < 0) | (y >= len(weight)))
        if bad.any():
            raise IndexError(f"{name} must be in [0, {len(weight)}) or {ignore_index}, got {y[bad][0].item()}")
    return torch.where(counts, weight.detach().double()[torch.where(counts, y, 0)], 0).sum()


def divisor(target, weights, ignore_index: int):
    """What 'mean' divides a loss of these tensors by, float64 of shape (): sum_n v_n w_{y_n} of the rows that count."""
    v = 1.0 if weights.sample_weight is None else weights.sample_weight.detach().double()
    if target.is_floating_point():
        rows = target.shape[:1] + target.shape[2:] if target.dim() > 1 else ()
        return torch.ones(rows, dtype=torch.float64, device=target.device).mul(v).sum()
    y = target.long()
    counts = y != ignore_index
    w = counts.double()
    if weights.weight is not None:
        w = torch.where(counts, weights.weight.detach().double()[torch.where(counts, y, 0)], 0)
    return (w * v).sum()
