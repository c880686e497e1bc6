"""Bad arguments: the error names the argument, the rule and the value, and nothing is written."""

import re

import numpy as np
import pytest

import crossentropy
from crossentropy import autograd
from crossentropy._backends import registry

X = np.arange(12, dtype=np.float32).reshape(3, 4)
T = np.array([0, 1, 2])


def call(x=X, t=T, **options):
    return crossentropy.cross_entropy_and_grad(x, t, **options)


def refuses(error, message):
    return pytest.raises(error, match=re.escape(message))


@pytest.mark.parametrize(
    ("t", "where"),
    [
        ([0, 4, 2], "targets[1] = 4 is not in [0, 4)"),
        ([0, 1, -1], "targets[2] = -1 is not in [0, 4)"),  # never wraps around
        (np.array([0, 2**63, 1], np.uint64), "targets[1] = 9223372036854775808 is not in [0, 4)"),
        (np.array([-(2**63), 1, 1]), "targets[0] = -9223372036854775808 is not in [0, 4)"),
        (np.array([0, 200, 201], np.uint8), "targets[1] = 200 is not in [0, 4)"),
    ],
)
def test_bad_targets_are_named(backend, t, where):
    with refuses(IndexError, where):
        call(t=t)
    x = X.copy()
    with refuses(IndexError, where):
        crossentropy.cross_entropy_and_grad(x, t, out=x)
    np.testing.assert_array_equal(x, X)
    with refuses(IndexError, where):
        autograd.forward(X, t)


def test_bad_targets_are_named_by_their_index_in_any_shape(backend):
    t = np.zeros((2, 5), int)
    t[1, 3] = 50257
    with refuses(IndexError, "targets[1, 3] = 50257 is not in [0, 4)"):
        crossentropy.cross_entropy(np.zeros((2, 4, 5)), t, axis=1)
    with refuses(IndexError, "targets = 9 is not in [0, 4)"):
        crossentropy.cross_entropy(np.zeros(4), 9)


def test_bad_targets_without_check_give_nan(backend):
    x, t = np.zeros((4, 3), np.float32), np.array([0, 3, -5, 2])
    with crossentropy.config(check=False):
        loss, grad = crossentropy.cross_entropy_and_grad(x, t, reduction="none")
        assert np.isnan(loss).tolist() == [False, True, True, False]
        assert np.isnan(grad).all(axis=1).tolist() == [False, True, True, False]
        _, saved = autograd.forward(x, t, reduction="none")
        np.testing.assert_array_equal(autograd.backward(saved), grad)
        assert np.isnan(crossentropy.cross_entropy(x, t))
        loss, grad = crossentropy.cross_entropy_and_grad(x, np.full(4, 7), empty=0.0)  # bad rows are not no rows
        assert np.isnan(loss)
        assert np.isnan(grad).all()


TYPE_ERRORS = [
    ({"x": X.astype(bool)}, "logits must be float16, bfloat16, float32, float64 or integers, got bool"),
    ({"x": X.astype(complex)}, "got complex128"),
    ({"x": X.astype(object)}, "got object"),
    ({"x": X.astype(np.longdouble)}, "logits must be"),
    ({"x": np.ma.masked_array(X, X > 3)}, "logits must be a plain array, got MaskedArray"),
    ({"t": np.array([True, False, True])}, "targets must be integers (classes) or floating (probabilities), got bool"),
    ({"t": T.astype(complex)}, "targets must be"),
    ({"t": T.astype(float)}, "targets of shape (3,) are classes and must be integers, got float64"),
    ({"t": np.ma.masked_array(T, T > 1)}, "targets must be a plain array, got MaskedArray"),
    ({"x": T, "t": X}, "arguments swapped?"),
    ({"ignore_index": 1.5}, "ignore_index must be an integer, got 1.5"),
    ({"label_smoothing": "0.1"}, "label_smoothing must be a real number, got '0.1'"),
    ({"z_loss": 1j}, "z_loss must be a real number, got 1j"),
    ({"label_smoothing": np.array([0.1, 0.2])}, "label_smoothing must be a real number"),
    ({"axis": 0.5}, "axis must be an integer, got 0.5"),
    ({"class_weight": np.ones(4, complex)}, "class_weight must be"),
    ({"grad_output": np.ones((), bool)}, "grad_output must be"),
    ({"x": None}, "logits must be an array, got NoneType"),
    ({"t": {1, 2}}, "targets must be an array, got set"),
    ({"class_weight": {0: 1}}, "class_weight must be an array with a number for each class, got a dict"),
    ({"out": [[0.0] * 4] * 3}, "out must be a plain array, got list"),
]


