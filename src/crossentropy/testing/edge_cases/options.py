"""Logits that the options change before the softmax, and focal: where numbers end, and where one class leads."""

from __future__ import annotations

import itertools

import numpy as np

from ... import cross_entropy_and_grad, reference
from ..ulps import exact, near, require, same, within
from .case import INF, NAN, both, edge_case, numbers

CHANGES = (
    {"logit_scale": 0.7},
    {"softcap": 5.0},
    {"margin": 0.6},
    {"logit_scale": 3.0, "softcap": 30.0, "margin": -2.5},
)
FEW, MANY = 5, 100  # classes: rows that are lanes, and rows in blocks


def _right(x, t, dtype, **options):
    """Loss and gradient, held to the reference's; three times the contract, and for float64 an ulp of each logit."""
    loss, grad = both(x, t, reduction="none", **options)
    rows = [reference.Row(**options)] * len(x)
    losses, grads, units = exact(x, [int(y) for y in t], rows)
    finite = np.where(np.isfinite(x), np.abs(x.astype(float)), 0).max()
    size = min(finite, options.get("softcap") or INF) * options.get("logit_scale", 1.0) + abs(
        options.get("margin", 0.0)
    )
    times = 3 * (1 + size) if dtype == np.float64 else 3
    within(loss, losses, dtype, "loss", times=times)
    within(grad, grads, dtype, "grad", unit_at=units, times=times)
    return loss, grad


@edge_case("the slope of a softcap many caps away")
def _(dtype):
    """Which is e^-280 there and more; in the narrower types 0."""
    if dtype.itemsize < 8:
        return
    for classes in (FEW, MANY):
        x = numbers(3, classes, dtype)
        x[:, ::2] *= 100
        _, grad = both(x, np.arange(3), reduction="none", softcap=1.5)
        _, grads, units = exact(x, [0, 1, 2], [reference.Row(softcap=1.5)] * 3)
        within(grad, grads, dtype, "grad", units)


@edge_case("softcap of infinite logits")
def _(dtype):
    for classes in (FEW, MANY):
        x = numbers(2, classes, dtype)
        x[0, 1], x[1, 2] = INF, -INF
        for t in (np.array([0, 0]), np.array([1, 2])):
            _, grad = _right(x, t, dtype, softcap=5.0)
            require(grad[0, 1] == 0 and grad[1, 2] == 0)


@edge_case("an infinite loss of logits that a softcap has flattened")
def _(dtype):
    """Label smoothing gives a masked class a weight; the slope of an infinite logit is 0, whatever arrives there."""
    for classes in (FEW, MANY):
        x, prior = numbers(2, classes, dtype), np.zeros(classes)
        x[:, 1], x[:, 2], prior[0] = INF, -INF, -INF
        loss, grad = both(
            x, np.array([1, 3]), reduction="none", softcap=1.5, class_prior=prior, label_smoothing=0.3, focal=2.0
        )
        require(np.isinf(loss).all() and not grad[:, 1:3].astype(float).any())


@edge_case("softcap of huge logits")
def _(dtype):
    for large, classes in itertools.product((6e4,) if dtype.itemsize == 2 else (1e30, 1e37), (FEW, MANY)):
        x = numbers(2, classes, dtype)
        x[0, 1], x[1, 2] = large, -large
        _, grad = _right(x, np.array([1, 0]), dtype, softcap=5.0)
        require(grad[0, 1] == 0 and grad[1, 2] == 0)


@edge_case("focal: no class but the target's has any probability, or the row is undefined")
def _(dtype):
    for focal in (0.5, 2.0):
        x = np.array([[-INF, -10, -INF], [-INF] * 3, [NAN, 1, 2], [INF, 1, 2]], dtype)
        loss, grad = both(x, np.array([1, 0, 1, 1]), reduction="none", focal=focal)
        same(np.isnan(loss), np.array([False, True, True, True]))
        require(loss[0] == 0 and not grad[0].astype(float).any(), f"focal {focal}: {loss[0]}, {grad[0]}")
        require(np.isnan(grad[1:].astype(float)).all(), f"focal {focal}: {grad[1:]}")
        loss, grad = both(np.array([[3.0]], dtype), np.array([0]), reduction="none", focal=focal)
        require(loss[0] == 0 and grad[0, 0] == 0, f"focal {focal}, one class: {loss[0]}, {grad[0, 0]}")


