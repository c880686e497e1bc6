"""What must hold of any logits, on logits that Hypothesis thinks of."""

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest

from crossentropy import testing

KINDS = [dtype for name, dtype in testing.dtypes().items() if name != "bfloat16"]  # Hypothesis has no such floats


@st.composite
def logits_and_targets(draw):
    """Small arrays of any numbers, or larger ones of normals at any scale and offset; no NaN, no infinity but -inf."""
    dtype, rows = draw(st.sampled_from(KINDS)), draw(st.integers(1, 5))
    if draw(st.booleans()):
        classes = draw(st.integers(1, 40))
        numbers = st.floats(-200, 200, width=8 * dtype.itemsize)
        x = draw(arrays.arrays(dtype, (rows, classes), elements=st.one_of(numbers, st.just(-np.inf))))
        x[:, draw(st.integers(0, classes - 1))] = draw(numbers)  # a row of -inf alone is NaN
    else:
        classes = draw(st.one_of(st.integers(41, 700), st.sampled_from([2047, 2048, 2049])))
        scale, offset = draw(st.sampled_from([0.01, 1, 5, 20])), draw(st.sampled_from([0, -50, 300]))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        x = (rng.standard_normal((rows, classes)) * scale + offset).astype(dtype)
    y = draw(arrays.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    hypothesis.assume(np.isfinite(x[np.arange(rows), y]).all())
    return x, y


@pytest.mark.parametrize("name", testing.PROPERTIES)
@hypothesis.given(drawn=logits_and_targets())
@hypothesis.settings(
    max_examples=30, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_property(kernels, name, drawn):
    testing.PROPERTIES[name](*drawn)
