"""Threads, processes, signals, environment variables: each where it could do harm in a process of its own."""

import os
import shutil
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from conftest import AVAILABLE, NATIVE, NUMBA
from subprocesses import run

import crossentropy
from crossentropy._backends import workers

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGINT to the own process are POSIX's")

BIG = """
    import numpy as np, crossentropy
    x = np.random.default_rng(0).standard_normal((64, 32000), dtype=np.float32)
    y = np.arange(64)
"""


@pytest.fixture(params=["native", "numba"])
def compiled(request):
    """The name of each compiled backend, for a process of its own."""
    if not (NATIVE if request.param == "native" else NUMBA):
        pytest.skip(f"the {request.param} backend is not here, or CROSSENTROPY_ISA asks for another")
    return request.param


@pytest.fixture
def numba_cpu(monkeypatch):
    """The module of the Numba backend, in use, with four CPUs and a pool of its own."""
    if not NUMBA:
        pytest.skip("the numba backend is not here, or CROSSENTROPY_ISA asks for another")
    from crossentropy import _settings
    from crossentropy._backends import numba as numba_cpu

    monkeypatch.setattr(_settings, "processors", lambda: 4)
    monkeypatch.setattr(workers, "_pool", workers._Pool())
    with crossentropy.config(backend="numba", threads=4):
        yield numba_cpu


# ---------------------------------------------------------------------- threads and processes


@pytest.mark.parametrize("shape", [(7, 50000), (100, 4000), (3000, 100)])
def test_any_number_of_threads_gives_the_same_bits(kernels, shape, rng):
    x, y = rng.standard_normal(shape, dtype=np.float32), rng.integers(0, shape[1], shape[0])
    results = []
    for threads in (1, 2, 3, 8):
        with crossentropy.config(threads=threads):
            results.append((*crossentropy.cross_entropy_and_grad(x, y), crossentropy.log_softmax(x)))
    for loss, grad, log_p in results[1:]:
        assert loss == results[0][0]
        np.testing.assert_array_equal(grad, results[0][1])
        np.testing.assert_array_equal(log_p, results[0][2])


# Python 3.12 warns of fork in a process with threads; a child that hangs ends after a while, and with it the test.
FORKS = (
    BIG
    + """
    import os, signal, sys, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    def fork():
        child = os.fork()
        if child == 0:
            signal.alarm(20)
        return child
    def status(child):
        return os.waitpid(child, 0)[1]
"""
)


@POSIX
def test_a_forked_child_works_after_a_parallel_call(compiled):
    """It has none of the threads: libgomp hangs in it, a pool starts others. Nor does it hang when it ends."""
    out = run(
        FORKS
        + """
    with crossentropy.config(threads=2):
        parent = crossentropy.cross_entropy(x, y)
        child = fork()
        if child == 0:
            right = crossentropy.cross_entropy(x, y) == parent
            grandchild = fork()
            if grandchild == 0:
                sys.exit(0 if crossentropy.cross_entropy(x, y) == parent else 1)
            sys.exit(0 if right and status(grandchild) == 0 else 1)
        print(status(child), crossentropy.cross_entropy(x, y) == parent)
    """,
        CROSSENTROPY_BACKEND=compiled,
    )
    assert out.split() == ["0", "True"]


@POSIX
def test_forks_while_another_thread_is_in_a_call(compiled):
    out = run(
        FORKS
        + """
    parent, ended = crossentropy.cross_entropy(x, y), threading.Event()
    def others():
        while not ended.is_set():
            crossentropy.cross_entropy(x, y)
    thread = threading.Thread(target=others)
    thread.start()
    found = []
    for _ in range(200):  # one in 400 hung where a thread of the parent held a lock
        child = fork()
        if child == 0:
            os._exit(0 if crossentropy.cross_entropy(x, y) == parent else 1)
        found.append(status(child))
    ended.set()
    thread.join()
    print(found == [0] * 200)
    """,
        CROSSENTROPY_BACKEND=compiled,
    )
    assert out.strip() == "True"


