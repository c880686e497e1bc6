"""Any layout of memory gives what a contiguous copy of it gives: bit for bit up to 64 classes.

With more, rows that lie side by side are summed class by class (by_tiles.c) and others in vectors of classes: both are
within the contract, and may differ in the last bit of float64.
"""

import itertools

import numpy as np
import pytest
from conftest import DTYPES

import crossentropy
from crossentropy import autograd
from crossentropy.testing import LAYOUTS, has_layout, same, within

misaligned = LAYOUTS["misaligned"]
SHAPE, AXES = (3, 7, 4, 5), (0, 1, 2, 3)


PAIRS = [
    (name, layout) for name, dtype in DTYPES.items() for layout in LAYOUTS if dtype is None or has_layout(dtype, layout)
]


@pytest.fixture(params=PAIRS, ids=" ".join)
def pair(request):
    """A dtype and the name of a layout."""
    name, layout = request.param
    if DTYPES[name] is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    return DTYPES[name], layout


@pytest.mark.parametrize("axis", AXES)
def test_logits_in_any_layout(backend, pair, axis, rng):
    dtype, layout = pair
    x = rng.standard_normal(SHAPE).astype(dtype)
    laid = LAYOUTS[layout](x)
    before = laid.copy()
    y = rng.integers(0, SHAPE[axis], np.delete(SHAPE, axis))
    last = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    for function in (crossentropy.log_softmax, crossentropy.softmax):
        np.testing.assert_array_equal(function(laid, axis), np.moveaxis(function(last), -1, axis))
    np.testing.assert_array_equal(crossentropy.logsumexp(laid, axis), crossentropy.logsumexp(last))
    assert crossentropy.logsumexp(laid, axis - 4, keepdims=True).shape == (*SHAPE[:axis], 1, *SHAPE[axis + 1 :])
    want = crossentropy.cross_entropy_and_grad(last, y, reduction="none")
    got = crossentropy.cross_entropy_and_grad(laid, y, axis=axis, reduction="none")
    np.testing.assert_array_equal(got.loss, want.loss)
    np.testing.assert_array_equal(got.grad, np.moveaxis(want.grad, -1, axis))
    assert got.grad.dtype == dtype
    np.testing.assert_array_equal(laid, before)


def test_probability_targets_in_any_layout(kernels, pair, rng):
    dtype, layout = pair
    x, q = rng.standard_normal(SHAPE).astype(dtype), rng.random(SHAPE).astype(dtype)
    want = crossentropy.cross_entropy_and_grad(x, q, axis=1)
    got = crossentropy.cross_entropy_and_grad(LAYOUTS[layout](x), LAYOUTS[layout](q), axis=1)
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad, want.grad)


def test_results_into_any_layout_and_in_place(kernels, pair, rng):
    dtype, layout = pair
    x = rng.standard_normal(SHAPE).astype(dtype)
    y = rng.integers(0, SHAPE[1], np.delete(SHAPE, 1))
    loss, grad = crossentropy.cross_entropy_and_grad(x, y, axis=1)
    if layout == "read-only":
        return  # refused: test_errors.py
    if layout != "byte-swapped":  # a result has native order
        out = LAYOUTS[layout](np.zeros_like(x))
        got = crossentropy.cross_entropy_and_grad(x, y, axis=1, out=out)
        assert got.grad is out
        np.testing.assert_array_equal(out, grad)
    in_place = LAYOUTS[layout](x)
    got = crossentropy.cross_entropy_and_grad(in_place, y, axis=1, out=in_place)
    assert got.loss == loss
    assert got.grad is in_place
    np.testing.assert_array_equal(in_place, grad)
    in_place = LAYOUTS[layout](x)
    crossentropy.log_softmax(in_place, 1, out=in_place)
    np.testing.assert_array_equal(in_place, crossentropy.log_softmax(x, 1))
    in_place = LAYOUTS[layout](x)
    _, saved = autograd.forward(in_place, y, axis=1)
    np.testing.assert_array_equal(autograd.backward(saved, out=in_place), grad)


def test_log_softmax_backward_in_any_layout(kernels, pair, rng):
    dtype, layout = pair
    x, g = rng.standard_normal(SHAPE).astype(dtype), rng.standard_normal(SHAPE).astype(dtype)
    _, saved = autograd.log_softmax_forward(x, 1)
    want = autograd.log_softmax_backward(saved, g)
    np.testing.assert_array_equal(autograd.log_softmax_backward(saved, LAYOUTS[layout](g)), want)
    out = LAYOUTS[layout](np.zeros_like(x)) if layout not in ("byte-swapped", "read-only") else np.zeros_like(x)
    np.testing.assert_array_equal(autograd.log_softmax_backward(saved, g, out=out), want)


