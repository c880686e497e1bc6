"""The logsumexp of rows that are infinite, beside rows that are not; and its weights, with the sign of the sum."""

from __future__ import annotations

import numpy as np

from ... import log_softmax, logsumexp, reference, row_statistics, softmax
from ..layouts import LAYOUTS, has_layout
from ..ulps import near, refuses, require, result_dtype, same, within
from .case import INF, NAN, edge_case, numbers

SIZES = (2, 10, 65)  # classes; tests/test_contract.py has others, by the code path of the package's own backends


def _extreme_rows(classes, dtype):
    """Rows that are infinite or NaN at every place that a pass could miss, between rows that are not; (x, lse)."""
    x, plain = numbers(23, classes, dtype), np.zeros(23, bool)
    lse = np.full(23, NAN)
    plain[::3] = True
    last, middle = classes - 1, classes // 2
    x[1] = x[2] = -INF
    lse[[1, 2]] = -INF
    for n, (places, value) in {
        4: ([0], INF), 5: ([last], INF), 7: ([middle], INF), 8: ([0], NAN), 10: ([last], NAN), 11: ([middle], NAN),
        13: ([0, last], INF), 14: (slice(None), INF), 16: (slice(None), NAN),
    }.items():  # fmt: skip
        x[n, places] = value
        lse[n] = value
    x[17] = -INF
    x[17, last], lse[17] = INF, INF
    x[19], x[20] = INF, -INF
    x[19, 0] = x[20, last] = NAN
    x[22] = -INF
    x[22, middle], lse[22] = 1.5, 1.5
    lse[plain] = [reference.logsumexp(row) for row in x[plain].astype(float).tolist()]
    return x, lse


def infinite_rows(classes, dtype, layouts=("contiguous",)):
    """Assert what such rows give: laid in these ways, with the class axis last and first, and with weights of 1."""
    x, lse = _extreme_rows(classes, dtype)
    top = np.abs(np.nan_to_num(x.astype(float), nan=0, posinf=0, neginf=0)).max(axis=1)  # m + log1p(rest) may cancel
    for name in layouts:
        if has_layout(dtype, name):
            layout = LAYOUTS[name]
            within(logsumexp(layout(x)), lse, dtype, "loss", top)
            within(logsumexp(layout(np.ascontiguousarray(x.T)), 0), lse, dtype, "loss", top)
            within(logsumexp(layout(x), b=layout(np.ones_like(x))), lse, dtype, "loss", top)
    for n in (1, 4, 8):  # alone
        same(logsumexp(x[n]), lse[n].astype(result_dtype(dtype, "loss")))
    for function in (log_softmax, softmax):
        finite, got = np.isfinite(lse), function(x)
        require((np.isnan(got.astype(float)) != finite[:, None]).all())
        same(got[finite], function(x[finite]))


@edge_case("logsumexp of infinite rows")
def _(dtype):
    for classes in SIZES:
        infinite_rows(classes, dtype)
    infinite_rows(3, dtype, LAYOUTS)


@edge_case("logsumexp of log-probabilities")
def _(dtype):
    """m and log1p(rest) cancel: what is left is as exact as they are."""
    for classes in (2, 9, 70, 300):
        x = log_softmax(numbers(4, classes, np.float64, classes) * 3)
        x[0] = -np.log(classes)
        x = x.astype(dtype)
        lse, top = np.array([reference.logsumexp(row) for row in x.astype(float).tolist()]), -x.astype(float).max(1)
        within(logsumexp(x), lse, dtype, "loss", top)
        within(row_statistics(x).logsumexp, lse, dtype, "loss", top)


@edge_case("the report's rows")
def _(dtype):
    for row, lse in (
        ([-INF, -INF], -INF),
        ([INF, 0.0], INF),
        ([INF, -INF], INF),
        ([NAN, INF], NAN),
        ([NAN, -INF], NAN),
    ):
        x = np.array(row).astype(dtype)
        for got in (logsumexp(x), logsumexp(x[::-1]), logsumexp(np.stack([x, x]))[1], logsumexp(x[:, None], 0)[0]):
            same(got, np.array(lse, result_dtype(dtype, "loss"))[()])
    for value in (-INF, INF, NAN):
        same(logsumexp(np.array([value]).astype(dtype)), np.array(value, result_dtype(dtype, "loss"))[()])


# ---------------------------------------------------------------------- weights


def _expected(x, b):
    rows = zip(x.astype(float).tolist(), np.broadcast_to(b, x.shape).astype(float).tolist(), strict=True)
    log, sign = np.array([reference.weighted_logsumexp(*row) for row in rows]).T
    return log, sign


def weights_of_any_size(classes, dtype):
    """Assert the result with weights from 1e-250 to 1e250, some of them 0, and with all of them negative."""
    x = numbers(6, classes, dtype)
    b = np.random.default_rng(5).lognormal(0, 2, x.shape)
    b[1] = 1
    b[2, ::2] = 0
    b[3, :-1] *= 1e-9
    b[4] *= 1e250
    b[5] *= 1e-250
    unit = np.abs(x.astype(float)).max(1) + np.abs(np.log(b, where=b > 0, out=np.zeros_like(b))).max(1)
    log, sign = logsumexp(x, b=b, return_sign=True)
    within(log, _expected(x, b)[0], dtype, "loss", unit_at=unit)
    require(sign.tolist() == b.any(1).tolist() and log.dtype == sign.dtype == result_dtype(dtype, "loss"))
    same(logsumexp(x, b=b), log)
    same(logsumexp(x, b=-b, return_sign=True).log, log)
    require((np.isnan(logsumexp(x, b=-b)) == b.any(1)).all())


