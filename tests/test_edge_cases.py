"""Edge cases past the design's table (which is crossentropy.testing's): of kernels, their anchors and sums."""

import itertools

import numpy as np
import pytest
from conftest import AVAILABLE
from subprocesses import run

import crossentropy
from crossentropy.testing import both, same

INF, NAN = np.inf, np.nan


# ---------------------------------------------------------------------- special values in a row


@pytest.mark.parametrize(
    "position", [0, 15, 16, 17, 2047, 2048, 2100]
)  # in a full vector, a partial one, a later block
def test_one_nan_or_inf_is_seen_wherever_it_stands(kernels, dtype, position, rng):
    for value in (NAN, INF):
        x = rng.standard_normal((3, 2101)).astype(dtype)
        x[1, position] = value
        assert np.isnan(crossentropy.cross_entropy(x, np.zeros(3, int), reduction="none")).tolist() == [
            False,
            True,
            False,
        ]


def test_nan_with_any_payload(kernels):
    """The exponent of e^r is patched as an integer: a NaN's payload must not turn into a number there."""
    patterns = np.array([0x7F800001, 0x7FC00001, 0x7FFFFFFF, 0xFFC000FF, 0xFF8001FF], np.uint32)
    x = np.zeros((len(patterns), 20), np.float32)
    x.view(np.uint32)[:, 7] = patterns
    loss, grad = crossentropy.cross_entropy_and_grad(x, np.zeros(len(patterns), int), reduction="none")
    assert np.isnan(loss).all()
    assert np.isnan(grad).all()


@pytest.mark.parametrize("leading", [2048, 4096, 40000])  # whole blocks: the classic bug is a NaN from -inf - -inf
def test_whole_first_blocks_of_minus_inf(kernels, dtype, leading, rng):
    x = rng.standard_normal((2, leading + 100)).astype(dtype)
    x[:, :leading] = -INF
    got = crossentropy.cross_entropy_and_grad(x, np.array([leading, leading + 99]), reduction="none")
    want = crossentropy.cross_entropy_and_grad(x[:, leading:].copy(), np.array([0, 99]), reduction="none")
    np.testing.assert_allclose(got.loss, want.loss, rtol=2e-7)
    assert not got.grad[:, :leading].any()


# ---------------------------------------------------------------------- accuracy where others lose it


# ---------------------------------------------------------------------- rows that do not count


# ---------------------------------------------------------------------- empty and single


# ---------------------------------------------------------------------- the ends of the range


@pytest.mark.parametrize("mask", [-3.4e38, -1e30, -1e5, -300.0])
def test_a_target_that_was_masked_by_a_large_negative_logit(backend, mask):
    x = np.array([[1.0, 2.0, mask, 0.5]], np.float32)
    loss, grad = both(x, np.array([2]), reduction="none")
    lse = np.log(np.exp([1.0, 2.0, 0.5]).sum())
    assert loss == np.float32(lse - float(x[0, 2]))
    np.testing.assert_allclose(grad[0], [*np.exp([1 - lse, 2 - lse]), -1, np.exp(0.5 - lse)], rtol=3e-7)


def test_a_float64_target_masked_by_the_least_float64(backend):
    loss, grad = both(np.array([[1.0, 2.0, -1.797e308, 0.5]]), np.array([2]), reduction="none")
    assert loss == 1.797e308
    assert grad[0, 2] == -1


def test_z_loss_alone_of_a_small_lse(backend):
    """Another class holds nearly all of the sum, and the target's own weight is 0: only lambda lse^2 is left."""
    loss = crossentropy.cross_entropy(np.array([[0.0, -30.0]]), [1], class_weight=[1, 0.0], z_loss=1.0, reduction="sum")
    assert loss == pytest.approx(np.log1p(np.exp(-30.0)) ** 2, rel=1e-14)


def test_subnormal_probabilities_are_not_0(backend):
    assert crossentropy.softmax(np.array([0.0, -735.0]))[1] == pytest.approx(np.exp(-735.0), rel=1e-3)
    assert crossentropy.softmax(np.array([0.0, -100.0], np.float32))[1] == np.float32(np.exp(-100.0))


def test_gradient_at_a_target_whose_weight_is_0(backend):
    """a p_y alone is left there, and p_y must not be e to a rounded z_y - m (the value is 60-digit arithmetic's)."""
    x = np.array([[251.0496162, -88.123, 40.7]])
    options = {"class_weight": [1, 0, 2], "label_smoothing": 0.1, "reduction": "sum"}
    assert crossentropy.cross_entropy_grad(x, [1], **options)[0, 1] == pytest.approx(5.0026989816114055e-149, rel=1e-15)


