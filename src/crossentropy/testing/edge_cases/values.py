"""Logits that are infinite, NaN, huge, or so far apart that others lose the digits of a loss."""

from __future__ import annotations

import numpy as np

from ... import cross_entropy, cross_entropy_grad, log_softmax, logsumexp, reference, softmax
from .. import sweep
from ..ulps import exact, near, require, same, within
from .case import INF, NAN, both, edge_case, numbers


@edge_case("undefined rows")
def _(dtype):
    for row in ([NAN, 0.0, 1.0], [0.0, INF, 1.0], [-INF, -INF, -INF], [INF, -INF, 0.0], [1.0, NAN, INF]):
        x = np.array([[1.0, 2.0, 3.0], row, [3.0, 1.0, 2.0]]).astype(dtype)
        for t in (np.array([0, 2, 1]), np.eye(3)[[0, 2, 1]]):
            loss, grad = both(x, t, reduction="none")
            require(np.isnan(loss).tolist() == [False, True, False])
            for result in (grad, log_softmax(x), softmax(x)):
                nan = np.isnan(result.astype(float))
                require(nan[1].all() and not nan[[0, 2]].any())
        require(np.isfinite(logsumexp(x)).tolist() == [True, False, True])  # its own values: sums.py


@edge_case("-inf among the others")
def _(dtype):
    x = np.array([[0.5, -INF, 1.5, -INF]]).astype(dtype)
    loss, grad = both(x, np.array([0]), reduction="none")
    plain_loss, plain_grad = both(x[:, [0, 2]], np.array([0]), reduction="none")
    same(loss, plain_loss)
    require(grad[0, [1, 3]].tolist() == [0, 0])
    same(grad[0, [0, 2]], plain_grad[0])


@edge_case("-inf at the target")
def _(dtype):
    loss, grad = both(np.array([[0.0, -INF, 0.0]]).astype(dtype), np.array([1]), reduction="none")
    require(loss == INF and grad[0].tolist() == [0.5, -1.0, 0.5])


@edge_case("-inf with smoothing")
def _(dtype):
    x = np.array([[0.0, -INF, 1.0]]).astype(dtype)
    require(cross_entropy(x, [0], label_smoothing=0.1) == INF)
    require(np.isfinite(cross_entropy(x, [0], label_smoothing=0.1, class_weight=[1.0, 0.0, 1.0])))
    require(np.isfinite(cross_entropy_grad(x, [0], label_smoothing=0.1).astype(float)).all())


@edge_case("a weight of 0 at -inf")
def _(dtype):
    x, q = np.array([[0.0, -INF, 1.0]]).astype(dtype), np.array([[0.25, 0.0, 0.75]])
    near(cross_entropy(x, q), cross_entropy(x[:, [0, 2]], q[:, [0, 2]]), 2e-7)
    require(cross_entropy(x, np.array([[0.25, 0.5, 0.25]])) == INF)
    near(cross_entropy(x, q, class_weight=[1.0, 0.0, 0.0]), 0.25 * logsumexp(x)[0].astype(float), 2e-7)


@edge_case("large logits cancel nowhere")
def _(dtype):
    require(cross_entropy(np.array([[1e8, 1e8 - 8]], np.float32), [1]) == np.float32(8.0003354063728956))


@edge_case("small losses keep their digits")
def _(dtype):
    loss, grad = both(np.array([[50.0, 0.0]]), np.array([0]), reduction="none")
    near(loss, 1.9287498479639178e-22, 1e-15)
    near(grad[0], [-1.9287498479639178e-22, 1.9287498479639178e-22], 1e-15)


@edge_case("a weight that is large shows what lies far below")
def _(dtype):
    if dtype.itemsize < 4:
        return  # in which such a gradient is infinite
    for classes in (4, 100):
        x = numbers(2, classes, dtype)
        x[:, 1] = x.max(axis=1) - 171.8
        for weight in (1e25, 2e35):
            _, grad = both(x, np.array([0, 2]), sample_weight=[weight] * 2, reduction="none")
            _, grads, units = exact(x, [0, 2], [reference.Row(weight)] * 2)
            within(grad, grads, dtype, "grad", units)


@edge_case("the largest logits")
def _(dtype):
    largest = float(np.finfo(np.float64).max if dtype.itemsize == 8 else np.finfo(np.float32).max) * 0.9
    x = np.array([[largest, -largest, 0.0]], np.float64 if dtype.itemsize == 8 else np.float32)
    loss, grad = both(x, np.array([1]), reduction="none")
    require(loss == INF and grad[0].tolist() == [1.0, -1.0, 0.0])


@edge_case("a strict floating-point environment")
def _(dtype):
    x, expected = np.array([[0.0, -95.0]], np.float32), np.float32(np.exp(-95.0))
    with np.errstate(all="raise"):
        require(cross_entropy(x, [0]) == expected)
        require(cross_entropy(x, [0], class_weight=[1.0, 1e-60]) == expected)
        require(cross_entropy(np.array([[3e38, -3e38]], np.float32), [1]) == INF)


@edge_case("one exponential is most of what is left")
def _(dtype):
    """Rows on which an ulp of that exponential would be two of the loss, by how many classes a kernel has paths for."""
    x = np.random.default_rng(39).standard_normal((512, 1000)) * 30  # row 274: a loss that was 2.26 ulp off
    rows = [(x[[274]], np.array([x[274].argmax()]))]
    rows += [sweep.rows(np.random.default_rng(classes), 64, classes) for classes in (2, 9, 65, 150, 300)]
    for x, t in rows:
        x = np.clip(x, -6e4, 6e4).astype(dtype)
        loss, grad = both(x, t, reduction="none")
        losses, grads, _ = exact(x, t.tolist(), [reference.PLAIN] * len(x))
        within(loss, losses, dtype, "loss")
        within(grad, grads, dtype, "grad")
        within(log_softmax(x), [reference.log_softmax(z) for z in x.astype(float).tolist()], dtype, "log_softmax")
    if dtype == np.float32:
        near(cross_entropy(rows[0][0].astype(dtype), rows[0][1]), 2.79978961233e-11, 1.8e-7)  # 1.5 ulp
