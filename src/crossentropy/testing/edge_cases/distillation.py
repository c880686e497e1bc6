"""Distillation: rows near each other and far, masked classes, rows that do not count."""

from __future__ import annotations

import itertools

import numpy as np

from ... import distillation, reference
from ..ulps import FORMATS, dtypes, largest_error, refuses, require, result_dtype, same
from .case import INF, NAN, edge_case, numbers

# Ulps that the loss and the gradient may be off by, the reference's own included: the loss from 1e-12 on.
LOSS = {"float32": 5, "float64": 64, "float16": 5, "bfloat16": 5}
GRAD = {"float32": 8, "float64": 256, "float16": 0.6, "bfloat16": 0.6}
BETA = 0.3
LEAST = -840  # power of 2 in whose ulp smaller gradients are judged: a probability below 2^-900 may count as 0


def unit_of(student, teacher, kind, temperature, beta=BETA):
    """In whose ulp each entry of the gradient is judged: a term of it, times the largest |d| where that is small."""
    found = reference.pair(student, teacher, temperature)
    p_s, p_t, gap = map(np.array, found)
    beyond = 1.0 if kind == "js" else 0.0  # of a class that one row masks: over the mixture its terms are finite
    gap = np.where(np.maximum(p_s, p_t) > 0, np.where(np.isfinite(gap), gap, beyond), 0.0)
    most = min(1.0, np.abs(gap).max(initial=0))
    if kind == "forward":
        return temperature * np.maximum(p_s, p_t) * most
    if kind == "reverse":
        kl = reference.distillation(student, teacher, kind, temperature) / temperature**2
        return temperature * p_s * np.maximum(np.maximum(np.abs(gap), kl), most)
    return temperature * (1 - beta) * p_s * most * np.maximum(1, np.abs(gap))


def check(student, teacher, kind="forward", temperature=1.0, times=1, beta=BETA):
    """Hold loss and gradient to the reference's, row by row, the gradient to so many times its limit."""
    loss, grad = distillation(student, teacher, kind=kind, temperature=temperature, beta=beta, reduction="none")
    name, rows = student.dtype.name, zip(student, teacher, np.ravel(loss), grad, strict=True)
    for s, t, got, moved in rows:
        s, t = s.astype(float).tolist(), t.astype(float).tolist()
        want, slope = (f(s, t, kind, temperature, beta) for f in (reference.distillation, reference.distillation_grad))
        if want == 0:
            same(moved.astype(float), np.zeros(len(s)))
        if want >= 1e-12 or want == 0 or not np.isfinite(want):
            error = largest_error(got, want, result_dtype(student.dtype, "loss"))
            require(error <= LOSS[name], f"{kind}, T {temperature}: loss {want:g} is off by {error:.2f} ulp")
        if np.isfinite(want):
            unit = np.maximum(unit_of(s, t, kind, temperature, beta), 2.0 ** max(FORMATS[name][1] + 8, LEAST))
            error = largest_error(moved, slope, name, unit)
            require(
                error <= times * GRAD[name], f"{kind}, T {temperature}, loss {want:g}: gradient off by {error:.2f} ulp"
            )
        elif np.isnan(want) or kind == "reverse":
            require(np.isnan(moved.astype(float)).all(), "the gradient of an undefined row")
    return loss, grad


@edge_case("distillation: near, far, and in between")
def _(dtype):
    each = itertools.product((1e-6, 1e-3, 0.05, 0.4, 1.5, 20), ((2, 5), (3, 33), (2, 100)))
    kinds = itertools.cycle(itertools.product(reference.KINDS, (1.0, 2.0, 0.7)))
    for number, ((noise, (n, classes)), (kind, temperature)) in enumerate(zip(each, kinds, strict=False)):
        t = numbers(n, classes, np.float64, number) * 3
        s = t + number % 3 * 4.25 + noise * numbers(n, classes, np.float64, number + 100)
        check(s.astype(dtype), t.astype(dtype), kind, temperature)


@edge_case("distillation: a student that masks what a teacher all but does")
def _(dtype):
    """The differences that count are those of sums that round to 1."""
    for classes, gap, temperature in itertools.product((2, 7, 100), (20.0, 80.0), (1.0, 2.0)):
        s, t = np.full((2, classes), -INF), numbers(2, classes, np.float64)
        s[:, 1], t[:, 1] = 3.5, gap
        s[1, 0] = -gap
        for kind in ("reverse", "js"):
            check(s.astype(dtype), t.astype(dtype), kind, temperature)


@edge_case("distillation: shares of a mixture that are next to nothing")
def _(dtype):
    """beta and 1 - beta: each class by those terms that are of the divergence's size."""
    for (beta, noise), classes in itertools.product(itertools.product((1e-3, 0.03, 0.999), (0.5, 3.0, 12.0)), (9, 100)):
        t = numbers(2, classes, np.float64, classes) * 3
        s = t + noise * numbers(2, classes, np.float64, classes + 100)
        check(s.astype(dtype), t.astype(dtype), "js", beta=beta)


