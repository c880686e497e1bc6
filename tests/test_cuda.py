"""The CUDA backend, in Numba's simulator (NUMBA_ENABLE_CUDASIM=1) or on a card: the kernels' own sources either way."""

import itertools
import os
import random
import runpy
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conftest import DTYPES

import crossentropy
from crossentropy import _device, autograd, reference, testing
from crossentropy._backends import registry
from crossentropy.testing import LIMITS, result_dtype, same, sweep, within
from crossentropy.testing.covering import covering
from crossentropy.testing.options import FACTORS, refused
from crossentropy.testing.sweep import LONG, errors, truth

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.importorskip("greenlet", reason="the simulated threads of a GPU are greenlets")
elif registry.device_reason():
    pytest.skip(f"needs a GPU, or NUMBA_ENABLE_CUDASIM=1: {registry.device_reason()}", allow_module_level=True)

import cuda_backend
from cuda_backend import Array

from crossentropy._backends.cuda import arrays, driver, launch, plans

CHOSEN = covering({**FACTORS, "dtype": tuple(DTYPES)}, 2, refused)


@pytest.fixture(autouse=True)
def device():
    """Host arrays by the CUDA kernels, too."""
    random.seed(20190601)  # the order of simulated threads
    with crossentropy.config(backend=cuda_backend):
        yield
    if cuda_backend.SIMULATED:
        cuda_backend.cuda_simulator.forget()


# ---------------------------------------------------------------------- the conformance suite


@pytest.mark.parametrize(("number", "chosen"), list(enumerate(CHOSEN)))
def test_options_pairwise(number, chosen):
    """Each in two of the layouts."""
    dtype = DTYPES[chosen["dtype"]]
    options = testing.OptionSet(**{name: value for name, value in chosen.items() if name != "dtype"})
    layouts = list(testing.LAYOUTS)
    testing.check_options(options, dtype, [layouts[(2 * number + k) % len(layouts)] for k in (0, 1)])


# Hidden states on a device go another way (test_cuda_linear.py). Blocks of classes are below: many small calls each, of
# kernels that work in float64 whatever the logits are.
ELSEWHERE = ("linear:", "blocks:")
HERE = [name for name in testing.EDGE_CASES if not name.startswith(ELSEWHERE)]
IN_TURN = ("float32", "float16", "float32", "bfloat16", "float32", "float64")


# In the simulator, which takes seconds for what a device does at once, each in one dtype, whatever others there are.
CHOSEN_DTYPES = [(name, IN_TURN[zlib.crc32(name.encode()) % len(IN_TURN)]) for name in HERE]
DTYPES_OF = CHOSEN_DTYPES if cuda_backend.SIMULATED else itertools.product(HERE, DTYPES)


@pytest.fixture
def a_warp_a_block(monkeypatch):
    """The simulator takes its time for each thread: blocks of one warp; test_options_pairwise has those of four."""
    if cuda_backend.SIMULATED:
        monkeypatch.setattr(launch, "BLOCK", 32)
        _forget_shapes()
    yield
    monkeypatch.undo()
    if cuda_backend.SIMULATED:
        _forget_shapes()


def _forget_shapes():
    launch.shape_for.cache_clear()
    plans._plans.clear()


@pytest.mark.usefixtures("a_warp_a_block")
@pytest.mark.parametrize(("name", "kind"), list(DTYPES_OF))
def test_edge_case(name, kind):
    dtype = DTYPES[kind]
    if dtype is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    testing.EDGE_CASES[name](dtype)


OF_BLOCKS = [name for name in testing.EDGE_CASES if name.startswith("blocks:")]


@pytest.mark.parametrize("name", OF_BLOCKS)
def test_blocks_of_classes(name):
    testing.EDGE_CASES[name](list(testing.dtypes().values())[OF_BLOCKS.index(name) % 3])


@pytest.mark.parametrize("classes", [1, 70])
@pytest.mark.parametrize("name", testing.PROPERTIES)
def test_property(name, classes):
    x = (np.random.default_rng(classes).standard_normal((5, classes)) * 3).astype(np.float32)
    testing.PROPERTIES[name](x, np.arange(5) % classes)


