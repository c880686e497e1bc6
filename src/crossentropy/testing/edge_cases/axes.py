"""Class axes of the row functions: several, all, none of a scalar; wrong ones; into any array, and in place."""

from __future__ import annotations

import itertools

import numpy as np

from ... import log_softmax, logsumexp, softmax
from ..layouts import LAYOUTS, has_layout
from ..ulps import largest_error, refuses, require, result_dtype, same
from .case import edge_case, numbers

SHAPE = (3, 4, 5)
AXES = (None, (1,), (1, 2), (2, 0), (-3, -2))  # as one in memory in some layouts and not in others


def _as_one(x, axis):
    """The rows with the axes as one, by NumPy's own copies; and the way back for what is like x."""
    axes = tuple(range(x.ndim)) if axis is None else tuple(a % x.ndim for a in axis)
    order = [a for a in range(x.ndim) if a not in axes] + sorted(axes)
    moved = x.transpose(order)
    rows = moved.shape[: x.ndim - len(axes)]
    return moved.reshape(*rows, -1), lambda y: y.reshape(moved.shape).transpose(np.argsort(order))


def _equal(got, want):
    """Equal but for the order in which a sum was taken."""
    require(
        got.dtype == want.dtype and got.shape == want.shape, f"{got.dtype} {got.shape}, not {want.dtype} {want.shape}"
    )
    eps = {2: 1e-2, 4: 1e-6, 8: 1e-14}[got.dtype.itemsize]
    np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=eps, atol=eps)


def several_axes(axis, layout, dtype):
    """Assert that these axes of an array that lies so are what they are as one: in new arrays, ``out`` and in place."""
    x = numbers(12, 5, dtype).reshape(SHAPE)
    laid, rows, back = LAYOUTS[layout](x), *_as_one(x, axis)
    lse, kept = logsumexp(laid, axis), logsumexp(laid, axis, keepdims=True)
    _equal(lse, logsumexp(rows))
    axes = range(3) if axis is None else [a % 3 for a in axis]
    require(kept.shape == tuple(1 if a in axes else size for a, size in enumerate(SHAPE)))
    same(kept.reshape(np.shape(lse)), np.asarray(lse))
    for function in (log_softmax, softmax):
        want = back(function(rows))
        _equal(function(laid, axis), want)
        if layout == "read-only":
            continue
        if layout != "byte-swapped":  # a result has native order
            out = LAYOUTS[layout](np.zeros_like(x))
            require(function(laid, axis, out=out) is out)
            _equal(out, want)
        in_place = LAYOUTS[layout](x)
        require(function(in_place, axis, out=in_place) is in_place)
        _equal(in_place.astype(dtype), want)
    same(laid.astype(float), x.astype(float))


@edge_case("several class axes, in any layout")
def _(dtype):
    for axis in AXES:
        several_axes(axis, "contiguous", dtype)
    for axis, layout in zip(itertools.cycle(AXES), LAYOUTS, strict=False):  # tests/test_contract.py crosses them
        if has_layout(dtype, layout):
            several_axes(axis, layout, dtype)


@edge_case("several class axes with weights")
def _(dtype):
    x, b = numbers(12, 5, dtype).reshape(SHAPE), np.random.default_rng(7).standard_normal((4, 1))
    for axis in AXES:
        got = logsumexp(x, axis, b=b, return_sign=True, keepdims=True)
        rows, _ = _as_one(x, axis)
        want = logsumexp(rows, b=_as_one(np.broadcast_to(b, SHAPE).copy(), axis)[0], return_sign=True)
        require(got.sign.reshape(-1).tolist() == np.reshape(want.sign, -1).tolist())
        np.testing.assert_allclose(got.log.reshape(-1), np.reshape(want.log, -1), rtol=3e-6, atol=3e-6)
        require(got.log.shape == got.sign.shape == logsumexp(x, axis, keepdims=True).shape)


@edge_case("a scalar is one class")
def _(dtype):
    x = np.array(2.5).astype(dtype)
    for axis in (-1, 0, None, (0,), (-1,)):
        for function, value in ((log_softmax, 0), (softmax, 1), (logsumexp, 2.5)):
            got = function(x, axis)
            name = result_dtype(dtype, "loss") if function is logsumexp else dtype.name
            require(np.shape(got) == () and got.dtype.name == name and not isinstance(got, np.ndarray))
            require(largest_error(got, value, name) <= (2 if function is softmax else 0))
        require(logsumexp(x, axis, keepdims=True) == 2.5 and np.shape(logsumexp(x, axis, keepdims=True)) == ())
    require(
        log_softmax(5.0) == 0
        and abs(softmax(3) - 1) < 1e-15
        and logsumexp(5.0) == 5
        and logsumexp(5.0, b=-1, return_sign=True) == (5, -1)
    )
    out = np.array(7).astype(dtype)
    require(softmax(x, out=out) is out and largest_error(out, 1, dtype.name) <= 2)
    require(log_softmax(x, None, out=x) is x and x == 0)


@edge_case("class axes that will not do")
def _(dtype):
    x = numbers(12, 5, dtype).reshape(SHAPE)
    for function in (log_softmax, softmax, logsumexp):
        for array, axis, error, message in (
            (x, 3, np.exceptions.AxisError, "axis 3 is out of bounds for array of dimension 3"),
            (x, (0, -4), np.exceptions.AxisError, "axis -4 is out of bounds for array of dimension 3"),
            (x[0, 0, 0], 1, np.exceptions.AxisError, "axis 1 is out of bounds for array of dimension 0"),
            (x, (1, -2), ValueError, "axis must not name an axis twice, got (1, -2)"),
            (x[0, 0, 0], (0, -1), ValueError, "axis must not name an axis twice, got (0, -1)"),
            (x, (), ValueError, "axis must name one axis or more, or be None for all, got ()"),
            (x, 1.0, TypeError, "axis must be an integer, a tuple of integers or None, got 1.0"),
            (x, [0, 1], TypeError, "axis must be an integer, a tuple of integers or None, got [0, 1]"),
            (x, (0, "1"), TypeError, "axis must be an integer, got '1'"),
        ):
            with refuses(error, message):
                function(array, axis)
