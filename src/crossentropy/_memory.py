"""Memory for large new arrays: what an array leaves when it is gone is kept for the next one.

The system clears each new page before it is first written, which takes longer than most calls do. So results and
scratch of `LARGE` bytes and more lie in blocks that are used again. Decisions (docs/performance.md has measurements):

A. A kept block is marked MADV_FREE: the system takes its pages where memory is short, and they are new ones then. A
   system without that (Windows) would have to swap them: there nothing is kept, and arrays are NumPy's own.
B. What is kept and in use together is never more than the two largest of the last `RECENT` requests, or what was in use
   at once in one of these: a program's peak is what it would be with nothing kept, or two results. What is kept alone
   is never more than the `MOST` largest, for a program that lets go of many arrays at once. What goes is the smallest
   block that is enough, else the one that came back first.
C. A block serves a request of an eighth of its size and more, since batches differ in length; the rest of its pages
   stay free for the system.
D. An array may go in any thread, and inside any allocation (the garbage collector): its finalizer never waits. It
   leaves the block in a queue, which whoever holds the lock clears before, or right after, it lets go of that.
E. A child of fork begins with nothing kept, and drops what was made before: these pages are shared with its parent's,
   and writing to one copies it.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import threading
import weakref
from collections import deque
from typing import Any, TypeAlias

import numpy as np

from . import _settings

LARGE = 1 << 22  # bytes; from the same size on NumPy asks for large pages
FEW_ROWS = LARGE >> 6  # whose numbers, up to eight each, are no large array
FIT = 8  # how many times as long as a request a block may be
RECENT = 16  # requests: a few steps of a training loop
MOST = 4
PATIENCE = 0.1  # seconds; the lock is held for microseconds

CAN_KEEP = hasattr(mmap, "MADV_FREE") and hasattr(mmap, "MAP_ANONYMOUS")

_Shape: TypeAlias = tuple[int, ...]


class _Pool:
    """The blocks of a process: which are kept, and how much is in use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: list[mmap.mmap] = []  # the one that came back first is the first
        self.returned: deque[tuple[int, mmap.mmap | None]] = deque()  # size, and the block if it is to be kept
        self.in_use = 0  # bytes
        self.recent: deque[tuple[int, int]] = deque(maxlen=RECENT)  # a request's size, and what was in use with it
        self.most_in_all = self.most_kept = 0  # bytes: the bounds (B)

    def take(self, size: int) -> mmap.mmap | None:
        """A block for so many bytes; None where the system refuses one."""
        if not self.lock.acquire(timeout=PATIENCE):  # lost by a KeyboardInterrupt, or held below a signal's handler
            _start_afresh()
            return None
        try:
            self._collect()
            fitting = [block for block in self.kept if size <= len(block) <= FIT * size]
            block = min(fitting, key=len, default=None)
            if block is not None:
                self.kept.remove(block)
            length = size if block is None else len(block)
            self.in_use += length
            self.recent.append((length, self.in_use))
            largest = sorted([size for size, _ in self.recent], reverse=True)
            self.most_in_all = max(sum(largest[:2]), max([in_use for _, in_use in self.recent]))
            self.most_kept = sum(largest[:MOST])
            dropped = self._beyond_bounds()
        finally:
            self.lock.release()
        self.settle()
        dropped.clear()  # outside of the lock: the system takes a while to take a block's pages
        if block is None:
            try:
                block = _new(size)
            except (OSError, ValueError, OverflowError):  # refused: NumPy finds memory, or raises its own error
                self.came_back(size, None)
                empty_cache()  # what is kept may be what is missing
        return block

    def came_back(self, size: int, block: mmap.mmap | None) -> None:
        """Called by finalizers: it must not wait, nor raise."""
        self.returned.append((size, block))
        self.settle()

    def settle(self) -> None:
        """Put in their place the blocks that came back, unless someone who has the lock is about to."""
        while self.returned and self.lock.acquire(blocking=False):
            try:
                self._collect()
                dropped = self._beyond_bounds()
            finally:
                self.lock.release()
            dropped.clear()

    def empty(self) -> None:
        """Let go of every kept block."""
        self.settle()
        if self.lock.acquire(timeout=PATIENCE):
            dropped, self.kept = self.kept, []
            self.lock.release()
            dropped.clear()

    def _collect(self) -> None:
        """Take note of what came back, with the lock held."""
        while self.returned:
            size, block = self.returned.popleft()
            self.in_use -= size
            if block is not None:
                self.kept.append(block)

    def _beyond_bounds(self) -> list[mmap.mmap]:
        """Take out of the kept blocks what the bounds (B) leave no room for, with the lock held."""
        room = min(self.most_in_all - self.in_use, self.most_kept)
        total, dropped = sum(map(len, self.kept)), []
        while self.kept and total > room:
            enough = [block for block in self.kept if len(block) >= total - room]
            dropped.append(min(enough, key=len) if enough else self.kept[0])
            self.kept.remove(dropped[-1])
            total -= len(dropped[-1])
        return dropped


