"""Linear cross-entropy on CUDA, in the simulator: the kernels' own sources, and a stand-in for cuBLAS."""

import ctypes
import importlib.util
import os
import random
import sys
import threading
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import crossentropy
from crossentropy.testing import same
from crossentropy.testing.covering import covering
from crossentropy.testing.options import refused

if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
    pytest.skip("stands in for a GPU: needs NUMBA_ENABLE_CUDASIM=1", allow_module_level=True)
pytest.importorskip("greenlet", reason="the simulated threads of a GPU are greenlets")

import cuda_backend
from cuda_backend import Array
from cuda_products import Cublas
from test_cuda import SHAPES, use

from crossentropy._backends.cuda import arrays, chunks, driver, gemm, launch, linear_calls, matrices, matrix_rows, plans

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"float32": np.dtype("f4"), "float64": np.dtype("f8"), "float16": np.dtype("f2"), "bfloat16": BFLOAT16}
FAR = {"float32": 3e-6, "float64": 1e-14, "float16": 1.5e-3, "bfloat16": 1e-2}  # of the largest number of a result


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    """Blocks of few threads: the simulator takes its time for each, and a thread has several columns of these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "THREADS", 4)
        patch.setattr(launch, "BLOCK", 32)
        launch.shape_for.cache_clear()
        yield
    launch.shape_for.cache_clear()
    plans._plans.clear()


@pytest.fixture(autouse=True)
def cublas(monkeypatch):
    """The stand-in, in place of the library."""
    random.seed(20190601)  # the order of simulated threads
    library = Cublas()
    monkeypatch.setattr(gemm, "_library", lambda: library)
    yield library
    cuda_backend.cuda_simulator.forget()


def problem(dtype, rows_shape=(7,), classes=13, columns=6, seed=0):
    """hidden, weight, bias, classes as targets, probabilities as targets."""
    rng = np.random.default_rng(seed)
    dtype, real = np.dtype(dtype), np.float64 if dtype == np.float64 else np.float32
    hidden = rng.standard_normal((*rows_shape, columns)).astype(dtype)
    weight, bias = rng.standard_normal((classes, columns)).astype(dtype), rng.standard_normal(classes).astype(dtype)
    y = rng.integers(0, classes, rows_shape)
    return hidden, weight, bias, y, rng.dirichlet(np.ones(classes), rows_shape).astype(real)


def to_host(a):
    return a.to_host() if isinstance(a, Array) else a


def near(got, want, far):
    """Assert that results are the host's but for rounding: None where that is None, in the same shape and dtype."""
    assert len(got) == len(want)
    for name, a, b in zip(getattr(want, "_fields", ("loss",)), got, want, strict=True):
        if b is None:
            assert a is None, name
            continue
        a, b = np.asarray(to_host(a)), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        a, b = a.astype(np.float64), b.astype(np.float64)
        assert np.isfinite(b).all(), name
        np.testing.assert_allclose(a, b, rtol=far, atol=far * float(np.abs(b).max(initial=0)), err_msg=name)


def there(options):
    """The same options with their arrays on the device."""
    return {name: Array(a) if isinstance(a, np.ndarray) else a for name, a in options.items()}


def laid_out(a, how):
    """An array with these numbers that lies otherwise."""
    if how == "reversed":
        return a[::-1].copy()[::-1]
    if how == "apart":
        wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
        wide[..., ::2] = a
        return wide[..., ::2]
    if how == "by columns":
        return np.asfortranarray(a)
    if how == "of more":  # the last of one more in each dimension
        more = np.zeros([size + 1 for size in a.shape], a.dtype)
        part = more[tuple(slice(1, None) for _ in a.shape)]
        part[...] = a
        return part
    return a


FACTORS = {
    "dtype": tuple(DTYPES),
    "rows_shape": ((7,), (2, 4), (3, 2, 2)),
    "columns": (6, 8),  # 8: rows are vectors of 16 bytes throughout
    "layout": ("plain", "reversed", "apart", "by columns", "of more"),
    "targets": ("index", "probability"),
    "bias": (False, True),
    "class_weight": (False, True),
    "sample_weight": (False, True),
    "ignored": (False, True),
    "label_smoothing": (0.0, 0.1),
    "z_loss": (0.0, 0.01),
    "reduction": ("none", "sum", "mean", "normalizer"),
    "rows": (None, 1, 3),
    "wrt": (("hidden", "weight", "bias"), ("weight",), ("hidden",)),
    "grad_output": (1.0, 0.5, "array"),
    "out": ("new", "given", "added"),
}


