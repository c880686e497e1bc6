"""Blocks of classes: any split of a row's classes, merged in any order, gives the row's loss and gradient."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from ... import blocks, reference, row_statistics
from ..._options import OPTIONS
from ..ulps import exact, near, refuses, require, same, within
from .case import INF, NAN, edge_case, numbers

# Where 13 classes are cut: even, uneven with single classes, with blocks of none at either end and in between.
# (tests/test_blocks.py has more.)
CUTS = {"even": (0, 4, 8, 13), "uneven": (0, 1, 2, 10, 13), "empty": (0, 0, 7, 7, 13, 13)}
CLASSES = 13


def own(options, first, last):
    """The options of a block: what is over classes is over its own."""
    return {name: value[first:last] if OPTIONS[name].over == "classes" else value for name, value in options.items()}


def split(x, t, cuts, options, **more):
    """(start, logits, targets, options) of each block."""
    for first, last in itertools.pairwise(cuts):
        yield first, x[:, first:last], t[:, first:last] if t.ndim == 2 else t, own(options, first, last) | more


def of_blocks(x, t, cuts, **options):
    """Losses and gradient by blocks, merged at once; any order and association gives nearly the same."""
    parts = [blocks.chunk(z, q, start, x.shape[1], **o) for start, z, q, o in split(x, t, cuts, options)]
    together = blocks.combine(*parts)
    losses = blocks.aggregate(together, **options)
    for order in (parts, parts[::-1]):
        folded = functools.reduce(blocks.combine, order, blocks.identity(len(x)))
        again = blocks.aggregate(folded, **options)
        np.testing.assert_allclose(again, losses, rtol=1e-14, atol=5e-324)
    grads = [blocks.gradient(z, q, together, start, x.shape[1], **o) for start, z, q, o in split(x, t, cuts, options)]
    return losses, np.concatenate(grads, axis=1)


def check(x, t, cuts, row=reference.PLAIN, weights=None, **options):
    """Hold losses and gradient by blocks to the reference's of whole rows, of which one of weight 0 does not count."""
    rows = [row._replace(weight=v) for v in ([1.0] * len(x) if weights is None else weights)]
    each = np.where((t < 0) | (t >= x.shape[1]), 0, t).tolist() if t.ndim == 1 else t.astype(float).tolist()
    expected, grads, units = exact(x, each, rows)
    losses, grad = of_blocks(x, t, cuts, **options)
    changed = row.softcap or row.margin or row.class_prior or row.logit_scale != 1
    # A small loss is as uncertain as what it is of: rounded logits, and raised to a power so many times as much.
    times = (4 if changed else 1) * (1 + row.focal) if x.dtype == np.float64 else 1
    within(losses if x.itemsize == 8 else losses.astype(np.float32), expected, x.dtype, "loss", times=times)
    within(grad, grads, x.dtype, "grad", unit_at=units, times=times)
    require(grad.dtype == x.dtype)
    require(((losses == 0) == (expected == 0)).all(), "a loss of 0 that is none")


def rows_of(dtype, n=6, scale=3.0):
    """Logits, and targets at the ends of blocks, too."""
    x = (numbers(n, CLASSES, np.float64) * scale).astype(dtype)
    return x, np.array([0, 12, 4, 3, 8, 10])[:n]


@edge_case("blocks: even, uneven and empty")
def _(dtype):
    x, y = rows_of(dtype)
    for cuts in CUTS.values():
        check(x, y, cuts)
    check(x[:, :3], y % 3, (0, 0, 1, 1, 2, 3, 3, 3))  # fewer classes than blocks
    check(x[:, :1], y * 0, (0, 0, 1))


@edge_case("blocks: a target that leads by more and more")
def _(dtype):
    x, y = rows_of(dtype, scale=1.0)
    for ahead in (0, 10, 30, 60):
        x[np.arange(len(x)), y] = ahead
        check(x, y, CUTS["uneven"])