@edge_case("margin that takes the lead")
def _(dtype):
    for classes in (FEW, MANY):
        x = numbers(3, classes, dtype)
        x[0, 3] += 20  # leads by more than the margin, by less, and by far less
        x[1, 3] += 9
        x[2, 3] = x[2].max()
        for margin in (10.0, 300.0, -10.0):
            _right(x, np.array([3, 3, 3]), dtype, margin=margin)
            _right(x, np.array([3, 3, 3]), dtype, margin=margin, logit_scale=8.0)


@edge_case("margin at equal logits")
def _(dtype):
    for classes in (FEW, MANY):
        x = np.zeros((1, classes), dtype)
        loss, _ = both(x, np.array([1]), margin=2.0)
        near(loss, np.log1p((classes - 1) * np.exp(2.0)), 1e-6)


@edge_case("class_prior of -inf takes a class away")
def _(dtype):
    x, prior = numbers(3, 6, dtype), np.array([0.5, -INF, 0.0, -1.0, -INF, 0.25])
    kept = np.array([0, 2, 3, 5])
    loss, grad = both(x, np.array([0, 2, 5]), class_prior=prior, reduction="none")
    of_kept, grad_of_kept = both(x[:, kept], np.array([0, 1, 3]), class_prior=prior[kept], reduction="none")
    same(loss, of_kept)
    same(grad[:, kept], grad_of_kept)
    require((grad[:, [1, 4]] == 0).all())


@edge_case("class_prior of -inf at the target, and everywhere")
def _(dtype):
    loss, grad = both(np.zeros((1, 3), dtype), np.array([1]), class_prior=np.array([0.0, -INF, 0.0]), reduction="none")
    require(loss == INF and grad[0].tolist() == [0.5, -1.0, 0.5])
    loss, grad = both(np.zeros((1, 3), dtype), np.array([1]), class_prior=np.full(3, -INF), reduction="none")
    require(np.isnan(loss).all() and np.isnan(grad.astype(float)).all())


@edge_case("undefined and ignored rows of changed logits")
def _(dtype):
    for classes in (FEW, MANY):
        x = numbers(4, classes, dtype)
        x[1, 2], x[2, 0] = NAN, NAN
        t = np.array([1, 0, -1, 2])
        for options in (*CHANGES, {"focal": 2.0}, {"class_prior": np.zeros(classes), "softcap": 2.0}):
            loss, grad = both(x, t, ignore_index=-1, reduction="none", **options)
            require(np.isnan(loss).tolist() == [False, True, False, False] and loss[2] == 0)
            nan = np.isnan(grad.astype(float))
            require(nan[1].all() and not nan[[0, 2, 3]].any() and (grad[2] == 0).all())


@edge_case("a row of -inf logits that a scale leaves")
def _(dtype):
    for classes in (FEW, MANY):
        x = numbers(2, classes, dtype)
        x[:, 1::3] = -INF
        t = np.array([0, 2])
        for options in ({"logit_scale": 0.7}, {"margin": 0.6}, {"logit_scale": 2.0, "margin": 5.0, "focal": 1.0}):
            _, grad = _right(x, t, dtype, **options)
            require((grad[:, 1::3] == 0).all())


@edge_case("confident rows of changed logits keep every digit")
def _(dtype):
    lead = 12
    for classes in (FEW, MANY):
        x = numbers(2, classes, dtype)
        x[:, 1] += lead
        for options in CHANGES:
            _right(x, np.array([1, 1]), dtype, **options)


@edge_case("far logits of changed rows")
def _(dtype):
    by = 100.0 if dtype.itemsize == 2 else 1000.0
    for classes in (FEW, MANY):
        x = (numbers(2, classes, np.dtype(np.float64)) * 3 + by * np.array([[1], [-1]])).astype(dtype)
        for options in ({"logit_scale": 1.5}, {"margin": 2.0}, {"logit_scale": 0.25, "margin": 1.0}):
            _right(x, np.array([1, 2]), dtype, **options)


