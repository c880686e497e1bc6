"""The logits of a log-softmax until its backward, which reads them again: whether they still are what they were.

PyTorch's log_softmax keeps its result alone, so a program may change the logits in between, also by ways that autograd
does not see: ``.data``, or a NumPy array in the same memory. The gradient must be right then, too. It comes from the
result in that case: the log-softmax of log-probabilities is they themselves, up to their rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from . import private

# Elements: so few are copied instead, which costs less than a look at whether they have changed.
COPIED_BELOW = 2**15

MOST_ROWS, SHARE = 4, 32  # that are looked at: so many, and at most one in so many but for the first


class Kept(NamedTuple):
    """Logits in their own memory, and what was known of them."""

    logits: torch.Tensor
    version: int
    statistics: torch.Tensor


def kept(logits: torch.Tensor, statistics: torch.Tensor) -> Kept | None:
    """The logits as they are now; None where a program has taken over what is kept for backwards.

    Activation checkpointing does that, and offloading: what they do not see would stay where it is.
    """
    return None if private.has_saved_tensors_hooks() else Kept(logits, logits._version, statistics)


def logits_of(found: Kept | None, log_p: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, statistics) for the backward of a log-softmax with that result: those that were kept, or the result's.

    On a device what autograd does not see is not looked for, since that would wait for the device.
    """
    if found is None or found.logits._version != found.version:
        return as_logits(log_p, dim)
    unseen = private.is_traced(log_p) or log_p.is_cuda
    return (found.logits, found.statistics) if unseen or _are_the_same(found, log_p, dim) else as_logits(log_p, dim)


def as_logits(log_p: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(log_p, its statistics): p of the largest is e^max, so rest is e^-max - 1, but 1 at least where two are."""
    with torch.no_grad():
        real = torch.float32 if log_p.is_cuda and log_p.dtype != torch.float64 else torch.float64
        largest = log_p.amax(dim, keepdim=True)
        others = (log_p == largest).sum(dim) - 1
        m = largest.squeeze(dim).to(real)
        rest = torch.maximum(torch.expm1(-m), others.to(real))
        return log_p, torch.stack([m.reshape(-1), rest.reshape(-1), torch.zeros_like(m).reshape(-1)], 1)


def _are_the_same(found: Kept, log_p: torch.Tensor, dim: int) -> bool:
    """Whether the log-softmax of a few rows, spread over all, is what it was."""
    z, log_p = (a.detach().movedim(dim, -1) for a in (found.logits, log_p))
    rows = len(found.statistics)
    count = max(1, min(MOST_ROWS, rows // SHARE))
    numbers = [k * (rows - 1) // max(count - 1, 1) for k in range(count)]
    places = [_index_of(number, z.shape[:-1]) for number in numbers]
    z, was = (torch.stack([a[place] for place in places]) for a in (z, log_p))
    m, rest, _ = found.statistics[numbers].unsqueeze(-1).unbind(1)
    now, limits = (z.double() - m) - torch.log1p(rest), torch.finfo(was.dtype)
    most = was.double().abs().clamp(max=limits.max)
    near = (now - was).abs() <= (8 * most + limits.smallest_normal) * limits.eps
    return bool((near | (now.to(was.dtype) == was) | was.isnan()).all())


def _index_of(number: int, shape) -> tuple[int, ...]:
    """The index of a row by its number, in C order."""
    index = []
    for size in reversed(shape):
        number, i = divmod(number, size)
        index.append(i)
    return tuple(reversed(index))
