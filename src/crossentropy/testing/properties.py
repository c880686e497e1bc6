"""What must hold of any logits, by name; for `crossentropy.testing`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import (
    config,
    cross_entropy,
    cross_entropy_and_grad,
    cross_entropy_grad,
    log_softmax,
    logsumexp,
    reference,
    softmax,
)
from .._options import NUMERIC, OPTIONS
from .ulps import require, same

PROPERTIES: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {}


def _property(name):
    def keep(function):
        PROPERTIES[name] = function
        return function

    return keep


def _tolerance(x):
    """What differently rounded inputs and sums may change, relative to a loss and absolutely for its logits' size."""
    eps = float(np.finfo(np.float64 if x.itemsize == 8 else np.float32).eps)
    return 16 * eps, 16 * eps * float(np.abs(x.astype(float)).max(initial=1, where=np.isfinite(x.astype(float))))


def _close(got, expected, x):
    rel, absolute = _tolerance(x)
    np.testing.assert_allclose(np.asarray(got, float), np.asarray(expected, float), rtol=rel, atol=absolute)


@_property("shift invariance")
def _(x, y):
    if x.itemsize == 2:
        return  # a sum would be rounded to 3 digits
    for shift in (1.0, -64.0):
        moved = x + x.dtype.type(shift)
        _close(cross_entropy(moved, y, reduction="none"), cross_entropy(x, y, reduction="none"), moved)


@_property("permutation equivariance")
def _(x, y):
    order = np.random.default_rng(3).permutation(x.shape[1])
    inverse = np.argsort(order)
    loss, grad = cross_entropy_and_grad(x, y, reduction="none")
    moved = cross_entropy_and_grad(x[:, order], inverse[y], reduction="none")
    _close(moved.loss, loss, x)
    unit = 1 if x.itemsize > 2 else 300  # a 16-bit ulp of a probability
    np.testing.assert_allclose(
        moved.grad.astype(float),
        grad[:, order].astype(float),
        rtol=0,
        atol=unit * _tolerance(np.ones(1, x.dtype))[0] * 16,
    )


@_property("gradient rows sum to 0")
def _(x, y):
    if x.itemsize == 2:
        return  # each entry has an error of its own there
    for options in ({}, {"label_smoothing": 0.1}, {"class_weight": np.linspace(0, 2, x.shape[1])}):
        grad = cross_entropy_grad(x, y, reduction="none", **options)
        eps = float(np.finfo(x.dtype).eps)
        np.testing.assert_allclose(grad.astype(float).sum(axis=1), 0, atol=32 * eps * 2)


@_property("merged blocks of classes")
def _(x, y):
    if x.shape[1] < 2:
        return
    cut = x.shape[1] // 2
    parts = [logsumexp(part).astype(float) for part in (x[:, :cut], x[:, cut:])]
    merged = np.array([reference.logsumexp([a, b]) for a, b in zip(*parts, strict=True)])
    _close(logsumexp(x), merged, x)  # infinite and undefined rows included


@_property("weights of a logsumexp")
def _(x, y):
    log, sign = logsumexp(x, b=np.ones(1), return_sign=True)
    _close(log, logsumexp(x), x)
    same(sign.astype(float), np.where(np.isnan(log), np.nan, log > -np.inf))
    b = np.random.default_rng(4).integers(-2, 3, x.shape)
    log, sign = logsumexp(x, b=b, return_sign=True)
    # The positive and the negative terms apart, of which the smaller is taken from the larger.
    up, down = logsumexp(x, b=np.maximum(b, 0)).astype(float), logsumexp(x, b=np.maximum(-b, 0)).astype(float)
    both = np.isfinite(up) & np.isfinite(down)
    both[both] = np.abs(up[both] - down[both]) > 0.1
    larger, smaller = np.maximum(up, down)[both], np.minimum(up, down)[both]
    require(sign[both].tolist() == np.sign(up[both] - down[both]).tolist())
    rel, absolute = _tolerance(x)
    np.testing.assert_allclose(
        log[both].astype(float), larger + np.log(-np.expm1(smaller - larger)), rtol=20 * rel, atol=20 * absolute
    )
    same(logsumexp(x, b=-b, return_sign=True).sign, -sign)
    same(logsumexp(x, b=b), np.where(sign < 0, np.nan, log).astype(log.dtype))


@_property("finite differences")
def _(x, y):
    z = np.clip(x[:2, :5].astype(np.float64), -30, 30)
    y = y[:2] % z.shape[1]
    options = {name: OPTIONS[name].samples[0] for name in NUMERIC}
    grad, step = cross_entropy_grad(z, y, reduction="sum", **options), 1e-5
    for index in np.ndindex(z.shape):
        ends = []
        for sign in (1, -1):
            moved = z.copy()
            moved[index] += sign * step
            ends.append(cross_entropy(moved, y, reduction="sum", **options))
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), grad[index], atol=1e-7)


@_property("in place as out of place")
def _(x, y):
    loss, grad = cross_entropy_and_grad(x, y)
    overwritten = x.copy()
    got = cross_entropy_and_grad(overwritten, y, out=overwritten)
    require(got.grad is overwritten)
    same(got.loss, loss)
    same(overwritten, grad)
    for function in (log_softmax, softmax):
        overwritten = x.copy()
        same(function(overwritten, out=overwritten), function(x))


@_property("any number of threads")
def _(x, y):
    results = []
    for threads in (1, 2, 3):
        with config(threads=threads):
            results.append((*cross_entropy_and_grad(x, y), log_softmax(x), softmax(x), logsumexp(x)))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            same(got, want)


@_property("rows independent of their batch")
def _(x, y):
    loss, grad = cross_entropy_and_grad(x, y, reduction="none")
    log_p = log_softmax(x)
    for n in range(len(x)):
        alone = cross_entropy_and_grad(x[n : n + 1].copy(), y[n : n + 1], reduction="none")
        same(alone.loss, loss[n : n + 1])
        same(alone.grad, grad[n : n + 1])
        same(log_softmax(x[n]), log_p[n])