@pytest.mark.parametrize(("arguments", "message"), TYPE_ERRORS)
def test_type_errors(arguments, message):
    with refuses(TypeError, message):
        call(**arguments)


def test_matrix_and_float8_are_refused():
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(X)
    with refuses(TypeError, "logits must be a plain array, got matrix"):
        call(x=matrix)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with refuses(TypeError, "got float8_e4m3fn"):
        call(x=X.astype(ml_dtypes.float8_e4m3fn))


VALUE_ERRORS = [
    ({"t": T[:2]}, "targets must have the shape of logits without the class axis, (3,), got (2,)"),
    ({"t": X[:2]}, "probability targets must have the shape of logits, (3, 4), got (2, 4)"),
    ({"x": np.float32(3)}, "logits must have a class axis, got a scalar"),
    ({"x": [[1.0, 2.0], [3.0]]}, "logits must be an array"),
    ({"class_weight": np.ones(3)}, "class_weight must have shape (4,), got (3,)"),
    ({"class_weight": [1, -1, 1, 1]}, "class_weight must be finite and not negative, got class_weight[1] = -1.0"),
    ({"class_weight": [1, 1, np.inf, 1]}, "class_weight[2] = inf"),
    ({"class_weight": [1, 1, 1, np.nan]}, "class_weight[3] = nan"),
    ({"sample_weight": np.ones(4)}, "sample_weight must have shape (3,), got (4,)"),
    ({"sample_weight": [1, -2, 1]}, "sample_weight must be finite and not negative, got sample_weight[1] = -2.0"),
    ({"label_smoothing": -0.1}, "label_smoothing must be in [0, 1], got -0.1"),
    ({"label_smoothing": 1.1}, "label_smoothing must be in [0, 1], got 1.1"),
    ({"label_smoothing": np.nan}, "label_smoothing must be in [0, 1], got nan"),
    ({"z_loss": -1}, "z_loss must be finite and not negative, got -1"),
    ({"z_loss": np.nan}, "z_loss must be finite and not negative, got nan"),
    ({"z_loss": 10**400}, "z_loss must be within the range of float64, got an integer of 1329 bits"),
    ({"grad_output": 10**400}, "grad_output must be within the range of float64"),
    ({"reduction": np.array(["mean", "sum"])}, "reduction must be one of"),
    ({"normalizer": 0}, "normalizer must be finite and positive, got 0"),
    ({"normalizer": 5, "reduction": "sum"}, "normalizer goes with reduction='mean', got reduction='sum'"),
    ({"reduction": "average"}, "reduction must be one of 'none', 'sum', 'mean', got 'average'"),
    ({"t": np.full((3, 4), 0.25), "ignore_index": 1}, "ignore_index is for index targets"),
    ({"grad_output": np.ones(3)}, "grad_output must be a scalar with reduction='mean', got shape (3,)"),
    ({"grad_output": np.ones(4), "reduction": "none"}, "grad_output must be a scalar or have shape (3,), got (4,)"),
    ({"out": np.empty((3, 5), np.float32)}, "out must have shape (3, 4), got (3, 5)"),
    ({"out": np.empty((3, 4))}, "out must have dtype float32, got float64"),
    ({"axis": 2}, "axis 2 is out of bounds for array of dimension 2"),
]


@pytest.mark.parametrize(("arguments", "message"), VALUE_ERRORS)
def test_value_errors(arguments, message):
    with refuses(ValueError, message):
        call(**arguments)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


MEMORY = np.zeros(64, np.float32)

OUT_ERRORS = [
    (X, read_only(X), "out must be writeable, got a read-only array"),
    (
        MEMORY[:12].reshape(3, 4),
        MEMORY[1:13].reshape(3, 4),
        "out must not share memory with logits other than being logits itself",
    ),
    (MEMORY[:16].reshape(4, 4), MEMORY[:16].reshape(4, 4).T, "out must not share memory with logits"),
    (MEMORY[:12].reshape(3, 4), MEMORY[11::-1].reshape(3, 4), "out must not share memory with logits"),
    (X, np.lib.stride_tricks.as_strided(MEMORY, (3, 4), (0, 4)), "out must not overlap itself"),
    (X, np.lib.stride_tricks.as_strided(MEMORY, (3, 4), (8, 4)), "out must not overlap itself"),
]