def arguments(chosen):
    """(arrays, options) of a choice; hidden states of rows that do not count are NaN."""
    dtype, rows_shape = DTYPES[chosen["dtype"]], chosen["rows_shape"]
    hidden, weight, bias, y, q = problem(dtype, rows_shape, columns=chosen["columns"])
    rng, options = np.random.default_rng(1), {"label_smoothing": chosen["label_smoothing"], "z_loss": chosen["z_loss"]}
    counts = np.ones(rows_shape, bool)
    if chosen["ignored"]:
        options["ignore_index"] = int(y.flat[1])
        counts &= y != options["ignore_index"]
    if chosen["sample_weight"]:
        v = rng.random(rows_shape).astype(np.float32)
        v.flat[2] = 0
        options["sample_weight"] = laid_out(v, chosen["layout"])
        counts &= v != 0
    if chosen["class_weight"]:
        options["class_weight"] = rng.random(13).astype(np.float32)
    hidden[~counts] = np.nan
    options["reduction"] = "sum" if chosen["reduction"] == "normalizer" else chosen["reduction"]
    if chosen["reduction"] == "normalizer":
        options |= {"reduction": "mean", "normalizer": 5.5}
    if chosen["bias"]:
        options["bias"] = bias
    targets = y if chosen["targets"] == "index" else q
    how = chosen["layout"]
    return (laid_out(hidden, how), laid_out(weight, how), laid_out(targets, how)), options | {"rows": chosen["rows"]}


@pytest.mark.parametrize(
    "chosen", covering(FACTORS, 2, refused), ids=lambda chosen: "-".join(map(str, chosen.values()))
)
def test_options_pairwise(chosen):
    """The numbers of the host's."""
    given, options = arguments(chosen)
    far, shapes = FAR[chosen["dtype"]], {"hidden": given[0], "weight": given[1], "bias": options.get("bias")}
    on_device, of_device = [Array(a) for a in given], there(options)
    loss = crossentropy.linear_cross_entropy(*on_device, **of_device)
    near(
        [loss],
        [crossentropy.linear_cross_entropy(*given, **options)],
        FAR["float64" if loss.dtype == "f8" else "float32"],
    )

    wrt = [name for name in chosen["wrt"] if shapes[name] is not None]
    rng, more = np.random.default_rng(2), {"wrt": wrt}
    more["grad_output"] = chosen["grad_output"]
    if chosen["grad_output"] == "array":
        shape = chosen["rows_shape"] if options["reduction"] == "none" else ()
        more["grad_output"] = np.array(rng.random(shape), np.float32)
    of_device |= there(more)
    if chosen["out"] != "new":
        real = np.float64 if chosen["dtype"] == "float64" else np.float32
        kinds = {name: (shapes[name].dtype, real)[k % 2] for k, name in enumerate(wrt)}
        out = {
            name: laid_out(rng.standard_normal(shapes[name].shape).astype(kinds[name]), chosen["layout"])
            for name in wrt
        }
        of_device |= {"out": {name: Array(a) for name, a in out.items()}}
        more["out"] = {name: a.copy() for name, a in out.items()}
        if chosen["out"] == "added":
            of_device["accumulate"] = more["accumulate"] = True
    got = crossentropy.linear_cross_entropy_and_grad(*on_device, **of_device)
    near(got, crossentropy.linear_cross_entropy_and_grad(*given, **options, **more), far)
    for name in more.get("out", ()):
        assert getattr(got, name) is of_device["out"][name]
    same(to_host(got.loss), to_host(loss))


@pytest.mark.parametrize("rows", [None, 1, 4])
@pytest.mark.parametrize("kind", DTYPES)
def test_log_probs(kind, rows):
    """Log-probabilities, entropies and their gradients are the host's, with NaN in rows that are ignored."""
    hidden, weight, bias, y, _ = problem(DTYPES[kind])
    ignored = int(y[3])
    hidden[y == ignored] = np.nan
    rng = np.random.default_rng(3)
    arriving = {name: rng.standard_normal(7).astype(np.float32) for name in ("grad_log_prob", "grad_entropy")}
    options = {"bias": bias, "ignore_index": ignored, "rows": rows}
    far = FAR["float64" if kind == "float64" else "float32"]
    given = hidden, weight, y
    got = crossentropy.linear_log_probs(*map(Array, given), **there(options))
    near(got, crossentropy.linear_log_probs(*given, **options), 2 * far)
    for more in (arriving, {"grad_log_prob": 0.5, "grad_entropy": -0.25}, {"wrt": "weight"}):
        both = crossentropy.linear_log_probs_and_grad(*map(Array, given), **there(options | more))
        near(both, crossentropy.linear_log_probs_and_grad(*given, **options, **more), FAR[kind])
        same(to_host(both.log_prob), to_host(got.log_prob))
        same(to_host(both.entropy), to_host(got.entropy))


