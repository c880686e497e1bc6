"""The logits of a log-softmax until its backward, which reads them again: whether they still are what they were.

PyTorch's log_softmax keeps its result alone, so a program may change the logits in between, also by ways that autograd
does not see: ``.data``, or a NumPy array in the same memory. The gradient must be right then, too. It comes from the
result in that case: the log-softmax of log-probabilities is they themselves, up to their rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .. import _check
from . import private

# Elements: so few are copied instead, which costs less than a look at whether they have changed.
COPIED_BELOW = 2**15

MOST_ROWS, SHARE = 4, 32  # that are looked at: so many, and at most one in so many but for the first


class Kept(NamedTuple):
    """Logits until the backward: in their own memory, or copied."""

    logits: torch.Tensor
    version: int
    numbers: Any  # what the forward made for the backward
    is_copy: bool


def kept(logits: torch.Tensor, numbers: Any, is_copy: bool = False) -> Kept | None:
    """The logits as they are now; None where a program has taken over what is kept for backwards.

    Activation checkpointing does that, and offloading: what they do not see would stay where it is.
    """
    return None if private.has_hooks_on_saved_tensors() else Kept(logits, logits._version, numbers, is_copy)


def are_few(logits: torch.Tensor) -> bool:
    """Whether they are to be copied."""
    return logits.numel() < COPIED_BELOW and not logits.is_cuda


def are_unchanged(found: Kept | None, statistics: torch.Tensor, log_p: torch.Tensor, dim: int) -> bool:
    """Whether logits that were kept are still those whose log-softmax is log_p.

    On a device what autograd does not see is not looked for, since that would wait for the device.
    """
    if found is None or found.logits._version != found.version:
        return False
    unseen = found.is_copy or private.is_traced(log_p) or log_p.is_cuda
    return unseen or _are_the_same(found.logits, statistics, log_p, dim)


def as_logits(log_p: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(log_p, its statistics): p of the largest is e^max, so rest is e^-max - 1, but 1 at least where two are."""
    with torch.no_grad():
        real = torch.float32 if log_p.is_cuda and log_p.dtype != torch.float64 else torch.float64
        largest = log_p.amax(dim, keepdim=True)
        others = (log_p == largest).sum(dim) - 1
        m = largest.squeeze(dim).to(real)
        rest = torch.maximum(torch.expm1(-m), others.to(real))
        return log_p, torch.stack([m.reshape(-1), rest.reshape(-1), torch.zeros_like(m).reshape(-1)], 1)


def _are_the_same(logits: torch.Tensor, statistics: torch.Tensor, log_p: torch.Tensor, dim: int) -> bool:
    """Whether the log-softmax of a few rows, spread over all, is what it was."""
    z, log_p = (a.detach().movedim(dim, -1) for a in (logits, log_p))
    rows = len(statistics)
    count = max(1, min(MOST_ROWS, rows // SHARE))
    numbers = [k * (rows - 1) // max(count - 1, 1) for k in range(count)]
    places = [_check.index_of(number, z.shape[:-1]) for number in numbers]
    z, was = (torch.stack([a[place] for place in places]) for a in (z, log_p))
    m, rest, _ = statistics[numbers].unsqueeze(-1).unbind(1)
    now, limits = (z.double() - m) - torch.log1p(rest), torch.finfo(was.dtype)
    most = was.double().abs().clamp(max=limits.max)
    near = (now - was).abs() <= (8 * most + limits.smallest_normal) * limits.eps
    return bool((near | (now.to(was.dtype) == was) | was.isnan()).all())
