"""Log-probabilities and entropies of rows whose classes are spread over ranks: what each tells, and what comes of it.

A rank tells of its block of classes the largest logit m, the sum R of the others' e^(z - m), the chosen class's logit
where it has that, and U = sum_c p_c (m - z_c) over its own softmax. A sum over blocks of terms that are not negative
gives those of the whole row, so that an entropy of 1e-20 keeps its digits however the classes are cut.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .. import _check, autograd
from . import cache, calls, shard_composed
from .bridge import array, host_array, loss_dtype, on_torchs_threads
from .log_probs_ops import Settings
from .shard_losses import require_plain
from .shards import Shards, digest

NOT_MINE = np.inf  # what stands for the logit of a class of another rank: its own would make the row undefined


class Call(NamedTuple):
    """The arguments of a call on this rank, checked but for the classes."""

    input: torch.Tensor
    index: torch.Tensor | None
    prior: torch.Tensor | None
    settings: Settings

    @property
    def rows_shape(self):
        """The shape of the rows."""
        return self.input.shape[:-1]

    @property
    def is_transformed(self) -> bool:
        """Whether the numbers are of other logits than those given."""
        return self.prior is not None or self.settings.logit_scale != 1 or bool(self.settings.softcap)

    @property
    def dtype(self) -> np.dtype:
        """A row's record: logits of 32 bits and fewer fit in them, the sums are rounded once more."""
        real = "f8" if self.is_transformed or self.input.dtype == torch.float64 else "f4"
        return np.dtype([(name, real) for name in ("max", "rest", "target", "spread")])

    def digests(self) -> tuple[int, int]:
        """(of the options, of the index): what must be the same on every rank."""
        options = repr((tuple(self.rows_shape), self.settings, self.index is None, self.prior is None))
        return digest(np.frombuffer(options.encode(), np.uint8)), digest(self._index())

    def weight_sum(self) -> float:
        """Of class weights, of which there are none."""
        return 0.0

    def _index(self) -> np.ndarray | None:
        return None if self.index is None else host_array(self.index.long()).reshape(-1)

    def counts(self, index: np.ndarray | None) -> np.ndarray | None:
        """Which rows count; None for all."""
        if index is None or self.settings.ignore_index is None:
            return None
        return index != self.settings.ignore_index


def check(logits, index, prior) -> None:
    """Raise what is wrong with a call, as far as it can be told without reading numbers."""
    rows = tuple(logits.shape[:-1])
    if index is not None:
        require_plain(index, "index", logits.device)
        if index.dtype not in calls.INTEGERS:
            raise TypeError(f"index must have an integer dtype, got {index.dtype}")
        if tuple(index.shape) != rows:
            raise ValueError(f"index must have the shape of the rows, {rows}, got {tuple(index.shape)}")
    classes = logits.shape[-1]
    if prior is None:
        return
    require_plain(prior, "class_prior", logits.device)
    if tuple(prior.shape) != (classes,) or not prior.is_floating_point():
        got = f"{prior.dtype} {tuple(prior.shape)}"
        raise ValueError(f"class_prior must be floating of shape ({classes},), got {got}")


def transformed(z: np.ndarray, prior, settings: Settings) -> np.ndarray:
    """Logits as the softmax takes them, float64."""
    z = z.astype(np.float64) * settings.logit_scale
    if settings.softcap:
        z = settings.softcap * np.tanh(z / settings.softcap)
    return z if prior is None else z + prior


def records(call: Call, shards: Shards, found: np.ndarray) -> None:
    """Write what this rank tells of each row, (N,)."""
    n, classes = call.rows_shape.numel(), call.input.shape[-1]
    index = call._index()
    found[...] = 0
    counts = call.counts(index)
    if index is not None:
        bad = (index < 0) | (index >= shards.classes)
        bad = bad if counts is None else bad & counts
        if bad.any():
            where = np.unravel_index(int(np.argmax(bad)), tuple(call.rows_shape) or (1,))
            at = f"[{', '.join(map(str, where))}]" if call.rows_shape else ""
            raise IndexError(f"index{at} must be a class in [0, {shards.classes}), got {index[np.argmax(bad)]}")
    found["max"], found["target"] = -np.inf, NOT_MINE
    if n and classes and shard_composed.is_needed(call.input):
        _by_torch(call, shards, index, counts, found)
    elif n and classes:
        x = array(call.input)
        rows, options = _as_chosen(call, np.zeros(n, np.int64), counts)
        with on_torchs_threads(call.input):
            _, saved = autograd.log_probs_forward(x, rows, **options)
        m, rest, spread = autograd.numbers_of(saved)[0].T
        undefined = np.flatnonzero(np.isnan(m) if counts is None else np.isnan(m) & counts)
        found["max"], found["rest"], found["spread"] = m, rest, spread
        if len(undefined):  # a block of nothing but -inf is one like any other, where another rank has more
            prior = None if call.prior is None else call.prior.double().numpy()
            z = transformed(x[_check.indices_of(undefined, tuple(call.rows_shape))], prior, call.settings)
            nothing = undefined[z.reshape(len(undefined), -1).max(axis=-1) == -np.inf]
            found["max"][nothing], found["rest"][nothing], found["spread"][nothing] = -np.inf, 0, 0
        if index is not None:
            mine, at = _mine(index, counts, shards.start, classes)
            z = _at(call, at)
            found["target"][mine] = np.where(z[mine] == np.inf, np.nan, z[mine])
    if counts is not None:
        found[~counts] = 0
        found["rest"][~counts] = -1  # that it does not count, for those who think it does