def test_log_probs_of_confident_rows():
    """What p lacks of 1 is not 1 - p, and a class of probability 0 has no gradient."""
    hidden, weight, y = np.eye(3, dtype=np.float32), np.diag([20.0, 17.0, 300.0]).astype(np.float32), np.arange(3)
    options = {"grad_log_prob": 2.0, "grad_entropy": 3.0}
    got = crossentropy.linear_log_probs_and_grad(Array(hidden), Array(weight), Array(y), **options)
    p = np.exp(np.diag(weight).astype(float))
    lacks = 2 / (p + 2)
    at_y = options["grad_log_prob"] * lacks
    z = hidden.astype(float) @ weight.T.astype(float)
    log_p = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    entropy = -(np.exp(log_p) * log_p).sum(1)
    at_y -= options["grad_entropy"] * np.exp(np.diag(log_p)) * (-np.log1p(2 / p) + entropy)
    np.testing.assert_allclose(to_host(got.hidden)[[0, 1], [0, 1]], (at_y * np.diag(weight))[:2], rtol=1e-5)
    assert to_host(got.hidden)[2].tolist() == [0, 0, 0]


# ---------------------------------------------------------------------- chunks


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 4, 8, 9, 20, 21])
def test_chunks_agree(kind, rows):
    """Also where 16-bit gradients are kept for one product (up to 12 rows of 6 columns), and where sums are rounded."""
    hidden, weight, bias, y, _ = problem(DTYPES[kind], (20,))
    got = crossentropy.linear_cross_entropy_and_grad(*map(Array, (hidden, weight, y)), bias=Array(bias), rows=rows)
    near(got, crossentropy.linear_cross_entropy_and_grad(hidden, weight, y, bias=bias), FAR[kind])


@pytest.mark.parametrize(("n", "products"), [(12, 1), (13, 4)])
def test_16_bit_gradients_of_two_h_rows_take_one_product(cublas, n, products):
    hidden, weight, _, y, _ = problem(BFLOAT16, (n,))
    crossentropy.linear_cross_entropy_and_grad(*map(Array, (hidden, weight, y)), rows=4, wrt="weight")
    made = [call for call in cublas.calls if call[3] == 13]  # n of out^T (H, V) = (H, rows) (rows, V)
    assert [call[4] for call in cublas.calls if call[2:4] == (6, 13)] == ([12] if products == 1 else [4, 4, 4, 1])
    assert {call[-1] for call in cublas.calls if call[2:4] == (6, 13)} == {"bfloat16" if products == 1 else "float32"}
    assert made


def test_how_many_rows_a_chunk_has():
    gib = 1 << 30
    for n, classes, itemsize, weight, asked, rows in (
        (8192, 128256, 4, 4 * 128256 * 4096, None, 4096),  # logits of 4096 rows take what the weight does
        (8192, 128256, 4, 4 * 128256 * 2048, None, 2048),
        (8192, 32000, 4, 4 * 32000 * 1024, None, 4096),  # and may take a gibibyte
        (5000, 32000, 4, 4 * 32000 * 1024, None, 2500),  # of equal length
        (8192, 10**6, 4, gib, None, 2048),  # at least
        (100, 10, 4, 400, None, 100),
        (0, 10, 4, 400, None, 0),
        (100, 10, 4, 400, 30, 25),
    ):
        assert chunks.logit_rows(n, classes, itemsize, weight, asked) == rows
    assert [chunks.grad_rows(n, 2048, 4096) for n in (100, 8192, 8193)] == [100, 8192, 2048]


def test_no_rows_no_columns_one_class():
    """N = 0, H = 0, V = 1, and none that counts: the host's numbers."""
    for rows, classes, columns in ((0, 5, 3), (4, 5, 0), (4, 1, 3), (1, 1, 1)):
        for kind in ("float32", "bfloat16"):
            hidden, weight, bias, y, _ = problem(DTYPES[kind], (rows,), classes, columns)
            for options in ({"bias": bias}, {"bias": bias, "reduction": "none"}, {"ignore_index": 0}):
                options["empty"] = 0.5
                got = crossentropy.linear_cross_entropy_and_grad(*map(Array, (hidden, weight, y)), **there(options))
                near(got, crossentropy.linear_cross_entropy_and_grad(hidden, weight, y, **options), FAR[kind])
            got = crossentropy.linear_log_probs_and_grad(*map(Array, (hidden, weight, y)))
            near(got, crossentropy.linear_log_probs_and_grad(hidden, weight, y), FAR[kind])


@pytest.mark.parametrize("options", [{"ignore_index": 3}, {"class_weight": np.zeros(13, np.float32)}])
def test_a_mean_over_no_row_is_empty_and_its_gradients_are_0(options):
    """Hidden states may hold NaN there, and the weight inf."""
    hidden, weight, bias, y, _ = problem(np.float32)
    y[:] = 3
    hidden[...], weight[5] = np.nan, np.inf
    got = crossentropy.linear_cross_entropy_and_grad(
        *map(Array, (hidden, weight, y)), **there(options), bias=Array(bias), empty=0.25
    )
    assert to_host(got.loss) == 0.25
    for a in got[1:]:
        assert not to_host(a).any()


