"""Rows of a call shared out to the pool of threads (workers.py)."""

from __future__ import annotations

import threading

import numpy as np

from ... import _settings
from .. import workers

SLICE = 2**22  # elements at most that a thread takes at once


def in_parallel(work, rows: int, elements: int, stop: np.ndarray) -> None:
    """Call work(first, last) for all rows, on the threads of this context.

    The calling thread only waits, so that a KeyboardInterrupt reaches it at once: that sets ``stop``, which tells the
    kernels at work to end.
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

    workers.share(take, threads, lambda: stop.fill(1))
