"""Memory for large gradients on the CPU, which a training loop asks for and gives back in every step.

What is given back is kept for the next one, and the system told that it may take it (MADV_FREE), which it does when
memory is short. To write 524 MB takes 20 to 24 ms so, 0.2 of them to tell the system; with new pages each time, 48 to
51.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections import deque

import numpy as np
import torch

LARGE = 1 << 22  # bytes, from which on NumPy, too, asks for large pages
_CAN_KEEP = hasattr(mmap, "MADV_FREE") and hasattr(mmap, "MAP_ANONYMOUS")

# One block: a loop has one gradient at a time. Append and pop are atomic: a block may come back in any thread.
_kept: deque[mmap.mmap] = deque(maxlen=1)


def _block(size: int) -> mmap.mmap:
    """At least so many bytes: those that are kept, unless they are too few, or twice too many."""
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
    with contextlib.suppress(OSError):  # where memory is locked, say: then none is kept
        block.madvise(mmap.MADV_FREE)
        _kept.append(block)


def empty_cache() -> None:
    """Let go of the memory that is kept for the next large gradient."""
    _kept.clear()


def empty_like(x: torch.Tensor) -> torch.Tensor:
    """As `torch.empty_like`: dense, and in the order of x's strides."""
    size = x.numel() * x.element_size()
    if size < LARGE or not _CAN_KEEP or x.device.type != "cpu":
        return torch.empty_like(x)
    try:
        block = _block(size)
    except OSError:
        return torch.empty_like(x)  # which finds room, or raises PyTorch's error
    memory = np.frombuffer(block, np.uint8, size)
    weakref.finalize(memory, _give_back, block).atexit = False  # a tensor of this memory holds it to its own end
    strides = torch.empty_like(x, device="meta").stride()
    return torch.from_numpy(memory).view(x.dtype).as_strided(x.shape, strides)