@edge_case("distillation: temperatures at which logits far away still count")
def _(dtype):
    """With rows far from 0, and as many classes as fill no vector.

    An error of z/T is one of e^(z/T) that many times, and z/T is up to 10 here.
    """
    kinds = itertools.cycle(itertools.product(reference.KINDS, (0.0, -3e4)))
    each = itertools.product((300.0, 1000.0, 3000.0), (10, 17, 70))
    for (temperature, classes), (kind, offset) in zip(each, kinds, strict=False):
        spread = 3 * min(temperature, 1000.0)  # float16 ends at 65504
        s, t = (offset + spread * numbers(2, classes, np.float64, by + classes) for by in (0, 100))
        check(s.astype(dtype), t.astype(dtype), kind, temperature, times=2)


@edge_case("distillation: small temperatures, and rows far from 0")
def _(dtype):
    """What the logits over T are rounded by, 1e-10 of 3e6, is in no result; and the rows' tops need not be the same."""
    kinds = itertools.cycle(reference.KINDS)
    each = itertools.product((3000.0, -3000.0, 0.5), (1e-3, 0.02), (1.0, 4e-3), (2, 9, 70))
    for number, (offset, temperature, spread, classes) in enumerate(each):
        t = offset + spread * numbers(2, classes, np.float64, number)
        s = t + 700 + 3e-3 * numbers(2, classes, np.float64, number + 100)
        s[1, 0] += 2
        check(s.astype(dtype), t.astype(dtype), next(kinds), temperature, times=4)


@edge_case("distillation: rows whose tops are nowhere in each other")
def _(dtype):
    """A class below both tops has some probability in both; or the tops are masked in the other row."""
    far = -3e4 if dtype.itemsize == 2 else -1e9
    check(np.array([[-2, 0, far, -3]], dtype), np.array([[-2, far, 0, -1]], dtype), "js")
    s, t = np.array([[5, -INF, 0, 0.25, 1]]), np.array([[-INF, 5, 0, 0.125, 2]])
    offset = {2: 32.0, 4: 1024.0, 8: 1e13}[dtype.itemsize]
    check((s + offset).astype(dtype), (t + offset).astype(dtype), "js")


@edge_case("distillation: equal rows, up to a constant, give exactly 0")
def _(dtype):
    for classes, masked, by in ((1, 0, 0.5), (2, 0, 0.0), (5, 0, 8.0), (9, 0, 5.5), (70, 0, -3.0), (150, 80, 5.5)):
        t = np.round(numbers(3, classes, np.float64, classes) * 8) / 8
        t[:, :masked] = -INF
        t, s = t.astype(dtype), (t + by).astype(dtype)
        for kind, temperature in ((*each,) for each in itertools.product(reference.KINDS, (1.0, 0.7, 100.0))):
            loss, grad = distillation(s, t, kind=kind, temperature=temperature, reduction="none")
            same(loss, np.zeros(3, loss.dtype))
            same(grad, np.zeros(s.shape, dtype))


@edge_case("distillation: many equal terms, all of which are rounded to one side")
def _(dtype):
    z = np.zeros((1, 1529), dtype)
    some = z.copy()
    some[:, ::24] = -INF
    check(some, z, "reverse")
    check(z, some, "forward")
    check(some, z, "js")


@edge_case("distillation: masked classes")
def _(dtype):
    s, t = numbers(3, 12, dtype, 5), numbers(3, 12, dtype, 6)
    few = [c for c in range(12) if c % 3]
    both_s, both_t = s.copy(), t.copy()
    both_s[:, ::3] = both_t[:, ::3] = -INF
    for kind in reference.KINDS:
        loss, grad = check(both_s, both_t, kind)
        want, slope = distillation(
            np.ascontiguousarray(s[:, few]), np.ascontiguousarray(t[:, few]), kind=kind, beta=BETA, reduction="none"
        )
        np.testing.assert_allclose(np.asarray(loss, float), np.asarray(want, float), rtol=2e-6)
        np.testing.assert_allclose(grad[:, few].astype(float), slope.astype(float), rtol=2e-2, atol=1e-6)
        same(grad[:, ::3].astype(float), np.zeros((3, 4)))
        for one, other in ((both_s, t), (s, both_t)):  # a class that the student alone lacks, or the teacher alone
            loss, grad = check(one, other, kind)
            infinite = kind == ("forward" if one is both_s else "reverse")
            require(np.isinf(loss).all() == infinite, f"{kind}: {loss}")
            require(np.isfinite(grad.astype(float)).all() or (infinite and kind == "reverse"), kind)


