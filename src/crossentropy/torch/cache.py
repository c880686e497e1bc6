"""New tensors for large results on the CPU, in the memory that the package keeps for its arrays (`_memory`)."""

from __future__ import annotations

import torch

from .. import _memory
from .._memory import LARGE as LARGE


def empty_like(x: torch.Tensor) -> torch.Tensor:
    """As `torch.empty_like`: dense, and in the order of x's strides."""
    size = x.numel() * x.element_size()
    if size < LARGE or x.device.type != "cpu" or (memory := _memory.uint8(size)) is None:
        return torch.empty_like(x)
    strides = torch.empty_like(x, device="meta").stride()
    return torch.from_numpy(memory).view(x.dtype).as_strided(x.shape, strides)


def empty(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """As `torch.empty`."""
    size = shape.numel() * dtype.itemsize
    if size < LARGE or device.type != "cpu" or (memory := _memory.uint8(size)) is None:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(memory).view(dtype).view(shape)
