"""Every ISA unit against the reference: all options crossed, on row lengths chosen by code path."""

import itertools

import numpy as np
import pytest
from ulps import same, within

import crossentropy
from crossentropy import autograd, reference

# LANES: 16 and 8 (AVX-512), 8 and 4 (AVX2), 4 and 2 (base), for float32 and float64; four vectors are unrolled, a sum's
# chunk is 16 vectors, a block 2048 classes.
SIZES = [
    1,  # one class: everything is 0
    2,
    3,  # below every vector but the base's float64
    4,
    5,
    7,
    8,
    9,
    15,
    16,
    17,  # each lane count and its neighbours
    63,
    64,
    65,  # the unrolled four vectors of AVX-512
    255,
    256,
    257,  # its chunk
    1000,  # ImageNet, no multiple of anything
    2047,
    2048,
    2049,  # the block
    4099,  # two blocks and a partial vector
]


def rows_like(rng, n, classes, dtype, scale=2.0):
    """Logits of which none is special, rounded to the dtype; as an array and as exact float64."""
    x = (rng.standard_normal((n, classes)) * scale).astype(dtype)
    return x, x.astype(np.float64)


def exact_losses(z, targets, options):
    return np.array(
        [reference.cross_entropy(row, t, o) for row, t, o in zip(z.tolist(), targets, options, strict=True)]
    )


def exact_grads(z, targets, options):
    return np.array(
        [reference.cross_entropy_grad(row, t, o) for row, t, o in zip(z.tolist(), targets, options, strict=True)]
    )


def term_sizes(z, targets, options):
    """The largest term of each gradient entry, the unit of its ulp where options make terms cancel."""
    sizes = []
    for row, target, o in zip(z.tolist(), targets, options, strict=True):
        t = np.array(reference.target_weights(target, len(row), o))
        lse = reference.partial(row).lse
        a = t.sum() + 2 * o.z_loss * abs(lse)
        sizes.append(o.weight * np.maximum(a * np.array(reference.softmax(row)), np.abs(t)))
    return np.array(sizes)


