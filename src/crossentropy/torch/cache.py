"""Memory for large gradients on the CPU, which a training loop asks for and gives back in every step.

A block that is given back is kept for the next gradient, because the system clears each new page before it is first
written, which takes longer than the writing itself. The kept block is marked MADV_FREE, so that the system may still
take its pages when memory is short.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections import deque

import numpy as np
import torch

LARGE = 1 << 22  # bytes; from the same size on NumPy asks for large pages
_CAN_KEEP = hasattr(mmap, "MADV_FREE") and hasattr(mmap, "MAP_ANONYMOUS")

# One block, because a training loop has one gradient at a time. A block may come back in any thread, for which append
# and pop are atomic.
_kept: deque[mmap.mmap] = deque(maxlen=1)


def _block(size: int) -> mmap.mmap:
    """A block of at least ``size`` bytes: the kept one if its size is between that and twice that, else a new one."""
    try:
        block = _kept.pop()
    except IndexError:
        block = None
    if block is None or not size <= len(block) <= 2 * size:
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a system without large pages
                block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _give_back(block: mmap.mmap) -> None:
    with contextlib.suppress(OSError):  # MADV_FREE is refused, for locked memory say: the block is not kept
        block.madvise(mmap.MADV_FREE)
        _kept.append(block)


def empty_cache() -> None:
    """Free the memory that is kept for the next large gradient."""
    _kept.clear()


def empty_like(x: torch.Tensor) -> torch.Tensor:
    """As `torch.empty_like`: dense, and in the order of x's strides."""
    size = x.numel() * x.element_size()
    if size < LARGE or not _CAN_KEEP or x.device.type != "cpu":
        return torch.empty_like(x)
    try:
        block = _block(size)
    except OSError:
        return torch.empty_like(x)  # mmap was refused: PyTorch finds memory, or raises its own error
    memory = np.frombuffer(block, np.uint8, size)
    weakref.finalize(memory, _give_back, block).atexit = False  # at exit a tensor may still use it
    strides = torch.empty_like(x, device="meta").stride()
    return torch.from_numpy(memory).view(x.dtype).as_strided(x.shape, strides)