def test_a_bad_target_is_nan_and_check_raises_before_anything_is_written():
    hidden, weight, _, y, _ = problem(np.float32)
    y[2] = 13
    out = {"weight": Array(np.ones_like(weight))}
    loss = crossentropy.linear_cross_entropy(*map(Array, (hidden, weight, y)), reduction="none").to_host()
    assert np.isnan(loss).tolist() == [n == 2 for n in range(7)]
    assert np.isnan(crossentropy.linear_log_probs(*map(Array, (hidden, weight, y))).log_prob.to_host()[2])
    grads = crossentropy.linear_cross_entropy_and_grad(*map(Array, (hidden, weight, y)))
    assert np.isnan(grads.hidden.to_host()).all(1).tolist() == [n == 2 for n in range(7)]
    with crossentropy.config(check=True), pytest.raises(IndexError, match=r"targets\[2\] = 13 is not in \[0, 13\)"):
        crossentropy.linear_cross_entropy_and_grad(*map(Array, (hidden, weight, y)), wrt="weight", out=out)
    assert (out["weight"].to_host() == 1).all()


# ---------------------------------------------------------------------- streams, and the host


class OnStream(Array):
    """An array that its owner uses on a stream."""

    @property
    def __cuda_array_interface__(self):
        return super().__cuda_array_interface__ | {"stream": 7}


def test_everything_is_on_the_stream_of_hidden_and_nothing_waits(cublas, monkeypatch):
    """No number is brought to the host, and every launch and product is on one stream."""
    hidden, weight, bias, y, _ = problem(BFLOAT16, (3, 5))
    v = np.ones((3, 5), np.float32)
    given, options = [OnStream(hidden), *map(Array, (weight, y))], there({"bias": bias, "sample_weight": v, "rows": 4})
    grad_output, launched = Array(np.float32(2)), []

    def prepare(self, grid, values, original=driver.Kernel.prepare):
        start, values = original(self, grid, values)
        return lambda stream, values: (launched.append(stream), start(0, values)), values

    def waits(*_, **__):
        raise AssertionError("waits for the device")

    monkeypatch.setattr(driver.Kernel, "prepare", prepare)
    plans._plans.clear()
    with monkeypatch.context() as patch:
        for name in ("to_host", "item", "__getitem__"):
            patch.setattr(Array, name, waits)
        patch.setattr(arrays, "item", waits)
        crossentropy.linear_cross_entropy(*given, ignore_index=2, **options)
        crossentropy.linear_cross_entropy_and_grad(*given, ignore_index=2, grad_output=grad_output, **options)
        del options["sample_weight"]
        crossentropy.linear_log_probs_and_grad(*given, **options)
    plans._plans.clear()
    assert set(launched) == {7}
    assert {stream for _, stream in cublas.streams} == {7}