def _by_torch(call: Call, shards: Shards, index, counts, found: np.ndarray) -> None:
    """The same in PyTorch's operations."""
    x = call.input.reshape(len(found), -1)
    y = torch.full((len(x),), -1) if index is None else call.index.reshape(-1)
    options = {**call.settings._asdict(), "class_prior": call.prior}
    block = shard_composed.chunk(x, y.to(x.device), shards.start, shards.classes, entropy=True, **options)
    for name in ("max", "rest", "target"):
        found[name] = block[name]
    found["spread"] = block["spread"] / (1 + block["rest"])
    if index is None:
        found["target"] = NOT_MINE
        return
    mine, _ = _mine(index, counts, shards.start, x.shape[1])
    found["target"][found["target"] == np.inf] = np.nan
    found["target"][~mine] = NOT_MINE


def _mine(index, counts, start: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(the rows whose class this rank has, that class among the rank's own or any other of these)."""
    at = index - start
    mine = (at >= 0) & (at < classes)
    return mine if counts is None else mine & counts, np.clip(at, 0, max(classes - 1, 0))


def _at(call: Call, at: np.ndarray) -> np.ndarray:
    """A logit of each row, transformed."""
    x = array(call.input)
    z = np.take_along_axis(x, at.reshape(*call.rows_shape, 1), -1).reshape(-1)
    prior = None if call.prior is None else call.prior.double().numpy()[at]
    return transformed(z, prior, call.settings)


def _as_chosen(call: Call, chosen: np.ndarray, counts) -> tuple[np.ndarray, dict]:
    """(index, options) for the package's functions, which do not read the rows that do not count."""
    settings = call.settings
    options: dict = {"logit_scale": settings.logit_scale, "softcap": settings.softcap, "ignore_index": -1}
    if call.prior is not None:
        options["class_prior"] = array(call.prior)
    rows = chosen if counts is None else np.where(counts, chosen, -1)
    return rows.reshape(tuple(call.rows_shape)), options


def results(call: Call, parts: np.ndarray, _, __, keeps: bool = True):
    """(log_prob, entropy, statistics) of all ranks' records; statistics (N, 3): max, rest, spread."""
    parts = parts.astype([(name, "f8") for name in parts.dtype.names])
    index = call._index()
    counts = call.counts(index)
    owners = (parts["target"] != NOT_MINE).sum(axis=0)
    check_owners(owners, parts["rest"] == -1, counts, index, "index")
    with np.errstate(all="ignore"):
        m, rest, shares = merged_maximum(parts["max"], parts["rest"])
        spread = np.where(shares == 0, 0.0, shares * (parts["spread"] + (m - parts["max"]))).sum(axis=0)
        log_sum = np.log1p(rest)
        entropy, log_prob = log_sum + spread, np.zeros(0)
        entropy[np.isnan(m)] = np.nan
        if index is not None:
            log_prob = (parts["target"].min(axis=0) - m) - log_sum
    if counts is not None:
        for a in (entropy, m, rest, spread, log_prob):
            a[~counts] = 0
    statistics = torch.from_numpy(np.stack([m, rest, spread], axis=1)) if keeps else None
    rows = call.rows_shape
    return _as_result(log_prob, call, (0,) if index is None else rows), _as_result(entropy, call, rows), statistics


def _as_result(values: np.ndarray, call: Call, shape) -> torch.Tensor:
    with np.errstate(over="ignore", under="ignore"):
        return torch.from_numpy(values).to(call.input.device, loss_dtype(call.input)).reshape(shape)


def like_results(call: Call):
    """Tensors like those of `results`."""
    rows, n = call.rows_shape, 1
    for size in rows:
        n = n * size
    real = loss_dtype(call.input)
    log_prob = call.input.new_empty(0 if call.index is None else rows, dtype=real)
    statistics = call.input.new_empty((n, 3), dtype=torch.float64, device="cpu")
    return log_prob, call.input.new_empty(rows, dtype=real), statistics


def merged_maximum(maxima: np.ndarray, rests: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(max, rest, each block's share of the sum) of blocks, (K, N); NaN where a row is undefined."""
    m = maxima.max(axis=0)  # NaN where one is
    m = np.where(np.isinf(m), np.nan, m)
    leads = np.argmax(maxima == m, axis=0) == np.arange(len(maxima))[:, None]
    scales = np.where(np.isneginf(maxima), 0.0, exp_of_difference(maxima, m))
    rest = np.where(leads, rests, scales * (1 + rests)).sum(axis=0)
    return m, np.where(np.isnan(m), np.nan, rest), scales * (1 + rests) / (1 + rest)


def exp_of_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """e^(a - b), the rounding of a - b put right."""
    d = a - b
    seen = a - d
    lost = (a - (d + seen)) + (seen - b)
    return np.exp(d) * (1 + np.where(np.isfinite(lost), lost, 0.0))


def check_owners(owners, ignored, counts, targets, name: str) -> None:
    """Raise unless each row that counts has its class on exactly one rank."""
    if targets is None:
        return
    here = np.zeros(len(owners), bool) if counts is None else ~counts
    if (ignored != here).any() or (owners[~here] != 1).any():  # what the digests have let through
        raise RuntimeError(f"{name} must be on exactly one rank for each row that counts: ranks have other classes")


def gradient(call: Call, statistics: torch.Tensor, arriving, start: int, _: int) -> torch.Tensor:
    """The gradient on this rank's logits: of what arrives at log_prob and entropy, None for nothing."""
    out = cache.empty_like(call.input)
    n, classes = call.rows_shape.numel(), call.input.shape[-1]
    if not n or not classes:
        return out
    if shard_composed.is_needed(call.input):
        x = call.input.reshape(n, classes)
        g = [x.new_zeros(n, dtype=torch.float64) if g is None else g.double().reshape(n) for g in arriving]
        index, options = call.index, {**call.settings._asdict(), "class_prior": call.prior}
        index = None if index is None else index.reshape(n)
        shard_composed.log_probs_gradient(x, index, statistics.to(x.device), start, *g, out.view(n, classes), **options)
        return out
    statistics = array(statistics)
    index = call._index()
    counts = call.counts(index)
    mine, at = np.zeros(n, bool), np.zeros(n, np.int64)
    if index is not None:
        mine, at = _mine(index, counts, start, classes)
    rows, options = _as_chosen(call, at, counts)
    g_p, g_h = (np.zeros(n) if g is None else array(g.double()).reshape(-1) for g in arriving)
    x, grad, shape = array(call.input), array(out), tuple(call.rows_shape)
    with on_torchs_threads(call.input):
        saved = autograd.restored_log_probs(statistics, x, rows, **options)
        autograd.log_probs_backward(saved, g_p.reshape(shape), g_h.reshape(shape), out=grad)
    others = np.flatnonzero(~mine & (g_p != 0) if counts is None else ~mine & (g_p != 0) & counts)
    if len(others):  # rows of other ranks' classes, for which some class of this one's was named
        z, slope = _at(call, at)[others], _slope(call, at)[others]
        m, rest, spread = statistics[others].T
        with np.errstate(all="ignore"):
            p = exp_of_difference(z, m) / (1 + rest)
            log_p = (z - m) - np.log1p(rest)
            value = -g_p[others] * p - g_h[others] * np.where(p == 0, 0.0, p * (log_p + np.log1p(rest) + spread))
            value *= slope
            where = (*_check.indices_of(others, tuple(shape)), at[others])
            grad[where] = value.astype(grad.dtype)
    return out


def _slope(call: Call, at: np.ndarray):
    """The derivative of `transformed` at a logit of each row."""
    settings = call.settings
    if not settings.softcap:
        return np.full(len(at), settings.logit_scale)
    x = array(call.input)
    z = np.take_along_axis(x, at.reshape(*call.rows_shape, 1), -1).reshape(-1).astype(np.float64)
    e = np.exp(-2 * np.abs(z * settings.logit_scale) / settings.softcap)
    s = 2 * e / (1 + e)
    return settings.logit_scale * s * (2 - s)
