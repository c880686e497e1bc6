"""Arrays with no rows, no classes or one of either, and arrays whose elements share memory."""

from __future__ import annotations

import numpy as np

from ... import autograd, cross_entropy, cross_entropy_and_grad, log_softmax, logsumexp, softmax
from ..layouts import has_layout
from ..ulps import near, refuses, require, result_dtype, same
from .case import INF, NAN, both, edge_case, numbers


@edge_case("mean over no effective row")
def _(dtype):
    x, t = np.array([[0.0, NAN, 2.0], [1.0, 2.0, 3.0]]).astype(dtype), np.array([1, 1])
    for options in ({"ignore_index": 1}, {"sample_weight": [0.0, 0.0]}, {"class_weight": [1.0, 0.0, 1.0]}):
        loss, grad = both(x, t, **options)
        require(np.isnan(loss) and not grad.any())
        loss, grad = both(x, t, empty=0.0, **options)
        require(loss == 0 and not grad.any())
    loss, grad = both(x, t, ignore_index=1, normalizer=64)
    require(loss == 0 and not grad.any())


@edge_case("no rows")
def _(dtype):
    x, t = np.empty((0, 5), dtype), np.empty(0, np.int64)
    require(cross_entropy(x, t, reduction="none").shape == (0,))
    require(cross_entropy(x, t, reduction="sum") == 0)
    require(cross_entropy(x, t, empty=0.0) == 0)
    loss, grad = both(x, t)
    require(np.isnan(loss) and grad.shape == (0, 5))
    require(log_softmax(x).shape == softmax(x).shape == (0, 5) and logsumexp(x).shape == (0,))
    if has_layout(dtype, "byte-swapped"):  # in place, where there is nothing to overwrite
        swapped = x.astype(dtype.newbyteorder(">"))
        require(log_softmax(swapped, out=swapped) is swapped)
        require(cross_entropy_and_grad(swapped, t, out=swapped).grad is swapped)


@edge_case("no classes")
def _(dtype):
    x = np.empty((3, 0), dtype)
    for call in (cross_entropy, cross_entropy_and_grad, autograd.forward):
        with refuses(ValueError, "logits must have at least one class"):
            call(x, [0, 0, 0])
    for call in (log_softmax, softmax):
        require(call(x).shape == (3, 0) and call(x).dtype == dtype)
        require(call(x, out=x) is x)
        require(call(x, (0, 1)).shape == call(x, None).shape == (3, 0))
    same(logsumexp(x), np.full(3, -INF, result_dtype(dtype, "loss")))
    same(logsumexp(x, keepdims=True), np.full((3, 1), -INF, result_dtype(dtype, "loss")))
    for axis in (None, (0, 1)):
        require(logsumexp(x, axis) == -INF and logsumexp(x, axis, keepdims=True).shape == (1, 1))
    require(logsumexp(x, 0).shape == (0,) and logsumexp(x, 0, keepdims=True).shape == (1, 0))
    require(logsumexp(np.empty((0, 0), dtype)).shape == (0,))
    require(logsumexp(x, b=np.ones(1), return_sign=True).sign.tolist() == [0, 0, 0])


@edge_case("one class")
def _(dtype):
    for value in (0.0, -3.5, 60000.0):
        options = {"label_smoothing": 0.3, "class_weight": [2.5], "reduction": "none"}
        loss, grad = both(np.full((3, 1), value).astype(dtype), np.zeros(3, int), **options)
        require(not loss.any() and not grad.any())


@edge_case("a single row")
def _(dtype):
    x = np.array([1.0, 2.0, 3.0]).astype(dtype)
    loss, grad = both(x, 2)
    near(loss, 0.40760596444438, 1e-7)
    require(grad.shape == (3,) and cross_entropy(x, 2, reduction="none").shape == ())
    require(type(loss) is (np.float64 if dtype.itemsize == 8 else np.float32))


@edge_case("arrays of zero stride")
def _(dtype):
    row = numbers(1, 9, dtype)[0]
    x, y = np.broadcast_to(row, (4, 9)), np.array([0, 3, 8, 3])
    for got, want in zip(both(x, y), both(x.copy(), y), strict=True):
        same(got, want)
    x = np.broadcast_to(row[:, None], (9, 5))  # every class of a row is one element
    same(log_softmax(x), log_softmax(x.copy()))
