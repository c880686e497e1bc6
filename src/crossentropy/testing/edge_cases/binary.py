"""Losses of one logit each: values, infinities, weights that repeat, layouts, what is refused."""

from __future__ import annotations

import math

import numpy as np

from ... import binary_cross_entropy_with_logits_and_grad as loss_and_grad
from ... import reference, sigmoid_focal_loss_and_grad
from ..ulps import FORMATS, largest_error, refuses, require, result_dtype, same
from .case import INF, NAN, edge_case, numbers

# Ulps that the loss and the gradient may be off by, the reference's own included; a gradient's are its larger term's.
LOSS = {"float32": 2, "float64": 4, "float16": 2, "bfloat16": 2}
GRAD = {"float32": 3.5, "float64": 6, "float16": 0.6, "bfloat16": 0.6}
FOCAL = 4  # times as many in float64, where a power has the errors of its exponent


def check(z, t, weight=1.0, pos_weight=1.0, alpha=None, gamma=0.0, **options):
    """Hold losses and gradients to the reference's, one by one."""
    if gamma or alpha is not None:
        loss, grad = sigmoid_focal_loss_and_grad(
            z, t, alpha=alpha, gamma=gamma, weight=weight, reduction="none", **options
        )
    else:
        loss, grad = loss_and_grad(z, t, weight=weight, pos_weight=pos_weight, reduction="none", **options)
    name = z.dtype.name
    of = [np.broadcast_to(np.asarray(a, float), z.shape).ravel().tolist() for a in (z, t, weight, pos_weight)]
    wants, slopes, units = [], [], []
    for value, target, w, r in zip(*of, strict=True):
        row = reference.Binary(w, r, gamma, alpha)
        wants.append(reference.binary_cross_entropy(value, target, row))
        slopes.append(reference.binary_cross_entropy_grad(value, target, row))
        sides = (reference.Binary(w, r * side, gamma, alpha) for side in (0, 1))
        largest = max(abs(reference.binary_cross_entropy_grad(value, target, side)) for side in sides)
        units.append(max(largest, abs(slopes[-1]), 2.0 ** (FORMATS[name][1] + 8)) if largest == largest else 1.0)
    more = FOCAL if gamma and name == "float64" else 1
    error = largest_error(loss.ravel(), wants, result_dtype(z.dtype, "loss"))
    require(error <= LOSS[name] * more, f"gamma {gamma}: a loss is off by {error:.2f} ulp")
    error = largest_error(grad.ravel(), slopes, name, np.array(units))
    require(error <= GRAD[name] * more, f"gamma {gamma}: a gradient is off by {error:.2f} ulp")
    return loss, grad


def logits(count, dtype, seed=1):
    """Of every size at which kernels go another way."""
    z = numbers(1, count, np.float64, seed)[0] * np.resize([1e-4, 1.0, 3.0, 30.0, 70.0], count)
    return z.astype(dtype)


@edge_case("binary: hard and soft targets of any logit, focal and not")
def _(dtype):
    for count in (1, 2, 7, 17, 33):
        z = logits(count, dtype, count)
        soft = np.linspace(0, 1, count).astype(dtype)
        for t in (np.arange(count) % 2 == 1, np.arange(count) % 2, soft):
            check(z, t)
        check(z, soft, alpha=0.25, gamma=2.0)
        check(z, np.arange(count) % 2, gamma=1.5)


@edge_case("binary: infinite logits, NaN, losses that are small")
def _(dtype):
    z = np.array([INF, INF, -INF, -INF, NAN, NAN, INF, 60.0, -60.0], dtype)
    t = np.array([1, 0, 1, 0, 0, 1, 0.5, 1, 0], dtype)
    for gamma in (0.0, 2.0, 0.5):
        loss, grad = check(z, t, gamma=gamma)
        same(np.isinf(loss), np.array([0, 1, 1, 0, 0, 0, 1, 0, 0], bool))
        same(np.isnan(loss), np.isnan(grad.astype(float)))
    for arriving in (1.0, 0.0):
        undefined = loss_and_grad(z, t, reduction="none", grad_output=arriving).grad
        same(np.isnan(undefined.astype(float)), np.isnan(loss))
        require(loss[0] == 0 and loss[3] == 0, str(loss))
    for alpha in (0.0, 1.0):  # a share of 0 of an infinite loss is 0
        check(z, t, alpha=alpha, gamma=2.0)
    loss, _ = loss_and_grad(z[7:], t[7:], reduction="none")
    require((loss > 0).all(), f"small losses became {loss}")
    weight = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1], dtype)
    same(loss_and_grad(z, t, weight=weight, reduction="none").loss[:7].astype(float), np.zeros(7))
    if np.dtype(dtype).itemsize >= 4:
        loss, _ = loss_and_grad(np.array([-100.0], dtype), [0], reduction="none")
        require(0 < loss[0] < 4e-44, f"e^-100 became {loss[0]}")


