"""Large new arrays: in memory that is kept for the next ones, within bounds, whatever threads, forks and signals do."""

import gc
import os
import pickle
import signal
import sys
import threading

import numpy as np
import pytest
from subprocesses import run

import crossentropy
from crossentropy import _memory

LARGE = _memory.LARGE
KEEPS = pytest.mark.skipif(not _memory.CAN_KEEP, reason="this system cannot take memory back lazily")


@pytest.fixture
def pool(monkeypatch):
    """With nothing kept and nothing in use."""
    monkeypatch.setattr(_memory, "_pool", _memory._Pool())
    with crossentropy.config(keep_memory=True):
        yield _memory._pool


def logits(size=LARGE, classes=1024, dtype=np.float32):
    """Of so many bytes."""
    return np.zeros((-(-size // classes // np.dtype(dtype).itemsize), classes), dtype)


def array_of(size):
    """So many bytes."""
    return _memory.empty((size,), np.uint8)


def address(a):
    return a.__array_interface__["data"][0]


# ---------------------------------------------------------------------- what lies there


def _results(x, t):
    grads = crossentropy.cross_entropy_and_grad(x, t, reduction="none"), crossentropy.cross_entropy_and_grad(x, t)
    _, saved = crossentropy.autograd.forward(x, t)
    log_p, saved_log_p = crossentropy.autograd.log_softmax_forward(x)
    return {
        "log_softmax": crossentropy.log_softmax(x),
        "softmax": crossentropy.softmax(x, axis=0),
        "logsumexp": crossentropy.logsumexp(x),
        "logsumexp, keepdims": crossentropy.logsumexp(x, keepdims=True),
        "logsumexp, weights": crossentropy.logsumexp(x, b=[1.0, 2.0]),
        "loss": crossentropy.cross_entropy(x, t, reduction="none"),
        "loss and gradient": grads[0].loss,
        "gradient, none": grads[0].grad,
        "gradient": grads[1].grad,
        "gradient alone": crossentropy.cross_entropy_grad(x, t),
        "backward": crossentropy.autograd.backward(saved),
        "statistics": crossentropy.autograd.numbers_of(saved)[0],
        "log_softmax_forward": log_p,
        "log_softmax_backward": crossentropy.autograd.log_softmax_backward(saved_log_p, x),
    }


@KEEPS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_result_of_4_mb(dtype, pool):
    x = np.zeros((LARGE // np.dtype(dtype).itemsize, 2), dtype)
    t = np.zeros(len(x), np.int64)
    before = pool.in_use
    results = _results(x, t)
    for name, result in results.items():
        assert result.nbytes >= LARGE, name
        assert result.flags.writeable, name
        assert not result.flags.owndata, name
        assert address(result) % 64 == 0, name
    assert pool.in_use - before >= sum(r.nbytes for r in results.values())
    with crossentropy.config(keep_memory=False):
        for name, plain in _results(x, t).items():
            np.testing.assert_array_equal(results[name], plain, name)
    results.clear()
    del result, plain
    assert pool.in_use == before


@KEEPS
def test_a_gradient_by_the_short_way(pool):
    """Of float64 a call that is small by its number of logits has a gradient of 4 MB and more."""
    x = logits(LARGE, dtype=np.float64)
    grad = crossentropy.cross_entropy_and_grad(x, np.zeros(len(x), np.int64)).grad
    assert pool.in_use == grad.nbytes


@KEEPS
def test_scratch(pool):
    """Rows' losses, integers as float64, and copies of rows: all of them come back."""
    t = np.zeros(LARGE // 8, np.int64)
    crossentropy.cross_entropy(np.zeros((len(t), 2), np.float32), t)
    assert [len(block) for block in pool.kept] == [LARGE]
    crossentropy.empty_cache()
    crossentropy.logsumexp(np.ones((LARGE // 64, 8), np.int32))
    assert [len(block) for block in pool.kept] == [LARGE]
    crossentropy.empty_cache()
    crossentropy.logsumexp(np.ones((2, LARGE // 16, 2), np.float32), axis=(0, 2))
    assert [len(block) for block in pool.kept] == [LARGE]
    assert pool.in_use == 0


def test_small_arrays_are_numpys_own(pool):
    x = logits(LARGE - 4096)
    assert crossentropy.log_softmax(x).flags.owndata
    assert not pool.recent


@KEEPS
def test_as_empty_like_has_it(rng, pool):
    """The axes' order, whatever that of the argument."""
    for ndim in range(1, 6):
        for _ in range(60):
            order = rng.permutation(ndim)
            x = np.empty(rng.choice([1, 2, 3, 5], ndim), np.float32).transpose(order)
            kind = rng.integers(4)
            if kind == 1:
                x = x[(slice(None, None, -1),) * ndim]
            elif kind == 2:
                x = np.broadcast_to(x, (2, *x.shape))
            elif kind == 3:
                x = x[..., ::2]
            like = np.empty_like(x, np.float64, subok=False)
            strides = _memory._dense_strides(x, 8)
            used = [n for n, size in enumerate(x.shape) if size > 1]  # the others' strides are for nothing
            assert [strides[n] for n in used] == [like.strides[n] for n in used], (x.shape, x.strides)
    x = logits().reshape(8, -1, 1024).transpose(2, 0, 1)
    a = crossentropy.log_softmax(x)
    assert a.strides == np.empty_like(x).strides
    assert not a.flags.owndata
    assert crossentropy.log_softmax(x[::-1].astype(">f4")).dtype == np.float32


@KEEPS
def test_as_any_other_array(pool):
    x = logits()
    a = crossentropy.softmax(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(a)), a)
    assert a.copy().flags.owndata
    assert np.shares_memory(a, a[3:])
    assert not np.shares_memory(a, crossentropy.softmax(x))
    np.testing.assert_array_equal(np.resize(a, (2, 3)), a.reshape(-1)[:6].reshape(2, 3))
    with pytest.raises(ValueError, match="does not own its data"):
        a.resize((2, 3), refcheck=False)
    assert memoryview(a).nbytes == a.nbytes


# ---------------------------------------------------------------------- kept, and within bounds


@KEEPS
def test_memory_is_kept_when_its_last_array_is_gone(pool):
    x = logits()
    a = crossentropy.softmax(x)
    where, holders = address(a), [a[3:], a.reshape(-1)[::2], memoryview(a), a.view(np.int32).T]
    del a
    while holders:
        assert not pool.kept
        holders.pop()
    assert len(pool.kept) == 1
    a = crossentropy.softmax(x)
    b = crossentropy.softmax(x)
    assert address(a) == where != address(b)
    del a, b
    crossentropy.empty_cache()
    assert not pool.kept


@KEEPS
def test_which_block_serves(pool):
    pool.recent.append((10 * LARGE, 10 * LARGE))  # room for all
    sizes = [5 * LARGE, 3 * LARGE, 2 * LARGE]
    arrays = {size: array_of(size) for size in sizes}
    where = {size: address(a) for size, a in arrays.items()}
    arrays.clear()
    assert len(pool.kept) == 3
    assert address(array_of(2 * LARGE + 1)) == where[3 * LARGE]  # the least that is large enough
    assert address(array_of(2 * LARGE)) == where[2 * LARGE]
    assert address(array_of(3 * LARGE - 1)) == where[3 * LARGE]
    a = [array_of(5 * LARGE // 2) for _ in range(2)]
    assert [address(each) for each in a] == [where[3 * LARGE], where[5 * LARGE]]
    b = array_of(LARGE)
    assert address(b) == where[2 * LARGE]
    del a, b
    assert address(array_of(6 * LARGE)) not in where.values()
    crossentropy.empty_cache()
    where = address(array_of(8 * LARGE + 4096))
    assert address(array_of(LARGE)) != where  # more than eight times as long
    crossentropy.empty_cache()
    where = address(array_of(8 * LARGE))
    assert address(array_of(LARGE)) == where


@KEEPS
def test_never_more_than_was_in_use_at_once(rng, pool):
    """Or than two; whatever the sizes and however long they stay. And of many that go at once four are kept."""
    held, peaks, sizes = [], [], []
    for _ in range(400):
        if held and rng.random() < 0.55:
            held.pop(rng.integers(len(held)))
        else:
            held.append(array_of(int(rng.integers(LARGE, 8 * LARGE))))
            peaks.append(pool.in_use)
            sizes.append(pool.recent[-1][0])
        kept, last = sum(map(len, pool.kept)), sorted(sizes[-_memory.RECENT :])
        assert pool.in_use >= sum(a.nbytes for a in held)
        assert not kept or kept + pool.in_use <= max([sum(last[-2:]), *peaks[-_memory.RECENT :]])
        assert kept <= sum(last[-_memory.MOST :])
    held.clear()
    crossentropy.empty_cache()
    held = [array_of(LARGE) for _ in range(20)]
    held.clear()
    assert pool.in_use == 0
    assert [len(block) for block in pool.kept] == [LARGE] * 4


@KEEPS
def test_large_memory_is_let_go_of_by_small_requests(pool):
    array_of(50 * LARGE)
    assert [len(block) for block in pool.kept] == [50 * LARGE]
    for _ in range(_memory.RECENT):
        array_of(LARGE)
    assert [len(block) for block in pool.kept] == [LARGE]


@KEEPS
def test_steps_of_a_loop_need_no_new_memory(monkeypatch, pool):
    """From the second step on, where the last one's results are gone by then; where they stay, from the third."""
    x = np.zeros((LARGE // 4, 4), np.float32)
    t, new = np.zeros(len(x), np.int64), []
    monkeypatch.setattr(_memory, "_new", lambda size, make=_memory._new: new.append(size) or make(size))

    def step():
        crossentropy.cross_entropy(x, t)
        return crossentropy.cross_entropy_and_grad(x, t, reduction="none")

    step()
    assert len(new) == 3  # the rows' losses, float64 and float32, and the gradient
    for _ in range(3):
        step()
    assert len(new) == 3
    results = step()
    results = step()
    new.clear()
    for _ in range(10):
        results = step()
    assert not new
    del results

    def halves():
        _, saved = crossentropy.autograd.forward(x, t)
        return crossentropy.autograd.backward(saved)

    halves()
    new.clear()
    halves()
    assert not new


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("hold", [False, True])
def test_resident_memory_after_a_hundred_calls(hold):
    """At most the two largest results, whether the last result is still there or not; beside what a call leaves."""
    assert "within" in run(
        f"""
        import numpy as np, crossentropy

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * {os.sysconf("SC_PAGE_SIZE")}

        rng, classes = np.random.default_rng(1), 8192
        x = np.zeros((2048, classes), np.float32)
        crossentropy.log_softmax(x[:4])
        before, sizes = resident(), []
        for _ in range(100):
            rows = int(rng.integers(128, len(x) + 1))
            result = crossentropy.log_softmax(x[:rows])
            sizes.append(result.nbytes)
            if not {hold}:
                del result
        more, bound = resident() - before, sum(sorted(sizes)[-2:])
        assert more <= bound + (4 << 20), (more, bound)  # and large pages' ends, the kernels' scratch
        print("within", more, bound)
        """
    )


@KEEPS
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_system_may_take_it():
    """All of what is kept, and nothing of what is in use, by its own account."""
    out = run(
        """
        import numpy as np
        from crossentropy import _memory

        def lazily_free():
            with open("/proc/self/smaps") as file:
                found = [int(line.split()[1]) * 1024 for line in file if line.startswith("LazyFree:")]
            return sum(found) if found else None

        size, found = 8 * _memory.LARGE, []
        for _ in range(2):
            a = _memory.empty((size,), np.uint8)
            a.fill(1)
            found.append(lazily_free())
            where = a.__array_interface__["data"][0]
            del a
            found.append(lazily_free())
        a = _memory.empty((size // 2,), np.uint8)  # the first half of it
        assert a.__array_interface__["data"][0] == where
        a.fill(1)
        found.append(lazily_free())
        print(*(None if each is None else each / size for each in found))
        """,
        CROSSENTROPY_KEEP_MEMORY="1",
    )
    if "None" in out:
        pytest.skip("this kernel does not say what it may take")
    assert out.split() == ["0.0", "1.0", "0.0", "1.0", "0.5"]


# ---------------------------------------------------------------------- turned off, and refused


@KEEPS
def test_the_setting(pool):
    x = logits()
    with crossentropy.config(keep_memory=False):
        assert crossentropy.softmax(x).flags.owndata
        with crossentropy.config(keep_memory=True):
            a = crossentropy.softmax(x)
        assert not a.flags.owndata
        del a
        assert not pool.kept
    assert pool.in_use == 0
    try:
        crossentropy.softmax(x)
        assert pool.kept
        crossentropy.set_config(keep_memory=False)
        assert not pool.kept
        assert crossentropy.get_config()["keep_memory"] is True  # of the context, over the process's
        with crossentropy.config(**crossentropy.get_config()):
            assert not crossentropy.softmax(x).flags.owndata
    finally:
        crossentropy.set_config(keep_memory=None)
    for wrong in (0, "no"):
        with pytest.raises(ValueError, match=f"keep_memory must be True or False, got {wrong!r}"):
            crossentropy.config(keep_memory=wrong)


@pytest.mark.parametrize("value", ["0", "1", "", "yes"])
def test_the_environment_variable(value):
    code = f"""
        import numpy as np, crossentropy
        from crossentropy import _memory
        x = np.zeros((2048, 1024), np.float32)
        try:
            own = crossentropy.softmax(x).flags.owndata
        except ValueError as error:
            assert str(error) == "CROSSENTROPY_KEEP_MEMORY must be 0 or 1, got 'yes'" and {value!r} == "yes", error
        else:
            assert own == ({value!r} == "0" or not _memory.CAN_KEEP)
            crossentropy.set_config(keep_memory={value!r} == "0")
            assert crossentropy.softmax(x).flags.owndata == ({value!r} != "0" or not _memory.CAN_KEEP)
        """
    run(code, CROSSENTROPY_KEEP_MEMORY=value)


@KEEPS
def test_memory_where_the_system_refuses(monkeypatch, pool):
    """No large pages, locked memory, no room: none of them is an error of a call."""

    class Refuses(_memory.mmap.mmap):
        def madvise(self, *arguments):
            raise OSError(22, "Invalid argument")

    x = logits()
    with monkeypatch.context() as patch:
        patch.setattr(_memory.mmap, "mmap", Refuses)
        a = crossentropy.softmax(x)
        assert (a == a[0, 0]).all()
        del a
        assert not pool.kept
        assert pool.in_use == 0

    def no_room(size):
        raise OSError(12, "Cannot allocate memory")

    crossentropy.softmax(x)
    assert pool.kept
    monkeypatch.setattr(_memory, "_new", no_room)
    assert crossentropy.softmax(logits(3 * LARGE)).flags.owndata
    assert not pool.kept  # what was kept may be what was missing
    assert pool.in_use == 0


def test_where_nothing_can_be_kept(monkeypatch, pool):
    monkeypatch.setattr(_memory, "CAN_KEEP", False)
    assert crossentropy.softmax(logits()).flags.owndata
    assert not pool.recent


# ---------------------------------------------------------------------- threads, signals, forks, the end


def test_many_threads_at_once(rng, pool):
    """Made, written and let go of in eight threads, some in another than they were made in: none shares memory."""
    handed, wrong = [], []

    def work(number):
        own = np.random.default_rng(number)
        for turn in range(60):
            a = array_of(int(own.integers(LARGE, 3 * LARGE)))
            value = (number * 61 + turn) % 251
            a[::4093] = value
            if own.random() < 0.3:
                handed.append((a, value))
            if own.random() < 0.3:
                try:
                    other, seen = handed.pop()
                except IndexError:
                    continue
                if not (other[::4093] == seen).all():
                    wrong.append(number)
            if turn % 20 == 0:
                crossentropy.empty_cache()
            if not (a[::4093] == value).all():
                wrong.append(number)

    threads = [threading.Thread(target=crossentropy_context(work), args=(n,)) for n in range(8)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert not wrong
    assert all((a[::4093] == value).all() for a, value in handed)
    handed.clear()
    pool.settle()
    assert pool.in_use == 0
    assert sum(map(len, pool.kept)) <= _memory.MOST * 3 * LARGE


def crossentropy_context(function):
    """The function with memory kept, whatever the environment says."""

    def inside(*arguments):
        with crossentropy.config(keep_memory=True):
            function(*arguments)

    return inside


@KEEPS
def test_the_garbage_collector_in_the_middle_of_a_request(monkeypatch, pool):
    """Arrays in cycles go wherever the collector runs: here while the lock is held, in this thread."""

    class Cycle:
        pass

    def cycle():
        one = Cycle()
        one.self, one.array = one, array_of(LARGE)

    def collect():
        gc.collect()
        return real()

    gc.disable()
    try:
        cycle()
        cycle()
        assert pool.in_use == 2 * LARGE
        real = pool._beyond_bounds
        monkeypatch.setattr(pool, "_beyond_bounds", collect)
        a = array_of(LARGE)
    finally:
        gc.enable()
    assert pool.in_use == LARGE
    assert len(pool.kept) == 2
    assert not pool.returned
    assert not pool.lock.locked()
    del a


@KEEPS
def test_a_lock_that_is_never_let_go_of(monkeypatch, pool):
    """By a thread that a fork has not taken along, or one that an exception took off: it costs one wait."""
    monkeypatch.setattr(_memory, "PATIENCE", 0.01)
    x = logits()
    a = crossentropy.softmax(x)
    pool.lock.acquire()
    b = crossentropy.softmax(x)
    assert b.flags.owndata
    assert _memory._pool is not pool
    del a  # of the pool of before: it goes
    crossentropy.softmax(x)
    assert len(_memory._pool.kept) == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
def test_a_signals_handler_may_call(monkeypatch, pool):
    monkeypatch.setattr(_memory, "PATIENCE", 0.001)
    calls = []
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(array_of(LARGE).nbytes))
    try:
        for turn in range(300):
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + turn % 50))
            for _ in range(10):
                array_of(LARGE)
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(calls) == {LARGE}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_has_memory_of_its_own():
    """Also where another thread was in the middle of a request; and the parent's arrays stay as they are."""
    out = run(
        """
        import os, threading, warnings
        import numpy as np, crossentropy
        from crossentropy import _memory

        warnings.simplefilter("ignore", DeprecationWarning)  # of forks of a process with threads
        crossentropy.set_config(keep_memory=True, threads=1)
        x = np.zeros((2048, 1024), np.float32)
        held, inherited = crossentropy.softmax(x), crossentropy.softmax(x)
        crossentropy.softmax(x)
        assert _memory._pool.kept or not _memory.CAN_KEEP
        stop = threading.Event()

        def work():
            while not stop.is_set():
                _memory.empty((_memory.LARGE,), np.uint8)

        thread = threading.Thread(target=work)
        thread.start()
        for turn in range(20):
            if turn == 10:
                _memory._pool.lock.acquire()  # as a thread would have it that the fork does not take along
                lock = _memory._pool.lock
            child = os.fork()
            if not child:
                code = 1
                try:
                    assert not _memory._pool.kept and not _memory._pool.in_use
                    assert (inherited == 1 / 1024).all()
                    inherited = None
                    assert not _memory._pool.kept  # it was made before
                    for value in range(3):
                        a = crossentropy.log_softmax(x)
                        assert (a == a[0, 0]).all()
                        a[...] = value
                        del a
                    assert len(_memory._pool.kept) == _memory.CAN_KEEP
                    crossentropy.empty_cache()
                    held[...] = turn  # its own copy
                    code = 0
                finally:
                    os._exit(code)
            if turn == 10:
                lock.release()
            assert os.waitpid(child, 0)[1] == 0, turn
            assert (held == 1 / 1024).all()
        stop.set()
        thread.join()
        print("done")
        """
    )
    assert out == "done\n"


def test_arrays_outlive_everything():
    """At exit, after the module is gone, in a thread that goes on: what is left of it can be read and written."""
    out = run(
        """
        import atexit, os, sys
        import numpy as np, crossentropy
        from crossentropy import _memory

        x = np.zeros((2048, 1024), np.float32)
        a = crossentropy.softmax(x)
        sys.outlives = crossentropy.softmax(x)  # until the interpreter takes sys apart

        class Last:
            def __del__(self, a=crossentropy.softmax(x), write=os.write):
                a += 1
                write(1, b"True " if a[0, 0] > 1 else b"False ")

        sys.last = Last()
        atexit.register(lambda: os.write(1, b"True " if (a == 1 / 1024).all() else b"False "))
        crossentropy.empty_cache()
        for name in [name for name in sys.modules if name.startswith("crossentropy")]:
            del sys.modules[name]
        del crossentropy, _memory
        """
    )
    assert out.split() == ["True", "True"]
