"""A pool of threads of Python's own, which take part in calls whose kernels run without the GIL.

For the backends that have no threads themselves. Numba's threading layers abort the process when two threads use one
(workqueue) or hang after a fork (omp); Apple's compiler has no OpenMP, and wheels for Windows are built without.

A call's work is a function that shares out rows to whoever calls it, until there are none: so any number of threads may
take part, late or not at all. All calls have the same threads, which take part in one after the other.
"""

from __future__ import annotations

import contextvars
import os
import queue
import sys
import threading
import time
from collections.abc import Callable

from .. import _settings

ASK_AGAIN = 1.0  # seconds after which a thread that was refused is asked for once more

# Seconds at a time that a call waits: for ever where Ctrl-C ends a wait, which it doesn't on Windows.
WAIT = 0.05 if sys.platform == "win32" else -1


class _Call:
    """One call, which threads take part in until the first of them finds nothing left to do."""

    def __init__(self, work: Callable[[], object], stop: Callable[[], object]) -> None:
        self.functions = work, stop
        self.error: BaseException | None = None
        self.active = 0  # workers
        self.over = False  # who comes now comes too late
        self.lock, self.ended = threading.Lock(), threading.Lock()
        self.ended.acquire()  # until the last worker leaves

    def take_part(self) -> None:
        """What a worker does."""
        with self.lock:
            if self.over:
                return
            self.active += 1
            work, stop = self.functions
        try:
            work()
        except BaseException as error:
            self.error = error
            stop()
        finally:
            del work, stop  # and with them the arrays: the caller goes on from here
            with self.lock:
                self.over = True
                self.active -= 1
                if not self.active:
                    self.ended.release()

    def wait(self) -> None:
        """Until some worker came and all have left."""
        while not self.ended.acquire(timeout=WAIT):
            pass

    def end(self) -> None:
        """Close to others, and wait for those who are at work, whatever interrupts."""
        with self.lock:
            self.over = True
            waits = self.active > 0
        try:
            if waits:
                self.wait()
        except BaseException:
            self.functions[1]()
            self.end()
            raise
        del self.functions  # a worker that is still to look at this call would hold the arrays


class _Pool:
    """Workers that wait for calls; there are as many as some call has wanted so far, or as could be had."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self.workers = 0
        self.lock = threading.Lock()
        self.refused = float("-inf")

    def have(self, wanted: int) -> int:
        """As many of the workers that are wanted as there can be."""
        if self.workers < wanted and time.monotonic() >= self.refused + ASK_AGAIN:
            with self.lock:
                while self.workers < wanted and self.start():
                    self.workers += 1
        return min(self.workers, wanted)

    def start(self) -> bool:
        """One more; False where it is refused, as by a limit or when the interpreter is shutting down."""
        name = f"crossentropy_{self.workers}"
        # A free-threaded Python hands a new thread its starter's context; but this one serves calls under any settings.
        serve = contextvars.Context().run
        try:
            threading.Thread(target=serve, args=(_serve, self.calls), name=name, daemon=True).start()
        except (RuntimeError, MemoryError):
            self.refused = time.monotonic()
            return False
        return True


_pool = _Pool()
_this_thread = threading.local()


def _serve(calls: queue.SimpleQueue[_Call]) -> None:
    _this_thread.serves = True
    while True:
        calls.get().take_part()


def _after_fork() -> None:
    """A child has none of its parent's threads, and starts its own."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def share(
    work: Callable[[], object], workers: int, stop: Callable[[], object], lead: Callable[[], object] | None = None
) -> None:
    """Call work() on up to so many threads of the pool at once, and return when all that it shares out is done.

    Parameters
    ----------
    work : callable
        Does a part of the work after the other until none is left. From a worker's own work it is called in that thread
        alone, and so it is where there are no threads.
    workers : int
        How many of the pool's threads may take part at once.
    stop : callable
        Tells all who are in ``work`` to return soon. Called after an exception, which is then raised here, also a
        worker's or a KeyboardInterrupt; nobody is in ``work`` any more by then.
    lead : callable, optional
        What the calling thread does meanwhile: a part of the same, looking for signals now and then. Without it that
        thread only waits, so that a KeyboardInterrupt reaches it at once.
    """
    pool = _pool
    workers = 0 if getattr(_this_thread, "serves", False) else pool.have(min(workers, _settings.processors()))
    if not workers:
        (lead or work)()
        return
    call = _Call(work, stop)
    try:
        for _ in range(workers):
            pool.calls.put(call)
        (lead or call.wait)()
    except BaseException:
        stop()
        raise
    finally:
        call.end()
    if call.error is not None:
        error, call.error = call.error, None
        try:
            raise error
        finally:
            del error  # whose traceback holds this frame
