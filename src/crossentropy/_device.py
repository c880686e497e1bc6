"""Arrays on a CUDA device: which they are, and the backend for them, which is imported when the first one comes."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from types import ModuleType

import numpy as np

CUDA = 2  # kDLCUDA, in DLPack
HOW = "pip install 'crossentropy[cuda13]', or [cuda12] for a driver of CUDA 12"


def is_tensor(value) -> bool:
    """Whether a value is a tensor of PyTorch's."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def holds(value) -> bool:
    """Whether a value is an array that lies on a CUDA device."""
    if type(value) is np.ndarray:
        return False
    if is_tensor(value):  # first: its __cuda_array_interface__ raises for what NumPy has no type for
        return value.is_cuda
    if hasattr(value, "__cuda_array_interface__"):
        return True
    return hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] == CUDA


@functools.cache
def _found() -> ModuleType | str:
    """The CUDA backend, or why there is none."""
    if importlib.util.find_spec("numba_cuda") is None:  # without it numba.cuda is Numba's old one
        return f"numba-cuda is missing: {HOW}"
    try:
        backend = importlib.import_module(".cuda", __package__)
    except (ImportError, AttributeError) as error:
        return f"numba-cuda is older than 0.30, or Numba than it needs ({error}): {HOW}"
    return backend.unavailable() or backend


def reason() -> str:
    """Why there is no CUDA backend here; empty where there is one."""
    return "" if isinstance(_found(), ModuleType) else _found()


def backend(name: str = "logits") -> ModuleType:
    """The CUDA backend, for a call whose argument of that name lies on a device."""
    if reason():
        raise TypeError(f"{name} is a CUDA array, and the backend for these is not available: {reason()}")
    return _found()