@pytest.mark.parametrize("classes", SIZES)
def test_plain_rows_of_every_length(kernels, dtype, classes, rng):
    x, z = rows_like(rng, 4, classes, dtype)
    y = [0, classes - 1, classes // 2, int(z[3].argmax())]
    targets = np.array(y)
    options = [reference.Row()] * 4
    loss, grad = crossentropy.cross_entropy_and_grad(x, targets, reduction="none")
    expected = exact_losses(z, y, options)
    within(loss, expected, dtype, "loss")
    within(crossentropy.cross_entropy(x, targets, reduction="none"), expected, dtype, "loss")
    within(grad, exact_grads(z, y, options), dtype, "grad")
    within(crossentropy.log_softmax(x), [reference.log_softmax(row) for row in z.tolist()], dtype, "log_softmax")
    within(crossentropy.softmax(x), [reference.softmax(row) for row in z.tolist()], dtype, "grad")
    within(crossentropy.logsumexp(x), [reference.logsumexp(row) for row in z.tolist()], dtype, "loss")
    assert grad.dtype == dtype
    assert loss.dtype == (np.float64 if dtype == np.float64 else np.float32)


OPTIONS = list(
    itertools.product(
        ("index", "probability"),
        (False, True),  # class_weight
        (False, True),  # sample_weight, with a 0
        (0.0, 0.1, 1.0),  # label_smoothing
        (0.0, 0.01),  # z_loss
        ("none", "sum", "mean", "normalizer"),
    )
)


@pytest.mark.parametrize(("kind", "weighted", "sampled", "smoothing", "z_loss", "reduction"), OPTIONS)
def test_options_crossed(kernels, dtype, kind, weighted, sampled, smoothing, z_loss, reduction, rng):
    n, classes = 5, 37
    x, z = rows_like(rng, n, classes, dtype)
    w = rng.uniform(0, 2, classes) * (rng.random(classes) > 0.2) if weighted else None  # some are 0
    v = np.array([1.0, 0.0, 2.5, 0.3, 1.0]) if sampled else None
    if kind == "index":
        targets = rng.integers(0, classes, n)
        if weighted:
            w[targets[0]] = 1.5  # the mean over no row is an edge case of its own
        each = targets.tolist()
    else:
        q = rng.dirichlet(np.ones(classes), n) * (rng.random((n, classes)) > 0.3)
        targets = q.astype(np.float32)
        each = targets.astype(np.float64).tolist()
    options = [
        reference.Row(1.0 if v is None else v[i], None if w is None else w.tolist(), smoothing, z_loss)
        for i in range(n)
    ]
    losses, grads, sizes = exact_losses(z, each, options), exact_grads(z, each, options), term_sizes(z, each, options)
    by, g = 1.0, 1.0
    if reduction == "none":
        g = rng.uniform(0.5, 2, n)
    elif reduction == "mean":
        by = reference.divisor(each, [o.weight for o in options], options[0].class_weight)
    elif reduction == "normalizer":
        by = 7.25
    keywords = {"class_weight": w, "sample_weight": v, "label_smoothing": smoothing, "z_loss": z_loss}
    keywords |= {"reduction": "mean", "normalizer": by} if reduction == "normalizer" else {"reduction": reduction}
    got = crossentropy.cross_entropy_and_grad(x, targets, grad_output=g, **keywords)
    within(got.loss, losses if reduction == "none" else losses.sum() / by, dtype, "loss")
    factor = (g[:, None] if reduction == "none" else g) / by
    within(got.grad, grads * factor, dtype, "grad", unit_at=sizes * factor)

    np.testing.assert_array_equal(crossentropy.cross_entropy(x, targets, **keywords), got.loss)
    loss, saved = autograd.forward(x, targets, **keywords)
    np.testing.assert_array_equal(loss, got.loss)
    np.testing.assert_array_equal(autograd.backward(saved, g), got.grad)
    np.testing.assert_array_equal(crossentropy.cross_entropy_grad(x, targets, grad_output=g, **keywords), got.grad)
    in_place = x.copy()
    crossentropy.cross_entropy_and_grad(in_place, targets, grad_output=g, out=in_place, **keywords)
    np.testing.assert_array_equal(in_place, got.grad)


@pytest.mark.parametrize("q_dtype", ["float16", "bfloat16", "float32", "float64"])
def test_probability_targets_of_every_dtype(kernels, dtype, q_dtype, rng):
    from conftest import DTYPES

    if DTYPES[q_dtype] is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    x, z = rows_like(rng, 3, 2050, dtype)  # past a block: converted a block at a time
    q = rng.dirichlet(np.full(2050, 0.1), 3).astype(DTYPES[q_dtype])
    each = q.astype(np.float64).tolist()
    options = [reference.Row()] * 3
    loss, grad = crossentropy.cross_entropy_and_grad(x, q, reduction="none")
    within(loss, exact_losses(z, each, options), dtype, "loss")
    within(grad, exact_grads(z, each, options), dtype, "grad", unit_at=term_sizes(z, each, options))
    assert grad.dtype == dtype


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_scales_that_float32_could_lose(kernels, scale, rng):
    """A tiny grad_output times e^z past float32's range, and class weights far from 1."""
    dtype = np.dtype(np.float32)
    x, z = rows_like(rng, 3, 40, dtype, scale=8.0)
    y = [3, 0, 39]
    options = [reference.Row()] * 3
    grad = crossentropy.cross_entropy_grad(x, np.array(y), reduction="sum", grad_output=scale)
    within(grad, exact_grads(z, y, options) * scale, dtype, "grad")
    weights = {"label_smoothing": 0.1, "reduction": "mean"}
    even = crossentropy.cross_entropy_and_grad(x, np.array(y), class_weight=np.ones(40), **weights)
    scaled = crossentropy.cross_entropy_and_grad(x, np.array(y), class_weight=np.full(40, scale**2), **weights)
    np.testing.assert_allclose(scaled.loss, even.loss, rtol=3e-7)
    np.testing.assert_allclose(scaled.grad, even.grad, rtol=2e-6, atol=1e-9)


def test_log_softmax_backward(kernels, dtype, rng):
    x, _ = rows_like(rng, 4, 2051, dtype)
    g = rng.standard_normal(x.shape).astype(dtype)
    log_p, saved = autograd.log_softmax_forward(x)
    np.testing.assert_array_equal(log_p, crossentropy.log_softmax(x))
    got = autograd.log_softmax_backward(saved, g)
    p, g64 = np.exp(log_p.astype(np.float64)), g.astype(np.float64)
    expected = np.array(
        [reference.log_softmax_backward(*pair) for pair in zip(g64.tolist(), log_p.astype(float).tolist(), strict=True)]
    )
    within(got, expected, dtype, "grad", unit_at=np.maximum(np.abs(g64), np.abs(p * g64.sum(1, keepdims=True))))


@pytest.mark.parametrize(
    "target_dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_index_targets_of_every_dtype(backend, target_dtype, rng):
    x = rng.standard_normal((6, 100))
    y = rng.integers(0, 100, 6)
    expected = crossentropy.cross_entropy(x, y, reduction="none", ignore_index=int(y[2]))
    got = crossentropy.cross_entropy(x, y.astype(target_dtype), reduction="none", ignore_index=int(y[2]))
    np.testing.assert_array_equal(got, expected)
    assert got[2] == 0


def test_backends_agree_on_real_logits(kernels, dtype):
    """Logits of a classifier trained on the bundled digits, and its real labels."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the real data is scikit-learn's")
    features, labels = datasets.load_digits(return_X_y=True)
    model, _ = crossentropy.training.fit(features / 16, labels, epochs=3)
    x = model.logits(features / 16)[:200].astype(dtype)
    z, y = x.astype(np.float64), labels[:200]
    options = [reference.Row()] * len(y)
    loss, grad = crossentropy.cross_entropy_and_grad(x, y, reduction="none")
    within(loss, exact_losses(z, y.tolist(), options), dtype, "loss")
    within(grad, exact_grads(z, y.tolist(), options), dtype, "grad")


@pytest.mark.parametrize("g_dtype", ["float16", "float32", "float64", "int64"])
def test_log_softmax_backward_takes_a_grad_output_of_any_dtype(backend, dtype, g_dtype, rng):
    x, _ = rows_like(rng, 3, 70, dtype)
    g = rng.integers(-8, 9, x.shape)  # exact in every dtype
    _, saved = autograd.log_softmax_forward(x)
    same(autograd.log_softmax_backward(saved, g.astype(g_dtype)), autograd.log_softmax_backward(saved, g.astype(dtype)))
