"""Arrays of other libraries: what they hold is taken, or told in a line; what comes in comes out."""

import re
import warnings

import numpy as np
import pytest

import crossentropy
from crossentropy import autograd
from crossentropy.testing import same

X = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
T = np.array([0, 2, 1, 1])
W = np.array([True, False, True, True])
FUNCTIONS = (crossentropy.cross_entropy, crossentropy.cross_entropy_and_grad, autograd.forward)


def refuses(error, message):
    return pytest.raises(error, match=re.escape(message))


def loss_and_grad(x=X, t=T, **options):
    return crossentropy.cross_entropy_and_grad(x, t, reduction="none", **options)


def taken_as(given, plain, **options):
    """An argument of another library gives what NumPy's array of the same numbers gives, which is NumPy's."""
    found = loss_and_grad(**given, **options)
    for got, want in zip(found, loss_and_grad(**plain, **options), strict=True):
        if type(got) is not np.ndarray:
            assert type(got) is type(given["x"])
            got = crossentropy._check.array(got, "result")
        same(got, want)


# ---------------------------------------------------------------------- data frames


@pytest.fixture(params=["pandas", "pyarrow", "polars", "pandas of pyarrow"])
def library(request):
    """(frame of float columns, series of a dtype that may have no values in it), which make it from lists."""
    if request.param == "pandas":
        pandas = pytest.importorskip("pandas")
        kinds = {float: "Float32", int: "Int64", bool: "boolean"}
        return (
            lambda columns: pandas.DataFrame({k: pandas.array(c, dtype="Float32") for k, c in columns.items()}),
            lambda values, kind: pandas.Series(values, dtype=kinds[kind]),
        )
    arrow = pytest.importorskip("pyarrow")
    if request.param == "pandas of pyarrow":
        pandas = pytest.importorskip("pandas")
        kinds = {float: "float[pyarrow]", int: "int64[pyarrow]", bool: "bool[pyarrow]"}
        return (
            lambda columns: pandas.DataFrame({k: pandas.Series(c, dtype=kinds[float]) for k, c in columns.items()}),
            lambda values, kind: pandas.Series(values, dtype=kinds[kind]),
        )
    if request.param == "pyarrow":
        kinds = {float: arrow.float32(), int: arrow.int64(), bool: arrow.bool_()}
        return (
            lambda columns: arrow.table({k: arrow.array(c, kinds[float]) for k, c in columns.items()}),
            lambda values, kind: arrow.array(values, kinds[kind]),
        )
    polars = pytest.importorskip("polars")
    kinds = {float: polars.Float32, int: polars.Int64, bool: polars.Boolean}
    return (
        lambda columns: polars.DataFrame({k: polars.Series(c, dtype=kinds[float]) for k, c in columns.items()}),
        lambda values, kind: polars.Series(values, dtype=kinds[kind]),
    )


def columns_of(x):
    return {name: column.tolist() for name, column in zip("abc", x.T, strict=True)}


def test_frames_and_series(library):
    frame, series = library
    taken_as({"x": frame(columns_of(X))}, {})
    taken_as({"t": series(T.tolist(), int)}, {})
    q = np.abs(X)
    taken_as({"t": frame(columns_of(q))}, {"t": q})
    for weights, kind in ((W, bool), (W * 0.5, float), (W * 3, int)):
        plain = weights.astype(np.float32 if kind is float else weights.dtype)
        taken_as({"sample_weight": series(weights.tolist(), kind)}, {"sample_weight": plain})
    taken_as({"class_weight": series([1, 2, 3], int)}, {"class_weight": [1, 2, 3]})
    same(crossentropy.log_softmax(frame(columns_of(X))), crossentropy.log_softmax(X))


