"""How many threads a call gets: where the system refuses them, where something limits them, and who is told so."""

import concurrent.futures
import contextvars
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import AVAILABLE, NATIVE, NUMBA
from subprocesses import run

import crossentropy
from crossentropy import _settings

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD, /proc and RLIMIT_NPROC are Linux's")
OPENMP = bool(NATIVE) and crossentropy.native.OPENMP
INHERITS = getattr(sys.flags, "thread_inherit_context", False)  # of a free-threaded Python, from 3.14 on

# Six CPUs, whatever there are: so many threads are asked for. Others are counted by the system, and all are there
# until the end: OpenMP's wait for the next call, as do those of the pool.
CALLS = """
    import os, sys
    import numpy as np, crossentropy
    from crossentropy import _settings
    _settings.processors = lambda: 6
    x, y = np.random.default_rng(0).standard_normal((64, 32000), dtype=np.float32), np.arange(64)
    with crossentropy.config(threads=1):
        alone = crossentropy.cross_entropy_and_grad(x, y)
    def call(threads=6):
        with crossentropy.config(threads=threads):
            loss, grad = crossentropy.cross_entropy_and_grad(x, y)
        assert loss == alone.loss and np.array_equal(grad, alone.grad)
        return len(os.listdir("/proc/self/task"))
"""


@pytest.fixture(params=["native", "numba"])
def compiled(request):
    """The name of each compiled backend, for a process of its own."""
    if not (NATIVE if request.param == "native" else NUMBA):
        pytest.skip(f"the {request.param} backend is not here, or CROSSENTROPY_ISA asks for another")
    return request.param


# ---------------------------------------------------------------------- where the system refuses threads


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """The environment of a process that may have so many threads besides its first."""
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or shutil.which("cc")
    if sys.platform != "linux" or not compiler:
        pytest.skip("threads are refused by a preloaded C library")
    library = tmp_path_factory.mktemp("refused") / "threads_refused.so"
    source = Path(__file__).with_name("threads_refused.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl", "-pthread"], check=True)
    return lambda allowed: {"LD_PRELOAD": str(library), "THREADS_ALLOWED": str(allowed), "OPENBLAS_NUM_THREADS": "1"}


@pytest.mark.parametrize("allowed", [0, 1, 3, 9])
def test_a_call_goes_on_with_the_threads_that_can_be_had(compiled, refusing, allowed):
    out = run(CALLS + "    print(call(), call())", CROSSENTROPY_BACKEND=compiled, **refusing(allowed))
    found = list(map(int, out.split()))
    if compiled == "native":
        assert found == [1 + min(allowed, 5)] * 2
    else:  # whose caller only waits
        assert found == [1 + min(allowed, 6)] * 2


@pytest.mark.skipif(not OPENMP, reason="it is OpenMP's team that grows and shrinks")
def test_a_team_that_grows_and_shrinks(refusing):
    """A smaller team sends threads home: a larger one has to start them again, and asks once more."""
    code = """
    import time
    for wanted, had in ((2, 2), (6, 4), (2, 2), (4, 4), (6, 4)):
        found, start = call(wanted), time.monotonic()
        while found > had and time.monotonic() < start + 5:    # those that were sent home take a while to end
            found = len(os.listdir("/proc/self/task"))
        assert found == had, (wanted, found)
    """
    run(CALLS + code, **refusing(3))


def test_calling_threads_that_start_threads_at_once(compiled, refusing):
    """With OpenMP each has a team of its own: what one has been told that it can have, another must not take."""
    out = run(
        CALLS
        + """
    import threading
    right, barrier = [], threading.Barrier(4)
    def work():
        barrier.wait()
        right.append(call() > 0)
    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    print(right)
    """,
        CROSSENTROPY_BACKEND=compiled,
        **refusing(7),  # the four, and three of the twenty that they would have
    )
    assert out.strip() == "[True, True, True, True]"


def test_threads_are_asked_for_again_after_a_while(compiled, refusing):
    """A limit may be lifted; in between no call spends time on asking."""
    out = run(
        "    import time; start = time.monotonic()"  # Numba's call on one thread asks for it
        + CALLS
        + """
    found = [call()]
    os.environ["THREADS_ALLOWED"] = "5"    # which C sees, too
    while time.monotonic() < start + 10 and found[-1] == 1:
        found.append(call())
    print(found[-1], len(found) > 2, time.monotonic() - start > 0.9)
    """,
        CROSSENTROPY_BACKEND=compiled,
        **refusing(0),
    )
    assert out.split() == ["6", "True", "True"]


