"""The row functions for a program's own Numba code."""

import ast
from pathlib import Path

import numpy as np
import pytest
from conftest import AVAILABLE
from subprocesses import run

import crossentropy
from crossentropy import reference
from crossentropy.testing import within

if not AVAILABLE["numba"]:
    pytest.skip("Numba is not installed", allow_module_level=True)

import numba

from crossentropy.numba_rows import cross_entropy_grad_row, cross_entropy_row, log_softmax_row, logsumexp_row

# One class, a group of 64 and its neighbours, a chunk of 512 and its neighbours, a block of 2048.
SIZES = [1, 2, 10, 63, 64, 65, 511, 512, 513, 1000, 2049, 5000]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", SIZES)
def test_rows_from_python(dtype, classes, rng):
    z = (rng.standard_normal(classes) * 3).astype(dtype)
    kind, exact = z.dtype, z.astype(float).tolist()
    out = np.empty_like(z)
    log_softmax_row(z, out)
    within(out, reference.log_softmax(exact), kind, "log_softmax")
    assert logsumexp_row(z) == pytest.approx(reference.logsumexp(exact), rel=4e-7 if dtype == "float32" else 1e-15)
    for y in (0, classes - 1, int(z.argmax())):
        expected = reference.cross_entropy(exact, y)
        within(kind.type(cross_entropy_row(z, y)), expected, kind, "loss")
        loss = cross_entropy_grad_row(z, y, 1.0, out)
        assert loss == cross_entropy_row(z, y)
        within(out, reference.cross_entropy_grad(exact, y), kind, "grad")


def test_rows_equal_the_backend(rng):
    x, y = rng.standard_normal((7, 300), dtype=np.float32), rng.integers(0, 300, 7)
    grad, log_p = np.empty_like(x), np.empty_like(x)
    losses = [cross_entropy_grad_row(x[n], y[n], 1 / 7, grad[n]) for n in range(7)]
    for n in range(7):
        log_softmax_row(x[n], log_p[n])
    with crossentropy.config(backend="numba"):
        np.testing.assert_array_equal(np.float32(losses), crossentropy.cross_entropy(x, y, reduction="none"))
        np.testing.assert_array_equal(grad, crossentropy.cross_entropy_grad(x, y))
        np.testing.assert_array_equal(log_p, crossentropy.log_softmax(x))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_from_a_users_own_function(parallel, dtype, rng):
    @numba.njit(parallel=parallel)
    def loss_and_gradient(logits, targets, grad):
        loss, scale = 0.0, 1 / len(logits)
        for n in numba.prange(len(logits)):
            loss += scale * cross_entropy_grad_row(logits[n], targets[n], scale, grad[n])
        return loss

    x, y = rng.standard_normal((50, 77)).astype(dtype), rng.integers(0, 77, 50).astype(np.int32)
    grad = np.empty_like(x)
    loss = loss_and_gradient(x, y, grad)
    with crossentropy.config(backend="numba"):
        expected = crossentropy.cross_entropy_and_grad(x, y)
    assert loss == pytest.approx(expected.loss, rel=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_array_equal(grad, expected.grad)


def test_rows_of_any_stride_and_in_place(rng):
    wide = rng.standard_normal((300, 8), dtype=np.float32)
    z = wide[:, 3]
    expected = np.empty(300, np.float32)
    loss = cross_entropy_grad_row(z.copy(), 5, 2.0, expected)
    assert cross_entropy_row(z, 5) == loss
    assert logsumexp_row(z[::-1]) == pytest.approx(logsumexp_row(z), rel=1e-7)
    for out in (z.copy(), np.zeros((300, 3), np.float32)[:, 1]):
        assert cross_entropy_grad_row(z, 5, 2.0, out) == loss
        np.testing.assert_array_equal(out, expected)
    assert cross_entropy_grad_row(z, 5, 2.0, z) == loss
    np.testing.assert_array_equal(z, expected)


@pytest.mark.parametrize("row", [[np.nan, 0.0], [0.0, np.inf], [-np.inf, -np.inf], [np.inf, np.nan]])
def test_undefined_rows(row):
    z = np.array(row)
    out = np.zeros_like(z)
    np.testing.assert_equal(logsumexp_row(z), np.max(z))
    np.testing.assert_equal(logsumexp_row(z[::-1]), np.max(z))
    np.testing.assert_equal(logsumexp_row(z.astype(np.float32)), np.max(z))
    assert np.isnan(cross_entropy_row(z, 0))
    assert np.isnan(cross_entropy_grad_row(z, 0, 1.0, out))
    assert np.isnan(out).all()
    out[:] = 0
    log_softmax_row(z, out)
    assert np.isnan(out).all()


@pytest.mark.parametrize("y", [-1, 3, 2**62, -(2**63)])
def test_a_target_that_is_no_class_is_nan(y):
    z, out = np.zeros(3), np.zeros(3)
    assert np.isnan(cross_entropy_row(z, y))
    assert np.isnan(cross_entropy_grad_row(z, y, 1.0, out))
    assert np.isnan(out).all()


def test_no_classes():
    z = np.empty(0)
    assert logsumexp_row(z) == -np.inf
    assert np.isnan(cross_entropy_row(z, 0))
    log_softmax_row(z, z)


def test_what_is_no_row_is_refused():
    for z in (np.zeros(3, int), np.zeros((2, 3))):
        with pytest.raises(numba.TypingError, match="a row must be a one-dimensional array of float32 or float64"):
            logsumexp_row(z)
    with pytest.raises(numba.TypingError, match="the result must have the dtype of the row, float32, got float64"):
        log_softmax_row(np.zeros(3, np.float32), np.zeros(3))
    for size in (2, 4):
        with pytest.raises(ValueError, match="the result must have the size of the row"):
            log_softmax_row(np.zeros(3), np.zeros(size))
        with pytest.raises(ValueError, match="the result must have the size of the row"):
            cross_entropy_grad_row(np.zeros(3), 0, 1.0, np.zeros(size))


def test_kernels_are_compiled_once_and_kept(tmp_path):
    """A second process finds them on disk; one that can write nowhere compiles them again, and works."""
    code = """
        import time
        import numpy as np, crossentropy
        from crossentropy._backends import numba as numba_cpu
        x, y = np.zeros((4, 100), np.float32), np.zeros(4, int)
        with crossentropy.config(backend="numba"):
            crossentropy.cross_entropy(x, y)
        print(sum(numba_cpu.kernels.forward.stats.cache_hits.values()))
    """
    assert [run(code, NUMBA_CACHE_DIR=str(tmp_path)).strip() for _ in range(2)] == ["0", "1"]


def test_a_kernels_name_covers_whatever_it_contains():
    """Every module of the package that kernels.py imports, at once or by another, has its source in the hash."""
    from crossentropy._backends.numba import kernels

    def imported(file):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                yield from [folder.with_suffix(".py")] if node.module else [folder / f"{n.name}.py" for n in node.names]

    found, left = set(), [Path(kernels.__file__)]
    while left:
        new = {file for file in imported(left.pop()) if file.is_file()} - found
        found |= new
        left += new
    host = {"_arrays.py"}  # what Python alone runs, to describe a call
    assert {file.name for file in found} - host == {Path(module.__file__).name for module in kernels.INLINED}