@edge_case("binary: weights for all, for each, and that repeat")
def _(dtype):
    z, t = logits(60, dtype).reshape(5, 3, 4), (np.arange(60) % 3 == 1).reshape(5, 3, 4)
    eighths = np.round(np.abs(numbers(1, 60, np.float64, 3)[0]) * 8) / 8
    for weight, pos_weight in (
        (2.0, 0.5),
        (1.0, eighths[:4]),
        (eighths[:12].reshape(3, 4), 1.0),
        (eighths[:4], eighths[:12].reshape(3, 4)),
        (eighths[:15].reshape(5, 3, 1), eighths.reshape(5, 3, 4)),
    ):
        check(z, t, weight, pos_weight)
    check(z, t, eighths[:4], gamma=2.0, alpha=0.75)


@edge_case("binary: reductions, what arrives, layouts, in place")
def _(dtype):
    z, t = logits(35, dtype).reshape(5, 7), (np.arange(35) % 3 == 1).reshape(5, 7)
    each, slopes = loss_and_grad(z, t, reduction="none")
    for reduction, by in (("sum", 1), ("mean", 35)):
        loss, grad = loss_and_grad(z, t, reduction=reduction, grad_output=3.0)
        np.testing.assert_allclose(loss, each.astype(float).sum() / by, rtol=1e-6)
        np.testing.assert_allclose(grad.astype(float), slopes.astype(float) * 3 / by, rtol=2e-2, atol=1e-6)
    many = logits(5000, dtype)  # whose sum is not to be rounded at each of them
    positive = np.arange(5000) % 3 == 1
    each_of_many, _ = loss_and_grad(many, positive, reduction="none")
    total = loss_and_grad(many, positive, reduction="sum").loss
    exact = math.fsum(each_of_many.astype(float).tolist())
    require(largest_error(total, exact, each_of_many.dtype.name) <= 1, f"the sum of many: {total}, not {exact}")
    arriving = np.arange(35.0).reshape(5, 7).astype(each.dtype)
    got = loss_and_grad(z, t, reduction="none", grad_output=arriving).grad
    np.testing.assert_allclose(got.astype(float), slopes.astype(float) * arriving, rtol=2e-2, atol=1e-6)
    for turned in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2]):
        found = loss_and_grad(turned(z), turned(t), reduction="none")
        same(found.loss, each)
        same(found.grad, slopes)
    out = z.copy()
    require(loss_and_grad(out, t, reduction="none", out=out).grad is out)
    same(out, slopes)
    if np.dtype(dtype).kind == "f":  # the bytes of bfloat16 have one order
        out = z.astype(z.dtype.newbyteorder())
        loss_and_grad(out, t, reduction="none", out=out)
        same(out.astype(dtype), slopes)
    out = np.empty((7, 5), dtype).T
    loss_and_grad(z, t, reduction="none", out=out)
    same(out, slopes)
    require(np.isnan(loss_and_grad(z[:0], t[:0]).loss), "the mean over nothing")


@edge_case("binary: arguments that are refused")
def _(dtype):
    z, t = numbers(2, 3, dtype), np.zeros((2, 3), dtype)
    for message, options in (
        ("weight must have a shape that broadcasts to that of logits, (2, 3), got (2,)", {"weight": np.ones(2)}),
        ("pos_weight must be finite, got pos_weight[1] = inf", {"pos_weight": [1, INF, 1]}),
        ("reduction must be one of 'none', 'sum', 'mean', got 'max'", {"reduction": "max"}),
        ("grad_output must be a scalar with reduction='mean', got shape (2, 3)", {"grad_output": np.ones((2, 3))}),
        ("out must have shape (2, 3), got (3,)", {"out": np.empty(3, dtype)}),
        ("out must not share memory with targets", {"out": t}),
    ):
        with refuses(ValueError, message):
            loss_and_grad(z, t, **options)
    with refuses(ValueError, "targets must have the shape of logits, (2, 3), got (3,)"):
        loss_and_grad(z, t[0])
    with refuses(ValueError, "integer targets must be 0 or 1, got targets[1, 2] = 7"):
        loss_and_grad(z, [[0, 1, 0], [1, 1, 7]])
    for message, options in (
        ("gamma must be finite and not negative, got -1", {"gamma": -1}),
        ("alpha must be in [0, 1], or None, got 2", {"alpha": 2}),
    ):
        with refuses(ValueError, message):
            sigmoid_focal_loss_and_grad(z, t, **options)