def test_missing_values_are_named(library):
    frame, series = library
    holes = columns_of(X)
    holes["b"][2] = None
    for function in FUNCTIONS:
        with refuses(ValueError, "logits must have no missing values, got one at logits[2, 1]: fill them, or leave"):
            function(frame(holes), T)
    with refuses(ValueError, "x must have no missing values, got one at x[2, 1]"):
        crossentropy.softmax(frame(holes))
    with refuses(ValueError, "targets[3]: fill them with a number that is no class, and pass that as ignore_index"):
        crossentropy.cross_entropy(X, series([0, 1, 2, None], int))
    for kind in (bool, int, float):
        with refuses(ValueError, "got one at sample_weight[1]: fill them with 0"):
            crossentropy.cross_entropy(X, T, sample_weight=series([kind(1), None, kind(1), kind(1)], kind))


def test_pandas_of_several_kinds():
    """Columns of different dtypes meet in one; a NaN of NumPy's is a number, and NA is not."""
    pandas = pytest.importorskip("pandas")
    mixed = pandas.DataFrame({"a": pandas.array([1, 2], dtype="Int64"), "b": [0.5, np.nan], "c": [1, 2]})
    loss, _ = crossentropy.cross_entropy_and_grad(mixed, [0, 1], reduction="none")
    assert np.isnan(loss).tolist() == [False, True]
    same(loss[0], crossentropy.cross_entropy([1.0, 0.5, 1.0], 0))
    same(crossentropy.logsumexp(pandas.DataFrame(X)), crossentropy.logsumexp(X))
    same(crossentropy.cross_entropy(X, pandas.Index(T)), crossentropy.cross_entropy(X, T))
    same(crossentropy.cross_entropy(X, pandas.array(T, dtype="UInt8")), crossentropy.cross_entropy(X, T))
    with refuses(TypeError, "logits must be float16, bfloat16, float32, float64 or integers, got object"):
        crossentropy.cross_entropy(
            pandas.DataFrame({"a": ["x", "y"], "b": pandas.array([1, 2], dtype="Int64")}), [0, 1]
        )


# ---------------------------------------------------------------------- PyTorch and JAX


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64"])
def test_tensors(kind):
    """Also of a layout of their own, and as any argument; bfloat16 stays it."""
    torch = pytest.importorskip("torch")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = torch.tensor(X).to(getattr(torch, kind))
    plain = X.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    taken_as({"x": x, "t": torch.tensor(T)}, {"x": plain})
    taken_as({"x": x.T.contiguous().T}, {"x": plain})
    taken_as({"t": x.abs()}, {"t": np.abs(plain)})
    taken_as({"x": x._neg_view()}, {"x": -plain})
    taken_as({"sample_weight": torch.tensor(W)}, {"sample_weight": W})
    taken_as({"grad_output": x[:, 0]}, {"grad_output": plain[:, 0]})
    same(crossentropy._check.array(crossentropy.softmax(x), "result"), crossentropy.softmax(plain))


def test_bfloat16_tensors_share_their_memory():
    torch = pytest.importorskip("torch")
    x = torch.zeros((4, 3), dtype=torch.bfloat16)
    found = crossentropy._check.array(x, "x")
    found[1, 2] = 5
    assert x[1, 2] == 5


def test_tensors_that_are_refused():
    torch = pytest.importorskip("torch")
    x = torch.tensor(X, requires_grad=True)
    way = "requires grad, which this function would lose: call that of crossentropy.torch, or pass"
    for function in FUNCTIONS:
        for given in (x, x * 2, x.bfloat16()):
            with refuses(TypeError, f"logits {way} logits.detach()"):
                function(given, T)
        with refuses(TypeError, f"targets {way} targets.detach()"):
            function(X, x)
    with refuses(TypeError, f"class_weight {way} class_weight.detach()"):
        crossentropy.cross_entropy(X, T, class_weight=torch.ones(3, requires_grad=True))
    taken_as({"x": x.detach()}, {})
    with refuses(TypeError, "x must be a dense tensor, got torch.sparse_coo: pass x.to_dense()"):
        crossentropy.softmax(torch.tensor(X).to_sparse())
    with refuses(TypeError, "x must lie on the CPU, or on a CUDA device, got a tensor on meta"):
        crossentropy.softmax(torch.tensor(X).to("meta"))
    with refuses(TypeError, "x must be an array: "):
        crossentropy.softmax(torch.tensor(X).to(torch.float8_e4m3fn))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with refuses(TypeError, "x must be a dense tensor, got a nested one"):
        crossentropy.softmax(nested)