@pytest.mark.parametrize(("x", "out", "message"), OUT_ERRORS)
def test_out_that_will_not_do(x, out, message):
    before = MEMORY.copy()
    for function in (crossentropy.cross_entropy_and_grad, crossentropy.cross_entropy_grad):
        with refuses(ValueError, message):
            function(x, np.zeros(len(x), int), out=out)
    with refuses(ValueError, message.replace("logits", "x")):
        crossentropy.log_softmax(x, out=out)
    np.testing.assert_array_equal(MEMORY, before)


def test_out_must_not_be_the_targets_or_weights():
    q = np.full((3, 4), 0.25, np.float32)
    with refuses(ValueError, "out must not share memory with targets"):
        call(t=q, out=q)
    v = np.ones((4, 4))
    with refuses(ValueError, "out must not share memory with sample_weight"):
        crossentropy.cross_entropy_grad(np.zeros((4, 4)), np.zeros(4, int), sample_weight=v[0], out=v)
    with refuses(ValueError, "out must not share memory with grad_output"):
        crossentropy.cross_entropy_grad(np.zeros((4, 4)), np.zeros(4, int), reduction="none", grad_output=v[0], out=v)
    _, saved = autograd.forward(np.zeros((4, 4)), np.zeros(4, int), reduction="none")
    with refuses(ValueError, "out must not share memory with grad_output"):
        autograd.backward(saved, v[0], out=v)
    # Also where the check itself has made a converted copy of the input:
    out = np.zeros((3, 4), np.float32)
    with refuses(ValueError, "out must not share memory with class_weight"):
        call(class_weight=out[0], out=out)
    with refuses(ValueError, "out must not share memory with targets"):
        call(t=out.view(np.int32)[:, 1], out=out)
    integers = np.zeros((3, 4), np.int64)
    with refuses(ValueError, "out must not share memory with logits"):
        call(x=integers, out=integers.view(np.float64))
    with refuses(ValueError, "out must not share memory with x"):
        crossentropy.softmax(integers, out=integers.view(np.float64))
    log_p, saved = autograd.log_softmax_forward(X)
    with refuses(ValueError, "out must not share memory with x"):
        autograd.log_softmax_backward(saved, np.ones_like(X), out=X)
    with refuses(ValueError, "out must not share memory with x"):
        autograd.log_softmax_forward(X, out=X)
    assert autograd.log_softmax_backward(saved, np.ones_like(X), out=log_p) is log_p  # which it does not read


def test_statistics_of_another_call():
    x, t = np.zeros((3, 4)), np.zeros(3, int)
    statistics, divisor = autograd.numbers_of(autograd.forward(x, t)[1])
    assert divisor == 3
    for bad in (statistics[:2], statistics.astype(np.float32), statistics.ravel()):
        with refuses(ValueError, f"statistics must be float64 of shape (3, 3), got {bad.dtype} {bad.shape}"):
            autograd.restored(bad, divisor, x, t)
        with refuses(ValueError, f"statistics must be float64 of shape (3, 3), got {bad.dtype} {bad.shape}"):
            autograd.restored_log_softmax(bad, x)


def test_wrong_shape_of_grad_output_for_log_softmax():
    _, saved = autograd.log_softmax_forward(X)
    with refuses(ValueError, "grad_output must have shape (3, 4), got (4,)"):
        autograd.log_softmax_backward(saved, np.ones(4))


def test_config_refuses_what_it_does_not_know():
    with refuses(ValueError, "backend must be one of 'native', 'numba', 'reference', got 'fortran'"):
        crossentropy.config(backend="fortran")
    with refuses(ValueError, "threads must be a positive integer, got 0"):
        crossentropy.config(threads=0)
    with refuses(ValueError, "check must be True or False, got 1"):
        crossentropy.config(check=1)
    with refuses(ValueError, "isa must be one of 'avx512', 'avx2', 'neon', 'base', got 'mmx'"):
        crossentropy.config(isa="mmx")


@pytest.mark.skipif(registry.device_reason() == "", reason="a device array is used where it lies, on a GPU")
def test_a_device_array_is_not_copied_to_the_host():
    class DeviceArray:
        @property
        def __cuda_array_interface__(self):
            return {"shape": (3, 4), "typestr": "<f4", "data": (0, False), "version": 3}

    with refuses(TypeError, "logits is a CUDA array"):
        call(x=DeviceArray())
