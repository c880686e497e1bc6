"""A rank's block of classes on a CUDA device, by the kernels there: the numbers of rows, and the gradient from all.

What there is of a row, a few float64 numbers, goes to the host to be merged, and comes back for the gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import _merging
from .._backends import registry
from .._backends.contract import BlockStatistics
from .._options import DEFAULTS
from . import calls
from .bridge import host_array, loss_dtype

# Where the scale of a row is a float32, as it is of all logits but float64, a focal factor may be no smaller.
LEAST_FACTOR = 2.0**-100

_NUMBERS = (*BlockStatistics._fields, "class_weight")


def serves(x: torch.Tensor) -> bool:
    """Whether logits lie where these kernels can be had."""
    return x.is_cuda and not calls.lacks_cuda()


def _of_kernels(named: dict) -> dict:
    """The options that a block has to do with before all are merged."""
    return {name: value for name, value in named.items() if name not in ("z_loss", "focal")}


def numbers(x: torch.Tensor, target: torch.Tensor, y, start: int, classes: int, named: dict) -> dict[str, Any]:
    """As `crossentropy.blocks.columns`, of logits (N, C) and targets (N,) or (N, C); y are classes on the host."""
    if not x.numel():
        return {name: np.full(len(x), -np.inf if name in ("max", "target") else 0.0) for name in _NUMBERS}
    parts = registry.device_backend().forward_block(x, target, start, classes, **_of_kernels(named))
    found: dict[str, Any] = dict(zip(BlockStatistics._fields, parts.cpu().numpy().T, strict=True))
    if (w := named.get("class_weight")) is not None and y is not None:
        found["class_weight"] = _of_targets(host_array(w.double()), y - start)
    return found


def _of_targets(w: np.ndarray, local: np.ndarray) -> np.ndarray:
    """w_y of the targets that lie in the block, else 0."""
    mine = (local >= 0) & (local < len(w))
    found = np.zeros(len(local))
    found[mine] = w[local[mine]]
    return found


def gradient(
    x: torch.Tensor, target, y, whole: _merging.Numbers, start: int, classes: int, named: dict, g, out: torch.Tensor
) -> None:
    """The gradient into ``out``, of what arrives at each row's loss, g (N,), from the numbers of whole rows."""
    if not x.numel():
        return
    mine = None if y is None else (y >= start) & (y < start + x.shape[1])
    numbers = [named.get(name, 0.0) for name in _merging.OPTIONS]
    real, given = loss_dtype(x), _of_kernels(named)
    least = _merging.LEAST_FACTOR if real is torch.float64 else LEAST_FACTOR
    saved, scale, at_target = _merging.start_of(whole, mine, classes, *numbers, least=least)
    if mine is not None and at_target is not None:  # the kernel adds what a target of this block weighs
        saved[:, 2] -= np.where(mine, (1 - numbers[0]) * whole["class_weight"], 0)
        g = g * torch.from_numpy(scale).to(g.device)
    statistics = torch.from_numpy(np.ascontiguousarray(saved)).to(x.device)
    rows = None if at_target is None else torch.from_numpy(np.flatnonzero(mine)).to(x.device)
    if rows is not None:
        v, of_rows = named.get("sample_weight"), torch.from_numpy(at_target / scale).to(x.device)
        value = (of_rows * g if v is None else of_rows * g * v.double())[rows]
        at = target[rows].long() - start
        value *= _slope(x[rows, at].double(), named)
        counts = _counts(target, v, named)[rows]
    backend = registry.device_backend()
    backend.backward_block(x, target, statistics, start, classes, grad_output=g.to(real), out=out, **given)
    if rows is not None:
        out[rows, at] = torch.where(counts, value, 0).to(out.dtype)


def _counts(target: torch.Tensor, v, named: dict) -> torch.Tensor:
    ignored = named.get("ignore_index")
    found = torch.ones_like(target, dtype=torch.bool) if ignored is None else target.long() != ignored
    return found if v is None else found & (v != 0)


def _slope(z: torch.Tensor, named: dict) -> torch.Tensor | float:
    """The derivative of logits as options transform them on what was given."""
    scale, cap = (named.get(name, DEFAULTS[name]) for name in ("logit_scale", "softcap"))
    if not cap:
        return scale
    e = torch.exp(-2 * (z * scale).abs() / cap)
    s = 2 * e / (1 + e)
    return scale * s * (2 - s)
