"""The streams that the benchmarks hold kernels against do what they say: a roof that skips work would be too high."""

import numpy as np
import pytest

import crossentropy

if not crossentropy.backends()[0].available:
    pytest.skip("the native backend is not built", allow_module_level=True)
from crossentropy import bench, native

ROWS = 257  # 16 MB and more are stored past the caches


@pytest.fixture(params=[1, 3, ROWS])
def arrays(request, rng):
    """x, q and an empty result, at multiples of 64 bytes."""
    size = request.param * native.STREAM_ROW
    x, q, out = (bench.aligned((size,), np.float32) for _ in range(3))
    x[:], q[:], out[:] = rng.standard_normal((2, size), dtype=np.float32)[0], 2.0, np.nan
    return x, q, out


@pytest.mark.parametrize("threads", [1, 2])
def test_streams(kernels, arrays, threads):
    x, q, out = arrays
    before = x.copy()
    with crossentropy.config(threads=threads):
        assert native.stream("read", x) == pytest.approx(float(x.sum(dtype=np.float64)), abs=1e-5 * x.size)
        native.stream("copy", x, out=out)
        np.testing.assert_array_equal(out, x)
        native.stream("combine", x, q, out)
        np.testing.assert_array_equal(out, x + q)
        native.stream("scale", x)
    np.testing.assert_array_equal(x, before)


def test_bad_arguments():
    x = bench.aligned((native.STREAM_ROW,), np.float32)
    x.fill(0)  # what memory holds may be a signaling NaN, of which a cast warns
    with pytest.raises(ValueError, match="kind must be one of 'read', 'copy', 'combine', 'scale', got 'write'"):
        native.stream("write", x)
    other = bench.aligned((2 * native.STREAM_ROW,), np.float32)
    for bad in (None, other, other[1 : native.STREAM_ROW + 1], x.astype(np.float64), x[:-1], other[::2]):
        with pytest.raises(ValueError, match="copy takes contiguous float32 arrays"):
            native.stream("copy", x, out=bad)
