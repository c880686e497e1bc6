"""A stand-in for cuBLAS on simulated arrays: cublasGemmEx as its documentation has it, by NumPy in the host's memory.

It takes what the library would take, and knows matrices by columns as that does, so that what is asked of it is right
only if it would be of the library.
"""

import ctypes

import ml_dtypes
import numpy as np

DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}  # cudaDataType
REALS = {68: (np.float32, ctypes.c_float), 70: (np.float64, ctypes.c_double)}  # cublasComputeType_t
MOST = 2**31 - 1


def by_columns(address, dtype, rows, columns, leading):
    """A view of a matrix as BLAS describes it."""
    assert leading >= max(1, rows), "a leading dimension less than the matrix has rows"
    size = np.dtype(dtype).itemsize
    if not rows * columns:
        return np.empty((rows, columns), dtype)
    memory = (ctypes.c_uint8 * (size * (leading * (columns - 1) + rows))).from_address(address)
    return np.ndarray((rows, columns), dtype, memory, 0, (size, leading * size))


class Function:
    """A function of a library, to which argument types may be given."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)


class Cublas:
    """The functions of cuBLAS that are used, and what was asked of them."""

    def __init__(self):
        self.calls, self.streams, self.handles, self.status = [], [], 0, 0
        self.cublasCreate_v2 = Function(self._create)
        self.cublasSetStream_v2 = Function(self._set_stream)
        self.cublasGemmEx = Function(self._gemm_ex)

    def _create(self, handle):
        self.handles += 1
        handle._obj.value = self.handles
        return self.status

    def _set_stream(self, handle, stream):
        self.streams.append((handle.value, stream.value or 0))
        return self.status

    def _gemm_ex(self, handle, *arguments):
        assert handle.value
        return self.gemm_ex(*arguments)

    def gemm_ex(
        self, transa, transb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute, algorithm
    ):
        """C = alpha op(A) op(B) + beta C; sums in the type of computation, rounded once."""
        assert all(type(number) is int and 0 <= number <= MOST for number in (m, n, k, lda, ldb, ldc))
        assert algorithm == -1
        assert a_type == b_type
        real, scalar = REALS[compute]
        assert c_type in (a_type, 1 if real is np.float64 else 0), "no such pair of types in cuBLAS"
        self.calls.append((transa, transb, m, n, k, lda, ldb, ldc, DTYPES[a_type].__name__, DTYPES[c_type].__name__))
        alpha, beta = (scalar.from_address(address).value for address in (alpha, beta))
        left = by_columns(a, DTYPES[a_type], *((k, m) if transa else (m, k)), lda).astype(real)
        right = by_columns(b, DTYPES[b_type], *((n, k) if transb else (k, n)), ldb).astype(real)
        to = by_columns(c, DTYPES[c_type], m, n, ldc)
        with np.errstate(all="ignore"):
            found = alpha * ((left.T if transa else left) @ (right.T if transb else right))
            to[...] = found + (beta * to.astype(real) if beta else 0)  # what is there is not read for a beta of 0
        return self.status