def test_grad_output_of_stride_0(kernels, rng):
    x = rng.standard_normal((6, 11), dtype=np.float32)
    y = rng.integers(0, 11, 6)
    want = crossentropy.cross_entropy_grad(x, y, reduction="none", grad_output=2.0)
    got = crossentropy.cross_entropy_grad(x, y, reduction="none", grad_output=np.broadcast_to(np.float32(2), 6))
    np.testing.assert_array_equal(got, want)
    _, saved = autograd.log_softmax_forward(x)
    ones = np.broadcast_to(np.float32(1), x.shape)
    np.testing.assert_array_equal(
        autograd.log_softmax_backward(saved, ones), autograd.log_softmax_backward(saved, ones.copy())
    )


@pytest.mark.parametrize("target", [np.int32, np.dtype(">i4"), np.uint8])
def test_targets_in_any_layout(backend, target, rng):
    x = rng.standard_normal((5, 6, 7), dtype=np.float32)
    y = rng.integers(0, 7, (5, 6)).astype(target)
    want = crossentropy.cross_entropy(x, y.astype(np.int64), reduction="none")
    wide = np.repeat(y, 2, axis=1)[:, ::2]
    for laid in (y, y.T.copy().T, wide, y[::-1].copy()[::-1], misaligned(y)):
        np.testing.assert_array_equal(crossentropy.cross_entropy(x, laid, reduction="none"), want)


def test_broadcast_rows(backend, rng):
    row = rng.standard_normal(9).astype(np.float32)
    x, y = np.broadcast_to(row, (4, 9)), np.array([0, 3, 8, 3])
    want = crossentropy.cross_entropy_and_grad(x.copy(), y)
    got = crossentropy.cross_entropy_and_grad(x, y)
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad, want.grad)


def test_memory_map(backend, tmp_path, rng):
    x = rng.standard_normal((8, 33)).astype(np.float32)
    path = tmp_path / "logits"
    x.tofile(path)
    mapped = np.memmap(path, np.float32, "r", shape=x.shape)
    y = rng.integers(0, 33, 8)
    assert crossentropy.cross_entropy(mapped, y) == crossentropy.cross_entropy(x, y)
    writeable = np.memmap(path, np.float32, "r+", shape=x.shape)
    got = crossentropy.cross_entropy_and_grad(writeable, y, out=writeable)
    assert got.grad is writeable
    np.testing.assert_array_equal(writeable, crossentropy.cross_entropy_grad(x, y))
    del got, writeable, mapped


def test_results_keep_the_order_of_the_logits(kernels):
    assert crossentropy.softmax(np.zeros((4, 5), order="F")).flags.f_contiguous
    assert crossentropy.softmax(np.broadcast_to(np.zeros(5), (4, 5))).flags.writeable


def test_more_than_2_31_elements(kernels):
    """Offsets past 2^31: rows of a zero-stride array, the last one behind 2^31 bytes of real memory."""
    rows, classes = 2**16 + 3, 2**15
    x = np.broadcast_to(np.linspace(-3, 3, classes, dtype=np.float32), (rows, classes))
    assert x.size > 2**31
    y = np.full(rows, classes - 1, np.int32)
    loss = crossentropy.cross_entropy(x, y, reduction="none")
    assert (loss == loss[0]).all()
    assert loss[0] == crossentropy.cross_entropy(x[:1], y[:1])
    far = np.zeros(2**31 + 64, np.uint8)  # never touched but at both ends
    logits = np.ndarray((2, 8), np.float32, far.data, strides=(2**31, 4))
    logits[1] = np.arange(8)
    np.testing.assert_array_equal(crossentropy.softmax(logits), crossentropy.softmax(logits.copy()))


def test_weights_that_are_misaligned(kernels, rng):
    x, y = rng.standard_normal((4, 6)), rng.integers(0, 6, 4)
    w, v = rng.random(6), rng.random(4)
    want = crossentropy.cross_entropy_and_grad(x, y, class_weight=w, sample_weight=v, reduction="none", grad_output=v)
    odd = {"class_weight": misaligned(w), "sample_weight": misaligned(v), "grad_output": misaligned(v)}
    got = crossentropy.cross_entropy_and_grad(x, y, reduction="none", **odd)
    np.testing.assert_array_equal(got.loss, want.loss)
    np.testing.assert_array_equal(got.grad, want.grad)


