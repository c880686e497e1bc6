"""Which arrays are tensors, and which lie on a CUDA device: asked of them alone, so that nothing is imported for it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

CUDA = 2  # kDLCUDA, in DLPack


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of PyTorch's."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def holds(value: Any) -> bool:
    """Whether a value is an array that lies on a CUDA device."""
    if type(value) is np.ndarray:
        return False
    if is_tensor(value):  # first: its __cuda_array_interface__ raises for what NumPy has no type for
        return value.is_cuda
    if hasattr(value, "__cuda_array_interface__"):
        return True
    try:
        return hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] == CUDA
    except (BufferError, TypeError):  # JAX's, over several devices; or deleted
        return False
