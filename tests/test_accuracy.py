"""The accuracy contract against 80-bit arithmetic, on rows that ordinary implementations lose digits on.

Truth is computed in long double from the exact inputs, by forms in which nothing cancels, and is itself checked against
60 digits on small rows.
"""

import functools
import math

import numpy as np
import pytest

import crossentropy
from crossentropy.testing import LIMITS, largest_error, result_dtype
from crossentropy.testing.ulps import spacing

LONG = np.longdouble
pytestmark = pytest.mark.skipif(np.finfo(LONG).nmant < 63, reason="long double has no more digits than double here")


def truth(x, t):
    """log-softmax, loss and gradient in long double."""
    x = x.astype(LONG)
    rows = np.arange(len(x))
    top = x.argmax(axis=1)
    with np.errstate(all="ignore"):
        below = x - x[rows, top][:, None]
        e = np.exp(below)
        others = e.copy()
        others[rows, top] = 0
        rest = np.sort(others, axis=1).sum(axis=1)
        log_p = below - np.log1p(rest)[:, None]
        grad = e / (1 + rest)[:, None]
        p = grad.copy()
        p[rows, t] = 0
        grad[rows, t] = -np.sort(p, axis=1).sum(axis=1)
    return log_p, -log_p[rows, t], grad


def cases():
    """(name, rows, targets) of float64 rows."""
    rng = np.random.default_rng(7)

    def normal(n, classes, scale=1.0, offset=0.0):
        return rng.standard_normal((n, classes)) * scale + offset, rng.integers(0, classes, n)

    for classes in (1, 2, 3, 10, 17, 1000):
        yield f"normal, {classes} classes", *normal(128, classes)
    yield "3 normal, 32000 classes", *normal(4, 32000, 3)
    yield "normal, 262144 classes", *normal(2, 262144)
    x, t = rng.uniform(-1, 0, (2, 262144)), rng.integers(0, 262144, 2)
    x[:, 7] = 0
    yield "U(-1, 0) with a maximum of 0", x, t
    x, t = normal(2, 50257)
    x[:, 50250] = 9
    yield "the maximum in the last block", x, t
    x, _ = normal(2, 50257)
    x[:, :40000] = -np.inf
    yield "first blocks -inf", x, rng.integers(40000, 50257, 2)
    x, _ = normal(64, 1000)
    x[:, ::2] = -np.inf
    yield "every other class -inf", x, rng.integers(0, 500, 64) * 2 + 1
    yield "-100 + 3 normal", *normal(64, 1000, 3, -100)
    yield "U(-120, -20)", rng.uniform(-120, -20, (64, 1000)), rng.integers(0, 1000, 64)
    yield "U(-80, 80)", rng.uniform(-80, 80, (64, 1000)), rng.integers(0, 1000, 64)
    yield "two classes near 60", rng.uniform(59, 61, (64, 2)), rng.integers(0, 2, 64)
    for offset in (255.5, -257.0, 2047.0, -2049.0, 1e4, -1e6):  # about the anchor's limits, and far past them
        yield f"normal + {offset:g}", *normal(32, 500, 1, offset)
    x, _ = normal(64, 1000)
    x[:, [3, 500]] = 9
    yield "two maxima", x, np.full(64, 3)
    yield "all equal", np.full((4, 1000), 0.3), np.arange(4)
    # A row's e^z and sums are all rounded the same way; 449 is a class more than are always added by parts on AVX-512.
    for classes, numbers in ((100, 1), (449, 1), (600, 2), (2047, 1), (5000, 3)):
        x = rng.uniform(-80, -1, (128, numbers))[:, np.arange(classes) % numbers]
        x[:, 0] = 0
        yield f"target ahead of {classes} classes that have {numbers} logits in turn", x, np.zeros(128, int)
    yield "subnormal logits", rng.standard_normal((16, 50)) * 1e-41, rng.integers(0, 50, 16)
    for ahead in (0.5, 5, 10, 16, 20, 40, 85, 100):
        x, t = normal(64, 100, 0.5)
        x[np.arange(64), t] = x.max(axis=1) + ahead
        yield f"target ahead by {ahead}", x, t
    for ahead in (90, 100, 700):
        x, t = normal(64, 100, 0.5)
        x[np.arange(64), (t + 1) % 100] = ahead
        yield f"another class ahead by {ahead}", x, t
    for classes in (20, 1000):
        yield (
            f"U(-3e38, 3e38), {classes} classes",
            rng.uniform(-3e38, 3e38, (16, classes)),
            rng.integers(0, classes, 16),
        )


CASES = {name: (x, t) for name, x, t in cases()}


