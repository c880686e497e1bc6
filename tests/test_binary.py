"""Losses of one logit each, past the conformance suite: against exact arithmetic, at every size, as fast calls are."""

import mpmath
import numpy as np
import pytest
from conftest import DTYPES

import crossentropy
from crossentropy import reference
from crossentropy.testing import largest_error, same

LOSS = crossentropy.binary_cross_entropy_with_logits
LOSS_AND_GRAD = crossentropy.binary_cross_entropy_with_logits_and_grad
FOCAL = crossentropy.sigmoid_focal_loss_and_grad


def exact(z, t, gamma=0.0, alpha=None):
    """(loss, gradient, its largest term) in 60 digits, the gradient by the derivative's definition term by term."""
    with mpmath.workdps(60):
        z, t, gamma = mpmath.mpf(float(z)), mpmath.mpf(float(t)), mpmath.mpf(gamma)
        sigma, opposite = 1 / (1 + mpmath.exp(-z)), 1 / (1 + mpmath.exp(z))
        loss = t * mpmath.log1p(mpmath.exp(-z)) + (1 - t) * mpmath.log1p(mpmath.exp(z))
        terms = [(1 - t) * sigma, -t * opposite]
        a = 1 if alpha is None else mpmath.mpf(alpha) * t + (1 - mpmath.mpf(alpha)) * (1 - t)
        if gamma:
            q = t * opposite + (1 - t) * sigma
            terms = [q**gamma * term for term in terms]
            terms.append(gamma * q ** (gamma - 1) * (1 - 2 * t) * sigma * opposite * loss)
            loss = q**gamma * loss
        return a * loss, a * sum(terms), a * max(map(abs, terms))


def ulps(found, wants, dtype, units=None):
    """The largest error in units of the last place of what is right, or of what an entry is judged by."""
    info, errors = np.finfo(dtype), []
    for got, want, unit in zip(found.tolist(), wants, units or wants, strict=True):
        exponent = max(int(mpmath.floor(mpmath.log(abs(unit), 2))), info.minexp)
        errors.append(abs(mpmath.mpf(got) - want) / mpmath.mpf(2) ** (exponent - info.nmant))
    return float(max(errors))


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_as_exact_as_the_contract_says(backend, real, soft, rng):
    z = np.concatenate([rng.normal(size=150) * 3, rng.uniform(-100, 100, 40), rng.normal(size=40) * 1e-4])
    z = np.concatenate([z, [0.0, 79.99, 80.0, 81.0, -80.0]]).astype(real)
    t = (rng.random(z.size) if soft else rng.random(z.size) < 0.5).astype(real)
    wants, slopes, units = zip(*map(exact, z, t), strict=True)
    loss, grad = LOSS_AND_GRAD(z, t, reduction="none")
    assert ulps(loss, wants, real) <= 2
    assert ulps(grad, slopes, real, units) <= 3
    same(LOSS(z, t, reduction="none"), loss)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.7, None)])
def test_focal_as_exact_as_the_contract_says(backend, gamma, alpha, rng):
    z, hard = rng.normal(size=80) * 6, rng.random(80) < 0.5
    for real, loss_limit, grad_limit in ((np.float32, 1.5, 2), (np.float64, 16, 24)):
        x = z.astype(real)
        for t in (hard.astype(real), rng.random(80).astype(real)):
            wants, slopes, units = zip(*(exact(a, b, gamma, alpha) for a, b in zip(x, t, strict=True)), strict=True)
            loss, grad = FOCAL(x, t, gamma=gamma, alpha=alpha, reduction="none")
            assert ulps(loss, wants, real) <= loss_limit
            assert ulps(grad, slopes, real, units) <= grad_limit


def test_the_reference_is_exact():
    for z in (-745.0, -30.0, -1.0, -1e-9, 0.0, 0.3, 2.0, 36.0, 700.0):
        for t in (0.0, 0.25, 1.0):
            want, slope, unit = exact(z, t)
            assert reference.binary_cross_entropy(z, t) == pytest.approx(float(want), rel=5e-16, abs=5e-324)
            assert reference.binary_cross_entropy_grad(z, t) == pytest.approx(
                float(slope), rel=1e-15, abs=4e-16 * float(unit)
            )
    # weight and pos_weight are factors, and the gradient is the slope of the loss
    options = reference.Binary(weight=3.0, pos_weight=0.5, gamma=1.7, alpha=0.3)
    for z, t in ((-2.0, 1.0), (0.4, 0.2), (1.5, 0.0)):
        rise = [reference.binary_cross_entropy(z + h, t, options) for h in (-1e-5, 1e-5)]
        assert reference.binary_cross_entropy_grad(z, t, options) == pytest.approx((rise[1] - rise[0]) / 2e-5, rel=1e-8)


