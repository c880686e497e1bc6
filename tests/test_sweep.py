"""The accuracy contract on a million rows of each dtype, on every backend and ISA, against long double.

`crossentropy.testing.sweep` draws the rows; the seeds are here. Truth is taken in float64 for results in float32, whose
ulp is 2^29 times as large, and for float64 in long double, which is checked against 60 digits on the worst rows.
"""

import numpy as np
import pytest

import crossentropy
from crossentropy.testing import LIMITS, result_dtype
from crossentropy.testing.sweep import rows
from crossentropy.testing.ulps import spacing

LONG = np.longdouble
ROWS, SEED = 10**6, 1
# By code path: tiles of rows (up to 64 classes) and blocks; about a vector, a chunk of vectors, and a group of chunks.
SIZES = (2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 31, 33, 50, 63, 64, 65, 66, 80, 96, 100, 127, 128, 129, 200, 255, 256)
SIZES += (257, 300, 500, 511, 513, 1000, 1024, 1025, 2000, 2047, 2049, 2305, 3000, 4097, 5000)
AT_ONCE = 2**19  # numbers


def parts():
    """(rows, classes, generator) of each part of the sweep: fewer rows of more classes."""
    rng = np.random.default_rng(SEED)
    share = np.array(SIZES) ** -0.75
    for classes, n in zip(SIZES, np.maximum(ROWS * share / share.sum(), 64).astype(int), strict=True):
        most = max(64, AT_ONCE // classes)
        for first in range(0, n, most):
            yield min(most, n - first), classes, rng.spawn(1)[0]


def truth(x, t, real):
    """log-softmax, loss and gradient in that type, in forms in which nothing cancels."""
    x, each = x.astype(real), np.arange(len(x))
    top = x.argmax(axis=1)
    below = x - x[each, top][:, None]
    e = np.exp(below)
    e[each, top] = 0
    rest = e.sum(axis=1)
    log_p = below - np.log1p(rest)[:, None]
    e[each, top] = 1
    p = e / (1 + rest)[:, None]
    p[each, t] = 0
    p[each, t] = -p.sum(axis=1)
    return {"log_softmax": log_p, "loss": -log_p[each, t], "grad": p}


def errors(got, exact, name):
    """The largest error of each row in ulps, where what is not finite is infinitely wrong."""
    with np.errstate(invalid="ignore"):
        found = np.abs(got.astype(exact.dtype) - exact) / spacing(exact, name).astype(exact.dtype)
    found = np.where(np.isnan(found), np.inf, found)
    return found if found.ndim == 1 else found.max(axis=1)


def digits(z, t):
    """The loss of a row to 60 digits."""
    mp = pytest.importorskip("mpmath")
    with mp.workdps(60):
        z = [mp.mpf(float(value)) for value in z]
        top = max(range(len(z)), key=z.__getitem__)
        rest = mp.fsum(mp.exp(value - z[top]) for c, value in enumerate(z) if c != top)
        return float((z[top] - z[int(t)]) + mp.log1p(rest))


def test_within_the_contract_on_a_million_rows(kernels, dtype, record_property):
    if dtype.name == "float64" and np.finfo(LONG).nmant < 63:
        pytest.skip("long double has no more digits than double here")
    worst = dict.fromkeys(LIMITS[dtype.name], (0.0, None, None))
    for n, classes, rng in parts():
        x, t = rows(rng, n, classes)
        x = np.clip(x, -6e4, 6e4).astype(dtype) if dtype.name == "float16" else x.astype(dtype)
        exact = truth(x, t, LONG if dtype.name == "float64" else np.float64)
        loss, grad = crossentropy.cross_entropy_and_grad(x, t, reduction="none")
        alone = crossentropy.cross_entropy(x, t, reduction="none")
        assert np.array_equal(loss, alone)
        for what, got in (("loss", loss), ("grad", grad), ("log_softmax", crossentropy.log_softmax(x))):
            error = errors(got, exact[what], result_dtype(dtype, what))
            i = int(error.argmax())
            if error[i] > worst[what][0]:
                worst[what] = float(error[i]), x[i].copy(), int(t[i])
    found = {what: round(error, 3) for what, (error, _, _) in worst.items()}
    record_property("worst", str(found))
    assert all(worst[what][0] <= limit for what, limit in LIMITS[dtype.name].items()), (
        f"{found} of {LIMITS[dtype.name]}"
    )
    _, z, y = worst["loss"]
    loss = float(crossentropy.cross_entropy(z[None], [y], reduction="none")[0])
    exact = digits(z, y)
    unit = float(spacing(np.array(exact), result_dtype(dtype, "loss")))
    assert abs(loss - exact) / unit <= LIMITS[dtype.name]["loss"] + 1e-9