@edge_case("blocks: weights, smoothing, z-loss")
def _(dtype):
    x, y = rows_of(dtype)
    w = np.linspace(0, 3, CLASSES)
    w[[10, 4]] = 0, 50
    for given in (
        {"class_weight": w},
        {"label_smoothing": 0.1},
        {"class_weight": w, "label_smoothing": 0.1},
        {"class_weight": w, "label_smoothing": 1.0, "z_loss": 0.01},
        {"z_loss": 0.01},
    ):
        lists = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in given.items()}
        check(x, y, CUTS["uneven"], reference.Row(**lists), **given)
    v = np.array([1, 0, 2.5, 0.3, 1, 0])
    given = {"class_weight": w, "label_smoothing": 0.2}
    row = reference.Row(class_weight=w.tolist(), label_smoothing=0.2)
    x[[1, 5]] = NAN
    check(np.where(np.isnan(x), x.dtype.type(0), x), y, CUTS["empty"], row, v, sample_weight=v, **given)
    losses, grad = of_blocks(x, y, CUTS["empty"], sample_weight=v, **given)
    require(not losses[[1, 5]].any() and not grad[[1, 5]].astype(float).any())
    losses, grad = of_blocks(x, y, CUTS["even"], where=np.arange(6) % 4 != 1, **given)
    require(not losses[[1, 5]].any() and losses[[0, 2, 3, 4]].all() and np.isfinite(grad.astype(float)).all())


@edge_case("blocks: transformed logits")
def _(dtype):
    x, y = rows_of(dtype)
    b = np.linspace(-2, 1, CLASSES)
    b[5] = -INF
    for given in (
        {"logit_scale": 0.7, "softcap": 5.0},
        {"softcap": 5.0, "margin": 0.6},
        {"class_prior": b, "margin": -2.0, "logit_scale": 2.0},
    ):
        lists = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in given.items()}
        check(x, y, CUTS["uneven"], reference.Row(**lists), **given)


@edge_case("blocks: focal")
def _(dtype):
    x, y = rows_of(dtype)
    x[np.arange(6), y] += np.array([0, 3, 12, 30, -5, 0])  # from where 1 - p_y is 1 to where it is 1e-13 and less
    w, v = np.linspace(0.1, 3, CLASSES), np.array([1, 2.5, 1, 0.3, 1, 0])
    for cuts, given in (
        (CUTS["uneven"], {"focal": 2.0}),
        (CUTS["empty"], {"focal": 0.5, "class_weight": w, "label_smoothing": 0.1, "z_loss": 0.01}),
        (CUTS["even"], {"focal": 2.0, "logit_scale": 0.7, "softcap": 5.0, "margin": 0.6}),
    ):
        lists = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in given.items()}
        check(x, y, cuts, reference.Row(**lists), v, sample_weight=v, **given)
    x[0, 12], x[1], x[2, y[2]] = NAN, -INF, -INF
    losses, grad = of_blocks(x, y, CUTS["even"], focal=2.0)
    require(np.isnan(losses).tolist() == [True, True] + [False] * 4 and losses[2] == INF)
    require(np.isnan(grad[:2].astype(float)).all() and np.isfinite(grad[3:].astype(float)).all())
    x, y = rows_of(dtype)
    x[:, 5] = -INF  # and smoothing gives it a weight: a loss of inf
    row = reference.Row(focal=2.0, label_smoothing=0.1)
    check(x, y, CUTS["uneven"], row, focal=2.0, label_smoothing=0.1)
    x = np.where(np.arange(CLASSES) == y[:, None], 0, -INF).astype(dtype)  # no other class has any probability
    check(x, y, CUTS["uneven"], reference.Row(focal=2.0, z_loss=0.1), focal=2.0, z_loss=0.1)


