"""The loss of hidden states: of small whole numbers, whose products are exact in every dtype and every order."""

from __future__ import annotations

import numpy as np

from ... import (
    linear_cross_entropy,
    linear_cross_entropy_and_grad,
    linear_log_probs,
    linear_log_probs_and_grad,
    reference,
)
from ..._options import NUMERIC, OPTIONS
from ..ulps import exact, refuses, require, result_dtype, same, within
from .case import NAN, edge_case

GIVEN = {
    "plain": {},
    "weights": {"class_weight": np.arange(7) / 4, "sample_weight": [0.5, 0, 1, 2, 1, 0]},
    "numbers": {name: OPTIONS[name].samples[0] for name in NUMERIC},
    "ignored": {"ignore_index": 3},
    "prior": {"class_prior": np.array([0.5, -np.inf, 0, 2, -1, 0.25, -3]), "where": np.arange(6) != 2},
}


def _layer(dtype, n=6, features=5, classes=7):
    rng = np.random.default_rng(7)
    hidden, weight = (rng.integers(-2, 3, (size, features)).astype(dtype) for size in (n, classes))
    return hidden, weight, rng.integers(-2, 3, classes).astype(dtype), rng.integers(0, classes, n)


def _logits(hidden, weight, bias):
    h, w, b = (a.astype(np.float64).tolist() for a in (hidden, weight, bias))
    return np.array([reference.linear(row, w, b) for row in h])


def _near(got, expected, terms, dtype):
    """Within a few roundings of the terms of each sum, and that of the result.

    For bfloat16 a product may round the gradient on the logits to that, too, as it does on such CPUs' own units.
    """
    real = np.finfo(np.float64 if dtype.itemsize == 8 else np.float32).eps
    of_terms = 2.0**-8 if dtype.name == "bfloat16" else 8 * real
    of_result = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype.name, real)
    allowed = of_terms * np.asarray(terms) + 0.51 * of_result * np.abs(expected) + 2.0**-24 * (dtype.name == "float16")
    require((np.abs(got.astype(np.float64) - expected) <= allowed).all())


def _check_gradients(found, grad, hidden, weight):
    """Assert that gradients on hidden states, weight and bias are those of this gradient on the logits."""
    dtype, parts = hidden.dtype, [a.astype(np.float64) for a in (hidden, weight)]
    expected = reference.linear_grad(grad.tolist(), *[a.tolist() for a in parts])
    terms = reference.linear_grad(np.abs(grad).tolist(), *[np.abs(a).tolist() for a in parts])
    for got, exactly, in_all in zip((found.hidden, found.weight, found.bias), expected, terms, strict=True):
        require(got.dtype == dtype)
        _near(got, np.array(exactly), in_all, dtype)


@edge_case("linear: loss and gradients of each option")
def _(dtype):
    hidden, weight, bias, y = _layer(dtype)
    z = _logits(hidden, weight, bias)
    for name, given in GIVEN.items():
        options = given | {"reduction": "none"}
        v = np.array(given.get("sample_weight", np.ones(6))) * (y != given.get("ignore_index", -1))
        v = v * given.get("where", np.ones(6))
        more = {key: given[key].tolist() for key in ("class_weight", "class_prior") if key in given}
        more |= given if name == "numbers" else {}
        times = 4 if dtype == np.float64 and name in ("numbers", "prior") else 1  # logits that are rounded once more
        losses, grads, _ = exact(z, y.tolist(), [reference.Row(weight=each, **more) for each in v])
        for rows in (None, 1, 4):
            found = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, rows=rows, **options)
            within(found.loss, losses, dtype, "loss", np.abs(losses).max() * (name == "numbers"), times)
            same(linear_cross_entropy(hidden, weight, y, bias=bias, rows=rows, **options), found.loss)
            _check_gradients(found, grads, hidden, weight)


@edge_case("linear: rows that do not count are not read")
def _(dtype):
    hidden, weight, bias, y = _layer(dtype)
    spoilt = np.concatenate([hidden, hidden])
    spoilt[1::2] = NAN
    targets, kept = np.repeat(y, 2), slice(None, None, 2)
    targets[1::2] = -100
    spoilt[kept] = hidden
    v = np.tile([1.0, 0.0], 6)
    plain = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias)
    for options in ({"ignore_index": -100}, {"sample_weight": v, "ignore_index": -100}):
        found = linear_cross_entropy_and_grad(spoilt, weight, targets, bias=bias, **options)
        same(found.hidden[kept], plain.hidden)
        require(not found.hidden[1::2].astype(np.float64).any())
        for name in ("loss", "weight", "bias"):
            same(getattr(found, name), getattr(plain, name))


@edge_case("linear: no row counts")
def _(dtype):
    hidden, weight, bias, y = _layer(dtype)
    none = linear_cross_entropy_and_grad(hidden[:0], weight, y[:0], bias=bias)
    ignored = linear_cross_entropy_and_grad(hidden, weight, np.full(6, -1), bias=bias, ignore_index=-1, empty=0.0)
    require(np.isnan(none.loss))
    require(ignored.loss == 0)
    for found, rows in ((none, 0), (ignored, 6)):
        require(found.hidden.shape == (rows, 5))
        for part in found[1:]:
            require(not part.astype(np.float64).any())
    require(linear_cross_entropy(hidden[:0], weight, y[:0], reduction="sum") == 0)


