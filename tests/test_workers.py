"""The pool of Python's threads (workers.py), by itself and under both backends that share out rows to it."""

import os
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from conftest import NATIVE
from subprocesses import run

import crossentropy
from crossentropy import _settings
from crossentropy._backends import workers

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGINT to the own process are POSIX's")


@pytest.fixture
def pool(monkeypatch):
    """A pool of this test's own, on four CPUs, whatever there are."""
    monkeypatch.setattr(_settings, "processors", lambda: 4)
    monkeypatch.setattr(workers, "_pool", workers._Pool())
    return workers._pool


@pytest.fixture
def native(pool):
    """The native backend on the pool, also where it has OpenMP's threads."""
    if not NATIVE:
        pytest.skip("the native backend is not built")
    from crossentropy import _native, native

    _native.share_by(workers.share)
    with crossentropy.config(backend="native", threads=4):
        yield native
    if native.OPENMP:
        _native.share_by(None)


def nothing():
    """A stop for work that ends soon by itself."""


class Rows:
    """Work that is shared out: numbers, each taken once; what is done to them sleeps, as a kernel without the GIL."""

    def __init__(self, number, does=lambda row: time.sleep(1e-4)):
        self.numbers, self.does, self.stopped = iter(range(number)), does, threading.Event()
        self.lock, self.done, self.inside = threading.Lock(), [], 0

    def work(self):
        with self.lock:
            self.inside += 1
        try:
            while not self.stopped.is_set():
                with self.lock:
                    row = next(self.numbers, None)
                if row is None:
                    return
                self.does(row)
                with self.lock:
                    self.done.append(row)
        finally:
            with self.lock:
                self.inside -= 1

    def is_complete(self, number):
        return sorted(self.done) == list(range(number)) and not self.inside


# ---------------------------------------------------------------------- who takes part


@pytest.mark.parametrize("leads", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_so_many_workers_take_part_at_once(pool, threads, leads):
    barrier, names = threading.Barrier(threads + leads), []

    def does(row):
        if row < threads + leads:
            names.append(threading.current_thread().name)
            barrier.wait(10)

    rows = Rows(100, does)
    workers.share(rows.work, threads, rows.stopped.set, rows.work if leads else None)
    assert rows.is_complete(100)
    assert sum(name.startswith("crossentropy_") for name in names) == threads
    assert len(set(names)) == threads + leads


def test_no_more_workers_than_cpus(pool):
    rows = Rows(1000)
    workers.share(rows.work, 100, rows.stopped.set, rows.work)
    assert rows.is_complete(1000)
    assert pool.workers == 4


def test_a_worker_that_comes_late_is_not_waited_for(pool):
    """All are at work for another call, for long: this one goes on alone, and nothing holds what it had."""
    gate, busy = threading.Event(), threading.Barrier(5)

    def long():
        busy.wait(10)
        gate.wait(10)

    other = threading.Thread(target=workers.share, args=(long, 4, nothing))
    other.start()
    busy.wait(10)
    rows = Rows(10)
    workers.share(rows.work, 4, rows.stopped.set, rows.work)
    assert rows.is_complete(10)
    held = weakref.ref(rows)
    del rows
    assert held() is None
    gate.set()
    other.join()


def test_a_call_from_a_workers_own_work(pool):
    """Each worker would wait for another one: it does that work itself."""
    threads, inner = set(), []

    def does(row):
        nested = Rows(5, lambda row: threads.add((threading.get_ident(), outer)))
        outer = threading.get_ident()
        workers.share(nested.work, 4, nested.stopped.set)
        inner.append(nested.is_complete(5))

    rows = Rows(20, does)
    workers.share(rows.work, 4, rows.stopped.set)
    assert rows.is_complete(20)
    assert inner == [True] * 20
    assert all(ours == its for ours, its in threads)


def test_many_callers_at_once(pool):
    right = []

    def call():
        for number in range(50):
            rows = Rows(number, lambda row: None)
            workers.share(rows.work, 3, rows.stopped.set, rows.work if number % 2 else None)
            right.append(rows.is_complete(number))

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert right == [True] * 400


@pytest.mark.parametrize("leads", [False, True])
def test_where_threads_are_refused_they_are_asked_for_again_after_a_while(pool, monkeypatch, leads):
    start, asked, free = threading.Thread.start, [], []

    def refuses(thread):
        asked.append(thread)
        if not free:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuses)
    for _ in range(3):
        rows = Rows(10)
        workers.share(rows.work, 2, rows.stopped.set, rows.work if leads else None)
        assert rows.is_complete(10)
    assert (len(asked), pool.workers) == (1, 0)
    monkeypatch.setattr(workers, "ASK_AGAIN", 0)
    free.append(True)
    rows = Rows(10)
    workers.share(rows.work, 2, rows.stopped.set, rows.work if leads else None)
    assert rows.is_complete(10)
    assert (len(asked), pool.workers) == (3, 2)