@POSIX
def test_a_pool_of_forked_processes(compiled):
    out = run(
        FORKS
        + """
    import multiprocessing
    whole = crossentropy.cross_entropy(x, y, reduction="none")
    def half(part):
        return crossentropy.cross_entropy(x[part], y[part], reduction="none")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts = pool.map_async(half, [slice(0, 32), slice(32, 64)]).get(timeout=30)
    print(np.array_equal(np.concatenate(parts), whole))
    """,
        CROSSENTROPY_BACKEND=compiled,
    )
    assert out.strip() == "True"


def test_eight_threads_at_once_also_as_the_first_call(compiled, tmp_path):
    """The backend is imported then, and Numba's kernels compiled: nothing of them is on disk."""
    out = run(
        BIG
        + """
    import threading
    results, barrier = [None] * 8, threading.Barrier(8)
    def work(i):
        barrier.wait()
        for _ in range(5):
            results[i] = crossentropy.cross_entropy_and_grad(x, y)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    print(all(r.loss == results[0].loss and np.array_equal(r.grad, results[0].grad) for r in results))
    print(np.isclose(results[0].loss, -np.log(np.exp(x.astype(float))[y, y] / np.exp(x.astype(float)).sum(1)).mean()))
    """,
        CROSSENTROPY_BACKEND=compiled,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert out.split() == ["True", "True"]


@pytest.mark.parametrize("first", [False, True])
def test_calls_when_the_interpreter_shuts_down(compiled, first):
    """From a thread that outlives the main one, and from an atexit handler: no thread can be started by then."""
    out = run(
        BIG
        + f"""
    import atexit, threading
    expected = -np.log(np.exp(x.astype(float))[y, y] / np.exp(x.astype(float)).sum(1)).mean()
    def call(where):
        print(where, np.isclose(crossentropy.cross_entropy(x, y), expected), flush=True)
    if not {first}:
        call("before")
    atexit.register(call, "atexit")
    def outlive():
        threading.main_thread().join()
        call("thread")
    threading.Thread(target=outlive).start()
    """,
        CROSSENTROPY_BACKEND=compiled,
    )
    assert out.split() == ([] if first else ["before", "True"]) + ["thread", "True", "atexit", "True"]


def test_a_thread_calls_while_the_main_thread_waits(kernels, rng):
    x, y = rng.standard_normal((50, 20000), dtype=np.float32), rng.integers(0, 20000, 50)
    expected, settings, found = crossentropy.cross_entropy_and_grad(x, y), kernels.partition("-"), []

    def work():  # a new thread has none of the settings
        with crossentropy.config(backend=settings[0], isa=settings[2] or None):
            found.append(crossentropy.cross_entropy_and_grad(x, y))

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert all(loss == expected.loss and np.array_equal(grad, expected.grad) for loss, grad in found)
    assert len(found) == 3


# ---------------------------------------------------------------------- KeyboardInterrupt

INTERRUPTS = """
    import os, signal, threading, time
    import numpy as np, crossentropy
    signal.signal(signal.SIGINT, signal.default_int_handler)    # in a shell's background it is ignored
    sent = []
    def interrupt():
        time.sleep(0.3)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)
"""
INTERRUPTED = """
    x, y = np.broadcast_to({values}, {shape}), np.zeros({shape}[0], np.uint8)
    def short(x):
        return crossentropy.cross_entropy(x, y[:1])
    def long(x):
        return {call}
    short(x[:1, :10])
    y, all_of_y = y[:1], y
    long(x[:1, :10])    # compiled now, not later
    y = all_of_y
    threading.Thread(target=interrupt).start()
    try:
        long(x)
        print("ended", -1)
    except KeyboardInterrupt:
        print("interrupted", time.perf_counter() - sent[0])
    start = time.perf_counter()
    print(short(x[:1, :10]) == short(x[:1, :10].copy()))
    big = np.random.default_rng(0).standard_normal((50, 20000), dtype=np.float32)
    rows = [crossentropy.logsumexp(row) for row in big]
    print(np.array_equal(crossentropy.logsumexp(big), rows), time.perf_counter() - start)
"""
# Many rows; and rows that take seconds each, without their memory: every class is one element.
MANY_ROWS = {"values": "np.linspace(-3, 3, 2**14, dtype=np.float32)", "shape": (2**22, 2**14)}
LONG_ROWS = {"values": "np.float32(1.5)", "shape": (4, 2**34)}
LOSS = 'crossentropy.cross_entropy(x, y, reduction="sum")'


@POSIX
@pytest.mark.parametrize("threads", [None, "1"])
@pytest.mark.parametrize(
    ("inputs", "call"),
    [
        (MANY_ROWS, LOSS),
        (LONG_ROWS, LOSS),
        (LONG_ROWS, "crossentropy.cross_entropy(x, np.broadcast_to(np.float32(2**-34), x.shape))"),
        (LONG_ROWS, "crossentropy.logsumexp(x)"),
    ],
    ids=["many rows", "long rows", "long rows of probabilities", "logsumexp"],
)
def test_ctrl_c_ends_a_long_call(compiled, inputs, call, threads):
    """Seen within a second, and the next calls are right, nor do they wait for what is left of it."""
    environment = {"CROSSENTROPY_BACKEND": compiled} | ({"CROSSENTROPY_NUM_THREADS": threads} if threads else {})
    out = run(INTERRUPTS + INTERRUPTED.format(**inputs, call=call), timeout=40, **environment)
    state, seconds, right, right_in_parallel, then = out.split()
    assert state == "interrupted"
    assert float(seconds) < 1
    assert (right, right_in_parallel) == ("True", "True")
    assert float(then) < 15  # where another layout must be compiled first


@POSIX
def test_ctrl_c_ends_a_call_while_others_have_the_threads(compiled):
    """One pool of threads serves all: a call that they have not begun is not waited for."""
    out = run(
        INTERRUPTS
        + """
    x = np.broadcast_to(np.linspace(-3, 3, 2**14, dtype=np.float32), (2**22, 2**14))
    def call(rows):
        return crossentropy.logsumexp(x[:rows])
    call(100)
    threading.Thread(target=call, args=(2**22,), daemon=True).start()
    time.sleep(0.2)
    threading.Thread(target=interrupt).start()
    try:
        call(2**21)
    except KeyboardInterrupt:
        print(time.perf_counter() - sent[0], flush=True)
    os._exit(0)    # the other call can't be interrupted
    """,
        CROSSENTROPY_BACKEND=compiled,
    )
    assert float(out) < 1


# ---------------------------------------------------------------------- the Numba backend on the pool of threads


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_as_many_threads_as_configured_and_no_more(numba_cpu, monkeypatch, threads):
    """All of them are in the kernel at once, four times; another one would break that, as would too few."""
    barrier, names, calls = threading.Barrier(threads), set(), []

    def kernel(task, odd, first, last, memory):
        names.add(threading.current_thread().name)
        calls.append((first, last))
        barrier.wait(10)
        time.sleep(0.01)  # for others to come in

    monkeypatch.setattr(numba_cpu.kernels, "logsumexp", kernel)
    with crossentropy.config(threads=threads):
        crossentropy.logsumexp(np.zeros((48, 32000), np.float32))
    assert len(names) == threads
    assert all(name.startswith("crossentropy") for name in names)
    assert [row for first, last in sorted(calls) for row in range(first, last)] == list(range(48))


def test_small_calls_stay_on_their_thread(numba_cpu, monkeypatch):
    names = []
    monkeypatch.setattr(numba_cpu.kernels, "logsumexp", lambda *_: names.append(threading.current_thread().name))
    crossentropy.logsumexp(np.zeros((10, 100), np.float32))
    assert names == [threading.current_thread().name]
    assert workers._pool.workers == 0


def test_an_exception_in_a_thread_is_raised_in_the_caller(numba_cpu, monkeypatch, rng):
    x = rng.standard_normal((64, 32000), dtype=np.float32)
    expected, calls, kernel = crossentropy.logsumexp(x), [], numba_cpu.kernels.logsumexp

    def failing(ints, reals, odd, first, *rest):
        calls.append(first)
        if first:
            raise MemoryError("no memory for a kernel")
        return kernel(ints, reals, odd, first, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(numba_cpu.kernels, "logsumexp", failing)
        with pytest.raises(MemoryError, match="no memory for a kernel"):
            crossentropy.logsumexp(x)
        count = len(calls)
    assert count <= 5  # one slice each, and the rest no more
    np.testing.assert_array_equal(crossentropy.logsumexp(x), expected)
    assert len(calls) == count


@pytest.mark.parametrize("started", [0, 1, 2])
def test_where_no_more_threads_can_be_started(numba_cpu, monkeypatch, rng, started):
    """As many as there are do the work; and nothing holds the arrays of a call that has ended."""
    x, y, left = rng.standard_normal((64, 32000), dtype=np.float32), rng.integers(0, 32000, 64), [started]
    with crossentropy.config(threads=1):
        expected = crossentropy.cross_entropy(x, y)
    monkeypatch.setattr(workers, "_pool", workers._Pool())
    start = threading.Thread.start

    def refused(thread):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    for _ in range(3):
        assert crossentropy.cross_entropy(x, y) == expected
    held = weakref.ref(x)
    del x
    for _ in range(100):  # a thread lets go of its work a little after the result is there
        if held() is None:
            break
        time.sleep(0.01)
    assert held() is None


def test_kernels_that_cannot_be_kept_are_used(tmp_path):
    """As on a disk that is full, or a quota that is used up."""
    if not NUMBA:
        pytest.skip("the numba backend is not here, or CROSSENTROPY_ISA asks for another")
    out = run(
        BIG
        + """
    import errno
    from numba.core import caching
    refused = []
    def save(*arguments):
        refused.append(arguments)
        raise OSError(errno.ENOSPC, "No space left on device")
    caching.IndexDataCacheFile.save = save
    print(crossentropy.cross_entropy(x, y) > 9, len(refused) > 0, crossentropy.cross_entropy(x[:2], y[:2]) > 9)
    """,
        CROSSENTROPY_BACKEND="numba",
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert out.split() == ["True"] * 3


def test_kernels_of_several_processes_go_together(tmp_path):
    """What kernels call has names that are unique in a process: what two have kept must not be mixed up in a third."""
    if not NUMBA:
        pytest.skip("the numba backend is not here, or CROSSENTROPY_ISA asks for another")
    code = """
        import numpy as np, crossentropy
        x = np.full((3, 10), 1.5, np.float32)
        for layout in {layouts}:
            logits = x if layout == "plain" else np.asfortranarray(x)
            print(np.isclose(crossentropy.cross_entropy(logits, np.arange(3)), np.log(10)))
    """
    for layouts in (["plain"], ["odd"], ["odd", "plain"], ["plain", "odd"]):
        out = run(code.format(layouts=layouts), CROSSENTROPY_BACKEND="numba", NUMBA_CACHE_DIR=str(tmp_path))
        assert out.split() == ["True"] * len(layouts), layouts


def test_where_numba_does_not_compile_the_backend_is_not_available():
    """NUMBA_DISABLE_JIT is how programs with Numba are debugged."""
    if not AVAILABLE["numba"]:
        pytest.skip("Numba is not installed")
    out = run("import crossentropy; print(crossentropy.backends()[1].reason)", NUMBA_DISABLE_JIT="1")
    assert out.strip() == "numba does not compile where NUMBA_DISABLE_JIT is set"


# ---------------------------------------------------------------------- the process and its files


def test_denormals_survive_import_and_calls(compiled):
    """In the calling thread, and in one that it starts afterwards: that inherits the mode of its arithmetic."""
    out = run(
        """
        import threading
        import numpy as np
        tiny = np.float32(1e-40)
        def half():
            return float(tiny * np.float32(0.5))
        before, after = half(), []
        import crossentropy
        for shape in ((10, 100), (100, 20000)):
            x, y = np.zeros(shape, np.float32), np.zeros(shape[0], int)
            crossentropy.cross_entropy(x, y)
            crossentropy.cross_entropy_and_grad(x, y, out=x)
            crossentropy.log_softmax(x)
            after.append(half())
            thread = threading.Thread(target=lambda: after.append(half()))
            thread.start()
            thread.join()
        print(before > 0, after == [before] * 4)
    """,
        CROSSENTROPY_BACKEND=compiled,
    )
    assert out.split() == ["True", "True"]


@pytest.mark.parametrize("option", ["-O", "-OO"])
def test_python_without_assertions(compiled, option):
    out = run(
        """
        import sys
        import numpy as np, crossentropy as c
        print(sys.flags.optimize)
        try:
            c.cross_entropy([[1.0]], [1])
        except IndexError as error:
            print(error)
        for dtype in (np.float32, np.float64):
            loss, grad = c.cross_entropy_and_grad(np.array([[1, 2]], dtype), [0], label_smoothing=0.5)
            print(f"{loss:.4f} {grad[0, 1]:.4f} {c.log_softmax(np.array([1, 2], dtype))[0]:.4f}")
    """,
        options=[option],
        CROSSENTROPY_BACKEND=compiled,
    )
    results = ["1.0633 0.4811 -1.3133"] * 2
    assert out.splitlines() == [str(option.count("O")), "targets[0] = 1 is not in [0, 1)", *results]


@POSIX
@pytest.mark.parametrize("home", [None, "home"])
def test_where_nothing_can_be_written(compiled, home, tmp_path):
    """A read-only directory with the package and nothing else, to which HOME leads too, if it is set at all."""
    place = tmp_path / "read-only"
    here = Path(crossentropy.__file__).parent
    shutil.copytree(here, place / "crossentropy", ignore=shutil.ignore_patterns("__pycache__"))
    libraries = here.with_name("crossentropy.libs")  # where auditwheel puts libgomp
    if libraries.exists():
        shutil.copytree(libraries, place / libraries.name)
    there = sorted(path.name for path in place.iterdir())
    directories = [place, *(path for path in place.rglob("*") if path.is_dir())]
    for directory in directories:
        directory.chmod(0o555)
    try:
        out = run(
            """
            import ctypes, os
            if os.geteuid() == 0 and hasattr(ctypes.CDLL(None), "capset"):    # root may write, but by a capability:
                header, bits = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
                ctypes.CDLL(None).capget(header, bits)
                bits[0] &= ~(1 << 1)    # CAP_DAC_OVERRIDE, of those in effect
                ctypes.CDLL(None).capset(header, bits)
            try:
                open("file", "w").close()
                print("writable")
                raise SystemExit
            except OSError:
                pass
            import numpy as np, crossentropy
            print(os.path.dirname(os.path.dirname(crossentropy.__file__)) == os.getcwd())
            x = np.random.default_rng(0).standard_normal((10, 20000), dtype=np.float32)
            y = np.arange(10)
            exact = np.exp(x.astype(float))
            print(np.isclose(crossentropy.cross_entropy(x, y), -np.log(exact[y, y] / exact.sum(1)).mean()))
            from crossentropy._backends.registry import current
            if current().__name__ == "crossentropy._backends.numba":
                print(current().kernels.forward.stats.cache_path)
            """,
            cwd=place,
            CROSSENTROPY_BACKEND=compiled,
            PYTHONPATH=str(place),
            HOME=home and str(place / home),
            XDG_CACHE_HOME=None if home else str(place / "cache"),
            NUMBA_CACHE_DIR=None,
        )
        left = sorted(path.name for path in place.iterdir())
    finally:
        for directory in directories:
            directory.chmod(0o755)
    if out.strip() == "writable":
        pytest.skip("this user may write everywhere")
    assert out.split() == ["True", "True"] + (["None"] if compiled == "numba" else [])
    assert left == there


# ---------------------------------------------------------------------- settings


def test_settings_belong_to_the_context():
    from crossentropy import _settings
    from crossentropy._backends import registry

    seen = []
    with crossentropy.config(threads=1, backend="reference"):
        assert _settings.threads() == 1
        assert registry.current().__name__ == "crossentropy._backends.reference"
        with crossentropy.config(check=False):
            assert not _settings.checks_targets()
            assert _settings.threads() == 1
        assert _settings.checks_targets()
        thread = threading.Thread(target=lambda: seen.append(_settings.threads()))
        thread.start()
        thread.join()
    inherits = getattr(sys.flags, "thread_inherit_context", False)  # a free-threaded Python, from 3.14 on
    assert seen == [1 if inherits else _settings.threads()]


def test_one_config_can_be_entered_by_many_threads():
    from crossentropy import _settings

    setting, barrier, seen = crossentropy.config(threads=1), threading.Barrier(4), []

    def work():
        for _ in range(50):
            barrier.wait()
            with setting, setting:
                seen.append(_settings.threads())
            seen.append(_settings._stack.get()[-1].threads)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen.count(1) == seen.count(None) == 200


def test_environment_variables():
    code = """
        from crossentropy import native
        from crossentropy._backends import registry
        print(registry.current().__name__, native.current_threads(), native.current_isa())
    """
    unset = dict.fromkeys(("CROSSENTROPY_BACKEND", "CROSSENTROPY_ISA", "CROSSENTROPY_NUM_THREADS", "OMP_NUM_THREADS"))
    name, threads, _ = run(code, **unset).split()
    assert name == "crossentropy._backends.native"
    assert 1 <= int(threads) <= (os.cpu_count() or 1)
    own = unset | {"CROSSENTROPY_BACKEND": "reference", "CROSSENTROPY_ISA": "base", "CROSSENTROPY_NUM_THREADS": "1"}
    assert run(code, **own).split() == ["crossentropy._backends.reference", "1", "base"]
    assert run(code, **(unset | {"OMP_NUM_THREADS": "1,4"})).split()[1] == "1"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CROSSENTROPY_BACKEND", "fast", "backend must be one of"),
        ("CROSSENTROPY_ISA", "sse9", "isa must be one of"),
        ("CROSSENTROPY_NUM_THREADS", "many", "CROSSENTROPY_NUM_THREADS must be a positive integer, got 'many'"),
    ],
)
def test_bad_environment_variables_are_named(variable, value, message):
    out = run(
        """
        import numpy as np, crossentropy
        try:
            crossentropy.cross_entropy(np.zeros((100, 1000)), np.zeros(100, int))
        except ValueError as error:
            print(error)
    """,
        **{variable: value},
    )
    assert message in out


WITHOUT_NATIVE = """
    import sys, warnings
    sys.modules["crossentropy._native"] = None    # what an installation without a compiler looks like
    import crossentropy
"""


@pytest.mark.parametrize("without", ["native", "native and numba"])
def test_without_the_native_module_a_warning_says_why_and_another_serves(without):
    if "numba" not in without and not AVAILABLE["numba"]:
        pytest.skip("Numba is not installed")
    serves = "reference" if "numba" in without else "numba"
    out = run(
        WITHOUT_NATIVE
        + ("    sys.modules['numba'] = None" if "numba" in without else "")
        + """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        print(crossentropy.cross_entropy([[1.0, 2.0]], [0]))
        crossentropy.cross_entropy([[1.0, 2.0]], [0])
    print(len(caught), caught[0].category.__name__, caught[0].message)
    """,
        CROSSENTROPY_BACKEND=None,
        CROSSENTROPY_ISA=None,
    )
    assert "1.3132616875182228" in out
    assert f"1 RuntimeWarning crossentropy falls back from its 'native' backend to '{serves}'" in out
    assert "C compiler" in out


@pytest.mark.parametrize("call", ["cross_entropy", "cross_entropy_and_grad", "cross_entropy_grad"])
def test_the_warning_points_at_the_caller(call):
    out = run(
        WITHOUT_NATIVE
        + f"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        crossentropy.{call}([[1.0, 2.0]], [0])
    print(caught[0].filename)
    """,
        CROSSENTROPY_BACKEND=None,
        CROSSENTROPY_ISA=None,
    )
    assert out.strip() == "<string>"


def test_without_the_native_module_asking_for_it_raises_and_lists_what_there_is():
    out = run(
        WITHOUT_NATIVE
        + """
    for ask in (lambda: crossentropy.config(backend="native"), lambda: crossentropy.config(isa="avx2")):
        try:
            ask()
        except RuntimeError as error:
            print(error)
    print(crossentropy.backends()[0])
    """
    )
    rest = "'numba', 'reference'" if AVAILABLE["numba"] else "'reference'"
    assert out.count(f"available: {rest}") == 2
    assert "available=False" in out


# ---------------------------------------------------------------------- memory


# What is in use is brought up to the peak so far: of less than that the peak would show nothing.
PEAK = """
    import gc, resource, sys
    import numpy as np, crossentropy
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    def held_up_to_the_peak():
        gc.collect()
        held, before = [], peak()
        while peak() < before + 2**18:
            held.append(np.ones(2**15))
        return held
"""


@POSIX
def test_twenty_thousand_calls_leave_nothing_behind(compiled):
    out = run(
        PEAK
        + """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 300), dtype=np.float32), rng.integers(0, 300, 8)
    big, big_y = rng.standard_normal((64, 2048), dtype=np.float32), rng.integers(0, 300, 64)
    bad = y.copy()
    bad[3] = 300
    q = np.full((8, 300), 1 / 300)
    arrays = [x, y, big, big_y, bad, q]
    def calls(n):
        raised = 0
        for i in range(n):
            crossentropy.cross_entropy_and_grad(x, y, out=None)
            crossentropy.cross_entropy(x, q, label_smoothing=0.1)
            try:
                crossentropy.cross_entropy(x, bad)
            except IndexError:
                raised += 1
            if i % 50 == 0:    # on several threads
                crossentropy.cross_entropy_and_grad(big, big_y, label_smoothing=0.1)
        return raised
    def counts():
        return [sys.getrefcount(a) for a in arrays]
    calls(500)
    held = held_up_to_the_peak()
    before, references = peak(), counts()
    raised = calls(6500)
    gc.collect()
    print(raised, counts() == references, (peak() - before) / 1024)
    """,
        CROSSENTROPY_BACKEND=compiled,
    )
    raised, same, grown = out.split()
    assert raised == "6500"
    assert same == "True"
    assert float(grown) < 2048  # KiB


LOGITS = {
    "contiguous": "np.ones((4000, 8000), np.float32)",
    "byte-swapped": "np.ones((4000, 8000), '>f4')",
    "float16": "np.ones((8000, 8000), np.float16)",
    "bfloat16": "np.ones((8000, 8000), __import__('ml_dtypes').bfloat16)",
    "float64": "np.ones((2000, 8000))",
    "class axis first": "np.ones((8000, 4000), np.float32).T",
    "every other class": "np.ones((2000, 16000), np.float32)[:, ::2]",
}


@POSIX
@pytest.mark.parametrize("kind", LOGITS)
def test_the_loss_takes_no_memory_of_the_logits_size(compiled, kind):
    """Blocks are copied, never the array: at most 5 % of the logits."""
    if kind == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    out = run(
        PEAK
        + f"""
    x = {LOGITS[kind]}
    y = np.zeros(len(x), int)
    def loss(rows):
        if {kind == "class axis first"}:
            return crossentropy.cross_entropy(x[:rows].T, y[:rows], axis=0)
        return crossentropy.cross_entropy(x[:rows], y[:rows])
    loss(100)    # which starts the threads, too
    held = held_up_to_the_peak()
    before = peak()
    loss(len(x))
    print((peak() - before) / x.nbytes)
    """,
        CROSSENTROPY_BACKEND=compiled,
    )
    assert float(out) < 0.05