def test_results_beyond_float32_are_infinite_with_their_sign(kernels):
    x = np.array([[0.0, -np.inf, -1.0]], np.float32)
    assert crossentropy.cross_entropy_grad(x, [0], grad_output=1e80).tolist() == [[-INF, 0, INF]]
    grad = crossentropy.cross_entropy_grad(
        np.zeros((1, 3), np.float32), [1], class_weight=[1e50, 1, 1], label_smoothing=0.1, reduction="sum"
    )
    assert grad.tolist() == [[-INF, INF, INF]]


def test_class_weights_whose_sum_overflows(backend):
    with np.errstate(all="raise"):
        grad = crossentropy.cross_entropy_grad(np.array([[0, 1.0, -1]]), [0], class_weight=[1e308] * 3)
    np.testing.assert_allclose(grad, crossentropy.cross_entropy_grad(np.array([[0, 1.0, -1]]), [0]), rtol=1e-15)


@pytest.mark.parametrize("name", ["native", "numba"])
def test_class_weights_are_not_read_at_a_target_that_is_no_class(name):
    """In a process of its own: the weight of class 2^60 is nowhere."""
    if not AVAILABLE[name]:
        pytest.skip(f"the {name} backend is not here")
    out = run(
        """
        import numpy as np, crossentropy
        for classes in (3, 300):
            x, w = np.zeros((2, classes)), np.ones(classes)
            grad = crossentropy.cross_entropy_grad(x, np.array([0, 2**60]), class_weight=w, ignore_index=2**60)
            print(grad[1].any())
            with crossentropy.config(check=False):
                grad = crossentropy.cross_entropy_grad(x, np.array([0, -(2**60)]), class_weight=w, reduction="sum")
            print(np.isnan(grad[1]).all())
        """,
        CROSSENTROPY_BACKEND=name,
    )
    assert out.split() == ["False", "True"] * 2


# ---------------------------------------------------------------------- the guessed anchor


@pytest.mark.parametrize("above", [19, 21, 44.3, 44.5, 45, 89, 133, 222, 299, 301, 355, 356, 709, 1064.5])
@pytest.mark.parametrize("position", [64, 65, 2047, 2048, 2100])  # past the classes that the anchor is guessed from
@pytest.mark.parametrize("base", [0.0, -150.0, 200.0])
def test_a_maximum_far_above_the_first_classes(kernels, dtype, above, position, base):
    x = np.full((3, 2101), base).astype(dtype)
    x[0, position] = x[1, position] = base + above
    base, top = float(x[0, 0]), float(x[0, position])
    loss, grad = both(x, np.array([0, position, 3]), reduction="none")
    rest = 2100 * np.exp(base - top)
    np.testing.assert_allclose(loss, [top - base + np.log1p(rest), np.log1p(rest), np.log(2101)], rtol=3e-7, atol=3e-45)
    assert np.isfinite(grad.astype(float)).all()
    np.testing.assert_allclose(crossentropy.logsumexp(x)[0], top + np.log1p(rest), rtol=3e-7)
    assert float(crossentropy.softmax(x)[0, position]) == pytest.approx(1 / (1 + rest), rel=0.01)


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_smoothing_alone_where_the_target_has_no_weight(kernels, smoothing, rng):
    """Only log1p(R) of the leading class is left in the loss: it must have its digits though the target is another."""
    from crossentropy import reference

    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        x = rng.uniform(-3, 0, (20, 66))
        x[:, -1] = np.log(np.exp(x[:, :-1]).sum(axis=1) / rng.uniform(0.25, 0.4, 20))
        x, w = x.astype(dtype), np.zeros(66)
        w[-1] = 1
        options = {"class_weight": w, "label_smoothing": smoothing}
        loss = crossentropy.cross_entropy(x, np.zeros(20, int), reduction="sum", **options)
        row = reference.Row(1.0, w.tolist(), smoothing)
        expected = sum(reference.cross_entropy(z, 0, row) for z in x.astype(float).tolist())
        assert loss == pytest.approx(expected, rel=2.4e-7 if dtype == np.float32 else 9e-16)


@pytest.mark.parametrize(
    ("row", "g"), [([278.72726, 126.0053], 1e30), ([162.09464, -7.645964], 1e30), ([3.0, -70.0], 1e20)]
)
def test_a_large_grad_output_meets_a_small_probability(kernels, row, g):
    x = np.array([row], np.float32)
    grad = crossentropy.cross_entropy_grad(x, [0], reduction="sum", grad_output=g)
    expected = np.exp(float(x[0, 1]) - float(x[0, 0])) * g
    np.testing.assert_allclose(grad[0, 1], expected, rtol=5e-7, atol=3e-45)


# ---------------------------------------------------------------------- anchors, sums and the short way