@LINUX
@pytest.mark.parametrize("limit", ["NPROC", "AS"])
def test_limits_of_the_system_itself(compiled, limit):
    """On the user's processes, which root is exempt from, and on memory, where a thread's stack has no room."""
    out = run(
        CALLS
        + f"""
    import resource, threading
    if {limit!r} == "NPROC":
        if os.geteuid() == 0:
            os.setuid(65432)    # of which there is no other process
            resource.setrlimit(resource.RLIMIT_NPROC, (3, 3))
        else:
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    else:
        threading.stack_size(2**26)    # of Python's threads; OpenMP's have that of OMP_STACKSIZE
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**25, size + 2**25))    # 32 MiB: the gradient, and no stack
    print(call() < 6, call() < 6)
    """,
        CROSSENTROPY_BACKEND=compiled,
        OPENBLAS_NUM_THREADS="1",
        OMP_STACKSIZE="64M",
    )
    assert out.split() == ["True", "True"]


# ---------------------------------------------------------------------- where something limits them

# The share of a call's time on CPUs that threads other than the caller's had; they sleep while they wait.
SHARES = """
    import time
    import numpy as np, crossentropy
    x, y = np.zeros((256, 32000), np.float32), np.zeros(256, int)
    def others(**settings):
        with crossentropy.config(**settings):
            crossentropy.cross_entropy(x, y)
            process, own = time.process_time(), time.thread_time()
            for _ in range(5):
                crossentropy.cross_entropy(x, y)
            process, own = time.process_time() - process, time.thread_time() - own
        return (process - own) / process
    def two_work(**settings):    # on a busy machine another thread may come late, and too late
        return any(others(**settings) > 0.1 for _ in range(50))
    def one_works(**settings):    # a thread that was sent home takes a while to end
        return any(others(**settings) < 0.01 for _ in range(5))
"""
TWO_CPUS = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a limit must be below what there are")
TWO_OF_OPENMPS = pytest.mark.skipif(not OPENMP or (os.cpu_count() or 1) < 2, reason="it is OpenMP's runtime")


@TWO_OF_OPENMPS
@pytest.mark.parametrize("how", ["threadpoolctl", "omp_set_num_threads"])
def test_a_limit_on_the_openmp_runtime_counts(how):
    """Also over settings of this package, in the thread that it was put on, for as long as it holds."""
    pytest.importorskip("threadpoolctl")
    out = run(
        SHARES
        + """
    import contextlib, ctypes, threading, threadpoolctl
    two_work()
    runtime = next(lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "openmp")
    @contextlib.contextmanager
    def omp_set_num_threads(number):
        library = ctypes.CDLL(runtime["filepath"])
        before = library.omp_get_max_threads()
        library.omp_set_num_threads(number)
        yield
        library.omp_set_num_threads(before)
    """
        + f"limit = {'threadpoolctl.threadpool_limits' if how == 'threadpoolctl' else how}"
        + """
    found = [two_work()]
    with limit(1):
        found += [one_works(), one_works(threads=2), crossentropy.native.current_threads() == 1]
        thread = threading.Thread(target=lambda: found.append(two_work()))
        thread.start()
        thread.join()
    found += [two_work(), two_work(threads=2), one_works(threads=1)]
    print(found)
    """,
        OMP_WAIT_POLICY="passive",
        CROSSENTROPY_BACKEND="native",
    )
    assert out.strip() == str([True] * 8)