# ---------------------------------------------------------------------- exceptions


@pytest.mark.parametrize("leads", [False, True])
def test_a_workers_exception_is_raised_in_the_caller(pool, leads):
    caller = threading.get_ident()

    def does(row):
        time.sleep(1e-3)
        if threading.get_ident() != caller:
            raise MemoryError("no memory for a kernel")

    rows = Rows(10000, does)
    with pytest.raises(MemoryError, match="no memory for a kernel"):
        workers.share(rows.work, 2, rows.stopped.set, rows.work if leads else None)
    assert rows.stopped.is_set()
    assert not rows.inside
    assert len(rows.done) < 10000


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("leads", [False, True])
def test_nobody_is_at_work_after_an_interrupt(pool, leads, times, monkeypatch):
    """Also after a second one, as the first waits for those who are."""
    main, lock_of, interrupts = threading.get_ident(), workers._Call.wait, []

    def wait(call):
        if len(interrupts) < times:
            while not rows.inside:
                time.sleep(1e-4)
            interrupts.append(True)
            raise KeyboardInterrupt
        lock_of(call)

    def does(row):
        time.sleep(0.01)

    def lead():
        while not rows.inside:
            time.sleep(1e-4)
        assert threading.get_ident() == main
        raise KeyboardInterrupt

    rows = Rows(10000, does)
    monkeypatch.setattr(workers._Call, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        workers.share(rows.work, 3, rows.stopped.set, lead if leads else None)
    assert rows.inside == 0
    assert rows.stopped.is_set()
    monkeypatch.undo()
    after = len(rows.done)
    time.sleep(0.05)
    assert len(rows.done) == after < 10000


def test_an_interrupt_as_the_work_is_handed_out(pool, monkeypatch):
    """Whoever has begun is told to stop, and waited for."""
    pool.have(3)
    put, begun = pool.calls.put, threading.Event()

    class Interrupted:
        def put(self, call):
            if begun.is_set():
                raise KeyboardInterrupt
            put(call)
            begun.wait(10)

    def does(row):
        begun.set()
        time.sleep(0.05)

    rows = Rows(1000, does)
    monkeypatch.setattr(pool, "calls", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        workers.share(rows.work, 3, rows.stopped.set)
    assert rows.done == [0]
    assert not rows.inside


# ---------------------------------------------------------------------- processes


@POSIX
def test_a_forked_child_has_workers_of_its_own():
    out = run(
        """
        import os, signal, sys, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from crossentropy import _settings
        from crossentropy._backends import workers
        _settings.processors = lambda: 3
        def together():
            barrier, names = threading.Barrier(3), set()
            def work():
                barrier.wait(10)
                names.add(threading.current_thread().name)
            workers.share(work, 2, barrier.abort, work)
            return names == {"MainThread", "crossentropy_0", "crossentropy_1"}
        first = together()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            right = together()
            grandchild = os.fork()
            if grandchild == 0:
                signal.alarm(20)
                sys.exit(0 if together() else 1)
            sys.exit(0 if right and os.waitpid(grandchild, 0)[1] == 0 else 1)
        print(first, os.waitpid(child, 0)[1], together())
        """
    )
    assert out.split() == ["True", "0", "True"]


def test_a_process_ends_with_workers_idle_and_busy():
    """Those are no reason to stay: who calls in a thread that is no daemon waits for its own."""
    out = run(
        """
        import threading, time
        from crossentropy import _settings
        from crossentropy._backends import workers
        _settings.processors = lambda: 3
        workers.share(lambda: None, 2, lambda: None)
        threading.Thread(target=workers.share, args=(lambda: time.sleep(30), 1, lambda: None), daemon=True).start()
        time.sleep(0.1)
        print("end")
        """,
        timeout=20,
    )
    assert out.strip() == "end"


# ---------------------------------------------------------------------- the native backend on the pool


def calls(x, y):
    """Every kind of work."""
    q = np.full(x.shape, 1 / x.shape[1])
    w = np.linspace(0.5, 2, x.shape[1])
    yield crossentropy.cross_entropy(x, y)
    yield crossentropy.cross_entropy(x, q, label_smoothing=0.1)
    yield crossentropy.cross_entropy(x, y, class_weight=w, z_loss=1e-3, reduction="none")
    yield from crossentropy.cross_entropy_and_grad(x, y)
    yield crossentropy.cross_entropy_and_grad(x, y, label_smoothing=0.1, reduction="sum").grad
    yield crossentropy.log_softmax(x)
    yield crossentropy.softmax(x)
    yield crossentropy.logsumexp(x)
    yield crossentropy.logsumexp(x, b=np.where(np.arange(x.shape[1]) % 3, 1.0, -1.0), return_sign=True)[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(7, 50000), (100, 4000), (3000, 100), (20000, 5)])
def test_the_same_bits_as_on_one_thread(native, monkeypatch, rng, shape, dtype):
    x, y = rng.standard_normal(shape).astype(dtype), rng.integers(0, shape[1], shape[0])
    with crossentropy.config(threads=1):
        alone = list(calls(x, y))
    begun = []

    def share(work, others, stop, lead):
        def late():
            begun.append(threading.get_ident())
            work()

        workers.share(late, others, stop, lambda: (time.sleep(1e-3), lead()))

    from crossentropy import _native

    monkeypatch.setattr(the_backend(), "SERIAL_BELOW", 0)
    _native.share_by(share)
    for threads in (2, 3, 4):
        with crossentropy.config(threads=threads):
            for one, several in zip(alone, calls(x, y), strict=True):
                np.testing.assert_array_equal(one, several)
    assert len(set(begun)) > 1


def the_backend():
    """The module whose names the backend looks up, behind its public facade."""
    from crossentropy._backends import native

    return native


def test_rows_are_taken_by_workers_alone_where_the_caller_is_late(native, rng):
    """Each part is written by whoever took it: here the caller finds nothing left."""
    from crossentropy import _native

    x, y = rng.standard_normal((256, 4096), dtype=np.float32), rng.integers(0, 4096, 256)
    with crossentropy.config(threads=1):
        alone = crossentropy.cross_entropy_and_grad(x, y)
    ended = threading.Event()

    def share(work, others, stop, lead):
        def first():
            work()
            ended.set()

        workers.share(first, others, stop, lambda: (ended.wait(10), lead()))

    _native.share_by(share)
    loss, grad = crossentropy.cross_entropy_and_grad(x, y)
    assert ended.is_set()
    assert loss == alone.loss
    np.testing.assert_array_equal(grad, alone.grad)


def test_a_call_that_is_stopped_takes_no_more_rows(native):
    """What another thread found wrong ends it: the caller's own part, too."""
    from crossentropy import _native

    x = np.zeros((4096, 1024), np.float32)
    out = np.full_like(x, 7)

    def share(work, others, stop, lead):
        stop()
        work()
        lead()

    _native.share_by(share)
    crossentropy.softmax(x, out=out)
    assert (out == 7).all()
    _native.share_by(workers.share)
    crossentropy.softmax(x, out=out)
    assert (out == np.float32(2**-10)).all()


@POSIX
def test_ctrl_c_in_the_callers_part_ends_the_others(native):
    """The caller looks for signals, and workers go on for no more than they have taken."""
    from crossentropy import _native

    x = np.broadcast_to(np.linspace(-3, 3, 2**14, dtype=np.float32), (2**22, 2**14))
    crossentropy.logsumexp(x[:256])
    start = time.perf_counter()
    crossentropy.logsumexp(x[:256])
    whole = (time.perf_counter() - start) * (len(x) / 256)
    inside, sent = [], []

    def share(work, others, stop, lead):
        def counted():
            inside.append(1)
            try:
                work()
            finally:
                inside.pop()

        workers.share(counted, others, stop, lead)

    def interrupt():
        import signal

        time.sleep(0.3)
        sent.append(time.perf_counter())
        signal.raise_signal(signal.SIGINT) if os.name == "nt" else os.kill(os.getpid(), signal.SIGINT)

    _native.share_by(share)
    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        crossentropy.logsumexp(x)
    assert time.perf_counter() - sent[0] < whole / 4
    assert not inside
    other.join()
    assert (crossentropy.logsumexp(x[:256]) == crossentropy.logsumexp(x[0])).all()


def test_workers_have_no_callers_settings(pool):
    """They outlive the call that they are started for; a free-threaded Python would hand them its context."""
    seen, settings = [], crossentropy.get_config()
    with crossentropy.config(threads=2, check=False):
        workers.share(lambda: seen.append(crossentropy.get_config()), 1, lambda: None)
    assert seen == [settings]