@pytest.mark.parametrize(
    "z",
    [
        lambda rng, n: -100 + 3 * rng.standard_normal(n),
        lambda rng, n: np.sort(40 * rng.standard_normal(n)),  # one maximum after another
        lambda rng, n: np.where(np.arange(n) == n - 1, 90.0, rng.standard_normal(n)),
        lambda rng, n: rng.uniform(-3e38, 3e38, n),
        lambda rng, n: -1e30 * rng.random(n),
        lambda rng, n: rng.uniform(200, 320, n),  # about where the anchor is another
    ],
    ids=["-100", "sorted", "one ahead", "huge", "huge and negative", "300"],
)
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_where_a_sum_needs_another_anchor(kind, z):
    """A lane's sum has an anchor: its first maximum, until another passes that by far."""
    dtype = DTYPES[kind]
    rng = np.random.default_rng(7)
    x = np.array([z(rng, 130) for _ in range(3)]).astype(dtype)
    y = [0, 129, int(x[2].argmax())]
    loss, grad = crossentropy.cross_entropy_and_grad(x, np.array(y), reduction="none")
    expected, grads, _ = testing.exact(x, y, [reference.Row()] * 3)
    with np.errstate(over="ignore"):
        within(loss, expected.astype(loss.dtype).astype(float), dtype, "loss")
    within(grad, grads, dtype, "grad")