@edge_case("linear: one row without an axis, with and without features")
def _(dtype):
    for features in (5, 0):
        hidden, weight, bias, y = _layer(dtype, n=1, features=features)
        rows = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias)
        row = linear_cross_entropy_and_grad(hidden[0], weight, y[0], bias=bias)
        require(row.hidden.shape == (features,))
        for got, expected in zip(row, rows, strict=True):
            same(np.reshape(got, np.shape(expected)), expected)


@edge_case("linear: gradients are added up")
def _(dtype):
    hidden, weight, bias, y = _layer(dtype)
    whole = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, reduction="sum")
    out = {name: np.zeros_like(a) for name, a in (("weight", weight), ("bias", bias))}
    for part in (slice(0, 2), slice(2, 6)):
        found = linear_cross_entropy_and_grad(
            hidden[part], weight, y[part], bias=bias, reduction="sum", out=out, accumulate=True
        )
        same(found.hidden, whole.hidden[part])
        require(found.weight is out["weight"])
    coarse = {"float16": 2.0**-9, "bfloat16": 2.0**-6}.get(dtype.name, 1e-6)
    for name, a in out.items():
        np.testing.assert_allclose(a.astype(np.float64), getattr(whole, name).astype(np.float64), atol=8 * coarse)


@edge_case("linear: log-probabilities and entropies")
def _(dtype):
    hidden, weight, bias, y = _layer(dtype)
    _check_log_probs(hidden, weight, bias, y)
    bias[2] = -np.inf  # a class that is not allowed, and a row whose class it is
    y[:2] = 1, 2
    _check_log_probs(hidden, weight, bias, y)
    bias[3:] = -np.inf
    y[0] = 0
    _check_log_probs(hidden[:2], weight, bias, y[:2])


def _check_log_probs(hidden, weight, bias, y):
    dtype, z = hidden.dtype, _logits(hidden, weight, bias).tolist()
    log_p = np.array([reference.log_softmax(row)[c] for row, c in zip(z, y.tolist(), strict=True)])
    h = np.array([reference.entropy(row) for row in z])
    g_p, g_h = np.linspace(-1, 2, len(y)), np.linspace(3, -2, len(y))
    grads = [
        np.array([-c for c in reference.cross_entropy_grad(row, c)]) * a + np.array(reference.entropy_grad(row)) * b
        for row, c, a, b in zip(z, y.tolist(), g_p, g_h, strict=True)
    ]
    for rows in (None, 4):
        found = linear_log_probs_and_grad(hidden, weight, y, bias=bias, rows=rows, grad_log_prob=g_p, grad_entropy=g_h)
        for got, expected in ((found.log_prob, log_p), (found.entropy, h)):
            require(got.dtype == result_dtype(dtype, "loss"))
            within(got, expected, dtype, "loss", np.where(np.isfinite(expected), 4.0, 0.0))
        for got, again in zip(found, linear_log_probs(hidden, weight, y, bias=bias, rows=rows), strict=False):
            same(got, again)
        _check_gradients(found, np.array(grads), hidden, weight)


@edge_case("linear: what does not fit is told")
def _(dtype):
    hidden, weight, bias, y = _layer(dtype)
    other = np.dtype(np.float32 if dtype.itemsize == 8 else np.float64)
    for error, message, call in (
        (ValueError, "weight must have shape (V, H) with the H of hidden, 5, got (7, 4)", {"weight": weight[:, :4]}),
        (TypeError, f"weight must have the dtype of hidden, {dtype}, got {other}", {"weight": weight.astype(other)}),
        (ValueError, "bias must have shape (7,), got (6,)", {"bias": bias[:6]}),
        (ValueError, "weight must have at least one class, got shape (0, 5)", {"weight": weight[:0], "bias": None}),
        (ValueError, "hidden must have shape (..., H), got a scalar", {"hidden": hidden[0, 0]}),
        (IndexError, "targets[1] = 7 is not in [0, 7)", {"targets": [0, 7, 0, 0, 0, 0]}),
        (
            ValueError,
            "targets must have the shape of logits without the class axis, (6,), got (5,)",
            {"targets": y[:5]},
        ),
        (ValueError, "rows must be at least 1, got 0", {"rows": 0}),
        (TypeError, "unexpected keyword argument 'axis'", {"axis": 0}),
        (ValueError, "wrt must be of 'hidden', 'weight', 'bias', got 'targets'", {"wrt": "targets"}),
        (ValueError, "accumulate=True adds to what out has, and needs out", {"accumulate": True}),
        (ValueError, "out['weight'] must have shape (7, 5), got (7, 4)", {"out": {"weight": weight[:, :4]}}),
        (ValueError, "out['weight'] must not share memory with weight", {"out": {"weight": weight}}),
        (ValueError, "out must have no key but 'hidden', 'weight', 'bias', got 'w'", {"out": {"w": weight}}),
    ):
        given = {"hidden": hidden, "weight": weight, "targets": y, "bias": bias} | call
        with refuses(error, message):
            linear_cross_entropy_and_grad(**given)