@edge_case("focal of a confident row")
def _(dtype):
    x = np.array([[20.0, 0.0, 0.0]]).astype(dtype)
    loss, grad = both(x, np.array([0]), focal=2.0)
    below_1 = 2 * np.exp(-20.0) / (1 + 2 * np.exp(-20.0))
    near(loss, below_1**2 * np.log1p(2 * np.exp(-20.0)), 2e-7)
    if dtype.itemsize > 2:  # which have no such small number
        near(grad[0, 0], -3 * below_1**3, 1e-6)


@edge_case("focal of a target far ahead")
def _(dtype):
    """Whose 1 - p has no float32, but its power has, which smoothing multiplies by a number that is not small."""
    aheads = np.array([100.0, 104.0, 110.0, 124.0, 130.0, 200.0])
    for focal in (0.5, 2.0):
        for classes, label_smoothing in ((2, 0.1), (FEW, 0.0), (FEW, 0.1), (MANY, 0.1), (3 * MANY, 0.0)):
            x = numbers(len(aheads), classes, np.dtype(np.float64))
            x[:, 1] = aheads
            t = np.ones(len(aheads), int)
            _right(x.astype(dtype), t, dtype, focal=focal, label_smoothing=label_smoothing)


@edge_case("grad_output next to nothing")
def _(dtype):
    """A gradient keeps its digits down to the smallest numbers of its type."""
    for classes in (FEW, MANY):
        x = numbers(3, classes, dtype)
        t, options = np.arange(3), {"reduction": "sum"}
        _, whole = cross_entropy_and_grad(x, t, **options)
        for power in (-100, -600, -900) if dtype == np.float64 else (-60, -100) if dtype == np.float32 else ():
            _, grad = cross_entropy_and_grad(x, t, grad_output=2.0**power, **options)
            np.testing.assert_allclose(np.ldexp(grad, -power), whole, rtol=8 * np.finfo(dtype).eps)


@edge_case("focal where no other class has any probability")
def _(dtype):
    for gamma in (0.5, 1.0, 2.0):
        for x in (np.zeros((1, 1), dtype), np.array([[0.0, -INF, -INF]]).astype(dtype)):
            loss, grad = cross_entropy_and_grad(x, np.array([0]), focal=gamma)
            require(loss == 0 and (grad == 0).all())


@edge_case("no rows of changed logits")
def _(dtype):
    for options in CHANGES:
        loss, grad = both(np.zeros((0, 4), dtype), np.zeros(0, int), reduction="none", **options)
        require(loss.shape == (0,) and grad.shape == (0, 4))


@edge_case("focal loss that is infinite")
def _(dtype):
    """Of a masked class that smoothing gives a weight: the limit of g (p_c - delta_cy), and no g where p_c is 0."""
    options = {"focal": 1.0, "label_smoothing": 0.1}
    for classes in (FEW, MANY):
        x = numbers(3, classes, dtype)
        x[:, 1] = -INF
        x[1, 2] = 9  # p_y is next to 1
        t = np.array([0, 2, 1])
        loss, grad = both(x, t, reduction="none", **options)
        f = (1 - np.exp(-cross_entropy_and_grad(x.astype(float), t, reduction="none")[0])) * 0.1 / classes
        for n in range(3):
            want = np.full(classes, INF)
            want[t[n]], want[1] = -INF, -f[n]
            if n == 2:  # the target itself, whose p and with it g is 0
                others = np.delete(x[2].astype(float), 1)
                p = np.exp(others - others.max())
                want = np.insert(p / p.sum() - 0.1 / classes, 1, -0.9 - 0.1 / classes)
            require(loss[n] == INF, str(loss))
            with np.errstate(invalid="ignore"):
                np.testing.assert_allclose(grad[n].astype(float), want, rtol=2e-2, atol=1e-3, equal_nan=False)
            got, slopes = x[n].astype(float).tolist(), reference.Row(**options)
            right = reference.cross_entropy_grad(got, int(t[n]), slopes)
            require(np.array_equal(np.isinf(right), np.isinf(want)) and not np.isnan(right).any(), str(right))