@pytest.mark.parametrize(("leading", "trailing"), list(itertools.product([0, 1, 3], repeat=2)))
def test_axes_of_many_and_no_dimensions(backend, leading, trailing, rng):
    x = rng.standard_normal((*([2] * leading), 5, *([2] * trailing)))
    y = rng.integers(0, 5, [2] * (leading + trailing))
    want = crossentropy.cross_entropy(np.moveaxis(x, leading, -1).reshape(-1, 5), y.reshape(-1))
    assert crossentropy.cross_entropy(x, y, axis=leading) == pytest.approx(want, rel=1e-15)


def test_32_dimensions(kernels, rng):
    x = rng.standard_normal([1] * 20 + [2] * 6 + [1] * 5 + [3])
    y = rng.integers(0, 3, x.shape[:-1])
    assert crossentropy.cross_entropy(x, y) == crossentropy.cross_entropy(x.reshape(-1, 3), y.reshape(-1))


@pytest.mark.parametrize("classes", [65, 300])
def test_rows_side_by_side_with_many_classes(kernels, dtype, classes, rng):
    """Past 64 classes in place, whole vectors of rows and a partial one; the result streamed past the caches or not."""

    from crossentropy import reference

    x = rng.standard_normal((2, classes, 37)).astype(dtype)
    y = rng.integers(0, classes, (2, 37))
    got = crossentropy.cross_entropy_and_grad(x, y, axis=1, reduction="none")
    rows, targets = np.moveaxis(x.astype(float), 1, -1).reshape(-1, classes).tolist(), y.reshape(-1).tolist()
    pairs = list(zip(rows, targets, strict=True))
    within(got.loss.reshape(-1), [reference.cross_entropy(*pair) for pair in pairs], dtype, "loss")
    grad = np.moveaxis(got.grad, 1, -1).reshape(-1, classes)
    within(grad, [reference.cross_entropy_grad(*pair) for pair in pairs], dtype, "grad")
    log_p = np.moveaxis(crossentropy.log_softmax(x, 1), 1, -1).reshape(-1, classes)
    within(log_p, [reference.log_softmax(row) for row in rows], dtype, "log_softmax")


@pytest.mark.parametrize("shape", [(4, 21, 300, 400), (5000, 1001)])  # tiles; rows that start misaligned
def test_streamed_results_are_those_of_small_calls(kernels, shape, rng):
    x = rng.standard_normal(shape, dtype=np.float32)
    assert x.nbytes >= 2**24
    y = rng.integers(0, shape[1], np.delete(shape, 1))
    loss, grad = crossentropy.cross_entropy_and_grad(x, y, axis=1, reduction="none")
    log_p = crossentropy.log_softmax(x, 1)
    for part in (slice(0, 1), slice(len(x) - 1, len(x))):
        small = crossentropy.cross_entropy_and_grad(x[part].copy(), y[part], axis=1, reduction="none")
        np.testing.assert_array_equal(loss[part], small.loss)
        np.testing.assert_array_equal(grad[part], small.grad)
        np.testing.assert_array_equal(log_p[part], crossentropy.log_softmax(x[part].copy(), 1))


@pytest.mark.parametrize("classes", [5, 70, 2100])
def test_the_layout_of_out_changes_no_bit(kernels, dtype, classes, rng):
    x = rng.standard_normal((classes, 24)).astype(dtype)
    t = rng.integers(0, classes, 24)
    rows_out, columns_out = np.empty((classes, 24), dtype).T, np.empty((24, classes), dtype).T
    for logits, axis, other in ((x, 0, columns_out), (x.T.copy(), 1, rows_out)):
        loss, grad = crossentropy.cross_entropy_and_grad(logits, t, axis=axis, reduction="none")
        same(crossentropy.cross_entropy(logits, t, axis=axis, reduction="none"), loss)
        again = crossentropy.cross_entropy_and_grad(logits, t, axis=axis, reduction="none", out=other)
        same(again.loss, loss)
        same(again.grad, grad)


@pytest.mark.parametrize("classes", [70, 300])
def test_an_out_whose_rows_lie_apart_changes_no_bit(kernels, dtype, classes, rng):
    """Rows of 24 side by side, which the result's gaps keep apart."""
    x, y = rng.standard_normal((classes, 8, 3)).astype(dtype), rng.integers(0, classes, (8, 3))
    loss, grad = crossentropy.cross_entropy_and_grad(x, y, axis=0, reduction="none")
    out = np.empty((classes, 8, 4), dtype)[..., :3]
    got = crossentropy.cross_entropy_and_grad(x, y, axis=0, reduction="none", out=out)
    same(got.loss, loss)
    same(out, grad)
