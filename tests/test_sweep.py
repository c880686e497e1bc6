"""The accuracy contract on a million rows of each dtype, on every backend and ISA, against long double.

`crossentropy.testing.sweep` draws the rows and takes their truth, which is checked here against 60 digits on the worst.
"""

import numpy as np
import pytest

import crossentropy
from crossentropy.testing import LIMITS, result_dtype, sweep
from crossentropy.testing.ulps import spacing


def digits(z, t):
    """The loss of a row to 60 digits."""
    mp = pytest.importorskip("mpmath")
    with mp.workdps(60):
        z = [mp.mpf(float(value)) for value in z]
        top = max(range(len(z)), key=z.__getitem__)
        rest = mp.fsum(mp.exp(value - z[top]) for c, value in enumerate(z) if c != top)
        return float((z[top] - z[int(t)]) + mp.log1p(rest))


def test_within_the_contract_on_a_million_rows(kernels, dtype, record_property):
    if dtype.name == "float64" and np.finfo(sweep.LONG).nmant < 63:
        pytest.skip("long double has no more digits than double here")
    (worst,) = sweep.worst(dtype).values()
    found = {what: round(one.error, 3) for what, one in worst.items()}
    record_property("worst", str(found))
    assert all(worst[what].error <= limit for what, limit in LIMITS[dtype.name].items()), (
        f"{found} of {LIMITS[dtype.name]}"
    )
    _, z, y = worst["loss"]
    loss = float(crossentropy.cross_entropy(z[None], [y], reduction="none")[0])
    exact = digits(z, y)
    unit = float(spacing(np.array(exact), result_dtype(dtype, "loss")))
    assert abs(loss - exact) / unit <= LIMITS[dtype.name]["loss"] + 1e-9
