"""The numbers of each row: leading classes, ties, rows that are undefined or do not count, and what has no target."""

from __future__ import annotations

import numpy as np

from ... import RowStatistics, autograd, config, cross_entropy, logsumexp, reference, row_statistics
from ..layouts import LAYOUTS, has_layout
from ..ulps import largest_error, near, refuses, require, result_dtype, same, within
from .case import INF, NAN, edge_case, numbers
from .log_softmax import MOST, with_leaders

# Ulps of an entropy, and of a largest probability, by dtype of the logits; the reference is allowed 1 more.
ENTROPY = {"float32": 2, "float64": 4, "float16": 2, "bfloat16": 2}

# Ulps of the largest of an entry's terms.
GRADIENT = MOST | {"float64": 12}

NUMBERS = RowStatistics._fields[:7]
FLOATING = NUMBERS[:5]
WITHOUT_TARGET = tuple(name for name in NUMBERS if name not in ("loss", "log_prob", "rank"))

SIZES = (1, 2, 3, 10, 65)  # classes; tests/test_contract.py has others


def check(x, y, gradients=True):
    """Hold the numbers of rows (N, C) with targets y to the reference's."""
    found = row_statistics(x, y, top=1)
    rows, dtype, targets = x.astype(np.float64).tolist(), x.dtype, y.tolist()
    top = np.abs(x.astype(float)).max(axis=1)  # m + log1p(rest) may cancel
    loss = np.array([reference.cross_entropy(z, c) for z, c in zip(rows, targets, strict=True)])
    within(found.loss, loss, dtype, "loss")
    within(found.log_prob, -loss, dtype, "loss")
    within(found.logsumexp, [reference.logsumexp(z) for z in rows], dtype, "loss", top)
    for got, expected in (
        (found.entropy, [reference.entropy(z) for z in rows]),
        (found.max_prob, [1 / (1 + reference.partial(z).rest) for z in rows]),
    ):
        error = largest_error(got, expected, result_dtype(dtype, "loss"))
        require(error <= ENTROPY[dtype.name] + 1, f"{dtype.name}: {error:.2f} ulp, allowed {ENTROPY[dtype.name]}")
    require(found.argmax.tolist() == [reference.largest(z) for z in rows])
    require(found.rank.tolist() == [reference.rank(z, c) for z, c in zip(rows, targets, strict=True)])
    require(found.argmax.dtype == found.rank.dtype == np.int64)
    require(found.entropy.dtype == result_dtype(dtype, "loss"))
    same(found.in_top[1], found.rank < 1)
    without = row_statistics(x)
    require(without.loss is None and without.log_prob is None and without.rank is None and not without.in_top)
    for name in WITHOUT_TARGET:
        same(getattr(without, name), getattr(found, name))
    if gradients:
        check_gradient(x, y, found)


def check_gradient(x, y, found):
    """Hold the gradient of log-probabilities and entropies to the reference's; what was found of them is given."""
    g_l, g_h = np.linspace(-1, 2, len(x)), np.linspace(3, -2, len(x))
    (log_prob, entropy), saved = autograd.log_probs_forward(x, y)
    same(log_prob, found.log_prob)
    same(entropy, found.entropy)
    again = autograd.restored_log_probs(autograd.numbers_of(saved)[0], x, y)
    for a, b in ((g_l, g_h), (1.0, 0.0), (0.0, g_h))[: 3 if x.shape[1] < 100 else 1]:
        grad = autograd.log_probs_backward(saved, a, b)
        same(autograd.log_probs_backward(again, a, b), grad)
        arriving = ((g + 0 * g_l).tolist() for g in (a, b))
        rows = list(zip(x.astype(float).tolist(), y.tolist(), *arriving, strict=True))
        exact = [reference.log_probs_grad(*row) for row in rows]
        terms = [reference.log_probs_terms(*row) for row in rows]
        most = GRADIENT[x.dtype.name]
        error = largest_error(grad, exact, x.dtype.name, np.array(terms))
        require(error <= most + (0.5 if most > 1 else 0), f"{x.dtype.name}: {error:.2f} ulp, allowed {most}")