@edge_case("blocks: probabilities of each block's own classes")
def _(dtype):
    x, _ = rows_of(dtype)
    q = np.random.default_rng(2).dirichlet(np.ones(CLASSES), 6)
    q = (q * (q > 0.01)).astype(np.float64 if dtype == np.float64 else np.float32)
    w = np.linspace(0, 3, CLASSES)
    check(x, q, CUTS["empty"])
    row = reference.Row(class_weight=w.tolist(), label_smoothing=0.1, z_loss=0.01)
    check(x, q, CUTS["uneven"], row, class_weight=w, label_smoothing=0.1, z_loss=0.01)
    check(x, q, CUTS["even"], reference.Row(logit_scale=0.5), logit_scale=0.5)
    x[:, 4:8] = -INF  # a block of nothing else, on which there is probability or none
    q[1:4, 4:8] = 0
    check(x, q, CUTS["even"])
    check(x, q, CUTS["even"], reference.Row(class_weight=w.tolist(), label_smoothing=0.1), class_weight=w,
          label_smoothing=0.1)  # fmt: skip


@edge_case("blocks: nothing but -inf, NaN and +inf")
def _(dtype):
    x, y = rows_of(dtype)
    x[:, 4:8] = -INF
    check(x, y, CUTS["even"])  # the target of one row among them: a loss of inf
    check(x, y, CUTS["uneven"], reference.Row(label_smoothing=0.1), label_smoothing=0.1)
    x[0, 12], x[1, 0], x[2] = NAN, INF, -INF
    check(x, y, CUTS["even"])
    for cuts in CUTS.values():
        losses, grad = of_blocks(x, y, cuts)
        require(np.isnan(losses).tolist() == [True] * 3 + [False] * 3)
        require(np.isnan(grad.astype(float)).all(axis=1).tolist() == [True] * 3 + [False] * 3)


@edge_case("blocks: rows that do not count, and no rows")
def _(dtype):
    x, y = rows_of(dtype)
    for ignored in (-100, 7, 2**63 - 1):
        t = y.copy()
        t[[1, 4]] = ignored
        there = x.copy()
        there[[1, 4]] = NAN
        losses, grad = of_blocks(there, t, CUTS["uneven"], ignore_index=ignored)
        require(not losses[[1, 4]].any() and not grad[[1, 4]].astype(float).any())
        check(x, t, CUTS["uneven"], reference.PLAIN, [1, 0, 1, 1, 0, 1], ignore_index=ignored)
    losses, grad = of_blocks(np.full_like(x, NAN), np.full(6, -100), CUTS["empty"], ignore_index=-100)
    require(not losses.any() and not grad.astype(float).any())
    losses, grad = of_blocks(x[:0], y[:0], CUTS["even"])
    require(losses.shape == (0,) and grad.shape == (0, CLASSES))
    x, y = (numbers(6, 5 * 4, np.float64) * 2).astype(dtype).reshape(2, 3, 5, 4), np.arange(24).reshape(2, 3, 4) % 5
    parts = [blocks.chunk(x[:, :, a:b], y, a, 5, axis=2) for a, b in ((0, 2), (2, 5))]
    losses = blocks.aggregate(blocks.combine(*parts))
    flat = np.moveaxis(x, 2, -1).reshape(-1, 5)
    within(losses.reshape(-1) if dtype == np.float64 else losses.reshape(-1).astype(np.float32),
           exact(flat, y.reshape(-1).tolist(), [reference.PLAIN] * 24)[0], dtype, "loss")  # fmt: skip
    to = np.empty_like(x[:, :, 2:])
    require(blocks.gradient(x[:, :, 2:], y, blocks.combine(*parts), 2, 5, axis=2, out=to) is to)
    grad = np.moveaxis(to, 2, -1).reshape(-1, 3)
    _, whole, units = exact(flat, y.reshape(-1).tolist(), [reference.PLAIN] * 24)
    within(grad, whole[:, 2:], dtype, "grad", unit_at=units[:, 2:])


@edge_case("blocks: a fixed partition gives the same bits to any number of holders")
def _(dtype):
    x, y = rows_of(dtype)
    at = blocks.cuts(CLASSES, 8)
    parts = [blocks.chunk(x[:, a:b], y, a, CLASSES, label_smoothing=0.1) for a, b in itertools.pairwise(at)]
    whole = blocks.combine(*parts)
    for holders in (1, 3, 8):
        held = blocks.cuts(8, holders)
        found, grads = [], []
        for a, b in itertools.pairwise(held):
            z = x[:, at[a] : at[b]]
            found.append(blocks.chunk(z, y, at[a], CLASSES, partition=8, label_smoothing=0.1))
            grads.append(blocks.gradient(z, y, whole, at[a], CLASSES, label_smoothing=0.1))
        require(blocks.combine(*np.concatenate(found)).tobytes() == whole.tobytes())
        same(np.concatenate(grads, axis=1), blocks.gradient(x, y, whole, 0, CLASSES, label_smoothing=0.1))


