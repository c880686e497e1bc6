"""Whether what a forward has kept for its backward is still what it was.

Autograd sees a change by PyTorch's own operations. It sees none through NumPy, which shares the memory of tensors on
the CPU, nor through ``.data``: the gradient would be of other logits than the loss.
"""

from __future__ import annotations

import functools

import numpy as np

from .._backends import registry
from ..autograd import FIELDS, Saved

# Rows that are read again, the first and the last among them, because what changes logits mostly changes all. Of 1024
# rows that is a hundredth of what the backward reads.
ROWS = 8

# What backends, instruction sets and layouts may differ by in a row's sum, by the accuracy contract, and more: those of
# the backward need not be those of the forward.
_TOLERANCES = {8: 1e-12}  # by the size of a logit
_TOLERANCE = 1e-5

# The backends that keep statistics; the reference begins again, and one of a user's own may.
_WITH_STATISTICS = tuple(f"{registry.__package__}.{name}" for name in ("native", "numba"))

CHANGED = (
    "the logits of crossentropy.torch.cross_entropy were changed between forward and backward, unseen by autograd "
    "(through NumPy or .data): the gradient would be of other logits than the loss. Change a copy, "
    "logits.detach().clone(), or let the loss keep no logits: reduction 'mean' or 'sum' of float32 or float64"
)

MODIFIED = (
    "one of the variables needed for gradient computation has been modified by an inplace operation: a target or a "
    "weight of a loss of crossentropy.torch, or, for a double backward, its logits"
)


def versions(tensors):
    """How often each was changed, by which a later look sees whether it was."""
    return [0 if t is None else t._version for t in tensors]


@functools.lru_cache(maxsize=64)
def _spread(rows: int) -> np.ndarray:
    """At most ROWS of so many rows, evenly spread."""
    return np.unique(np.linspace(0, rows - 1, min(rows, ROWS)).astype(np.intp))


def check(saved: Saved) -> None:
    """A RuntimeError if the statistics of a few rows are no longer those that the forward found."""
    backend, call, _, statistics = saved
    if not len(statistics) or backend.__name__ not in _WITH_STATISTICS:
        return
    rows = _spread(len(statistics))
    x, targets, probabilities = call.x, call.targets, call.options.probabilities
    if x.ndim == 1:
        x, targets = x[None], targets[None] if probabilities else targets
    index = rows if x.ndim == 2 else np.unravel_index(rows, x.shape[:-1])
    targets = targets[index if probabilities else rows]
    now, v = np.empty((len(rows), FIELDS)), call.options.sample_weight
    v = None if v is None else v[rows]
    backend.forward(x[index], targets, call.options._replace(sample_weight=v), np.empty(len(rows)), now)
    tolerance = _TOLERANCES.get(x.itemsize, _TOLERANCE)
    for n, (y, before, after) in enumerate(zip(targets.tolist(), statistics[rows].tolist(), now.tolist(), strict=True)):
        same = _is_close(before[0], after[0], tolerance) and _is_close(before[1], after[1], tolerance)
        if not same and (probabilities or _counts(y, call)) and (v is None or v[n] != 0):
            raise RuntimeError(CHANGED)


def _counts(y: int, call) -> bool:
    """Whether a row of this class has statistics: not where it is ignored, is no class, or weighs nothing."""
    w = call.options.class_weight
    return y != call.options.ignore_index and 0 <= y < call.x.shape[-1] and (w is None or w[y] != 0)


def _is_close(a: float, b: float, tolerance: float) -> bool:
    """Whether two numbers are alike; NaN is like NaN."""
    return a == b or abs(a - b) <= tolerance * max(abs(a), 1e-30) or (a != a and b != b)


def check_loss(before: float, now, target) -> None:
    """A RuntimeError if a loss that is found again, a tensor, is another: the check where no statistics were kept."""
    if target.is_floating_point() and not (target >= 0).all():
        return  # terms of either sign may cancel
    if not _is_close(before, now.item(), _TOLERANCES.get(now.itemsize, _TOLERANCE)):
        raise RuntimeError(CHANGED)
