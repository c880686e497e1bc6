"""The gradient of log-softmax: classes that lead, sums that cancel, rows without a maximum of their own."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ... import autograd, log_softmax, reference
from ..ulps import largest_error, require, same, spacing
from .case import INF, NAN, edge_case, numbers

# Ulps of the larger of an entry's two terms, by dtype of the logits; the reference is allowed half of one more.
MOST = {"float32": 4, "float64": 8, "float16": 0.51, "bfloat16": 0.51}

GAPS = {
    "float16": (0.5, 5, 10, 16),
    "bfloat16": (0.5, 5, 10, 20, 40, 87),
    "float32": (0.5, 5, 10, 20, 40, 87, 100),
    "float64": (0.5, 5, 10, 20, 37.43, 100, 700),
}


def gradient(x, g, axis=-1):
    """The gradient, checked to be the same again, into an array, and from the numbers that are kept."""
    log_p, saved = autograd.log_softmax_forward(x, axis)
    same(log_p, log_softmax(x, axis))
    grad = autograd.log_softmax_backward(saved, g)
    log_p[...] = 0  # which the backward does not read
    out = np.empty_like(x)
    require(autograd.log_softmax_backward(saved, g, out=out) is out)
    same(out, grad)
    again = autograd.restored_log_softmax(autograd.numbers_of(saved)[0], x, axis)
    same(autograd.log_softmax_backward(again, g), grad)
    return grad


def check(x, g, axis=-1):
    """Hold the gradient to the reference's, rows of x one by one."""
    got = np.moveaxis(gradient(x, g, axis), axis, -1).reshape(-1, x.shape[axis])
    rows = [np.moveaxis(a, axis, -1).reshape(got.shape).astype(np.float64).tolist() for a in (g, x)]
    exact = [reference.log_softmax_backward(*row) for row in zip(*rows, strict=True)]
    terms = [reference.log_softmax_terms(*row) for row in zip(*rows, strict=True)]
    most = MOST[x.dtype.name]
    error = largest_error(got, exact, x.dtype.name, np.array(terms))
    require(error <= most + (0.5 if most > 1 else 0), f"{x.dtype.name}: {error:.2f} ulp, allowed {most}")


def with_leaders(dtype, classes, place, seed=1):
    """A row for each gap, by which its class at ``place`` leads all others."""
    gaps = GAPS[dtype.name]
    x = numbers(len(gaps), classes, np.float64, seed) * 0.25
    x[:, place] = np.delete(x, place, 1).max(axis=1) + gaps
    return x.astype(dtype)


@edge_case("log-softmax gradient: a leader")
def _(dtype):
    for classes, place in ((2, 0), (2, 1), (3, 1), (17, 16), (70, 3), (2050, 2048)):
        x = with_leaders(dtype, classes, place)
        x = x[2:4] if classes > 100 else x  # the CUDA simulator is slow
        for c in (place, 0):
            g = np.zeros(x.shape, dtype)
            g[:, c] = 1
            check(x, g)
        check(x, numbers(*x.shape, dtype, 2))