def test_jax():
    jax = pytest.importorskip("jax")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    taken_as({"x": jax.numpy.array(X), "t": jax.numpy.array(T)}, {})
    taken_as({"x": jax.numpy.array(X, jax.numpy.bfloat16)}, {"x": X.astype(ml_dtypes.bfloat16)})
    deleted = jax.numpy.array(X)
    deleted.delete()
    with refuses(TypeError, "x has no values any more: JAX's array was deleted, or donated to a compiled function"):
        crossentropy.softmax(deleted)
    for transform in (jax.jit, jax.grad):
        with refuses(TypeError, "logits is traced by JAX and has no values yet"):
            transform(lambda x: crossentropy.cross_entropy(x, T))(X)


# ---------------------------------------------------------------------- the protocols


class OfDLPack:
    """An array that has no other way out."""

    def __init__(self, a):
        self.__dlpack__, self.__dlpack_device__ = a.__dlpack__, a.__dlpack_device__


def test_protocols():
    class OfInterface:
        __array_interface__ = X.__array_interface__

    class Failing:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("lies elsewhere")

    taken_as({"x": OfDLPack(X), "t": OfDLPack(T)}, {})
    taken_as({"x": OfInterface()}, {})
    with refuses(TypeError, "logits must be an array: lies elsewhere"):
        loss_and_grad(Failing())
    sparse = pytest.importorskip("scipy.sparse")
    with refuses(TypeError, "logits must be an array, got csr_array: pass logits.toarray()"):
        loss_and_grad(sparse.csr_array(X))


# ---------------------------------------------------------------------- what comes in comes out


def _of_torch(a):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(a), torch.Tensor


def _of_jax(a):
    jax = pytest.importorskip("jax")
    return jax.numpy.asarray(a), jax.Array


def _of_strict(a):
    strict = pytest.importorskip("array_api_strict")
    return strict.asarray(a), type(strict.asarray(a))


CALLS = {
    "log_softmax": lambda x, t: crossentropy.log_softmax(x),
    "softmax": lambda x, t: crossentropy.softmax(x, axis=(0, 1)),
    "logsumexp": lambda x, t: crossentropy.logsumexp(x),
    "logsumexp, kept": lambda x, t: crossentropy.logsumexp(x, keepdims=True),
    "logsumexp, signed": lambda x, t: crossentropy.logsumexp(x, axis=None, return_sign=True),
    "cross_entropy": lambda x, t: crossentropy.cross_entropy(x, t),
    "cross_entropy, none": lambda x, t: crossentropy.cross_entropy(x, t, reduction="none"),
    "cross_entropy_and_grad": lambda x, t: crossentropy.cross_entropy_and_grad(x, t, label_smoothing=0.1),
    "cross_entropy_grad": lambda x, t: crossentropy.cross_entropy_grad(x, t),
    "cross_entropy_grad_hess": lambda x, t: crossentropy.cross_entropy_grad_hess(x, t),
    "distillation": lambda x, t: crossentropy.distillation(x, x),
    "row_statistics": lambda x, t: crossentropy.row_statistics(x, t, top=(1, 2)),
    "linear_cross_entropy": lambda x, t: crossentropy.linear_cross_entropy(x, x, t),
    "linear_cross_entropy_and_grad": lambda x, t: crossentropy.linear_cross_entropy_and_grad(x, x, t),
    "linear_log_probs": lambda x, t: crossentropy.linear_log_probs(x, x, t),
    "linear_log_probs_and_grad": lambda x, t: crossentropy.linear_log_probs_and_grad(x, x, t),
}


def flat(found):
    if isinstance(found, dict):
        found = tuple(found.values())
    return [a for each in found for a in flat(each)] if isinstance(found, tuple) else [] if found is None else [found]


