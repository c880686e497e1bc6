"""Arrays on a device, whoever made them: where they lie, which stream they are used on, and new ones like them.

PyTorch's tensors are asked directly (their ``__cuda_array_interface__`` knows no bfloat16), others through
``__cuda_array_interface__`` or DLPack. Nothing is copied and nothing waited for. New arrays are PyTorch's or CuPy's
where the logits are, otherwise Numba's.
"""

from __future__ import annotations

import ctypes
import functools
import sys

import numpy as np
from numba import cuda

from ... import _device, _foreign
from ..._arrays import Array, Layout, c_strides, layout

SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "int64": 8, "bool": 1}  # bytes, of what is made here
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat"}  # DLDataTypeCode


def plain(shape: tuple[int, ...], dtype: str, device: int | None = None) -> Layout:
    """The layout of an array in C order."""
    size = SIZES[dtype]
    return layout(shape, c_strides(shape, size), dtype, size, False, False, device)


@functools.lru_cache(4096)
def _tensor_layout(shape, strides, dtype, size, device):
    strides = tuple(stride * size for stride in strides)
    return layout(tuple(shape), strides, str(dtype).partition(".")[2], size, False, False, device)


@functools.lru_cache(4096)
def _interface_layout(shape, typestr, strides, read_only, dtype, device):
    """The layout, or the dtype that is refused."""
    dtype = np.dtype(typestr) if dtype is None else np.dtype(dtype)
    if not dtype.isnative:
        return typestr
    strides = strides or c_strides(shape, dtype.itemsize)
    return layout(shape, strides, dtype.name, dtype.itemsize, read_only, False, device)


def describe(value, name: str) -> Array:
    """Where an array lies; a TypeError for what is not on a device."""
    if _device.is_tensor(value) and value.is_cuda:
        if value.is_neg():
            raise ValueError(f"{name} must hold its own numbers, got a view that negates them (resolve_neg)")
        if value.requires_grad:
            raise _foreign.loses_gradient(name)
        found = _tensor_layout(value.shape, value.stride(), value.dtype, value.element_size(), value.device.index)
        return Array(value, value.data_ptr(), found)
    if not _device.holds(value):
        raise TypeError(f"{name} must be an array on the device, where the others are, got {type(value).__name__}")
    if hasattr(value, "__cuda_array_interface__"):
        return _of_interface(value, name)
    return _of_dlpack(value)


def beside(x: Array, value, name: str) -> Array:
    """Where an array lies that is used with another; a ValueError for one of another device."""
    a = describe(value, name)
    here, there = x.layout.device, a.layout.device
    if here != there and None not in (here, there):
        raise ValueError(f"{name} must be on the device of the first array, {here}, got {there}")
    return a


def _of_interface(value, name):
    found = value.__cuda_array_interface__
    if found.get("mask") is not None:
        raise TypeError(f"{name} must be a plain array, got one with a mask")
    shape, strides, typestr = tuple(found["shape"]), found.get("strides"), found["typestr"]
    address, read_only = found["data"]
    lies = _interface_layout(
        shape,
        typestr,
        None if strides is None else tuple(strides),
        read_only,
        value.dtype if typestr[1] == "V" and hasattr(value, "dtype") else None,  # bfloat16, which has no typestr
        value.device.id if _is_cupy(value) else None,
    )
    if not isinstance(lies, Layout):
        raise TypeError(f"{name} must be in the device's byte order, got {lies!r}")
    return Array(value, address or 0, lies)


class _Tensor(ctypes.Structure):
    """DLTensor, with which a DLManagedTensor begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _of_dlpack(value):
    capsule = value.__dlpack__(stream=1)  # CUDA's default, as `stream_of` answers: what is under way comes first
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    shape, itemsize = tuple(tensor.shape[: tensor.ndim]), tensor.bits // 8
    strides = tuple(s * itemsize for s in tensor.strides[: tensor.ndim]) if tensor.strides else None
    dtype = "bool" if tensor.code == 6 else f"{_KINDS.get(tensor.code, f'type {tensor.code} of ')}{tensor.bits}"
    address = (tensor.data or 0) + tensor.byte_offset
    strides = strides or c_strides(shape, itemsize)
    return Array(value, address, layout(shape, strides, dtype, itemsize, False, False, tensor.device_id), capsule)


def _is_cupy(value) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


def device_of(value) -> int:
    """The number of the device that an array lies on; the current one where its owner does not say."""
    if _device.is_tensor(value):
        return value.device.index
    if _is_cupy(value):
        return value.device.id
    if hasattr(value, "__dlpack_device__"):
        return value.__dlpack_device__()[1]
    return cuda.get_current_device().id


def stream_of(value) -> int:
    """The stream that its owner uses now, as CUDA's handle."""
    if _device.is_tensor(value):
        return sys.modules["torch"].cuda.current_stream(value.device).cuda_stream
    stream = getattr(value, "__cuda_array_interface__", {}).get("stream")
    return stream or 0


def empty(shape, dtype: str, like: Array, stream: int) -> Array:
    """A new array beside another, used on a stream."""
    if _device.is_tensor(like.value):
        torch = sys.modules["torch"]
        made = torch.empty(shape, dtype=getattr(torch, dtype), device=like.value.device)
    elif _is_cupy(like.value):
        made = sys.modules["cupy"].empty(shape, like.value.dtype if dtype == like.layout.dtype else dtype)
    else:
        made = cuda.device_array(shape, np.dtype(dtype), stream=cuda.external_stream(stream) if stream else 0)
    return describe(made, "a new array")


def item(a: Array, stream: int) -> int:
    """The one number of an array, on the host: this waits for the device."""
    if hasattr(a.value, "item"):
        return int(a.value.item())
    cuda.external_stream(stream).synchronize()
    return int(a.value.copy_to_host()[()])


def require_aligned(a: Array, name: str) -> None:
    """A ValueError where a number does not begin at a multiple of its size: a device cannot load it."""
    if a.address % a.layout.itemsize or any(stride % a.layout.itemsize for stride in a.layout.strides):
        raise ValueError(f"{name} must be aligned to its dtype")