@edge_case("log-softmax gradient: what arrives cancels")
def _(dtype):
    for classes in (3, 16, 33, 129):
        x = with_leaders(dtype, classes, classes // 2)[:3]
        g = numbers(*x.shape, dtype, 3)
        g[:, 1::2] = -g[:, : g[:, 1::2].shape[1] * 2 : 2]  # in pairs
        g[:, -1] = 0.0078125
        for size in (1.0, 2.0**-7):
            check(x, (g.astype(np.float64) * size).astype(dtype))
        g[:, 0], g[:, -1] = 192, 0.015625
        g[:, 1:-1] = 0
        g[:, 1] -= dtype.type(192)
        check(x, g)
        check(x[:, ::-1], g)


@edge_case("log-softmax gradient: digits below a large term")
def _(dtype):
    for classes in (3, 40):
        x = with_leaders(dtype, classes, 1)
        g = np.zeros(x.shape, dtype)
        g[:, 0], g[:, 1], g[:, 2] = 16384, 2.0**-10, -16384
        check(x, g)
        g[:, 0], g[:, 1] = 2.0**-10, 16384
        check(x, g)


@edge_case("log-softmax gradient: uniform rows")
def _(dtype):
    for classes, at in [*itertools.product((1, 2, 3, 10, 49, 65), (0.0, 0.3, 300.0)), (1000, 0.0), (1000, 0.3)]:
        x, g = np.full((1, classes), at).astype(dtype), np.ones((1, classes), dtype)
        grad = gradient(x, g).astype(np.float64)
        ulp = float(spacing(1.0, dtype.name))  # of g_c and of p_c sum(g), which are both 1
        require(np.abs(grad).max() <= ulp, f"{classes} classes: {grad[0, 0]}")
        if at == 0:  # where every e^z is exact: else they share an error, as all entries do then
            require(max(abs(math.fsum(row)) for row in grad.tolist()) <= ulp, f"{classes} classes: {grad.sum(1)}")
        check(x, numbers(1, classes, dtype, 4))


@edge_case("log-softmax gradient: two maxima")
def _(dtype):
    x = numbers(4, 50, dtype)
    x[:, [3, 30]] = 9
    check(x, numbers(4, 50, dtype, 5))
    x[:, :] = -INF
    x[:, [3, 30]] = 9
    check(x, numbers(4, 50, dtype, 5))


@edge_case("log-softmax gradient: -inf among the logits")
def _(dtype):
    x, g = with_leaders(dtype, 20, 4), numbers(len(GAPS[dtype.name]), 20, dtype, 6)
    x[:, ::3] = -INF
    check(x, g)
    same(gradient(x, g)[:, ::3], g[:, ::3])
    alone = np.full((2, 5), -INF).astype(dtype)
    alone[:, 2] = 3
    check(alone, numbers(2, 5, dtype, 7))


@edge_case("log-softmax gradient: undefined rows")
def _(dtype):
    for row in ([NAN, 0.0, 1.0], [0.0, INF, 1.0], [-INF, -INF, -INF]):
        x = np.array([[1.0, 2.0, 3.0], row, [3.0, 1.0, 2.0]]).astype(dtype)
        nan = np.isnan(gradient(x, numbers(3, 3, dtype)).astype(float))
        require(nan[1].all() and not nan[[0, 2]].any())


@edge_case("log-softmax gradient: class axis first, and in between")
def _(dtype):
    for classes in (2, 5, 70):
        x = with_leaders(dtype, classes, classes // 2)
        x, g = np.ascontiguousarray(np.tile(x, (4, 1)).T), numbers(classes, 4 * len(x), dtype, 8)
        check(x, g, 0)
        check(x.reshape(classes, 4, -1).swapaxes(0, 1), g.reshape(classes, 4, -1).swapaxes(0, 1), 1)


@edge_case("log-softmax gradient: large logits")
def _(dtype):
    for at in (255.5, -257.0, 2047.0, -2049.0, 3e4):
        x = (with_leaders(dtype, 30, 2).astype(np.float64) + at).astype(dtype)
        check(x, numbers(*x.shape, dtype, 9))


@edge_case("log-softmax gradient: large and small gradients arrive")
def _(dtype):
    sizes = (1e-4, 1e3) if dtype.name == "float16" else (1e-30, 1e-8, 1e8, 1e30)
    for size in sizes:
        x = (numbers(4, 40, np.float64) * 2).astype(dtype)
        check(x, (numbers(4, 40, np.float64, 10) * size).astype(dtype))


@edge_case("log-softmax gradient: logits that are integers")
def _(dtype):
    x, g = np.array([[20, 0, -3], [1, 1, 1]]), np.array([[1.0, 0.0, 0.0]] * 2)
    log_p, saved = autograd.log_softmax_forward(x)
    grad = autograd.log_softmax_backward(saved, g)
    require(log_p.dtype == grad.dtype == np.float64)
    same(grad, autograd.log_softmax_backward(autograd.log_softmax_forward(x.astype(float))[1], g))


@edge_case("log-softmax gradient: the rows of two reports")
def _(dtype):
    for kind, gap, most in (("float32", 20.0, 2.06115361819e-9), ("float64", 37.43, 5.55082508625e-17)):
        grad = gradient(np.array([gap, 0.0], kind), np.array([1.0, 0.0], kind))
        require(np.abs(grad / [most, -most] - 1).max() < 3e-7, str(grad))
