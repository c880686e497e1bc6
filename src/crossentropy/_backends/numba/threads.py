"""Rows handed out to threads: a pool of Python's own, since kernels run without the GIL.

Numba's threading layers abort the process when two threads use one (workqueue) or hang after a fork (omp).
"""

from __future__ import annotations

import concurrent.futures
import os
import threading

import numpy as np

from ... import _settings

SLICE = 2**22  # elements at most that a thread takes at once

_pool: concurrent.futures.ThreadPoolExecutor | None = None
_lock = threading.Lock()


def _after_fork():
    """A child has none of its parent's threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _workers() -> concurrent.futures.ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = concurrent.futures.ThreadPoolExecutor(_settings.processors(), "crossentropy")
        return _pool


def _forget_workers() -> None:
    """Leave a pool to the calls that use it: in one without threads, what was submitted would lie for ever."""
    global _pool
    with _lock:
        _pool = None


def in_parallel(work, rows: int, elements: int, stop: np.ndarray) -> None:
    """Call work(first, last) for all rows, on the threads of this context.

    The calling thread only waits, so that a KeyboardInterrupt reaches it at once: it then sets ``stop``, which tells
    the kernels at work to end, and waits for them.
    """
    threads = min(_settings.threads(), rows)
    step = max(1, min(-(-rows // (4 * threads)), SLICE * rows // elements))
    slices, lock = iter(range(0, rows, step)), threading.Lock()

    def take():
        while not stop[0]:
            with lock:
                first = next(slices, None)
            if first is None:
                return
            work(first, min(first + step, rows))

    futures = []
    try:
        try:
            for _ in range(threads):
                futures.append(_workers().submit(take))
        except RuntimeError:  # no thread can be started, as when the interpreter is shutting down
            if not futures:
                _forget_workers()
            take()
        for future in futures:
            future.result()
    except BaseException:  # from anywhere above: only this thread can stop those that have begun
        stop[0] = 1
        # Not waiting for what the pool has not begun, which may lie behind other calls for long.
        concurrent.futures.wait([future for future in futures if not future.cancel()])
        raise