@pytest.mark.parametrize("convert", [_of_torch, _of_jax, _of_strict])
def test_what_comes_in_comes_out(convert):
    """From every function, under the same names, with the same numbers."""
    x, kind = convert(X)
    t, _ = convert(T)
    for name, call in CALLS.items():
        got, want = call(x, t), call(X, T)
        assert isinstance(got, kind) or type(got) is type(want), name
        pairs = list(zip(flat(got), flat(want), strict=True))
        assert pairs
        for found, plain in pairs:
            assert isinstance(found, kind), name
            np.testing.assert_array_equal(np.asarray(found), plain)
            assert found.shape == np.shape(plain)
            assert found.dtype in (convert(np.asarray(plain))[0].dtype, x.dtype)
    mixed = crossentropy.cross_entropy_and_grad(X, t)
    assert isinstance(mixed.grad, np.ndarray)  # as the logits are


def test_namespaces_are_those_of_array_api_compat():
    """Whose tensors are PyTorch's own, too."""
    compat = pytest.importorskip("array_api_compat")
    for convert in (_of_torch, _of_jax, _of_strict):
        x, _ = convert(X)
        xp = compat.array_namespace(x)
        loss, grad = crossentropy.cross_entropy_and_grad(x, convert(T)[0], reduction="none")
        assert compat.array_namespace(loss, grad) is xp
        assert compat.device(grad) == compat.device(x)
        assert bool(xp.all(xp.abs(xp.sum(grad, axis=-1)) < 1e-6))


def test_tensors_as_out():
    """In their memory, and as the same tensor; a JAX array cannot be written."""
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16):
        x, t = torch.from_numpy(X.copy()).to(dtype), torch.from_numpy(T)
        want = crossentropy.cross_entropy_and_grad(x, t)
        out = torch.empty_like(x)
        loss, grad = crossentropy.cross_entropy_and_grad(x, t, out=out)
        assert grad is out
        assert torch.equal(out, want.grad)
        assert torch.equal(loss, want.loss)
        assert crossentropy.cross_entropy_grad(x, t, out=x) is x
        assert torch.equal(x, want.grad)
    hidden = torch.from_numpy(X.copy())
    out = {"hidden": torch.empty_like(hidden)}
    found = crossentropy.linear_cross_entropy_and_grad(hidden, hidden.clone(), t, wrt="hidden", out=out)
    assert found.hidden is out["hidden"]
    same(out["hidden"].numpy(), crossentropy.linear_cross_entropy_and_grad(X, X, T, wrt="hidden").hidden)
    with refuses(ValueError, "out must not share memory with logits other than being logits itself"):
        crossentropy.cross_entropy_grad(hidden[:3], t[:3], out=hidden[1:])
    with refuses(TypeError, "out requires grad"):
        crossentropy.softmax(hidden, out=torch.empty(4, 3, requires_grad=True))
    jax = pytest.importorskip("jax")
    with refuses(TypeError, "out must be a plain array, got ArrayImpl"):
        crossentropy.softmax(X, out=jax.numpy.asarray(X))


def test_results_from_frames_and_labelled_arrays_are_numpys():
    """As docs/howto/arrays.md says: labels are the caller's to put back."""
    xarray = pytest.importorskip("xarray")
    x = xarray.DataArray(X, dims=("row", "label"), coords={"label": ["a", "b", "c"]})
    t = xarray.DataArray(T, dims="row")
    loss, grad = crossentropy.cross_entropy_and_grad(x, t)
    assert type(grad) is np.ndarray
    assert type(loss) is np.float32
    same(x.copy(data=grad).sel(label="b").values, crossentropy.cross_entropy_grad(X, T)[:, 1])
    same(crossentropy.log_softmax(x, axis=x.get_axis_num("row")), crossentropy.log_softmax(X, axis=0))
    of_rows = xarray.apply_ufunc(
        crossentropy.cross_entropy, x, t, input_core_dims=[["label"], []], kwargs={"reduction": "none"}
    )
    assert of_rows.dims == ("row",)
    same(of_rows.values, crossentropy.cross_entropy(X, T, reduction="none"))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, index=list("wxyz"), columns=list("abc"))
    probabilities = crossentropy.softmax(frame)
    assert type(probabilities) is np.ndarray
    same(frame.__class__(probabilities, frame.index, frame.columns).loc["x"].values, crossentropy.softmax(X)[1])