@edge_case("distillation: a mask where next to no probability is")
def _(dtype):
    """However small the other row's probability is there, the divergence is infinite, or that class takes no part."""
    for (classes, below), kind, temperature in itertools.product(
        ((12, 100.0), (100, 130.0)), reference.KINDS, (1.0, 0.7)
    ):
        x, masked = numbers(2, classes, np.float64), numbers(2, classes, dtype, 2)
        x[:, -1] = x[1, 0] = -below
        masked[:, -1] = masked[1, 0] = -INF
        for student, teacher in ((x.astype(dtype), masked), (masked, x.astype(dtype))):
            loss, _ = check(student, teacher, kind, temperature)
            require(np.isinf(loss).all() == (kind == ("forward" if student is masked else "reverse")), kind)


@edge_case("distillation: undefined rows")
def _(dtype):
    for row in ([NAN, 0.0, 1.0], [0.0, INF, 1.0], [-INF, -INF, -INF]):
        for side, kind in itertools.product((0, 1), reference.KINDS):
            given = [numbers(3, 3, dtype), numbers(3, 3, dtype, 2)]
            given[side][1] = row
            loss, grad = distillation(*given, kind=kind, reduction="none")
            require(np.isnan(loss).tolist() == [False, True, False], str(loss))
            require(np.isnan(grad.astype(float)).all(axis=1).tolist() == [False, True, False], str(grad))


@edge_case("distillation: rows that do not count, reductions")
def _(dtype):
    s, t = numbers(4, 7, dtype), numbers(4, 7, dtype, 2)
    v = np.array([1.0, 0.0, 2.0, 0.5])
    each, slopes = distillation(s, t, reduction="none")
    s[1] = NAN
    for reduction, by in (("none", 1.0), ("sum", 1.0), ("mean", v.sum())):
        loss, grad = distillation(s, t, reduction=reduction, sample_weight=v)
        want = v * np.where(v, each.astype(float), 0)
        np.testing.assert_allclose(loss, want if reduction == "none" else want.sum() / by, rtol=1e-6)
        np.testing.assert_allclose(
            grad.astype(float), v[:, None] / by * slopes.astype(float), rtol=2e-2, atol=1e-6 if by == 1 else 1e-2
        )
        same(grad[1].astype(float), np.zeros(7))
    loss, grad = distillation(s, t, sample_weight=np.zeros(4))
    require(np.isnan(loss) and not grad.any(), f"the mean over no row: {loss}")
    loss, grad = distillation(s, t, sample_weight=v, normalizer=2.0)
    np.testing.assert_allclose(loss, want.sum() / 2, rtol=1e-6)


@edge_case("distillation: layouts, in place, a teacher of another dtype")
def _(dtype):
    s, t = numbers(6, 5, dtype), numbers(6, 5, dtype, 2)
    for kind in reference.KINDS:
        loss, grad = distillation(s, t, kind=kind)
        got = distillation(np.ascontiguousarray(s.T), np.ascontiguousarray(t.T), kind=kind, axis=0)
        same(got.loss, loss)
        same(got.grad.T, grad)
        out = s.copy()
        require(distillation(out, t, kind=kind, out=out).grad is out)
        same(out, grad)
    for name, other in dtypes().items():
        found = distillation(s, t.astype(other))
        require(found.grad.dtype == dtype)
        for none in ({"sample_weight": np.zeros(6)}, {"where": np.zeros(6, bool), "reduction": "sum"}):
            require(distillation(s, t.astype(other), **none).loss.dtype == found.loss.dtype)
        require(distillation(s[:0], t[:0].astype(other)).loss.dtype == found.loss.dtype)
        wide = np.float64 if name == "float64" else dtype
        if np.dtype(wide).itemsize >= other.itemsize:
            same(found.loss, distillation(s.astype(wide), t.astype(other).astype(wide)).loss)


@edge_case("distillation: arguments that are refused")
def _(dtype):
    x = numbers(3, 4, dtype)
    for message, options in (
        ("kind must be one of 'forward', 'reverse', 'js', got 'kl'", {"kind": "kl"}),
        ("temperature must be finite and positive, got 0", {"temperature": 0}),
        ("beta must be in (0, 1), got 1", {"kind": "js", "beta": 1}),
        ("sample_weight must have shape (3,), got (4,)", {"sample_weight": np.ones(4, dtype)}),
    ):
        with refuses(ValueError, message):
            distillation(x, x.copy(), **options)
    with refuses(ValueError, "teacher_logits must have the shape of student_logits, (3, 4), got (3, 3)"):
        distillation(x, x[:, :3])
    with refuses(TypeError, "unexpected keyword argument 'class_weight'"):
        distillation(x, x.copy(), class_weight=np.ones(4))
    t = x.copy()
    with refuses(ValueError, "out must not share memory with teacher_logits"):
        distillation(x, t, out=t)