@edge_case("blocks: log-probabilities and entropies")
def _(dtype):
    x, y = rows_of(dtype)
    x[0, 5], x[1] = 40, np.where(np.arange(CLASSES) == 3, 0, -INF)
    prior = np.linspace(-2, 1, CLASSES)
    g = {"grad_log_prob": np.linspace(-1, 2, 6), "grad_entropy": np.linspace(3, -2, 6)}
    for cuts, options in ((CUTS["uneven"], {}), (CUTS["empty"], {"softcap": 5.0, "class_prior": prior})):
        parts = [blocks.chunk(z, q, s, CLASSES, entropy=True, **o) for s, z, q, o in split(x, y, cuts, options)]
        whole = functools.reduce(blocks.combine, parts, blocks.identity(6, entropy=True))
        found, expected = blocks.log_probs(whole), row_statistics(x.astype(np.float64), y, **options)
        rel = 1e-14 if dtype == np.float64 else 5e-7
        near(found.log_prob, expected.log_prob, rel)
        near(found.entropy, expected.entropy, rel)
        got = [
            blocks.log_probs_gradient(z, q, whole, s, CLASSES, **g, **o) for s, z, q, o in split(x, y, cuts, options)
        ]
        row = reference.Row(**{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in options.items()})
        rows = list(zip(x.astype(float).tolist(), y.tolist(), *(a.tolist() for a in g.values()), strict=True))
        exactly = np.array([reference.log_probs_grad(*each, row) for each in rows])
        eps = {8: 2e-15, 4: 1e-6, 2: 8e-3}[dtype.itemsize]
        np.testing.assert_allclose(np.concatenate(got, axis=1).astype(float), exactly, rtol=eps, atol=eps)
    near(blocks.aggregate(whole), -found.log_prob, 1e-14)
    alone = blocks.chunk(x, None, 0, CLASSES, entropy=True)
    near(blocks.log_probs(alone).entropy, row_statistics(x.astype(np.float64)).entropy, rel)


@edge_case("blocks: what they refuse")
def _(dtype):
    x, y = rows_of(dtype)
    with refuses(IndexError, "targets[1] = 13 is not in [0, 13)"):
        blocks.chunk(x[:, :5], y + np.array([0, 1, 0, 0, 0, 0]), 0, CLASSES)
    with refuses(ValueError, "start must be in [0, 8] for 5 of 13 classes, got 9"):
        blocks.chunk(x[:, :5], y, 9, CLASSES)
    with refuses(ValueError, "classes must be those of all blocks, at least the 13 of logits, got 5"):
        blocks.chunk(x, y, 0, 5)
    with refuses(TypeError, "chunk() got an unexpected keyword argument 'reduction'"):
        blocks.chunk(x, y, 0, CLASSES, reduction="mean")
    with refuses(ValueError, "partition=8 cuts 13 classes at 0, 1, 3, 4, 6, 8, 9, 11, 13, got a block from 0 to 5"):
        blocks.chunk(x[:, :5], y, 0, CLASSES, partition=8)
    with refuses(TypeError, "blocks must be what chunk, identity or combine has returned, got a list"):
        blocks.combine([1.0])
    found = blocks.chunk(x, y, 0, CLASSES)
    with refuses(ValueError, "blocks must be alike"):
        blocks.combine(found, found[:3])
    with refuses(ValueError, "blocks must be of chunk(..., entropy=True)"):
        blocks.log_probs(found)
    with refuses(ValueError, "statistics must have the rows' shape, (6,), got (3,)"):
        blocks.gradient(x, y, found[:3], 0, CLASSES)
