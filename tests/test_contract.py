"""Every backend against the reference: the conformance suite, and row lengths chosen by code path."""

import contextlib
import importlib
import itertools
import types

import numpy as np
import pytest
from conftest import DTYPES

import crossentropy
from crossentropy import autograd, reference, testing
from crossentropy._backends import reference as reference_backend
from crossentropy.testing import same, within
from crossentropy.testing.edge_cases import axes, row_statistics, sums

# LANES: 16 and 8 (AVX-512), 8 and 4 (AVX2), 4 and 2 (base), for float32 and float64; four vectors are unrolled, a sum's
# chunk is 16 vectors, a block 2048 classes. In Numba a group is 64 classes, a chunk 512, a block 2048.
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
    65,  # the unrolled four vectors of AVX-512, Numba's group
    255,
    256,
    257,  # AVX-512's chunk
    511,
    513,  # Numba's
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


@pytest.mark.parametrize("classes", SIZES)
def test_plain_rows_of_every_length(kernels, dtype, classes, rng):
    x, z = rows_like(rng, 4, classes, dtype)
    y = [0, classes - 1, classes // 2, int(z[3].argmax())]
    targets = np.array(y)
    options = [reference.PLAIN] * 4
    loss, grad = crossentropy.cross_entropy_and_grad(x, targets, reduction="none")
    expected, grads, _ = testing.exact(z, y, options)
    within(loss, expected, dtype, "loss")
    within(crossentropy.cross_entropy(x, targets, reduction="none"), expected, dtype, "loss")
    within(grad, grads, dtype, "grad")
    within(crossentropy.log_softmax(x), [reference.log_softmax(row) for row in z.tolist()], dtype, "log_softmax")
    within(crossentropy.softmax(x), [reference.softmax(row) for row in z.tolist()], dtype, "grad")
    within(crossentropy.logsumexp(x), [reference.logsumexp(row) for row in z.tolist()], dtype, "loss")
    assert grad.dtype == dtype
    assert loss.dtype == (np.float64 if dtype == np.float64 else np.float32)


@pytest.mark.parametrize("classes", [3, 63, 64, 65, 300, 2047, 2048, 2049, 4099])
def test_infinite_rows_and_weights_of_every_length(kernels, dtype, classes):
    """In tiles and in blocks: in every layout, beside rows that are not infinite."""
    sums.infinite_rows(classes, dtype, testing.LAYOUTS)
    sums.weights_of_any_size(classes, dtype)


@pytest.mark.parametrize("classes", [64, 65, 300, 2300])
def test_row_statistics_of_every_length(kernels, dtype, classes):
    """In tiles and in blocks: what the conformance suite has of few classes."""
    if classes < 100:  # of more the reference takes seconds
        row_statistics.every_number(classes, dtype)
    if classes < 1000:
        row_statistics.leaders(classes, classes - 1, dtype)
    row_statistics.ties(classes, dtype)
    row_statistics.undefined(classes, dtype)


def test_row_statistics_of_long_rows(kernels, dtype):
    row_statistics.long_rows(dtype)


EVERY = [None, *itertools.chain.from_iterable(itertools.permutations(range(3), n) for n in (1, 2, 3))]


@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("axis", EVERY, ids=str)
def test_several_axes(kernels, dtype, axis, layout):
    if testing.has_layout(dtype, layout):
        axes.several_axes(axis, layout, dtype)


@pytest.fixture
def always_parallel(monkeypatch):
    """Small arrays go to as many threads as large ones."""
    for name in ("native", "numba"):
        with contextlib.suppress(ImportError):
            monkeypatch.setattr(importlib.import_module(f"crossentropy._backends.{name}"), "SERIAL_BELOW", 0)


@pytest.mark.parametrize("options", testing.OPTION_SETS, ids=str)
def test_options_crossed_in_every_layout(kernels, dtype, always_parallel, options):
    """On one thread, and on three in every layout of memory."""
    p = testing.problem(options, dtype)
    with crossentropy.config(threads=1):
        serial = crossentropy.cross_entropy_and_grad(p.x, p.targets, grad_output=p.grad_output, **p.options)
    with crossentropy.config(threads=3):
        testing.check_options(options, dtype)
        parallel = crossentropy.cross_entropy_and_grad(p.x, p.targets, grad_output=p.grad_output, **p.options)
    same(parallel.loss, serial.loss)
    same(parallel.grad, serial.grad)


@pytest.mark.parametrize("name", testing.EDGE_CASES)
def test_edge_case(backend, dtype, name):
    testing.EDGE_CASES[name](dtype)


def failures(backend, kind):
    """The checks of the conformance suite, of those with float64 and a kind of name, that a backend does not pass."""
    found = []
    with crossentropy.config(backend=backend):
        for name, check in testing.conformance():
            if name.endswith("float64") and kind in name:
                try:
                    check()
                except AssertionError:
                    found.append(name)
    return found


def test_a_backend_of_ones_own_is_held_to_it():
    """The reference as a module conforms; with one wrong sign, or a row that shows in the next, it does not."""
    mine = types.ModuleType("mine")
    public = {name: value for name, value in vars(reference_backend).items() if not name.startswith("_")}
    vars(mine).update(public)
    plain = next(str(each) for each in testing.OPTION_SETS if each.targets == "index" and not each.where)
    for kind in (plain, "batch, 5 classes", "rows"):
        assert failures(mine, kind) == []

    def backward(*arguments):
        public["backward"](*arguments)
        np.negative(arguments[-1], out=arguments[-1])

    mine.backward = backward
    assert failures(mine, plain)
    mine.backward = public["backward"]

    def log_softmax(x, out, statistics=None):
        public["log_softmax"](x, out, statistics)
        if out.ndim > 1:
            out[-1] = out[0]

    mine.log_softmax = log_softmax
    assert len(failures(mine, "batch, 5 classes")) == 1


@pytest.mark.parametrize("q_dtype", ["float16", "bfloat16", "float32", "float64"])
def test_probability_targets_of_every_dtype(kernels, dtype, q_dtype, rng):
    if DTYPES[q_dtype] is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    x, z = rows_like(rng, 3, 2050, dtype)  # past a block: converted a block at a time
    q = rng.dirichlet(np.full(2050, 0.1), 3).astype(DTYPES[q_dtype])
    each = q.astype(np.float64).tolist()
    options = [reference.Row()] * 3
    loss, grad = crossentropy.cross_entropy_and_grad(x, q, reduction="none")
    losses, grads, units = testing.exact(z, each, options)
    within(loss, losses, dtype, "loss")
    within(grad, grads, dtype, "grad", unit_at=units)
    assert grad.dtype == dtype


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_scales_that_float32_could_lose(kernels, scale, rng):
    """A tiny grad_output times e^z past float32's range, and class weights far from 1."""
    dtype = np.dtype(np.float32)
    x, z = rows_like(rng, 3, 40, dtype, scale=8.0)
    y = [3, 0, 39]
    options = [reference.Row()] * 3
    grad = crossentropy.cross_entropy_grad(x, np.array(y), reduction="sum", grad_output=scale)
    within(grad, testing.exact(z, y, options)[1] * scale, dtype, "grad")
    weights = {"label_smoothing": 0.1, "reduction": "mean"}
    even = crossentropy.cross_entropy_and_grad(x, np.array(y), class_weight=np.ones(40), **weights)
    scaled = crossentropy.cross_entropy_and_grad(x, np.array(y), class_weight=np.full(40, scale**2), **weights)
    np.testing.assert_allclose(scaled.loss, even.loss, rtol=3e-7)
    np.testing.assert_allclose(scaled.grad, even.grad, rtol=2e-6, atol=1e-9)


def test_rounding_errors_that_add_up(kernels):
    """Few distinct logits, one far ahead: the others' errors are equal, and are added to the same lanes."""
    counts = {-4: 9, -3: 9, -2: 14, -1: 19, 0: 14, 1: 20, 2: 7, 3: 14, 4: 7, 5: 8, 6: 1, 9: 1}
    row = np.repeat(np.float32(list(counts)), list(counts.values()))
    x = np.array([np.random.default_rng(seed).permutation(row) for seed in range(100)])  # in which lane the largest is
    y = [int(np.flatnonzero(z == 4)[0]) for z in x]
    expected, grads, _ = testing.exact(x, y, [reference.PLAIN] * len(x))
    g = np.full(len(x), 1 / 130)  # rounds the same way
    loss, grad = crossentropy.cross_entropy_and_grad(x, np.array(y), reduction="none", grad_output=g)
    within(loss, expected, x.dtype, "loss")
    within(grad, grads * g[:, None], x.dtype, "grad")


@pytest.mark.parametrize("constant", [False, True])  # whose roundings all point one way
@pytest.mark.parametrize("classes", [255, 2051])
def test_log_softmax_backward(kernels, dtype, classes, constant, rng):
    x, _ = rows_like(rng, 4, classes, dtype)
    g = np.full(x.shape, 1.173151214496809, dtype) if constant else rng.standard_normal(x.shape).astype(dtype)
    log_p, saved = autograd.log_softmax_forward(x)
    np.testing.assert_array_equal(log_p, crossentropy.log_softmax(x))
    got = autograd.log_softmax_backward(saved, g)
    pairs = list(zip(g.astype(float).tolist(), x.astype(float).tolist(), strict=True))
    expected = np.array([reference.log_softmax_backward(*pair) for pair in pairs])
    terms = np.array([reference.log_softmax_terms(*pair) for pair in pairs])
    within(got, expected, dtype, "grad", unit_at=terms)


def test_backends_agree_on_real_logits(kernels, dtype):
    """Logits of a classifier trained on the bundled digits, and its real labels."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the real data is scikit-learn's")
    features, labels = datasets.load_digits(return_X_y=True)
    model, _ = crossentropy.training.fit(features / 16, labels, epochs=3)
    x = model.logits(features / 16)[:200].astype(dtype)
    z, y = x.astype(np.float64), labels[:200]
    options = [reference.Row()] * len(y)
    loss, grad = crossentropy.cross_entropy_and_grad(x, y, reduction="none")
    losses, grads, _ = testing.exact(z, y.tolist(), options)
    within(loss, losses, dtype, "loss")
    within(grad, grads, dtype, "grad")


@pytest.mark.parametrize("g_dtype", ["float16", "float32", "float64", "int64"])
def test_log_softmax_backward_takes_a_grad_output_of_any_dtype(backend, dtype, g_dtype, rng):
    x, _ = rows_like(rng, 3, 70, dtype)
    g = rng.integers(-8, 9, x.shape)  # exact in every dtype
    _, saved = autograd.log_softmax_forward(x)
    same(autograd.log_softmax_backward(saved, g.astype(g_dtype)), autograd.log_softmax_backward(saved, g.astype(dtype)))