def as_logits(x, dtype):
    """The rows in a dtype; made smaller where they would be past float16, which ends at 65504."""
    with np.errstate(over="ignore"):
        logits = x.astype(dtype)
    if np.isinf(logits.astype(np.float64)).sum() != np.isinf(x).sum():
        logits = (x / np.abs(x).max() * 6e4).astype(dtype)
    return logits


@pytest.mark.parametrize("name", CASES)
def test_within_the_contract(kernels, dtype, name):
    x, t = CASES[name]
    logits = as_logits(x, dtype)
    exact = dict(zip(("log_softmax", "loss", "grad"), truth(logits.astype(np.float64), t), strict=True))
    loss, grad = crossentropy.cross_entropy_and_grad(logits, t, reduction="none")
    got = {"log_softmax": crossentropy.log_softmax(logits), "loss": loss, "grad": grad}
    for what, limit in LIMITS[dtype.name].items():
        error = largest_error(got[what], exact[what], result_dtype(dtype, what))
        assert error <= limit, f"{what}: {error:.2f} ulp of {result_dtype(dtype, what)}, allowed {limit}"


@pytest.mark.parametrize("classes", [2, 9, 70, 300])
def test_z_loss_alone_of_log_probabilities(kernels, dtype, classes, rng):
    """m and log1p(R) cancel, and what is left is exact to within an ulp and a half of theirs."""
    x = crossentropy.log_softmax(rng.standard_normal((4, classes)) * 3)
    x[0] = -np.log(classes)
    x, name = x.astype(dtype), result_dtype(dtype, "loss")
    lse = np.log(np.exp(x.astype(LONG)).sum(axis=1))
    off = LIMITS[dtype.name]["loss"] * spacing(-x.astype(float).max(axis=1), name)
    options = {"class_weight": np.zeros(classes), "z_loss": 0.5, "reduction": "none"}
    loss = crossentropy.cross_entropy(x, np.zeros(4, int), **options)
    assert (np.abs(loss - lse * lse / 2) <= (np.abs(lse) + off) * off + spacing(lse * lse, name)).all()


# ---------------------------------------------------------------------- one e^z

# What one e^z may cost a sum and a gradient, in ulp: a little above what is measured. kernels/math/exp.h says what of
# that is the error of e^z; the rest is the rounding of the result, and of what e^z is multiplied by.
ONE_EXP = {
    ("native-avx512", "float32"): (0.85, 1.8),
    ("native-avx512", "float64"): (1.15, 2.0),
    ("native-avx2", "float32"): (0.62, 1.55),
    ("native-avx2", "float64"): (1.15, 1.1),
    ("native-neon", "float32"): (1.1, 1.1),
    ("native-neon", "float64"): (1.1, 1.1),
    ("native-base", "float32"): (1.1, 1.1),
    ("native-base", "float64"): (1.1, 1.05),
    ("numba", "float32"): (1.1, 1.1),
    ("numba", "float64"): (1.5, 1.1),
}


def exponents(name):
    """From 0 down to where e^z is nearly subnormal: many near 0, and many halfway between multiples of ln2."""
    rng = np.random.default_rng(11)
    points = [rng.uniform(low, 0, 2**15) for low in ({"float32": -87, "float64": -700}[name], -2, -0.36)]
    points.append((np.arange(1, 125)[:, None] - 0.5) * -np.log(2) + rng.uniform(-1e-3, 1e-3, (124, 264)))
    return np.concatenate([*map(np.ravel, points)]).astype(name)


# In a tile; in a row that is added up class by class; in one that is added up in lanes first (where vectors are short,
# the second is, too). Of longer rows there are fewer.
@pytest.mark.parametrize(("classes", "every"), [(2, 1), (80, 8), (300, 16)])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_error_of_one_exp_in_a_sum(kernels, name, classes, every):
    """With logits (0, z), and -inf in all other classes, the loss of the first class is log1p(e^z)."""
    z = exponents(name)[::every]
    logits = np.full((len(z), classes), -np.inf, name)
    logits[:, 0], logits[:, 1] = 0, z
    got = crossentropy.cross_entropy(logits, np.zeros(len(z), int), reduction="none")
    assert largest_error(got, np.log1p(np.exp(z.astype(LONG))), name) <= ONE_EXP[kernels, name][0]


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_error_of_one_exp_in_a_gradient(kernels, name):
    """With logits (0, z), as if the others were lost beside the first, and g = (1, 0) the gradient at z is -e^z. What
    it is multiplied by is 1, or where there is a table (exp.h) the inverse of the table's scale, which is rounded."""
    z = exponents(name)
    logits = np.concatenate([np.zeros(1, name), z])
    grad_output = np.zeros_like(logits)
    grad_output[0] = 1
    saved = crossentropy.autograd.restored_log_softmax(np.zeros((1, 3)), logits, 0)  # max and rest are 0
    got = -crossentropy.autograd.log_softmax_backward(saved, grad_output)[1:]
    assert largest_error(got, np.exp(z.astype(LONG)), name) <= ONE_EXP[kernels, name][1]