@pytest.mark.parametrize("classes", [512, 511], ids=["kept", "streamed"])
@pytest.mark.parametrize("weight", [1e-40, 1.0, 1e20, 2e36])
def test_lanes_about_the_last_anchor_that_is_0_and_gradients_of_any_size(shared_out, classes, weight):
    """Lanes of several warps, some with an anchor and some without; a factor of 2^100 and more takes another way."""
    shared_out(64, 2, 1)
    rng = np.random.default_rng(classes)
    near = 3 * rng.standard_normal((4, classes))
    lanes = np.arange(classes) // 4 % 2
    x = near + np.array([0, -255, 255, 0])[:, None] + np.outer([0, -4, 4, 0], lanes)
    x[0, ::3], x[3, : classes // 2] = -np.inf, -90
    x, y = x.astype(np.float32), np.array([1, 2, 3, classes - 1])
    weights = np.full(4, weight, np.float32)
    loss, grad = crossentropy.cross_entropy_and_grad(x, y, sample_weight=weights, reduction="none")
    expected, grads, unit = testing.exact(x, y.tolist(), [reference.Row(float(w)) for w in weights])
    within(loss, expected, x.dtype, "loss")
    within(grad, grads, x.dtype, "grad", unit_at=unit)
    same(crossentropy.cross_entropy_grad(np.asfortranarray(x), y, sample_weight=weights, reduction="none"), grad)


@pytest.mark.parametrize("classes", [128, 130], ids=["kept", "streamed"])
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_where_a_sum_of_16_bits_needs_another_anchor(kind, classes):
    """Maxima one after another, far from 0, where numbers lie ever farther apart; and less than all of e^z is lost."""
    dtype, rng, n = DTYPES[kind], np.random.default_rng(8), np.arange(classes)
    if dtype is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    most = 65504 if kind == "float16" else 3e38
    rows = [np.sort(40 * rng.standard_normal(classes)), -100 - n % 7, np.where(n == classes - 1, 90.0, n % 3)]
    rows += [np.where(n == 100, z, z - abs(z) / 2**k * (1 + n % 3)) for z, k in ((16384, 8), (-16400, 9), (most, 10))]
    rows += [np.where(n % 2 == 0, -np.inf, np.linspace(9000, 9016, classes))]
    x = np.array(rows).astype(dtype)
    y = [0, 3, classes - 1, 100, 5, 100, 1]
    loss, grad = crossentropy.cross_entropy_and_grad(x, np.array(y), reduction="none")
    expected, grads, _ = testing.exact(x.astype(np.float64), y, [reference.Row()] * len(x))
    within(loss, expected.astype(loss.dtype).astype(float), dtype, "loss")
    within(grad, grads, dtype, "grad")


# ---------------------------------------------------------------------- the shapes of work

# Small stand-ins for the shapes of the table, with (threads, vectors kept, blocks): each takes the same code.
SHAPES = {
    "a thread a row": (1, 1, 1),
    "part of a warp": (4, 2, 1),
    "a warp": (32, 1, 1),
    "a block": (64, 4, 1),
    "a cluster": (32, 2, 2),
    "a cluster of larger blocks": (64, 1, 2),
    "a block, streamed": (64, 0, 1),
    "a cluster, streamed": (32, 0, 4),
}
OF_A_KIND = ("a thread a row", "part of a warp", "a warp", "a block", "a cluster", "a cluster of larger blocks")


def use(monkeypatch, threads, kept, blocks, multiprocessors=0):
    """Let every row be shared out like that."""
    monkeypatch.setattr(launch, "TABLE", ((10**9, threads, kept, blocks),) if kept else ())
    monkeypatch.setattr(launch, "WITHOUT_CLUSTERS", (10**9 if kept else 0, threads, kept, 1))
    monkeypatch.setattr(launch, "STREAMED", threads)
    monkeypatch.setattr(launch, "BLOCK", 32)
    monkeypatch.setattr(launch, "MOST_BLOCKS", blocks)
    monkeypatch.setattr(driver, "has_clusters", lambda device: True)
    monkeypatch.setattr(driver, "multiprocessors", lambda device: max(1, multiprocessors))
    _forget_shapes()


@pytest.fixture
def shared_out(monkeypatch):
    """A function that sets the shape of work."""
    yield lambda *shape, **more: use(monkeypatch, *shape, **more)
    monkeypatch.undo()
    _forget_shapes()


def results(x, y, q, smoothing=0.1):
    """What every kind of kernel makes of some rows."""
    loss, saved = autograd.forward(x, y, reduction="none", label_smoothing=smoothing)
    log_p, saved_log_p = autograd.log_softmax_forward(x)
    return {
        "plain": crossentropy.cross_entropy_and_grad(x, y, reduction="none"),
        "smooth": crossentropy.cross_entropy_and_grad(x, y, reduction="none", label_smoothing=smoothing),
        "pair": (loss, autograd.backward(saved)),
        "probabilities": crossentropy.cross_entropy_and_grad(x, q, reduction="none"),
        "rows": (log_p, crossentropy.softmax(x), crossentropy.logsumexp(x)),
        "log_softmax_backward": (autograd.log_softmax_backward(saved_log_p, q.astype(x.dtype)),),
    }


def held(found, x, y, q, dtype):
    """Assert that they are within the contract."""
    z, plain, smooth = x.astype(np.float64), [reference.Row()] * len(x), [reference.Row(1.0, None, 0.1, 0.0)] * len(x)
    for name, targets, rows in (
        ("plain", y.tolist(), plain),
        ("smooth", y.tolist(), smooth),
        ("pair", y.tolist(), smooth),
        ("probabilities", q.astype(np.float64).tolist(), plain),
    ):
        loss, grad, unit = testing.exact(z, targets, rows)
        within(found[name][0], loss, dtype, "loss")
        within(found[name][1], grad, dtype, "grad", unit_at=unit)
    log_p, p, lse = found["rows"]
    g = q.astype(dtype).astype(np.float64)
    moved, terms = (
        [f(*row) for row in zip(g.tolist(), z.tolist(), strict=True)]
        for f in (reference.log_softmax_backward, reference.log_softmax_terms)
    )
    within(found["log_softmax_backward"][0], moved, dtype, "grad", unit_at=np.array(terms))
    within(log_p, [reference.log_softmax(row) for row in z.tolist()], dtype, "log_softmax")
    within(p, [reference.softmax(row) for row in z.tolist()], dtype, "grad")
    within(lse, [reference.logsumexp(row) for row in z.tolist()], dtype, "loss")


def problem(classes, dtype, rows=3):
    rng = np.random.default_rng(classes)
    x = (rng.standard_normal((rows, classes)) * 3).astype(dtype)
    q = rng.dirichlet(np.ones(classes), rows).astype(np.float32 if dtype != np.float64 else np.float64)
    return x, rng.integers(0, classes, rows), q


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_work(shared_out, name, kind):
    """Rows that fill what the shape keeps, one vector less, and one class less (which is not kept)."""
    if DTYPES[kind] is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    dtype = DTYPES[kind]
    threads, kept, blocks = SHAPES[name]
    width = 16 // dtype.itemsize
    shared_out(threads, kept, blocks)
    full = (kept or 5) * threads * blocks * width
    for classes in [c for c in (full, full - width, full - 1) if c][: 3 if full < 600 else 1]:
        x, y, q = problem(classes, dtype, rows=2)
        held(results(x, y, q), x, y, q, dtype)


@pytest.mark.parametrize("name", OF_A_KIND)
def test_results_are_the_same_however_rows_lie(shared_out, name):
    """Kept in registers, streamed from anywhere, or one thread for all: to the bit."""
    threads, kept, blocks = SHAPES[name]
    shared_out(threads, kept, blocks)
    x, y, q = problem(kept * threads * blocks * 4, np.dtype(np.float32), rows=2)
    plain = results(x, y, q)
    past_by_one = np.zeros((2, x.shape[1] + 1), np.float32)[:, 1:]
    past_by_one[...] = x
    for other in (past_by_one, np.asfortranarray(x)):
        for got, wanted in zip(results(other, y, q).values(), plain.values(), strict=True):
            for a, b in zip(got, wanted, strict=True):
                same(a, b)


SWEPT = {  # shape -> rows of as many classes as it keeps, and of one less, which are read again
    "a thread a row": 300,
    "part of a warp": 50,
    "a warp": 12,
    "a block": 3,
    "a cluster": 4,
    "a block, streamed": 3,
}


@pytest.mark.parametrize("name", SWEPT)
@pytest.mark.parametrize("kind", DTYPES)
def test_within_the_contract_on_rows_of_the_sweep(shared_out, record_property, kind, name):
    """On the rows of test_sweep.py, as far as a simulator gets; a backward has the bits of the loss's gradient."""
    dtype = DTYPES[kind]
    if dtype is None or (kind == "float64" and np.finfo(LONG).nmant < 63):
        pytest.skip("needs ml_dtypes for bfloat16, and a long double of more digits than double for float64")
    threads, kept, blocks = SHAPES[name]
    shared_out(threads, kept, blocks)
    worst = dict.fromkeys(LIMITS[kind], 0.0)
    full = (kept or 5) * threads * blocks * (16 // dtype.itemsize)
    for classes in (full, full - 1):
        x, y = sweep.rows(np.random.default_rng(classes), SWEPT[name], classes)
        x = np.clip(x, -6e4, 6e4).astype(dtype)
        exact = truth(x, y, LONG if kind == "float64" else np.float64)
        loss, grad = crossentropy.cross_entropy_and_grad(x, y, reduction="none")
        same(crossentropy.cross_entropy_grad(x, y, reduction="none"), grad)
        losses, saved = autograd.forward(x, y, reduction="none")
        same(losses, loss)
        same(autograd.backward(saved), grad)
        for what, got in (("loss", loss), ("grad", grad), ("log_softmax", crossentropy.log_softmax(x))):
            worst[what] = max(worst[what], float(errors(got, exact[what], result_dtype(dtype, what)).max()))
    record_property("worst", str(worst))
    assert all(worst[what] <= limit for what, limit in LIMITS[kind].items()), f"{worst} of {LIMITS[kind]}"


@pytest.mark.parametrize("kept", [2, 0])
def test_a_row_in_parts(shared_out, monkeypatch, kept):
    """Few rows and many multiprocessors: two parts and a rest, -inf throughout in one; in place, too."""
    monkeypatch.setattr(launch, "PART", 8)
    shared_out(8, kept, 1, multiprocessors=8)
    x, y, q = problem(2 * 64 + 40, np.dtype(np.float32), rows=2)
    assert launch.part_for(2, x.shape[1] // 4, 8, True) == 16
    held(results(x, y, q), x, y, q, x.dtype)
    x[0, :64], y[0] = -np.inf, 100
    loss, grad = crossentropy.cross_entropy_and_grad(x, y, reduction="none")
    expected, grads, _ = testing.exact(x, y.tolist(), [reference.Row()] * 2)
    within(loss, expected, x.dtype, "loss")
    within(grad, grads, x.dtype, "grad")
    crossentropy.cross_entropy_and_grad(x, y, reduction="none", out=x)
    same(x, grad)


def test_the_table_covers_what_it_says():
    """No row is longer than its shape keeps, and the shapes agree with and without registers."""
    for clusters in (False, True):
        for vectors in (1, 2, 5, 16, 17, 100, 128, 129, 1000, 4096, 4097, 32768, 32769, 10**6):
            shape = launch.shape_for(vectors, False, launch.KEPT, clusters)
            assert shape.kept == 0 or shape.kept * shape.lanes >= vectors
            for other in (launch.shape_for(vectors, True, 0, clusters), launch.shape_for(vectors, False, 0, clusters)):
                assert (other.threads, other.blocks, other.kept) == (shape.threads, shape.blocks, 0)
            assert shape.block <= 1024
            assert clusters or shape.blocks == 1
            for limit in (launch.KEPT_BESIDE, launch.KEPT_WIDE):
                few = launch.shape_for(vectors, False, limit, clusters, limit)
                assert few.kept <= limit
                assert few.kept == 0 or few.kept * few.lanes >= vectors
                assert few.kept or vectors > 1024  # shorter rows are kept beside others, too
                for other in (launch.shape_for(vectors, alone, 0, clusters, limit) for alone in (False, True)):
                    assert (other.threads, other.blocks, other.kept) == (few.threads, few.blocks, 0)


# ---------------------------------------------------------------------- arrays on the device


def test_results_stay_on_the_device():
    x, y, _ = problem(20, np.dtype(np.float32))
    loss, grad = crossentropy.cross_entropy_and_grad(Array(x), Array(y))
    assert isinstance(grad, Array)
    assert loss.shape == ()
    to = Array(x)
    assert crossentropy.cross_entropy_and_grad(to, Array(y), out=to).grad is to
    same(to.to_host(), grad.to_host())
    same(crossentropy.cross_entropy_grad(Array(x), Array(y)).to_host(), grad.to_host())
    again, saved = autograd.forward(Array(x), Array(y))
    same(again.to_host(), loss.to_host())
    same(autograd.backward(saved, grad_output=Array(np.float32(1))).to_host(), grad.to_host())
    same(autograd.backward(saved).to_host(), grad.to_host())  # a second time


def test_what_a_forward_saves_may_be_kept_as_arrays():
    x, y, q = problem(20, np.dtype(np.float32))
    for targets, options in (
        (y, {}),
        (y, {"ignore_index": int(y[0])}),
        (q, {"label_smoothing": 0.1}),
        (y, {"axis": 1}),
    ):
        _, saved = autograd.forward(Array(x), Array(targets), **options)
        statistics, divisor = autograd.numbers_of(saved)
        assert (divisor is not None) == ("ignore_index" in options)  # else it is the number of rows
        kept = autograd.restored(statistics, divisor, Array(x), Array(targets), **options)
        same(autograd.backward(kept).to_host(), autograd.backward(saved).to_host())
        if divisor is None:  # what is known is not taken from there
            kept = autograd.restored(statistics, Array(np.float32(7)), Array(x), Array(targets), **options)
            same(autograd.backward(kept).to_host(), autograd.backward(saved).to_host())
    for bad in (
        Array(np.zeros((4, 3), np.float32)),
        Array(np.zeros((3, 3))),
        Array(np.zeros((3, 6), np.float32)[:, ::2]),
    ):
        with pytest.raises(ValueError, match=r"statistics must be float32 of shape \(3, 3\)"):
            autograd.restored(bad, None, Array(x), Array(y))
    with pytest.raises(ValueError, match="divisor must be float32 of shape"):
        autograd.restored(statistics, statistics, Array(x), Array(y))


def test_a_plan_serves_other_arrays_that_lie_alike():
    known = len(plans._plans)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((4, 30)).astype(np.float32)
        y = np.arange(4) + seed
        got = crossentropy.cross_entropy(Array(x), Array(y), z_loss=0.015)
        expected, _, _ = testing.exact(x, y.tolist(), [reference.Row(1.0, None, 0.0, 0.015)] * 4)
        within(got.to_host(), expected.mean(), x.dtype, "loss")
    assert len(plans._plans) == known + 1


def test_a_plan_serves_other_numbers():
    x, y, _ = problem(30, np.dtype(np.float32))
    known = None
    for k in (1, 2, 3):
        total = crossentropy.cross_entropy(Array(x), Array(y), normalizer=k, label_smoothing=k / 10, empty=float("nan"))
        expected, _, _ = testing.exact(x, y.tolist(), [reference.Row(1.0, None, k / 10, 0.0)] * 3)
        within(total.to_host(), expected.sum() / k, x.dtype, "loss")
        grad = crossentropy.cross_entropy_grad(Array(x), Array(y), grad_output=np.float32(k))
        same(grad.to_host(), crossentropy.cross_entropy_grad(x, y, grad_output=float(k)))
        assert known in (None, len(plans._plans))
        known = len(plans._plans)


def test_rounding_errors_of_equal_classes_do_not_add_up(shared_out):
    """A lane has 64 groups of 16 equal logits, and 200 more."""
    shared_out(1, 0, 1)
    x = np.full((1, 1224), 0.3, np.float32)
    x[0, 7] = 1.1
    loss, grad = crossentropy.cross_entropy_and_grad(x, np.array([7]), reduction="none")
    expected, grads, _ = testing.exact(x, [7], [reference.Row()])
    within(loss, expected, x.dtype, "loss")
    within(grad, grads, x.dtype, "grad")


class Exported:
    """An array that DLPack alone knows."""

    def __init__(self, a):
        self.array = Array(a)
        self.view = self.array._view()

    def __dlpack_device__(self):
        return (_device.CUDA, 0)

    def __dlpack__(self, *, stream):
        assert stream == 1  # the default one, on which it is used
        return self.view.__dlpack__()


@pytest.mark.skipif(not cuda_backend.SIMULATED, reason="a capsule of host memory passes for a GPU's in the simulator")
def test_dlpack():
    x, y, _ = problem(33, np.dtype(np.float32))
    got = crossentropy.cross_entropy_grad(Exported(x[::-1]), Exported(y[::-1]))
    same(got.to_host(), crossentropy.cross_entropy_grad(x, y)[::-1])


@pytest.mark.parametrize("check", [None, False])
def test_a_bad_target_gives_nan_in_its_row_alone(check):
    x, y, _ = problem(40, np.dtype(np.float32), rows=5)
    right = crossentropy.cross_entropy_and_grad(Array(x), Array(y), reduction="none")
    y[1], y[3] = 40, -1
    with crossentropy.config(check=check):
        loss, grad = crossentropy.cross_entropy_and_grad(Array(x), Array(y), reduction="none")
        total = crossentropy.cross_entropy(Array(x), Array(y), ignore_index=-1)
    for got, expected in ((loss.to_host(), right.loss.to_host()), (grad.to_host(), right.grad.to_host())):
        assert np.isnan(got[[1, 3]]).all()
        same(got[[0, 2, 4]], expected[[0, 2, 4]])
    assert np.isnan(total.to_host())


def test_a_bad_target_raises_where_that_is_asked_for_and_writes_nothing():
    x, y, _ = problem(40, np.dtype(np.float32), rows=6)
    y[4] = 50257
    to, targets = Array(x), y.reshape(2, 3)
    with (
        crossentropy.config(check=True),
        pytest.raises(IndexError, match=r"targets\[1, 1\] = 50257 is not in \[0, 40\)"),
    ):
        crossentropy.cross_entropy_and_grad(Array(x.reshape(2, 3, 40)), Array(targets), out=to_3d(to))
    same(to.to_host(), x)
    with crossentropy.config(check=True):
        crossentropy.cross_entropy(Array(x), Array(y), ignore_index=50257)


def to_3d(a):
    """The same memory as rows in two dimensions."""

    class View:
        shape, dtype = (2, 3, 40), a.dtype
        __cuda_array_interface__ = a.__cuda_array_interface__ | {
            "shape": (2, 3, 40),
            "strides": (3 * a.strides[0], *a.strides),
        }

    return View()


X, Y = np.zeros((3, 4), np.float32), np.array([0, 1, 2])
CUBE = np.zeros((2, 3, 4), np.float32)
FLOAT8 = X.astype(ml_dtypes.float8_e4m3fn)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "targets must be an array on the device", lambda: crossentropy.cross_entropy(Array(X), Y)),
        (TypeError, "targets is a CUDA array", lambda: crossentropy.cross_entropy(X, Array(Y))),
        (TypeError, "float64 on a device, got int64", lambda: crossentropy.cross_entropy(Array(Y[None]), Array(Y))),
        (TypeError, "targets must be integers", lambda: crossentropy.cross_entropy(Array(X), Array(Y == 0))),
        (TypeError, "are classes and must be", lambda: crossentropy.cross_entropy(Array(X), Array(Y.astype("f4")))),
        (ValueError, r"without the class axis, \(3,\)", lambda: crossentropy.cross_entropy(Array(X), Array(Y[:2]))),
        (TypeError, "device's byte order, got '>f4'", lambda: crossentropy.log_softmax(Array(X.astype(">f4")))),
        (TypeError, "float64 on a device, got float8_e4m3fn", lambda: crossentropy.log_softmax(Array(FLOAT8))),
        (ValueError, "at least one class", lambda: crossentropy.cross_entropy(Array(X[:, :0]), Array(Y))),
        (ValueError, r"axis \(0, 2\) of x must be as one in memory", lambda: crossentropy.softmax(Array(CUBE), (0, 2))),
        (
            ValueError,
            r"axis \(1, 2\) of x and b must be as one in memory",
            lambda: crossentropy.logsumexp(Array(CUBE), (1, 2), b=Array(CUBE[0, 0])),
        ),
        (ValueError, "must not name an axis twice", lambda: crossentropy.log_softmax(Array(X), (0, -2))),
        (
            TypeError,
            "b must be float16, bfloat16, float32",
            lambda: crossentropy.logsumexp(Array(X), b=Array(Y[:, None])),
        ),
        (TypeError, "b must be an array on the device", lambda: crossentropy.logsumexp(Array(X), b=[1.0])),
        (
            ValueError,
            "b must have a shape that broadcasts",
            lambda: crossentropy.logsumexp(Array(X), b=Array(X[0, :3])),
        ),
        (ValueError, "axis 2 is out of bounds", lambda: crossentropy.softmax(Array(X), axis=2)),
        (ValueError, "out must have shape", lambda: crossentropy.softmax(Array(X), out=Array(X[:2]))),
        (ValueError, "out must have dtype", lambda: crossentropy.softmax(Array(X), out=Array(X.astype("f8")))),
        (
            ValueError,
            "label_smoothing must be",
            lambda: crossentropy.cross_entropy(Array(X), Array(Y), label_smoothing=2),
        ),
        (ValueError, "reduction must be", lambda: crossentropy.cross_entropy(Array(X), Array(Y), reduction="avg")),
        (ValueError, "normalizer", lambda: crossentropy.cross_entropy(Array(X), Array(Y), normalizer=0)),
        (TypeError, "unexpected keyword", lambda: autograd.forward(Array(X), Array(Y), smoothing=1)),
        (ValueError, r"class_weight must have shape \(4,\)", lambda: weighted(class_weight=Array(X[0, :3]))),
        (TypeError, "sample_weight must be an array on the device", lambda: weighted(sample_weight=[1, 2, 3])),
        (TypeError, "class_weight must be an array on the device", lambda: weighted(class_weight="balanced")),
        (TypeError, "where must be boolean, got float32", lambda: weighted(where=Array(X[:, 0]))),
        (ValueError, r"where must have shape \(3,\), got \(2,\)", lambda: weighted(where=Array(X[:2, 0] > 0))),
        (
            ValueError,
            "where and sample_weight go together on the host alone",
            lambda: weighted(where=Array(X[:, 0] > 0), sample_weight=Array(X[:, 0])),
        ),
        (TypeError, "look one-hot, int64", lambda: crossentropy.cross_entropy(Array(X), Array(X.astype(int)))),
        (TypeError, "look one-hot, bool", lambda: crossentropy.cross_entropy(Array(X), Array(X == 0))),
        (ValueError, "must be a scalar with", lambda: with_gradient(grad_output=Array(X[:, 0]))),
        (ValueError, "ignore_index", lambda: crossentropy.cross_entropy(Array(X), Array(X), ignore_index=1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors(error, message, call):
    for _ in range(2):  # also when the plan is looked for again
        with pytest.raises(error, match=message):
            call()


def to_host(found):
    return type(found)(*map(to_host, found)) if isinstance(found, tuple) else found.to_host()


@pytest.mark.parametrize("axis", [None, 1, (0,), (1, 2), (2, 1), (0, 1), (-3, -2), (0, 1, 2), (2, 0, 1)])
def test_several_axes_where_they_lie(axis):
    x = np.random.default_rng(5).standard_normal((2, 3, 4)).astype(np.float32)
    b = np.random.default_rng(6).standard_normal((2, 3, 4))
    there, weights = Array(x), Array(b)
    for function in (crossentropy.log_softmax, crossentropy.softmax):
        want = function(x, axis)
        np.testing.assert_allclose(function(there, axis).to_host(), want, rtol=2e-6)
        out, in_place = Array(np.zeros_like(x)), Array(x)
        assert function(there, axis, out=out) is out
        assert function(in_place, axis, out=in_place) is in_place
        same(out.to_host(), function(there, axis).to_host())
        same(in_place.to_host(), out.to_host())
    for keepdims in (False, True):
        want = crossentropy.logsumexp(x, axis, keepdims=keepdims)
        got = crossentropy.logsumexp(there, axis, keepdims=keepdims).to_host()
        np.testing.assert_allclose(got, want, rtol=2e-6)
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        want = crossentropy.logsumexp(x, axis, b=b, keepdims=keepdims, return_sign=True)
        got = to_host(crossentropy.logsumexp(there, axis, b=weights, keepdims=keepdims, return_sign=True))
        np.testing.assert_allclose(got, want, rtol=2e-6)
        assert got.log.shape == got.sign.shape == want.log.shape
    with np.errstate(invalid="ignore"):
        want = np.where(want.sign < 0, np.nan, want.log)
    got = crossentropy.logsumexp(there, axis, b=weights, keepdims=True).to_host()
    np.testing.assert_allclose(got, want, rtol=2e-6)


def test_a_scalar_no_class_and_weights_of_other_shapes():
    one = Array(np.array(2.5, np.float32))
    assert (crossentropy.log_softmax(one).to_host(), crossentropy.softmax(one, None).to_host()) == (0, 1)
    assert crossentropy.logsumexp(one).to_host() == 2.5
    none = Array(np.zeros((3, 0), np.float32))
    assert crossentropy.softmax(none).shape == crossentropy.log_softmax(none, (0, 1)).shape == (3, 0)
    assert crossentropy.logsumexp(none).to_host().tolist() == [-np.inf] * 3
    assert crossentropy.logsumexp(none, None).to_host() == -np.inf
    assert crossentropy.logsumexp(none, 0).shape == (0,)
    x = np.random.default_rng(7).standard_normal((3, 4)).astype(np.float32)
    for b in (np.float64(-2), x[:1], x[:, :1], x[0], np.stack([x, -x])):
        want = crossentropy.logsumexp(x, b=b, return_sign=True)
        got = to_host(crossentropy.logsumexp(Array(x), b=Array(np.array(b)), return_sign=True))
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-7)
    got = to_host(crossentropy.logsumexp(Array(np.array([[0, 1], [-np.inf] * 2, [np.nan, 0]])), return_sign=True))
    np.testing.assert_array_equal(got.sign, [1, 0, np.nan])


def weighted(**weights):
    return crossentropy.cross_entropy(Array(X), Array(Y), **weights)


def test_rows_where_a_mask_on_the_device_is_false():
    x, where = X.copy(), np.array([True, False, True])
    x[1] = np.nan
    got = crossentropy.cross_entropy_and_grad(Array(x), Array(Y), where=Array(where))
    want = crossentropy.cross_entropy_and_grad(x, Y, where=where)
    same(got.loss.to_host()[()], want.loss)
    same(got.grad.to_host(), want.grad)


@pytest.mark.parametrize("step", [1, 2, -1])
def test_masks_on_the_device(step, dtype):
    """Bytes of 0 and 1, at any stride."""
    x, y = np.random.default_rng(1).standard_normal((5, 7)).astype(dtype), np.arange(5)
    for name, size in (("sample_weight", 5), ("class_weight", 7)):
        mask = (np.arange(2 * size) % 3 > 0)[::step][:size]
        got, want = (
            crossentropy.cross_entropy_and_grad(Array(x), Array(y), **{name: Array(w)})
            for w in (mask, mask.astype(np.float32))
        )
        for a, b in zip(got, want, strict=True):
            same(a.to_host(), b.to_host())


def with_gradient(**options):
    return crossentropy.cross_entropy_and_grad(Array(X), Array(Y), **options)


def test_out_may_be_the_logits_and_share_memory_with_nothing_else():
    x = Array(np.zeros((4, 8), np.float32))
    part = arrays.describe(x, "x")

    class Shifted:
        shape, dtype = (4, 8), x.dtype
        __cuda_array_interface__ = x.__cuda_array_interface__ | {"data": (part.address + 16, False)}

    with pytest.raises(ValueError, match="out must not share memory with x other than being x itself"):
        crossentropy.log_softmax(x, out=Shifted())
    with pytest.raises(ValueError, match="out must not share memory with targets"):
        crossentropy.cross_entropy_and_grad(Array(np.zeros((4, 8), np.float32)), x, out=x)


def test_the_backend_is_named_where_backends_are_listed():
    assert crossentropy.backends()[-1] == ("cuda", True, "")
    with pytest.raises(ValueError, match="'cuda' is not chosen"):
        crossentropy.config(backend="cuda")


def test_the_example_for_a_device():
    """examples/gpu_arrays.py, by arrays of the tests' own."""
    path = Path(__file__).parent.parent / "examples" / "gpu_arrays.py"
    if not path.exists():
        pytest.skip("the examples are in the source tree")
    there, here = runpy.run_path(str(path))["compare"](Array, lambda array: array.to_host())
    assert there == pytest.approx(here, rel=1e-6)