_pool = _Pool()


def _start_afresh() -> None:
    """Keep nothing of what there was, with a lock that nobody has: what is in use then goes with its last array."""
    global _pool
    _pool = _Pool()


def _after_fork() -> None:
    _pool.kept.clear()
    _start_afresh()  # another thread of the parent may have had the lock


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _new(size: int) -> mmap.mmap:
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without large pages
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _give_back(pool: _Pool, block: mmap.mmap) -> None:
    """What becomes of a block when its last array is gone."""
    if pool is not _pool:
        return  # of before a fresh start
    keep = _settings.keeps_memory()
    if keep:
        try:
            block.madvise(mmap.MADV_FREE)
        except OSError:  # refused, for locked memory say
            keep = False
    pool.came_back(len(block), block if keep else None)


def uint8(size: int) -> np.ndarray | None:
    """So many bytes of `LARGE` or more, to be seen as any other array; None where they are to be NumPy's own."""
    if not CAN_KEEP or not _settings.keeps_memory():
        return None
    pool = _pool
    block = pool.take(size)
    if block is None:
        return None
    memory = np.frombuffer(block, np.uint8, size)
    weakref.finalize(memory, _give_back, pool, block).atexit = False  # at exit an array may still be used
    return memory


def empty_cache() -> None:
    """Free the memory that is kept for the next large arrays.

    Notes
    -----
    Results of 4 MB and more, and large scratch, lie in memory that is kept for the next ones when the last array in it
    is gone (on Linux and macOS): new pages would cost more than most calls. Kept memory is marked as free, for the
    system to take when it is short, and counts as the process's until then. It is bounded: with what is in use it is
    never more than the two largest of the last 16 arrays, or than was in use at once meanwhile, and alone never more
    than the four largest. ``config(keep_memory=False)``, `set_config` or CROSSENTROPY_KEEP_MEMORY=0 turn it off.

    An array in such memory is as any other, and stays valid whatever becomes of what is kept. But it does not own its
    memory: ``ndarray.resize``, which works in place, raises NumPy's ValueError ("does not own its data");
    `numpy.resize`, which copies, and slices do as always.

    Examples
    --------
    >>> crossentropy.empty_cache()
    """
    _pool.empty()


def empty(shape: _Shape, dtype: Any = np.float64) -> np.ndarray:
    """As `numpy.empty`, in C order."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE or (memory := uint8(size)) is None:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, memory)


def empty_rows(rows: int, fields: int | None = None) -> np.ndarray:
    """A float64 for each row, or so many, with as little ado as there can be for few rows."""
    if rows < FEW_ROWS:
        return np.empty(rows if fields is None else (rows, fields))
    return empty((rows,) if fields is None else (rows, fields))


def full(shape: _Shape, value: float) -> np.ndarray:
    """As `numpy.full`, float64."""
    found = empty(shape)
    found.fill(value)
    return found


def empty_like(x: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """As `numpy.empty_like`, a plain array: dense, and its axes in the order of x's."""
    dtype = x.dtype if dtype is None else dtype
    size = x.size * dtype.itemsize
    if size < LARGE or (memory := uint8(size)) is None:
        return np.empty_like(x, dtype, subok=False)
    return np.ndarray(x.shape, dtype, memory, 0, _dense_strides(x, dtype.itemsize))


def _dense_strides(x: np.ndarray, itemsize: int) -> _Shape:
    """The strides that NumPy's order "K" has: axes from the slowest to the fastest, a stable sort."""
    strides, step = [0] * x.ndim, itemsize
    slowest_first = sorted(range(x.ndim), key=lambda a: -abs(x.strides[a]))
    for a in range(x.ndim) if x.flags.fnc else slowest_first[::-1]:
        strides[a] = step
        step *= x.shape[a]
    return tuple(strides)


def copied(x: np.ndarray, dtype: Any) -> np.ndarray:
    """A copy of another dtype, as ``x.astype(dtype)``."""
    if x.size * np.dtype(dtype).itemsize < LARGE:
        return x.astype(dtype)
    found = empty_like(x, np.dtype(dtype))
    found[...] = x
    return found