# ---------------------------------------------------------------------- the gradient of log-softmax

LOG_SOFTMAX_GRAD = {"float32": 4, "float64": 8, "float16": 0.51, "bfloat16": 0.51}  # of the larger of the two terms


def log_softmax_truth(x, g):
    """The gradient in long double, and the larger of the two terms of each entry."""
    x, g = x.astype(LONG), g.astype(LONG)
    rows, top = np.arange(len(x)), x.argmax(axis=1)
    with np.errstate(under="ignore"):
        e = np.exp(x - x[rows, top][:, None])
        others = e.copy()
        others[rows, top] = 0
        rest = np.sort(others, axis=1).sum(axis=1)
        whole = np.array([exact_sum(row) for row in g])[:, None]
        without = np.array([exact_sum(np.delete(row, c)) for row, c in zip(g, top, strict=True)])
        p = e / (1 + rest)[:, None]
        grad, terms = g - p * whole, np.maximum(np.abs(g), np.abs(p * whole))
        leads, own = rest < 1, g[rows, top]
        grad[rows[leads], top[leads]] = ((own * rest - without) / (1 + rest))[leads]
        terms[rows[leads], top[leads]] = (np.maximum(np.abs(own) * rest, np.abs(without)) / (1 + rest))[leads]
    return grad, terms


def exact_sum(values):
    """Of numbers that are float64, as a long double."""
    values = values.astype(np.float64).tolist()
    high = math.fsum(values)
    return LONG(high) + LONG(math.fsum([*values, -high]))


def arriving(rng, kind, x):
    """Gradients that arrive at the log-softmax of x."""
    n, classes = x.shape
    g = np.zeros(x.shape)
    if kind == "one-hot at the largest":
        g[np.arange(n), x.argmax(axis=1)] = -1.0
    elif kind == "one-hot elsewhere":
        g[np.arange(n), (x.argmax(axis=1) + 1) % classes] = -1.0
    elif kind == "ones":
        g[:] = 1.0
    else:
        g = rng.standard_normal(x.shape)
        if kind == "cancels":
            g = g.astype(np.float16).astype(np.float64)
            g[:, classes // 2] -= g.sum(axis=1)  # exact: multiples of 2^-24
            g[:, 0] += 2.0**-12
    return g


@functools.cache
def log_softmax_cases(name, dtype):
    """(kind, logits, what arrives, the gradient, its terms) of a case."""
    x = CASES[name][0]
    x = as_logits(x[: 16 if x.shape[1] < 5000 else 1], dtype)
    found = []
    for kind in ("one-hot at the largest", "one-hot elsewhere", "ones", "normal", "cancels"):
        g = arriving(np.random.default_rng(5), kind, x.astype(np.float64)).astype(dtype)
        found.append((kind, x, g, *log_softmax_truth(x, g)))
    return found


@pytest.mark.parametrize("name", CASES)
def test_log_softmax_gradient_within_its_limits(kernels, dtype, name):
    for kind, x, g, exact, terms in log_softmax_cases(name, dtype):
        got = crossentropy.autograd.log_softmax_backward(crossentropy.autograd.log_softmax_forward(x)[1], g)
        error = largest_error(got, exact, dtype.name, terms)
        assert error <= LOG_SOFTMAX_GRAD[dtype.name], f"{kind}: {error:.2f} ulp"


def test_truth_is_true():
    mp = pytest.importorskip("mpmath")
    with mp.workdps(60):
        rng = np.random.default_rng(3)
        for ahead in (0, 3, 17, 60):
            x = rng.standard_normal((1, 9)).astype(np.float32).astype(np.float64)
            x[0, 4] += ahead
            for t in (0, 4):
                log_p, loss, grad = truth(x, np.array([t]))
                z = [mp.mpf(value) for value in x[0]]
                lse = mp.log(mp.fsum(map(mp.exp, z)))
                exact = [value - lse for value in z]
                others = mp.fsum(mp.exp(value) for c, value in enumerate(exact) if c != t)
                for got, want in ((loss[0], -exact[t]), (grad[0, t], -others), *zip(log_p[0], exact, strict=True)):
                    assert abs(mp.mpf(str(got)) / want - 1) < 2e-18
