"""The design's table of edge cases, by name; for `crossentropy.testing`."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from .. import (
    autograd,
    config,
    cross_entropy,
    cross_entropy_and_grad,
    cross_entropy_grad,
    log_softmax,
    logsumexp,
    reference,
    softmax,
)
from .ulps import LIMITS, dtypes, exact, largest_error, near, refuses, require, same

INF, NAN = np.inf, np.nan

EDGE_CASES: dict[str, Callable[[np.dtype], None]] = {}


def _edge_case(name):
    def keep(function):
        EDGE_CASES[name] = function
        return function

    return keep


def both(x, t, **options):
    """Loss and gradient, checked to be the same from the fused call, the loss alone and the saved pair."""
    loss, grad = cross_entropy_and_grad(x, t, **options)
    same(cross_entropy(x, t, **options), loss)
    again, saved = autograd.forward(x, t, **options)
    same(again, loss)
    same(autograd.backward(saved), grad)
    return loss, grad


def _numbers(n, classes, dtype, seed=1):
    return np.random.default_rng(seed).standard_normal((n, classes)).astype(dtype)


@_edge_case("mean over no effective row")
def _(dtype):
    x, t = np.array([[0.0, NAN, 2.0], [1.0, 2.0, 3.0]]).astype(dtype), np.array([1, 1])
    for options in ({"ignore_index": 1}, {"sample_weight": [0.0, 0.0]}, {"class_weight": [1.0, 0.0, 1.0]}):
        loss, grad = both(x, t, **options)
        require(np.isnan(loss) and not grad.any())
        loss, grad = both(x, t, empty=0.0, **options)
        require(loss == 0 and not grad.any())
    loss, grad = both(x, t, ignore_index=1, normalizer=64)
    require(loss == 0 and not grad.any())


@_edge_case("target outside the classes")
def _(dtype):
    x = np.zeros((3, 4), dtype)
    for t, message in (
        ([0, 4, 2], "targets[1] = 4 is not in [0, 4)"),
        (np.array([0, 2**63, 1], np.uint64), "targets[1] = 9223372036854775808 is not in [0, 4)"),
        (np.array([0, 200, 201], np.uint8), "targets[1] = 200 is not in [0, 4)"),
    ):
        for call in (cross_entropy, cross_entropy_and_grad, autograd.forward):
            with refuses(IndexError, message):
                call(x, t)
    with config(check=False):
        loss, grad = both(x, np.array([0, 4, 2]), reduction="none")
    require(np.isnan(loss).tolist() == [False, True, False])
    require(np.isnan(grad.astype(float)).all(axis=1).tolist() == [False, True, False])


@_edge_case("negative target")
def _(dtype):
    x = np.zeros((3, 4), dtype)
    for value in (-1, -(2**63)):
        with refuses(IndexError, f"targets[2] = {value} is not in [0, 4)"):
            cross_entropy(x, np.array([0, 1, value]))
    with config(check=False):
        require(np.isnan(cross_entropy(x, np.array([0, 1, -1]), reduction="none")).tolist() == [False, False, True])


@_edge_case("targets of any integer dtype")
def _(dtype):
    x, y = _numbers(6, 100, dtype), np.array([0, 99, 7, 50, 7, 3])
    expected = both(x, y, reduction="none", ignore_index=7)
    for kind in "bBhHiIqQ":
        got = both(x, y.astype(kind), reduction="none", ignore_index=7)
        same(got[0], expected[0])
        same(got[1], expected[1])


@_edge_case("probability targets")
def _(dtype):
    x = _numbers(3, 9, dtype)
    q = np.random.default_rng(2).dirichlet(np.ones(9), 3)
    for kind in dtypes().values():
        narrow = q.astype(kind)
        loss, grad = both(x, narrow, reduction="none")
        losses, grads, units = exact(x, narrow.astype(np.float64).tolist(), [reference.PLAIN] * 3)
        near(loss, losses, 1e-6)  # in float32 for 16-bit and float32 logits, whatever q is
        require(largest_error(grad, grads, dtype.name, units) <= LIMITS[dtype.name]["grad"] + 1)
        require(grad.dtype == dtype and loss.dtype == (np.float64 if dtype == np.float64 else np.float32))
    with refuses(ValueError, "ignore_index is for index targets"):
        cross_entropy(x, q, ignore_index=1)


@_edge_case("dtypes and subclasses that are refused")
def _(dtype):
    t = np.zeros(2, int)
    for x in (np.zeros((2, 3), bool), np.zeros((2, 3), complex), np.zeros((2, 3), object), np.zeros((2, 3), "g")):
        with refuses(TypeError, "logits must be float16, bfloat16, float32, float64 or integers"):
            cross_entropy(x, t)
    for x in (np.ma.zeros((2, 3), dtype), np.zeros((2, 3), dtype).view(np.matrix)):
        with refuses(TypeError, f"logits must be a plain array, got {type(x).__name__}"):
            cross_entropy_and_grad(x, t)
        with refuses(TypeError, f"x must be a plain array, got {type(x).__name__}"):
            log_softmax(x)
    with refuses(TypeError, "targets must be integers"):
        cross_entropy(np.zeros((2, 3), dtype), np.zeros(2, bool))


@_edge_case("integer logits")
def _(dtype):
    x = np.array([[1, 2, 3], [3, 1, 2]])
    loss, grad = both(x, np.array([0, 1]))
    require((loss.dtype, grad.dtype) == (np.float64, np.float64))
    same(grad, cross_entropy_grad(x.astype(float), [0, 1]))
    with refuses(TypeError, "arguments swapped?"):
        cross_entropy(np.array([0, 1]), np.zeros((2, 3)).astype(dtype))


@_edge_case("weights that are negative, not finite or of the wrong length")
def _(dtype):
    x, t = np.zeros((3, 4), dtype), np.array([0, 1, 2])
    for name, good in (("class_weight", 4), ("sample_weight", 3)):
        for value in (-1.0, NAN, INF):
            w = np.ones(good)
            w[1] = value
            with refuses(ValueError, f"{name} must be finite and not negative, got {name}[1] = {value}"):
                cross_entropy(x, t, **{name: w})
        with refuses(ValueError, f"{name} must have shape"):
            cross_entropy(x, t, **{name: np.ones(good + 1)})


@_edge_case("no rows")
def _(dtype):
    x, t = np.empty((0, 5), dtype), np.empty(0, np.int64)
    require(cross_entropy(x, t, reduction="none").shape == (0,))
    require(cross_entropy(x, t, reduction="sum") == 0)
    require(cross_entropy(x, t, empty=0.0) == 0)
    loss, grad = both(x, t)
    require(np.isnan(loss) and grad.shape == (0, 5))
    require(log_softmax(x).shape == softmax(x).shape == (0, 5) and logsumexp(x).shape == (0,))


@_edge_case("no classes")
def _(dtype):
    x = np.empty((2, 0), dtype)
    for call in (lambda: cross_entropy(x, [0, 0]), lambda: log_softmax(x), lambda: softmax(x), lambda: logsumexp(x)):
        with refuses(ValueError, "must have at least one class"):
            call()


@_edge_case("one class")
def _(dtype):
    for value in (0.0, -3.5, 60000.0):
        options = {"label_smoothing": 0.3, "class_weight": [2.5], "reduction": "none"}
        loss, grad = both(np.full((3, 1), value).astype(dtype), np.zeros(3, int), **options)
        require(not loss.any() and not grad.any())


@_edge_case("options outside their rules")
def _(dtype):
    x, t = np.zeros((3, 4), dtype), np.array([0, 1, 2])
    for options, message in (
        ({"label_smoothing": 1.5}, "label_smoothing must be in [0, 1], got 1.5"),
        ({"label_smoothing": NAN}, "label_smoothing must be in [0, 1], got nan"),
        ({"z_loss": -1.0}, "z_loss must be finite and not negative, got -1.0"),
        ({"normalizer": 0}, "normalizer must be finite and positive, got 0"),
        ({"normalizer": 5, "reduction": "sum"}, "normalizer goes with reduction='mean'"),
        ({"reduction": "average"}, "reduction must be one of"),
    ):
        for call in (cross_entropy, cross_entropy_and_grad, autograd.forward):
            with refuses(ValueError, message):
                call(x, t, **options)


@_edge_case("out that will not do")
def _(dtype):
    memory = _numbers(1, 64, dtype)[0]
    before = memory.copy()
    x, t = memory[:12].reshape(3, 4), np.array([0, 1, 2])
    read_only = np.broadcast_to(x, x.shape)
    for out, message in (
        (read_only, "out must be writeable"),
        (np.zeros((3, 5), dtype), "out must have shape (3, 4), got (3, 5)"),
        (np.zeros((3, 4), np.complex64), "out must have dtype"),
        (memory[1:13].reshape(3, 4), "out must not share memory with logits"),
        (np.lib.stride_tricks.as_strided(memory[32:], (3, 4), (0, dtype.itemsize)), "out must not overlap itself"),
    ):
        with refuses(ValueError, message):
            cross_entropy_and_grad(x, t, out=out)
        with refuses(ValueError, message.replace("logits", "x")):
            log_softmax(x, out=out)
    same(memory, before)


@_edge_case("arrays of zero stride")
def _(dtype):
    row = _numbers(1, 9, dtype)[0]
    x, y = np.broadcast_to(row, (4, 9)), np.array([0, 3, 8, 3])
    for got, want in zip(both(x, y), both(x.copy(), y), strict=True):
        same(got, want)
    x = np.broadcast_to(row[:, None], (9, 5))  # every class of a row is one element
    same(log_softmax(x), log_softmax(x.copy()))


@_edge_case("undefined rows")
def _(dtype):
    for row in ([NAN, 0.0, 1.0], [0.0, INF, 1.0], [-INF, -INF, -INF], [INF, -INF, 0.0], [1.0, NAN, INF]):
        x = np.array([[1.0, 2.0, 3.0], row, [3.0, 1.0, 2.0]]).astype(dtype)
        for t in (np.array([0, 2, 1]), np.eye(3)[[0, 2, 1]]):
            loss, grad = both(x, t, reduction="none")
            require(np.isnan(loss).tolist() == [False, True, False])
            for result in (grad, log_softmax(x), softmax(x)):
                nan = np.isnan(result.astype(float))
                require(nan[1].all() and not nan[[0, 2]].any())
        require(np.isnan(logsumexp(x)).tolist() == [False, True, False])


@_edge_case("-inf among the others")
def _(dtype):
    x = np.array([[0.5, -INF, 1.5, -INF]]).astype(dtype)
    loss, grad = both(x, np.array([0]), reduction="none")
    plain_loss, plain_grad = both(x[:, [0, 2]], np.array([0]), reduction="none")
    same(loss, plain_loss)
    require(grad[0, [1, 3]].tolist() == [0, 0])
    same(grad[0, [0, 2]], plain_grad[0])


@_edge_case("-inf at the target")
def _(dtype):
    loss, grad = both(np.array([[0.0, -INF, 0.0]]).astype(dtype), np.array([1]), reduction="none")
    require(loss == INF and grad[0].tolist() == [0.5, -1.0, 0.5])


@_edge_case("-inf with smoothing")
def _(dtype):
    x = np.array([[0.0, -INF, 1.0]]).astype(dtype)
    require(cross_entropy(x, [0], label_smoothing=0.1) == INF)
    require(np.isfinite(cross_entropy(x, [0], label_smoothing=0.1, class_weight=[1.0, 0.0, 1.0])))
    require(np.isfinite(cross_entropy_grad(x, [0], label_smoothing=0.1).astype(float)).all())


@_edge_case("a weight of 0 at -inf")
def _(dtype):
    x, q = np.array([[0.0, -INF, 1.0]]).astype(dtype), np.array([[0.25, 0.0, 0.75]])
    near(cross_entropy(x, q), cross_entropy(x[:, [0, 2]], q[:, [0, 2]]), 2e-7)
    require(cross_entropy(x, np.array([[0.25, 0.5, 0.25]])) == INF)
    near(cross_entropy(x, q, class_weight=[1.0, 0.0, 0.0]), 0.25 * logsumexp(x)[0].astype(float), 2e-7)


@_edge_case("large logits cancel nowhere")
def _(dtype):
    require(cross_entropy(np.array([[1e8, 1e8 - 8]], np.float32), [1]) == np.float32(8.0003354063728956))


@_edge_case("small losses keep their digits")
def _(dtype):
    loss, grad = both(np.array([[50.0, 0.0]]), np.array([0]), reduction="none")
    near(loss, 1.9287498479639178e-22, 1e-15)
    near(grad[0], [-1.9287498479639178e-22, 1.9287498479639178e-22], 1e-15)


@_edge_case("the largest logits")
def _(dtype):
    largest = float(np.finfo(np.float64).max if dtype.itemsize == 8 else np.finfo(np.float32).max) * 0.9
    x = np.array([[largest, -largest, 0.0]], np.float64 if dtype.itemsize == 8 else np.float32)
    loss, grad = both(x, np.array([1]), reduction="none")
    require(loss == INF and grad[0].tolist() == [1.0, -1.0, 0.0])


@_edge_case("ignored rows are never looked at")
def _(dtype):
    x = _numbers(4, 9, dtype)
    x[[1, 3]] = NAN
    q = np.random.default_rng(2).dirichlet(np.ones(9), 4)
    q[1] = NAN
    kinds = [(np.array([2, -100, 5, -100]), {"ignore_index": -100}), (q, {"sample_weight": [1.0, 0.0, 1.0, 0.0]})]
    for (t, options), reduction in itertools.product(kinds, ("none", "sum", "mean")):
        loss, grad = both(x, t, reduction=reduction, **options)
        want = both(x[[0, 2]], t[[0, 2]], reduction=reduction)
        same(loss[[0, 2]] if reduction == "none" else loss, want[0])
        same(grad[[0, 2]], want[1])
        require(not grad[[1, 3]].any())
        require(reduction != "none" or loss[[1, 3]].tolist() == [0, 0])


@_edge_case("a row of sample weight 0 may have any target")
def _(dtype):
    near(cross_entropy(np.zeros((2, 3), dtype), [0, 9], sample_weight=[1, 0]), np.log(3), 1e-7)


@_edge_case("ignore_index that a dtype ends at, or does not have")
def _(dtype):
    x = np.zeros((2, 3), dtype)
    for ignored, kind in ((255, np.uint8), (-1, np.int64), (2**64 - 1, np.uint64), (-(2**63), np.int64)):
        loss = cross_entropy(x, np.array([1, ignored], kind), ignore_index=ignored, reduction="none")
        near(loss, [np.log(3), 0], 1e-7)
    for ignored, kind in ((-100, np.uint8), (300, np.uint8), (2**64 - 1, np.int64), (-1, np.uint64)):
        near(cross_entropy(x, np.array([1, 2], kind), ignore_index=ignored), np.log(3), 1e-7)


@_edge_case("a single row")
def _(dtype):
    x = np.array([1.0, 2.0, 3.0]).astype(dtype)
    loss, grad = both(x, 2)
    near(loss, 0.40760596444438, 1e-7)
    require(grad.shape == (3,) and cross_entropy(x, 2, reduction="none").shape == ())
    require(type(loss) is (np.float64 if dtype.itemsize == 8 else np.float32))


@_edge_case("a strict floating-point environment")
def _(dtype):
    x, expected = np.array([[0.0, -95.0]], np.float32), np.float32(np.exp(-95.0))
    with np.errstate(all="raise"):
        require(cross_entropy(x, [0]) == expected)
        require(cross_entropy(x, [0], class_weight=[1.0, 1e-60]) == expected)
        require(cross_entropy(np.array([[3e38, -3e38]], np.float32), [1]) == INF)
