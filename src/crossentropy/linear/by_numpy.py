"""The products by the BLAS of NumPy, and SciPy's where a product is added: of float32 and float64.

Operands that BLAS does not take (16 bits, swapped bytes, no unit stride) are converted a block of classes at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

BLOCK = 4 << 20  # bytes of converted or added rows of the weight


def logits(x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """out[B, V] = x[B, H] weight[V, H]^T."""
    x = _converted(x, out.dtype)
    if _is_plain(weight, out.dtype):
        np.matmul(x, weight.T, out=out)
        return
    for classes in _blocks(weight, out.dtype):
        np.matmul(x, _converted(weight[classes], out.dtype).T, out=out[:, classes])


def hidden(grad: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """out[B, H] = grad[B, V] weight[V, H]."""
    if _is_plain(weight, out.dtype):
        np.matmul(grad, weight, out=out)
        return
    part = np.empty_like(out)
    for classes in _blocks(weight, out.dtype):
        np.matmul(grad[:, classes], _converted(weight[classes], out.dtype), out=part if classes.start else out)
        if classes.start:
            out += part


def weight(grad: np.ndarray, x: np.ndarray, out: np.ndarray, add: bool) -> None:
    """out[V, H] = grad[B, V]^T x[B, H], or that added to it."""
    x = _converted(x, out.dtype)
    if not add:
        np.matmul(grad.T, x, out=out)
    elif out.size and out.flags.c_contiguous and (gemm := _gemm(out.dtype)):
        # With the transposes' order, Fortran's, all three lie as BLAS wants them: nothing is copied.
        gemm(1.0, x.T, grad.T, beta=1.0, c=out.T, trans_a=0, trans_b=1, overwrite_c=1)
    else:
        part = np.empty((min(len(out), _rows(out, out.dtype)), out.shape[1]), out.dtype)
        for classes in _blocks(out, out.dtype):
            here = part[: classes.stop - classes.start]
            np.matmul(grad[:, classes].T, x, out=here)
            out[classes] += here


def add_bias(logits: np.ndarray, bias: np.ndarray) -> None:
    """logits += bias."""
    logits += bias


def sum_bias(grad: np.ndarray, sums: np.ndarray) -> None:
    """sums += grad.sum(axis=0), in float64."""
    sums += grad.sum(0, dtype=np.float64)


def convert(x: np.ndarray, out: np.ndarray) -> None:
    """out = x, rounded once."""
    out[...] = x


@functools.cache
def _gemm(dtype: np.dtype) -> Callable[..., Any] | None:
    try:
        from scipy.linalg import blas
    except ImportError:
        return None
    return {"float32": blas.sgemm, "float64": blas.dgemm}[dtype.name]


def _is_plain(a: np.ndarray, dtype: np.dtype) -> bool:
    """Whether BLAS takes the matrix where it lies."""
    size = a.itemsize
    if a.dtype != dtype or not a.dtype.isnative or not a.flags.aligned:
        return False
    outer, inner = a.strides
    if inner != size:
        outer, inner = inner, outer
    return inner == size and outer >= size * min(a.shape) and outer % size == 0


def _converted(a: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return a if _is_plain(a, dtype) else a.astype(dtype, order="C")


def _rows(a: np.ndarray, dtype: np.dtype) -> int:
    return max(1, BLOCK // max(1, a.shape[1] * dtype.itemsize))


def _blocks(a: np.ndarray, dtype: np.dtype) -> Iterator[slice]:
    rows = _rows(a, dtype)
    for first in range(0, len(a), rows):
        yield slice(first, min(first + rows, len(a)))