# A vector is up to 16 numbers; of focal losses 64 are widened at a time, 1024 converted; a block is 16384.
COUNTS = [1, 3, 8, 15, 16, 17, 63, 65, 1023, 1025, 16383, 16385, 33000]


@pytest.mark.parametrize("count", COUNTS)
def test_a_number_does_not_depend_on_those_beside_it(kernels, dtype, count, rng):
    z = (rng.normal(size=count) * 30).astype(dtype)
    t = rng.random(count) < 0.5
    loss, grad = LOSS_AND_GRAD(z, t, reduction="none")
    start = count // 3
    for function in (LOSS_AND_GRAD, FOCAL):
        loss, grad = function(z, t, reduction="none")
        part = function(z[start : start + 5], t[start : start + 5], reduction="none")
        same(part.loss, loss[start : start + 5])
        same(part.grad, grad[start : start + 5])
        total = function(z, t, reduction="sum").loss
        assert total == pytest.approx(float(loss.sum(dtype=np.float64)), rel=1e-6)
    same(LOSS_AND_GRAD(z, t.astype(np.int64), reduction="none").grad, LOSS_AND_GRAD(z, t, reduction="none").grad)
    same(LOSS_AND_GRAD(z, t.astype(dtype), reduction="none").grad, LOSS_AND_GRAD(z, t, reduction="none").grad)


def test_threads_and_weights_that_repeat_change_nothing(kernels, rng):
    z, t = rng.normal(size=(5000, 70)).astype(np.float32), rng.random((5000, 70)) < 0.3
    w, r = rng.random(70).astype(np.float32), rng.random((1, 70)).astype(np.float32)
    with crossentropy.config(threads=1):
        want = LOSS_AND_GRAD(z, t, weight=w, pos_weight=r)
    found = LOSS_AND_GRAD(z, t, weight=np.tile(w, (5000, 1)), pos_weight=r)
    same(found.grad, want.grad)
    assert found.loss == pytest.approx(want.loss, rel=1e-6)  # whose blocks are others
    again = LOSS_AND_GRAD(z, t, weight=w, pos_weight=r)
    same(again.loss, want.loss)
    same(again.grad, want.grad)
    row = LOSS_AND_GRAD(z[4999], t[4999], weight=w, pos_weight=r[0], grad_output=1 / 5000)
    np.testing.assert_allclose(row.grad, want.grad[4999], rtol=1e-6)


def test_large_results_bypass_the_caches_and_are_the_same(kernels, rng):
    z = rng.normal(size=(1 << 22) + 5).astype(np.float32)
    t = np.arange(z.size) % 3 == 0
    loss, grad = LOSS_AND_GRAD(z, t, reduction="none")
    part = slice((1 << 22) - 100, None)
    small = LOSS_AND_GRAD(z[part], t[part], reduction="none")
    same(grad[part], small.grad)
    same(loss[part], small.loss)


@pytest.mark.parametrize("name", DTYPES)
def test_scalars_dtypes_and_other_arrays(name):
    dtype = DTYPES[name]
    loss, grad = LOSS_AND_GRAD(np.array(0.5, dtype), True)
    assert loss.dtype == (np.float64 if name == "float64" else np.float32)
    assert grad.shape == () and grad.dtype == dtype  # noqa: PT018
    assert loss == pytest.approx(np.log1p(np.exp(-0.5)), rel=1e-6)
    swapped = LOSS(np.array([0.5, -1.0]).astype(">f8"), np.array([1, 0], ">i4"))
    assert swapped == LOSS([0.5, -1.0], [1, 0])
    with pytest.raises(TypeError, match="must be a plain array"):
        LOSS(np.ma.masked_array([0.5]), [1])
    with pytest.raises(TypeError, match="targets must be"):
        LOSS([0.5], ["a"])


def test_two_classes_are_one_logit(rng):
    """With a first logit of 0, the loss of this package's rows."""
    z, t = rng.normal(size=300) * 10, rng.random(300) < 0.5
    rows = crossentropy.cross_entropy(np.stack([np.zeros(300), z], axis=1), t.astype(int), reduction="none")
    error = largest_error(LOSS(z, t, reduction="none"), rows, "float64")
    assert error <= 3