# At the anchor's limits, and half-way between two.
@pytest.mark.parametrize("top", [256.0, -256.0, 2048.0, -2048.0, 251.26585])
@pytest.mark.parametrize("classes", [3, 65])  # as a tile, and row by row
def test_backward_finds_the_anchor_of_forward(kernels, dtype, top, classes):
    x = np.full((2, classes), top - 2).astype(dtype)
    x[:, 1], x[:, 0] = top - 1, top
    _, grad = both(x, np.array([1, 0]), reduction="none")
    with crossentropy.config(backend="reference"):
        expected = crossentropy.cross_entropy_grad(x, np.array([1, 0]), reduction="none")
    np.testing.assert_allclose(grad.astype(float), expected.astype(float), rtol=4 * float(np.finfo(np.float16).eps))


@pytest.mark.parametrize("where", [5, 100])  # among the classes that the anchor is guessed from, and past them
def test_probability_targets_that_are_the_softmax_itself(kernels, where):
    """The loss is the entropy, of which nothing may be lost to the distance between the guess and the maximum."""
    x = np.random.default_rng(5).standard_normal((1, 1000))
    x[0, where] = 30
    q = crossentropy.softmax(x)
    with crossentropy.config(backend="reference"):
        expected = crossentropy.cross_entropy(x, q)
    assert crossentropy.cross_entropy(x, q) == pytest.approx(expected, rel=2e-15)


def test_classes_at_minus_infinity_count_for_nothing_however_weighted(kernels):
    x = np.full((1, 32000), -INF, np.float32)
    x[0, 0] = -14
    for weight in (1.0, 16.0, 1e20):
        assert crossentropy.cross_entropy(x, [0], reduction="sum", sample_weight=[weight]) == 0
    assert not crossentropy.cross_entropy_grad(x, [0], reduction="sum", grad_output=2.0**20).any()


def test_small_plain_arrays_give_the_same_bits_as_others(kernels, rng):
    """The short way of native.light beside the long one, which an option takes."""
    shapes = [(37, 11), (400, 103), (3000, 3), (9000, 5)]  # for several threads; losses for the stack or not, and both
    for dtype, (rows, classes) in itertools.product((np.float32, np.float64), shapes):
        x, t = rng.standard_normal((rows, classes)).astype(dtype), rng.integers(0, classes, rows)
        loss, grad = crossentropy.cross_entropy_and_grad(x, t)
        assert crossentropy.cross_entropy(x, t) == loss
        long = crossentropy.cross_entropy_and_grad(x, t, sample_weight=np.ones(rows))
        same(loss, long.loss)
        same(grad, long.grad)
        again = x.copy()
        assert crossentropy.cross_entropy_and_grad(again, t, out=again).grad is again
        same(again, grad)


def test_the_short_way_takes_no_other_kind_of_out():
    x, t = np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
    for out in (np.zeros((4, 3), np.float32).view(np.matrix), np.ma.zeros((4, 3), np.float32), memoryview(x.copy())):
        with pytest.raises(TypeError, match="out must be a plain array"):
            crossentropy.cross_entropy_and_grad(x, t, out=out)
    with pytest.raises(ValueError, match="out must not share memory"):
        crossentropy.cross_entropy_and_grad(x[1:], t[1:], out=x[:-1])


def test_no_row_shows_what_came_before_it(kernels, dtype, rng):
    """Rows whose first classes say little of their maximum, after a batch of rows near 0 and by themselves."""
    classes = 200
    calm = rng.standard_normal((40, classes))
    odd = rng.standard_normal((11, classes))
    odd[0, :100] -= 30  # a maximum near 0 that the first 64 classes don't tell of
    odd[1, :100] -= 30
    odd[1, 100:] += 10
    odd[2] += 30
    odd[2, 150] = 45  # past what an anchor at 0 serves
    odd[3] += 38  # whose sum at that anchor may be infinite
    odd[4] -= 20
    odd[5, :100] -= 200
    odd[6] += 300
    odd[7] = -np.inf
    odd[7, 180] = -3
    odd[8, 7] = np.nan
    odd[9, 7] = 39.9
    odd[10, :64] = 14.5
    x = np.concatenate([calm, odd, calm, odd[::-1]]).astype(dtype)
    t = rng.integers(0, classes, len(x))
    together = crossentropy.cross_entropy_and_grad(x, t, reduction="none")
    same(crossentropy.cross_entropy(x, t, reduction="none"), together.loss)
    same(crossentropy.cross_entropy_grad(x, t, reduction="none"), together.grad)
    log_p, lse = crossentropy.log_softmax(x), crossentropy.logsumexp(x)
    for i in range(len(x)):
        alone = crossentropy.cross_entropy_and_grad(x[i : i + 1], t[i : i + 1], reduction="none")
        same(together.loss[i : i + 1], alone.loss)
        same(together.grad[i : i + 1], alone.grad)
        same(log_p[i], crossentropy.log_softmax(x[i]))
        same(lse[i], crossentropy.logsumexp(x[i]))