@TWO_CPUS
@pytest.mark.skipif(not OPENMP, reason="the native backend is not here, or built without OpenMP")
@pytest.mark.parametrize(
    ("told", "looks"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_threads_that_wait_soon_sleep(told, looks):
    # libgomp says what it was told where it is asked to, as it is loaded; libomp has no such number.
    environment = {"GOMP_SPINCOUNT": None, "OMP_WAIT_POLICY": None, "OMP_DISPLAY_ENV": "verbose"} | told
    shown = run(
        """
        import os
        os.dup2(1, 2)
        before = dict(os.environ)
        from crossentropy import native
        assert dict(os.environ) == before
        with open("/proc/self/maps") as maps:
            print("libgomp" in maps.read())
        """,
        **environment,
    )
    if shown.endswith("False\n"):
        pytest.skip("the OpenMP runtime is not libgomp")
    assert f"GOMP_SPINCOUNT = '{looks}'" in shown


def test_settings_of_the_package_go_over_the_environment_of_openmp():
    """OMP_NUM_THREADS is a default, as it was: nobody has limited anything since."""
    for variables in ({"CROSSENTROPY_NUM_THREADS": "2"}, {}):
        settings = "" if variables else "threads=2"
        out = run(
            SHARES + f"    print(two_work({settings}), crossentropy.native.current_threads())",
            OMP_NUM_THREADS="1",
            OMP_WAIT_POLICY="passive",
            CROSSENTROPY_BACKEND="native",
            **variables,
        )
        assert out.split() == ["True", "2" if variables else "1"]


@TWO_CPUS
def test_settings_of_the_package_limit_threads(compiled):
    out = run(
        SHARES
        + """
    print(two_work(), one_works(threads=1) or "waits", two_work(threads=2))
    """,
        OMP_WAIT_POLICY="passive",
        CROSSENTROPY_BACKEND=compiled,
    )
    assert out.split() == ["True", "True" if compiled == "native" else "waits", "True"]


# ---------------------------------------------------------------------- who sees the settings


@pytest.fixture
def process_settings():
    """Whatever a test sets for the process is taken off again."""
    yield
    crossentropy.set_config(backend=None, threads=None, isa=None, check=None)


def in_pool(function):
    """What a function returns in two workers of a pool."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        barrier = threading.Barrier(2)
        return [done.result() for done in [pool.submit(lambda: (barrier.wait(10), function())[1]) for _ in range(2)]]


def test_set_config_is_seen_by_every_thread(process_settings, monkeypatch):
    monkeypatch.setattr(_settings, "processors", lambda: 8)
    before = crossentropy.get_config()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # whose thread is there before
        pool.submit(crossentropy.get_config).result()
        crossentropy.set_config(threads=1, check=False, backend="reference")
        assert pool.submit(_settings.threads).result() == 1
        with crossentropy.config(threads=3):
            assert _settings.threads() == 3
            assert in_pool(_settings.threads) == [3 if INHERITS else 1] * 2
            crossentropy.set_config(threads=2)
            assert (_settings.threads(), pool.submit(_settings.threads).result()) == (3, 2)
    assert crossentropy.get_config() == before | {"threads": 2, "check": False, "backend": "reference"}
    assert np.isnan(in_pool(lambda: crossentropy.cross_entropy(np.zeros((1, 2)), [7]))).all()
    with crossentropy.config(check=True), pytest.raises(IndexError):
        crossentropy.cross_entropy(np.zeros((1, 2)), [7])
    crossentropy.set_config(threads=None, check=None)
    assert crossentropy.get_config() == before | {"backend": "reference"}
    crossentropy.set_config(backend=None)
    assert crossentropy.get_config() == before


@pytest.mark.skipif(not AVAILABLE["native"], reason="ISAs are the native backend's")
def test_set_config_chooses_backend_and_isa(process_settings):
    crossentropy.set_config(backend="native", isa="base")
    assert in_pool(crossentropy.native.current_isa) == ["base", "base"]
    with crossentropy.config(isa=crossentropy.native.SUPPORTED_ISAS[0]):
        assert crossentropy.native.current_isa() == crossentropy.native.SUPPORTED_ISAS[0]
        assert in_pool(crossentropy.native.current_isa) == ["base", "base"]


def test_settings_are_handed_to_workers():
    """By their values, or with the context; what is in force in one thread is not what others have."""

    def found():
        return crossentropy.get_config()["threads"], crossentropy.get_config()["check"]

    outside = found()
    with crossentropy.config(threads=1, check=False):
        settings, context = crossentropy.get_config(), contextvars.copy_context()

        def work():
            with crossentropy.config(**settings):
                return found()

        assert in_pool(work) == [(1, False)] * 2
        assert in_pool(found) == [outside] * 2
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(context.run, found).result() == (1, False)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"threads": 0}, "threads must be a positive integer, got 0"),
        ({"threads": True}, "threads must be a positive integer, got True"),
        ({"backend": "fortran"}, "backend must be one of"),
        ({"isa": "mmx"}, "isa must be one of"),
        ({"check": 1}, "check must be True or False, got 1"),
    ],
)
def test_set_config_refuses_what_config_refuses(process_settings, bad, message):
    before = crossentropy.get_config()
    with pytest.raises(ValueError, match=message):
        crossentropy.set_config(**({"threads": 1, "check": False} | bad))
    assert crossentropy.get_config() == before


def test_set_config_goes_over_the_environment():
    code = """
        import crossentropy
        first = crossentropy.get_config()
        crossentropy.set_config(threads=1, backend="reference")
        second = crossentropy.get_config()
        crossentropy.set_config(threads=None, backend=None)
        print(first["threads"], first["backend"], second["threads"], second["backend"])
        print(first == crossentropy.get_config())
    """
    variables = {"CROSSENTROPY_NUM_THREADS": "3", "CROSSENTROPY_BACKEND": "native", "CROSSENTROPY_ISA": None}
    assert run(code, **variables).split() == ["3", "native", "1", "reference", "True"]


@LINUX
def test_set_config_reaches_forked_workers():
    out = run(
        """
        import multiprocessing, warnings
        import crossentropy
        warnings.simplefilter("ignore", DeprecationWarning)
        def threads(_):
            return crossentropy.get_config()["threads"]
        crossentropy.set_config(threads=1)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(threads, range(2)))
        """
    )
    assert out.strip() == "[1, 1]"