def every_number(classes, dtype):
    """Rows of so many classes whose largest is at either end and in between, with targets there and elsewhere."""
    x = (numbers(6, classes, np.float64, classes) * 3).astype(dtype)
    ends = [0, classes - 1, classes // 2]
    x[np.arange(3), ends] = 12
    check(x, np.array([*ends, classes - 1, 0, classes // 3]))


@edge_case("row statistics: every number")
def _(dtype):
    for classes in SIZES:
        every_number(classes, dtype)


def leaders(classes, place, dtype):
    """Rows whose class at that place leads by more and more, as targets and not."""
    x = with_leaders(dtype, classes, place)
    x = x[2:4] if classes > 50 else x  # the CUDA simulator is slow
    check(x, np.full(len(x), place))
    check(x, np.zeros(len(x), int))


@edge_case("row statistics: a leader")
def _(dtype):
    for classes, place in ((2, 1), (17, 16), (70, 3)):
        leaders(classes, place, dtype)
    if dtype == np.float64:
        require(abs(row_statistics([50.0, 0.0]).entropy / (51 * np.exp(-50.0)) - 1) < 1e-15)


@edge_case("row statistics: logits with larger gaps than any e^x spans")
def _(dtype):
    most = {"float16": 6e4, "float64": 1e300}.get(np.dtype(dtype).name, 1e38)
    for classes in (3, 70):
        x = numbers(3, classes, dtype)
        x[0, 0], x[1, 1:3], x[2] = most, most, -most
        check(x, np.array([0, 1, 2]))


@edge_case("row statistics: two leaders")
def _(dtype):
    for classes in (5, 66):
        x = numbers(3, classes, dtype)
        x[:, 1], x[:, 4] = 20, (20, 19.5, 10)
        check(x, np.array([1, 4, 0]))


def ties(classes, dtype):
    """Ranks and largest classes of rows with many that are equal, zeros of either sign among them."""
    x = np.zeros((4, classes), dtype)
    x[:, 2] = x[:, classes - 1] = (0, 5, -5, 5)
    x[3, 3] = -0.0
    for y in ([0, 2, 2, 1], [classes - 1] * 4, [3, 3, 3, 3]):
        found, rows = row_statistics(x, y), x.astype(float).tolist()
        require(found.argmax.tolist() == [0, 2, 0, 2])
        require(found.rank.tolist() == [reference.rank(*row) for row in zip(rows, y, strict=True)])


@edge_case("row statistics: ties")
def _(dtype):
    for classes in (6, 70):
        ties(classes, dtype)
    x = np.full((2, 6), -INF).astype(dtype)
    x[:, [1, 4]] = [[2, 2], [1, 3]]
    found = row_statistics(x, [5, 4], top=(1, 6))
    require(found.rank.tolist() == [5, 0] and found.argmax.tolist() == [1, 4])
    require(found.loss[0] == INF and found.log_prob[0] == -INF)
    require(found.in_top[6].all() and found.in_top[1].tolist() == [False, True])
    alone = row_statistics(np.array([[-INF, 3, -INF]]).astype(dtype), [1])
    require(alone.entropy == 0 and alone.max_prob == 1 and alone.log_prob == 0 and alone.rank == 0)


def undefined(classes, dtype):
    """A NaN, a +inf, and nothing but -inf, between rows that have none."""
    x = numbers(5, classes, dtype)
    x[1, classes - 1], x[2, 0], x[3] = NAN, INF, -INF
    found = row_statistics(x, [0, 1, 0, 1, 2], top=(1, classes))
    require(found.argmax[1:4].tolist() == [-1] * 3 and found.rank[1:4].tolist() == [classes] * 3)
    for name in ("loss", "entropy", "log_prob", "max_prob"):
        require(np.isnan(getattr(found, name)).tolist() == [False, True, True, True, False], name)
    same(np.isfinite(found.logsumexp), np.isfinite(logsumexp(x)))
    same(found.logsumexp[1:4], logsumexp(x)[1:4])
    require(found.in_top[classes].tolist() == [True, False, False, False, True])
    same(row_statistics(x).argmax, found.argmax)
    _, saved = autograd.log_probs_forward(x, np.array([0, 1, 0, 1, 2]))
    for arriving in (1.0, 0.0):
        nan = np.isnan(autograd.log_probs_backward(saved, arriving, arriving).astype(float))
        require(nan[1:4].all() and not nan[[0, 4]].any())


@edge_case("row statistics: undefined rows")
def _(dtype):
    for classes in (3, 70):
        undefined(classes, dtype)


@edge_case("row statistics: targets that are no class, where these are not looked at")
def _(dtype):
    for classes in (4, 70):
        x, y = numbers(4, classes, dtype), np.array([0, 300, -2, 3], np.int16)
        with config(check=False):
            found = row_statistics(x, y)
            _, saved = autograd.log_probs_forward(x, y)
            nan = np.isnan(autograd.log_probs_backward(saved, 1.0, 1.0).astype(float))
        for name in FLOATING:
            require(np.isnan(getattr(found, name)).tolist() == [False, True, True, False], name)
        require(found.argmax[1:3].tolist() == [-1, -1] and found.rank[1:3].tolist() == [classes] * 2)
        require(nan[1:3].all() and not nan[[0, 3]].any())


@edge_case("row statistics: rows that do not count")
def _(dtype):
    for classes in (4, 70):
        x, y = numbers(4, classes, dtype), np.array([0, -100, 2, 3])
        x[1:3] = NAN
        found = row_statistics(x, y, ignore_index=-100, sample_weight=[1, 1, 0, 0.5], top=2)
        for name in FLOATING:
            require(not getattr(found, name)[1:3].any(), name)
        require(found.argmax[1:3].tolist() == [-1, -1] and found.rank[1:3].tolist() == [classes] * 2)
        plain = row_statistics(x[[0, 3]], y[[0, 3]])
        near(found.loss[[0, 3]], np.array([1, 0.5]) * plain.loss.astype(float), 2e-7)
        for name in NUMBERS[1:]:
            same(getattr(found, name)[[0, 3]], getattr(plain, name))
        weighted = row_statistics(x, sample_weight=[1, 0, 0, 1])
        same(weighted.entropy, found.entropy)
        _, saved = autograd.log_probs_forward(x, y, ignore_index=-100)
        require(not autograd.log_probs_backward(saved, 1.0, 1.0)[1].astype(float).any())


@edge_case("row statistics: options, and probabilities")
def _(dtype):
    for classes in (5, 70):
        x, y = numbers(4, classes, dtype), np.array([0, 1, 4, 3])
        plain = row_statistics(x, y)
        w = np.linspace(0.5, 2, classes)
        for options in (
            {"class_weight": w},
            {"label_smoothing": 0.1},
            {"focal": 2.0, "margin": 0.5, "sample_weight": [1, 2, 0.5, 1]},
        ):
            found = row_statistics(x, y, **options)
            near(found.loss, cross_entropy(x, y, reduction="none", **options).astype(float), 4e-7)
            for name in NUMBERS[1:]:
                same(getattr(found, name), getattr(plain, name))
        q = np.full(x.shape, 1 / classes)
        found = row_statistics(x, q)
        same(found.loss, cross_entropy(x, q, reduction="none"))
        require(found.log_prob is None and found.rank is None)
        same(found.entropy, plain.entropy)


@edge_case("row statistics: transformed logits")
def _(dtype):
    for classes in (5, 70):
        x, y = (numbers(4, classes, np.float64) * 3).astype(dtype), np.array([0, 1, 4, 3])
        prior = np.linspace(-2, 1, classes)
        prior[2] = -INF
        given = {"logit_scale": 0.7, "softcap": 5.0, "class_prior": prior}
        row = reference.Row(**(given | {"class_prior": prior.tolist()}))
        found = row_statistics(x, y, **given, margin=0.5, top=2)
        rows, targets = x.astype(float).tolist(), y.tolist()
        for name, of_row in {
            "loss": lambda z, c, row: reference.cross_entropy(z, c, row._replace(margin=0.5)),
            "entropy": lambda z, c, row: reference.entropy(z, row),
            "log_prob": lambda z, c, row: reference.log_prob(z, c, row),
            "max_prob": lambda z, c, row: max(reference.numbers_of(z, row).p),
            "argmax": lambda z, c, row: reference.largest(z, row),
            "rank": lambda z, c, row: reference.rank(z, c, row),
        }.items():
            expected = [of_row(z, c, row) for z, c in zip(rows, targets, strict=True)]
            np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-6, atol=1e-6, err_msg=name)
        without = row_statistics(x, **given)
        same(without.entropy, found.entropy)
        alone = row_statistics(x[1], y[1], **given, margin=0.5)
        for name in NUMBERS:
            same(getattr(alone, name), getattr(found, name)[1])
        g_l, g_h = np.linspace(-1, 2, 4), np.linspace(3, -2, 4)
        (log_prob, _), saved = autograd.log_probs_forward(x, y, **given)
        same(log_prob, found.log_prob)
        grad = autograd.log_probs_backward(saved, g_l, g_h).astype(float)
        all_rows = zip(rows, targets, g_l.tolist(), g_h.tolist(), strict=True)
        unit = {2: 2.0**-7, 4: 1e-6, 8: 1e-14}[dtype.itemsize]
        np.testing.assert_allclose(grad, [reference.log_probs_grad(*r, row) for r in all_rows], rtol=unit, atol=unit)
        _, saved = autograd.log_probs_forward(x[1], y[1], **given)
        same(autograd.log_probs_backward(saved, g_l[1], g_h[1]).astype(float), grad[1])
        require(not grad[:, 2].any())


@edge_case("row statistics: layouts, and the class axis first")
def _(dtype):
    for classes in (5, 70):
        x, y = numbers(20, classes, dtype), np.arange(20) % classes
        plain = row_statistics(x, y, top=3)
        for name, layout in LAYOUTS.items():
            if has_layout(dtype, name) and (classes == 5 or name == "contiguous"):
                alike = _same_numbers if classes <= 64 else _close_numbers
                alike(row_statistics(layout(x), y, top=3), plain)
                first = row_statistics(layout(np.ascontiguousarray(x.T)), y, axis=0, top=3)
                alike(first, plain)
        _same_numbers(row_statistics(x[3], y[3], top=3), type(plain)(*(_at(a, 3) for a in plain)))
        cube = x.reshape(5, 4, classes)
        found = row_statistics(cube, y.reshape(5, 4), top=3)
        _same_numbers(type(plain)(*(_flat(a) for a in found)), plain)


def _at(a, n):
    return {k: hit[n] for k, hit in a.items()} if isinstance(a, dict) else a[n]


def _flat(a):
    return {k: hit.reshape(-1) for k, hit in a.items()} if isinstance(a, dict) else a.reshape(-1)


def _same_numbers(got, expected):
    for a, b in zip(got[:-1], expected[:-1], strict=True):
        same(a, b)
    require(got.in_top.keys() == expected.in_top.keys())
    for k, hit in got.in_top.items():
        same(hit, expected.in_top[k])


def _close_numbers(got, expected):
    """Places alike; numbers to the contract: rows of many classes that lie side by side are added in another order."""
    for name in ("argmax", "rank"):
        same(getattr(got, name), getattr(expected, name))
    for name in FLOATING:
        a, b = getattr(got, name), getattr(expected, name)
        require(largest_error(a, b.astype(float), b.dtype.name, np.full(b.shape, 4.0)) <= 4, name)


@edge_case("row statistics: large logits")
def _(dtype):
    for at in (255.5, -257.0, 2047.0, 3e4):
        x = (with_leaders(dtype, 20, 2).astype(np.float64) + at).astype(dtype)[1:3]
        check(x, np.array([2, 0]))


def long_rows(dtype):
    """Rows of several blocks, whose maxima rise from one to the next."""
    x = numbers(2, 2050, dtype)
    x[:, 2048] = 5
    check(x, np.array([2048, 1]), gradients=False)
    x = np.zeros((3, 2500), dtype)
    x[0, 2100], x[1, 3], x[2] = 500, 300, np.linspace(-400, 400, 2500)  # anchors that move from block to block
    check(x, np.array([2100, 2499, 2000]), gradients=False)
    check(x, np.array([5, 5, 0]), gradients=False)
    # Two leaders in a later block, at last by so much that e^x has no room where the first is anchored.
    x = numbers(6, 2500, dtype)
    x[:, 2100] = x[:, 2300] = np.array([3.5, 12, 19, 21, 50, 90])
    check(x, np.array([2100, 2300, 3, 2300, 2300, 2499]), gradients=False)


@edge_case("row statistics: what does not fit is told")
def _(dtype):
    x = np.zeros((2, 3), dtype)
    for error, message, call in (
        (ValueError, "top is for index targets, which have a rank, got top=1", {"top": 1}),
        (ValueError, "top must be of 1 to 3, the number of classes, got 4", {"targets": [0, 1], "top": (1, 4)}),
        (ValueError, "top must be of 1 to 3, the number of classes, got 0", {"targets": [0, 1], "top": 0}),
        (TypeError, "top must be an integer, or several, got 1.5", {"targets": [0, 1], "top": 1.5}),
        (IndexError, "targets[1] = 3 is not in [0, 3)", {"targets": [0, 3]}),
        (TypeError, "unexpected keyword argument 'reduction'", {"targets": [0, 1], "reduction": "mean"}),
    ):
        with refuses(error, message):
            row_statistics(x, **call)