# ---------------------------------------------------------------------- float32 logits to a gradient of 16 bits


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_16_bit_gradient_is_the_float32_one_rounded(monkeypatch, name, kind):
    """For every shape of work, rows that are kept and that are read again, wherever they begin; to the bit."""
    threads, kept, blocks = SHAPES[name]
    full, dtype, rng = (kept or 5) * threads * blocks * 4, DTYPES[kind], np.random.default_rng(1)
    use(monkeypatch, threads, kept, blocks)
    try:
        for classes, past in ((full, 0), (full - 1, 0), (full - 1, 1)):
            if not classes:
                continue
            z, y = 3 * rng.standard_normal((2, classes + past)).astype(np.float32)[:, past:], np.arange(2) % classes
            x, t = arrays.describe(Array(z), "x"), arrays.describe(Array(y), "t")
            found = []
            for to in (np.float32, dtype):
                width = -(-classes // 8) * 8
                out, loss = (
                    Array(np.zeros((2, width + past), to)[:, past : past + classes]),
                    Array(np.zeros(2, np.float32)),
                )
                given = [x, t, *[None] * 4, arrays.describe(out, "out"), None, None, arrays.describe(loss, "loss")]
                values = linear_calls.Values(**dict.fromkeys(linear_calls.Values._fields, 0.0))._replace(scale=1.0)
                linear_calls.run_rows("linear both", given, False, False, None, 0, values)
                found.append((loss.to_host(), out.to_host()))
            same(found[1][0], found[0][0])
            same(found[1][1], found[0][1].astype(dtype))
            assert found[0][1].any()
    finally:
        monkeypatch.undo()
        launch.shape_for.cache_clear()
        plans._plans.clear()


def test_options_that_few_calls_have():
    """The chunks' kernels are those of rows: they transform logits, and take a margin and a focal factor."""
    rng, (n, h, v) = np.random.default_rng(5), (7, 5, 24)
    x, w, y = (
        rng.standard_normal((n, h)).astype(np.float32),
        rng.standard_normal((v, h)).astype(np.float32),
        np.arange(n),
    )
    options = {"logit_scale": 0.7, "softcap": 5.0, "margin": 0.6, "focal": 2.0, "label_smoothing": 0.1}
    b = rng.standard_normal(v)
    given = Array(x), Array(w), Array(y)
    found = crossentropy.linear_cross_entropy_and_grad(*given, rows=3, class_prior=Array(b), **options)
    with crossentropy.config(backend="reference"):
        wanted = crossentropy.linear_cross_entropy_and_grad(
            x.astype(float), w.astype(float), y, class_prior=b, **options
        )
    np.testing.assert_allclose(found.loss.item(), wanted.loss, rtol=1e-6)
    np.testing.assert_allclose(found.hidden.to_host(), wanted.hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.weight.to_host(), wanted.weight, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- operations and bytes


def counts():
    """The benchmark that counts them."""
    before = sys.path[:]
    path = Path(__file__).parent.parent / "benchmarks" / "cuda_linear.py"
    spec = importlib.util.spec_from_file_location("cuda_linear", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
        del sys.modules[spec.name]
    return module


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize(("kind", "n", "rows"), [("bfloat16", 16, 8), ("bfloat16", 24, 8), ("float32", 24, 8)])
def test_the_count_is_what_the_launches_do(cublas, monkeypatch, kind, n, rows, skips):
    """Bytes of all vectors that are loaded and stored in matrices, sizes of all products, and memory: to the byte."""
    hidden, weight, _, y, _ = problem(DTYPES[kind], (n,), 64, 8)
    count = counts().counted(n, 8, 64, kind, skips, rows)
    given, made, moved = [Array(a) for a in (hidden, weight, y)], [], []
    matrices_at = [range(a.address, a.address + a.layout.high) for a in map(described, given[:2])]

    def empty(shape, dtype, like, stream, original=arrays.empty):
        found = original(shape, dtype, like, stream)
        if len(shape) == 2:
            made.append(found.layout.size * found.layout.itemsize)
            matrices_at.append(range(found.address, found.address + made[-1]))
        return found

    def checked(address, size, what, original=cuda_backend.cuda_simulator._checked):
        if size >= 8 and any(int(address) in memory for memory in matrices_at):
            moved.append(size)
        return original(address, size, what)

    monkeypatch.setattr(cuda_backend.cuda_simulator, "_checked", checked)
    monkeypatch.setattr(arrays, "empty", empty)
    options = {"ignore_index": 99} if skips else {}
    crossentropy.linear_cross_entropy_and_grad(*given, wrt=("hidden", "weight"), rows=rows, **options)
    assert sum(2 * m * k * columns for _, _, m, columns, k, *_ in cublas.calls) == count.operations
    of_weight = [call for call in cublas.calls if call[1]]  # its right operand, a gradient, counts as transposed
    assert count.adding == 8 * weight.size * (len(of_weight) - 1)
    assert sum(moved) == count.outside
    assert sum(made) - hidden.nbytes - weight.nbytes == count.memory


def test_what_is_outside_of_the_products_is_a_twentieth():
    """At H = 4096 on an H200, whatever the number of rows; on an H100 by its data sheet, where nothing is rounded."""
    linear_counts = counts()
    cards = linear_counts.CARDS
    for n in (4096, 8192, 16384, 65536):
        count = linear_counts.counted(n, 4096, 128256, "bfloat16", skips=True)
        assert linear_counts.share(count, cards["H200"]) <= 0.06, n
        if n <= 8192:
            assert linear_counts.share(count, cards["H100 at its peak"]) <= 0.06, n


# ---------------------------------------------------------------------- copies of rows


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    ("source", "to"),
    [
        ("float32", "bfloat16"),
        ("bfloat16", "float32"),
        ("float16", "float16"),
        ("float64", "float64"),
        ("float32", "float32"),
    ],
)
def test_rows_are_copied_in_vectors_as_one_by_one(source, to, add):
    """Rounded once after the sum; rows that do not count are not read."""
    rng = np.random.default_rng(0)
    a, before = rng.standard_normal((5, 24)).astype(DTYPES[source]), rng.standard_normal((5, 24)).astype(DTYPES[to])
    a[[1, 3]] = np.nan
    v = described(np.array([1, 0, 2, 0, 1], np.float32))
    wide = np.float64 if source == "float64" else np.float32
    want = np.where(np.isnan(a.astype(wide)), 0, a.astype(wide)) + (before.astype(wide) if add else 0)
    for how in ("plain", "apart"):
        out = Array(laid_out(before, how))
        counting = matrix_rows.Counting("float32", None, None, v, None)
        rows = matrix_rows.Rows.of(described(out))
        assert rows.is_in_vectors() == (how == "plain")
        matrix_rows.copy(matrix_rows.Rows.of(described(a)), 0, rows, 0, 5, 0, add, counting)
        same(out.to_host(), want.astype(DTYPES[to]))


# ---------------------------------------------------------------------- products


def described(a):
    """A matrix in the host's memory, as products take it."""
    return arrays.describe(a if isinstance(a, Array) else Array(a), "a")


def test_what_is_asked_of_cublas(cublas):
    """A matrix by rows is its transpose by columns, so the second operand comes first: the three of a chunk."""
    x, w = described(np.ones((3, 4), np.float32)), described(np.ones((5, 4), np.float32))
    z, g = matrix_rows.matrix(x, 3, 5, "float32", 0), described(np.ones((3, 5), np.float32))
    multiply = gemm.multiply_for(x, 0)
    multiply(x, gemm.transposed(w), z, False)
    multiply(g, w, described(np.zeros((3, 4), np.float32)), False)
    multiply(gemm.transposed(g), x, described(np.zeros((5, 4), np.float32)), True)
    float32 = "float32", "float32"
    assert cublas.calls == [
        (1, 0, 5, 3, 4, 4, 4, 8, *float32),
        (0, 0, 4, 3, 5, 4, 5, 4, *float32),
        (0, 1, 4, 5, 3, 4, 5, 4, *float32),
    ]


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("narrow", [False, True], ids=["to reals", "to the operands' dtype"])
def test_products_are_numpys(kind, narrow):
    """Every way in which operands may lie, sizes of 1 among them, added or not."""
    dtype, rng = DTYPES[kind], np.random.default_rng(0)
    to = dtype if narrow or kind == "float64" else np.dtype(np.float32)
    for m, k, n in ((3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1)):
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        for how in ("plain", "by columns", "of more"):
            left, right = described(laid_out(a, how)), described(laid_out(b, how))
            for add in (False, True):
                there, before = rng.standard_normal((m, n)).astype(to), 0
                before = there.astype(np.float64) if add else 0
                out = Array(laid_out(there, "of more"))
                assert gemm.is_plain(left.layout)
                assert gemm.is_plain(described(out).layout, result=True)
                gemm.multiply_for(left, 0)(left, right, described(out), add)
                want = a.astype(np.float64) @ b.astype(np.float64) + before
                np.testing.assert_allclose(out.to_host().astype(np.float64), want, rtol=FAR[to.name], atol=FAR[to.name])


def test_what_no_library_takes_where_it_lies():
    """Numbers apart, rows that overlap or go backwards, strides that are no whole number or beyond int32."""
    f4 = {"dtype": "float32", "itemsize": 4}
    for shape, strides, plain, as_result in (
        ((3, 4), (16, 4), True, True),
        ((3, 4), (4, 12), True, False),
        ((3, 4), (32, 8), False, False),
        ((3, 4), (0, 4), False, False),
        ((3, 4), (-16, 4), False, False),
        ((3, 4), (18, 4), False, False),
        ((3, 4), (4 * 2**31, 4), False, False),
        ((3, 4), (4 * (2**31 - 1), 4), True, True),
        ((1, 4), (4 * 2**31, 4), True, True),
        ((3, 1), (4, 400), True, True),
    ):
        lies = arrays.layout(shape, strides, f4["dtype"], f4["itemsize"])
        assert (gemm.is_plain(lies), gemm.is_plain(lies, result=True)) == (plain, as_result), (shape, strides)


def test_a_handle_for_each_thread_whose_errors_are_told(cublas):
    x = described(np.ones((2, 2), np.float32))
    out = described(np.zeros((2, 2), np.float32))

    def run():
        for stream in (5, 6):
            gemm.multiply_for(x, stream)(x, x, out, False)

    run()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert cublas.streams == [(1, 5), (1, 6), (2, 5), (2, 6)]
    cublas.status = 13
    with pytest.raises(RuntimeError, match="cublasSetStream failed with status 13 of cuBLAS"):
        run()


def test_cublas_is_found_by_pathfinder_or_named(monkeypatch, tmp_path):
    """The true functions, whose arguments have types, from the library that pathfinder finds; else what to install."""
    from cuda import pathfinder

    monkeypatch.undo()
    gemm._library.cache_clear()
    hidden, weight, _, y, _ = problem(np.float32)
    out = Array(np.ones_like(weight))

    def missing(name):
        assert name == "cublas"
        raise pathfinder.DynamicLibNotFoundError('Failure finding "libcublas.so"\nmore')

    with monkeypatch.context() as patch:
        patch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
        with pytest.raises(
            ImportError, match=r"pip install 'crossentropy\[cublas13\]'.* \(Failure finding \"libcublas"
        ):
            crossentropy.linear_cross_entropy_and_grad(
                *map(Array, (hidden, weight, y)), wrt="weight", out={"weight": out}
            )
    assert (out.to_host() == 1).all()
    library = Cublas()
    with monkeypatch.context() as patch:
        found = types.SimpleNamespace(abs_path="/there/libcublas.so.13")
        patch.setattr(pathfinder, "load_nvidia_dynamic_lib", lambda name: found)
        patch.setattr(ctypes, "CDLL", {found.abs_path: library}.__getitem__)
        crossentropy.linear_cross_entropy(*map(Array, (hidden, weight, y)))
    gemm._library.cache_clear()
    assert len(library.cublasGemmEx.argtypes) == 19
    assert library.calls


def test_cupys_arrays_take_cupys_gemm(monkeypatch):
    """cublasGemmEx of cupy_backends, with the handle that CuPy has for the device and its current stream."""
    library, asked = Cublas(), []

    class Ndarray:
        """An array of CuPy's, as far as it is asked for."""

        device = types.SimpleNamespace(id=0)

        def __init__(self, a):
            self.array, self.shape, self.dtype = Array(np.asarray(a)), np.shape(a), np.asarray(a).dtype

        @property
        def __cuda_array_interface__(self):
            return self.array.__cuda_array_interface__

    def gemm_ex(handle, *arguments):
        asked.append(handle)
        return library.gemm_ex(*arguments)

    of_device = types.SimpleNamespace(get_cublas_handle=lambda: 123)
    fake = types.ModuleType("cupy")
    fake.ndarray, fake.cuda = Ndarray, types.SimpleNamespace(device=of_device)
    libs = types.ModuleType("cupy_backends.cuda.libs")
    libs.cublas = types.SimpleNamespace(gemmEx=gemm_ex)
    for name, module in (("cupy", fake), ("cupy_backends.cuda.libs", libs)):
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("cupy_backends", "cupy_backends.cuda"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    hidden, weight, _, y, _ = problem(np.float32)
    loss = crossentropy.linear_cross_entropy(*map(Ndarray, (hidden, weight, y)))
    np.testing.assert_allclose(loss.to_host(), crossentropy.linear_cross_entropy(hidden, weight, y), rtol=1e-6)
    assert asked == [123]


torch = pytest.importorskip("torch")


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_torchs_products_in_the_memory_of_tensors(kind):
    """Chunks of buffers and transposes are views of the tensors that they lie in."""
    dtype, rng = getattr(torch, kind), np.random.default_rng(0)
    a, b, c = (torch.tensor(rng.standard_normal(shape), dtype=dtype) for shape in ((6, 4), (5, 4), (6, 8)))

    def of_tensor(t):
        lies = arrays._tensor_layout(t.shape, t.stride(), t.dtype, t.element_size(), None)
        return arrays.Array(t, t.data_ptr(), lies)

    before = c.clone()
    x = matrix_rows.rows_from(of_tensor(a), 2, 3)
    to = matrix_rows.rows_from(of_tensor(c[:, 1:6]), 1, 3)
    gemm._by_torch(x, gemm.transposed(of_tensor(b)), to, False)
    want = before.clone()
    want[1:4, 1:6] = a[2:5] @ b.T
    torch.testing.assert_close(c, want)
    gemm._by_torch(x, gemm.transposed(of_tensor(b)), to, True)
    want[1:4, 1:6] *= 2
    torch.testing.assert_close(c, want)


def test_torchs_products_of_16_bits_are_asked_for_in_float32(monkeypatch):
    """As operations without data: on the host torch has none of them."""
    asked = []

    class Recorded(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
            asked.append(str(function))
            return function(*arguments, **(options or {}))

    a, b, c = (torch.zeros(shape, dtype=dtype, device="meta") for shape, dtype in (
        ((3, 4), torch.bfloat16), ((4, 5), torch.bfloat16), ((3, 5), torch.float32)
    ))  # fmt: skip
    monkeypatch.setattr(gemm, "_tensor", lambda tensor: tensor)
    with Recorded():
        gemm._by_torch(a, b, c, False)
        gemm._by_torch(a, b, c, True)
        gemm._by_torch(a, b, c.bfloat16(), False)
    assert [name for name in asked if "mm" in name] == ["aten.mm.dtype_out", "aten.addmm.dtype_out", "aten.mm.out"]


def test_tensors_take_torchs_products_where_these_keep_float32(monkeypatch):
    x = types.SimpleNamespace(value=torch.zeros(2, 2))
    assert gemm.multiply_for(x, 0) is gemm._by_torch
    monkeypatch.setattr(gemm, "_torch_keeps_float32", lambda: False)
    assert gemm.multiply_for(x, 0) is not gemm._by_torch


# ---------------------------------------------------------------------- errors

X, W, Y = np.zeros((3, 4), np.float32), np.zeros((5, 4), np.float32), np.array([0, 1, 2])
B = np.zeros(5, np.float32)


def loss(x=X, w=W, y=Y, **options):
    return crossentropy.linear_cross_entropy(Array(x), Array(w), Array(y), **options)


def grads(**options):
    return crossentropy.linear_cross_entropy_and_grad(Array(X), Array(W), Array(Y), **options)


def shared():
    weight = Array(W)
    return crossentropy.linear_cross_entropy_and_grad(Array(X), weight, Array(Y), out={"weight": weight})


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "weight must be an array on the device", lambda: crossentropy.linear_cross_entropy(Array(X), W, Y)),
        (TypeError, "weight is a CUDA array", lambda: crossentropy.linear_cross_entropy(X, Array(W), Y)),
        (TypeError, "targets must be an array on", lambda: crossentropy.linear_cross_entropy(Array(X), Array(W), Y)),
        (TypeError, "bias must be an array on the device", lambda: loss(bias=B)),
        (TypeError, r"grad_output must be an array on the device", lambda: grads(grad_output=np.ones(3))),
        (TypeError, r"out\['hidden'\] must be an array on the device", lambda: grads(out={"hidden": X})),
        (TypeError, "hidden must be float16, bfloat16, float32 or float64 on a", lambda: loss(X.astype(int))),
        (ValueError, r"hidden must have shape \(..., H\), got a scalar", lambda: loss(X[0, 0])),
        (
            ValueError,
            r"weight must have shape \(V, H\) with the H of hidden, 4, got \(5, 3\)",
            lambda: loss(w=W[:, :3]),
        ),
        (ValueError, "weight must have at least one class", lambda: loss(w=W[:0])),
        (TypeError, "weight must have the dtype of hidden, float32, got float64", lambda: loss(w=W.astype(float))),
        (ValueError, r"bias must have shape \(5,\), got \(4,\)", lambda: loss(bias=Array(B[:4]))),
        (ValueError, "rows must be at least 1, got 0", lambda: loss(rows=0)),
        (ValueError, "rows must be at least 1 and at most 2147483647, got 2147483648", lambda: loss(rows=2**31)),
        (TypeError, "rows must be an integer, got 1.5", lambda: loss(rows=1.5)),
        (ValueError, r"without the class axis, \(3,\), got \(2,\)", lambda: loss(y=Y[:2])),
        (TypeError, "unexpected keyword argument 'axis'", lambda: loss(axis=0)),
        (ValueError, "wrt must be of 'hidden', 'weight', 'bias', got 'x'", lambda: grads(wrt="x")),
        (TypeError, "accumulate must be True or False, got 1", lambda: grads(accumulate=1)),
        (ValueError, "accumulate=True adds to what out has", lambda: grads(accumulate=True)),
        (ValueError, "out must have no key but", lambda: grads(out={"x": Array(X)})),
        (TypeError, "out must be a mapping", lambda: grads(out=Array(X))),
        (ValueError, "out has 'bias', whose gradient is not asked for", lambda: grads(out={"bias": Array(B)})),
        (ValueError, r"out\['hidden'\] must have shape", lambda: grads(out={"hidden": Array(W)})),
        (
            ValueError,
            r"out\['weight'\] must have dtype float32, got float64",
            lambda: grads(out={"weight": Array(W * 1.0).__class__(W.astype(float))}),
        ),
        (ValueError, r"out\['weight'\] must not share memory with weight", shared),
        (ValueError, "grad_output must be a scalar with", lambda: grads(grad_output=Array(X[:, 0]))),
        (
            TypeError,
            r"index must be integers \(classes\), got float32",
            lambda: crossentropy.linear_log_probs(Array(X), Array(W), Array(np.zeros((3, 5), np.float32))),
        ),
        (
            ValueError,
            r"grad_entropy must be a scalar or have shape \(3,\)",
            lambda: crossentropy.linear_log_probs_and_grad(
                Array(X), Array(W), Array(Y), grad_entropy=Array(Y[:2] * np.float32(1))
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors(cublas, error, message, call):
    for _ in range(2):  # also when the plan is looked for again
        with pytest.raises(error, match=message):
            call()
    assert not cublas.calls


def test_more_classes_than_cublas_counts(cublas):
    """An error, of a weight that is not there."""

    class Huge:
        shape, dtype = (2**31, 4), np.dtype(np.float32)

        @property
        def __cuda_array_interface__(self):
            return {"shape": self.shape, "typestr": "<f4", "data": (16, False), "strides": None}

    with pytest.raises(
        ValueError, match=r"weight must have at most 2147483647 rows and columns on a device, got shape"
    ):
        crossentropy.linear_cross_entropy(Array(X), Huge(), Array(Y))