@edge_case("logsumexp with weights of any size")
def _(dtype):
    for classes in (1, *SIZES):
        weights_of_any_size(classes, dtype)


@edge_case("logsumexp with weights of every dtype, shape and layout")
def _(dtype):
    x = numbers(4, 70, dtype)
    b = np.random.default_rng(6).integers(-3, 9, x.shape)
    want = _expected(x, b)
    unit = np.abs(x.astype(float)).max(1) + 8
    for kind in (np.float16, np.float32, np.float64, np.int8, np.int64, dtype):
        got = logsumexp(x, b=b.astype(kind), return_sign=True)
        within(got.log, want[0], dtype, "loss", unit_at=unit)
        require(got.sign.tolist() == want[1].tolist())
    for name, layout in LAYOUTS.items():
        if has_layout(dtype, name):
            same(logsumexp(layout(x), b=layout(b.astype(np.float64)), return_sign=True).log, got.log)
    same(logsumexp(x, b=b > 0), logsumexp(x, b=(b > 0).astype(float)))  # a mask
    for narrow in (b[:1], b[:, :1], b[0], b[:1, :1], np.float64(-2)):
        near(logsumexp(x, b=narrow, return_sign=True).log, logsumexp(x, b=narrow + 0 * b, return_sign=True).log, 1e-15)
        require(logsumexp(x, 0, b=narrow).shape == (70,))
    require(logsumexp(x[0], b=b).shape == (4,))  # the logits, too, are repeated
    with refuses(ValueError, "b must have a shape that broadcasts with that of x, (4, 70), got (3,)"):
        logsumexp(x, b=np.ones(3))
    with refuses(TypeError, "b must be float16, bfloat16, float32, float64 or integers"):
        logsumexp(x, b=np.ones(70, complex))


@edge_case("logsumexp with weights of 0, infinite weights and logits")
def _(dtype):
    result = np.dtype(result_dtype(dtype, "loss"))
    for row, b, log, sign in (
        ([1.0, 1.0], [1, -1], -INF, 0),
        ([1.0, 1.0, 1.0], [1, -1, -1], 1, -1),
        ([1.0, INF], [1, 0], 1, 1),  # weight 0: it does not count, whatever it is
        ([1.0, NAN], [1, 0], 1, 1),
        ([NAN, INF], [0, 0], -INF, 0),
        ([-INF, -INF], [2, -3], -INF, 0),
        ([INF, 0.0], [2, -3], INF, 1),
        ([INF, 0.0], [-2, 3], INF, -1),
        ([INF, INF], [1, -1], NAN, NAN),
        ([0.0, NAN], [1, -1], NAN, NAN),
        ([0.0, 1.0], [NAN, 1], NAN, NAN),
        ([0.0, -50.0], [1, INF], INF, 1),
        ([0.0, 1.0], [INF, -INF], NAN, NAN),
        ([-INF, 1.0], [INF, 1], NAN, NAN),  # inf times e^-inf
        ([-INF, 1.0], [-1, 1], 1, 1),
    ):
        for more in (0, 61):  # classes that do not count, before and after
            x = np.array([NAN] * more + row + [INF] * more).astype(dtype)
            weights = np.array([0.0] * more + b + [0.0] * more)
            many = np.stack([numbers(1, x.size, dtype)[0], x, numbers(1, x.size, dtype)[0]])
            for got in (
                logsumexp(x, b=weights, return_sign=True),
                [a[1] for a in logsumexp(many, b=weights, return_sign=True)],
            ):
                same(got[0], result.type(log))
                same(got[1], result.type(sign))
            same(logsumexp(x, b=weights), result.type(NAN if sign < 0 else log))


@edge_case("logsumexp with weights and logits of 1e300")
def _(dtype):
    if dtype.itemsize < 8:
        return  # which have no such number
    for row, b in (
        ([1e300, -1e300], [1e308, 1e-308]),
        ([1e300] * 5, [1e308] * 5),
        ([1e300] * 5, [1e-308] * 5),
        ([1e300, -1e300, 5.0], [0, -2, 0]),
        ([1.7e308, -1.7e308], [-1, 1]),
        ([700.0, 0.0], [5e-324, 1.7e308]),
        ([1100.0, 100.0], [1e-300, 1e134]),
        ([-745.0, -700.0], [1e308, 1e300]),
        ([0.0, 1.0], [5e-324, 1e-323]),
        ([0.0], [0.999]),  # near 1, whose distance from it is kept
        ([0.0, -40.0], [1, 1]),
        ([0.0, -40.0], [1, -1]),
    ):
        x, weights = np.array([row]), np.array([b], float)
        log, sign = logsumexp(x, b=weights, return_sign=True)
        want = _expected(x, weights)
        near(log, want[0], 2e-15)
        require(sign[0] == want[1][0])


@edge_case("the sign of a logsumexp without weights")
def _(dtype):
    log, sign = logsumexp(np.array([[1.0, 2.0], [-INF, -INF], [NAN, 1.0], [INF, 1.0]]).astype(dtype), return_sign=True)
    same(sign, np.array([1, 0, NAN, 1], log.dtype))
    same(log, logsumexp(np.array([[1.0, 2.0], [-INF, -INF], [NAN, 1.0], [INF, 1.0]]).astype(dtype)))
