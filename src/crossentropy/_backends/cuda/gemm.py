"""Products of matrices on a device, by the library that the arrays' owner has: PyTorch's, CuPy's, or cuBLAS itself.

A. Sums are float32 (float64 for float64) whatever the operands are, and rounded once to the result's dtype. Whether
   float32 operands may be rounded to TF32 for it is what the caller has told PyTorch; CuPy's and ours are not.
B. Nothing is waited for: a product is on the stream that the arrays are used on.
C. cuBLAS knows matrices by columns: a matrix by rows is its transpose to it. So out = a b is asked for as
   out^T = b^T a^T, and whether an operand counts as transposed is seen from its strides.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable

from ... import _device
from ..._arrays import Array, Layout, layout
from . import arrays, driver

MOST = 2**31 - 1  # rows, columns, and numbers from one row to the next: cublasGemmEx takes int32
KINDS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}  # cudaDataType
IN_FLOAT32, IN_FLOAT64 = 68, 70  # cublasComputeType_t; without TF32
AS_CUBLAS_CHOOSES = -1  # cublasGemmAlgo_t
MISSING = (
    "products of arrays that are neither PyTorch's nor CuPy's need cuBLAS, which is not found: "
    "pip install 'crossentropy[cublas13]' ('crossentropy[cublas12]' for CUDA 12) ({})"
)

Multiply = Callable[[Array, Array, Array, bool], None]  # (a, b, out, add): out = a b, or that added to it


def transposed(a: Array) -> Array:
    """The same memory with rows as columns."""
    lies = a.layout
    shape, strides = lies.shape[::-1], lies.strides[::-1]
    return a._replace(layout=layout(shape, strides, lies.dtype, lies.itemsize, lies.read_only, False, lies.device))


def is_plain(a: Layout, result: bool = False) -> bool:
    """Whether a library takes a matrix where it lies: rows or columns in one piece each, a result's the rows."""
    return any(_leading(a, axis) for axis in ((0,) if result else (0, 1)))


def _leading(a: Layout, axis: int) -> int:
    """The numbers from one row to the next (columns for axis 1), each in one piece; 0 where it is not so."""
    (count, length), (outer, inner) = (a.shape, a.strides) if axis == 0 else (a.shape[::-1], a.strides[::-1])
    if length > 1 and inner != a.itemsize:
        return 0
    if count <= 1:
        return max(1, length)
    numbers, odd = divmod(outer, a.itemsize)
    return numbers if not odd and max(1, length) <= numbers <= MOST else 0


def multiply_for(x: Array, stream: int) -> Multiply:
    """The product of matrices beside an array, on the stream that it is used on."""
    if _device.is_tensor(x.value) and _torch_keeps_float32():
        return _by_torch
    if arrays._is_cupy(x.value):
        return functools.partial(_by_cublas, _of_cupy())
    return functools.partial(_by_cublas, _own(_library(), stream))


# ---------------------------------------------------------------------- PyTorch


@functools.cache
def _torch_keeps_float32() -> bool:
    """Whether PyTorch has products of 16 bits with results of float32: from 2.8 on; cuBLAS serves its tensors, too."""
    return "dtype_out" in sys.modules["torch"].ops.aten.addmm.overloads()


def _by_torch(a: Array, b: Array, out: Array, add: bool) -> None:
    torch = sys.modules["torch"]
    left, right, to = _tensor(a), _tensor(b), _tensor(out)
    dtype = {} if to.dtype == left.dtype else {"out_dtype": to.dtype}
    if add:
        torch.addmm(to, left, right, **dtype, out=to)
    else:
        torch.mm(left, right, **dtype, out=to)


def _tensor(a: Array):
    """The tensor of a matrix that lies in another's memory."""
    base, size = a.value, a.layout.itemsize
    strides = [stride // size for stride in a.layout.strides]
    return base.as_strided(a.layout.shape, strides, base.storage_offset() + (a.address - base.data_ptr()) // size)


# ---------------------------------------------------------------------- cuBLAS, by CuPy or by itself


def _by_cublas(gemm_ex: Callable, a: Array, b: Array, out: Array, add: bool) -> None:
    """out = a b, asked for as out^T = b^T a^T."""
    (rows, columns), inner = out.layout.shape, a.layout.shape[1]
    wide = out.layout.dtype == "float64"
    number = ctypes.c_double if wide else ctypes.c_float
    one, beta = number(1), number(add)
    gemm_ex(
        *(int(not _leading(each.layout, 0)) for each in (b, a)),  # 1: as columns it is what it is, to be transposed
        columns, rows, inner,
        ctypes.addressof(one),
        *_described(b), *_described(a),
        ctypes.addressof(beta),
        *_described(out),
        IN_FLOAT64 if wide else IN_FLOAT32, AS_CUBLAS_CHOOSES,
    )  # fmt: skip


def _described(a: Array) -> tuple[int, int, int]:
    """(address, type, leading dimension)."""
    return a.address, KINDS[a.layout.dtype], _leading(a.layout, 0) or _leading(a.layout, 1)


def _of_cupy() -> Callable:
    """CuPy's cublasGemmEx, with its handle for the current device; it sets CuPy's current stream."""
    import cupy
    from cupy_backends.cuda.libs import cublas

    return functools.partial(cublas.gemmEx, cupy.cuda.device.get_cublas_handle())


@functools.cache
def _library():
    """cuBLAS, as NVIDIA's packages or the system have it."""
    try:
        from cuda import pathfinder

        path = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
    except (ImportError, RuntimeError) as error:
        raise ImportError(MISSING.format(str(error).partition("\n")[0])) from error
    return _declared(ctypes.CDLL(path))


def _declared(library):
    pointer, number = ctypes.c_void_p, ctypes.c_int
    matrix = [pointer, number, number]
    library.cublasCreate_v2.argtypes = [ctypes.POINTER(pointer)]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasGemmEx.argtypes = [
        pointer, number, number, number, number, number, pointer, *matrix, *matrix, pointer, *matrix, number, number,
    ]  # fmt: skip
    for function in (library.cublasCreate_v2, library.cublasSetStream_v2, library.cublasGemmEx):
        function.restype = number
    return library


_handles = threading.local()  # a handle serves one thread at a time, and one device


def _own(library, stream: int) -> Callable:
    """cublasGemmEx with this thread's handle for the current device, on a stream."""
    known = vars(_handles).setdefault("of", {})
    key = driver.device(), library
    if (handle := known.get(key)) is None:
        handle = ctypes.c_void_p()
        _succeed(library.cublasCreate_v2(ctypes.byref(handle)), "cublasCreate")
        known[key] = handle
    _succeed(library.cublasSetStream_v2(handle, ctypes.c_void_p(stream or None)), "cublasSetStream")

    def gemm_ex(*arguments):
        _succeed(library.cublasGemmEx(handle, *arguments), "cublasGemmEx")

    return gemm_ex


def _succeed(status: int, what: str) -> None:
    if status:
        raise RuntimeError(f"{what} failed with status {status} of cuBLAS")
