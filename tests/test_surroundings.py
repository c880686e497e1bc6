"""Threads, processes, signals, environment variables: each where it could do harm in a process of its own."""

import os
import sys
import threading

import numpy as np
import pytest
from conftest import AVAILABLE
from subprocesses import run

import crossentropy

BIG = """
    import numpy as np, crossentropy
    x = np.random.default_rng(0).standard_normal((64, 32000), dtype=np.float32)
    y = np.arange(64)
"""


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_works_after_a_parallel_call():
    """libgomp hangs when a child enters a parallel region after its parent did."""
    out = run(
        BIG
        + """
    import os, warnings
    warnings.simplefilter("ignore", DeprecationWarning)    # Python 3.12 warns of fork in a process with threads
    with crossentropy.config(threads=2):
        parent = crossentropy.cross_entropy(x, y)
        child = os.fork()
        if child == 0:
            os._exit(0 if crossentropy.cross_entropy(x, y) == parent else 1)
        print(os.waitpid(child, 0)[1], crossentropy.cross_entropy(x, y) == parent)
    """
    )
    assert out.split() == ["0", "True"]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on this platform")
def test_a_pool_of_forked_processes():
    out = run(
        BIG
        + """
    import multiprocessing, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    whole = crossentropy.cross_entropy(x, y, reduction="none")
    def half(part):
        return crossentropy.cross_entropy(x[part], y[part], reduction="none")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts = pool.map(half, [slice(0, 32), slice(32, 64)])
    print(np.array_equal(np.concatenate(parts), whole))
    """
    )
    assert out.strip() == "True"


def test_eight_threads_at_once_also_as_the_first_call():
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
    """
    )
    assert out.strip() == "True"


INTERRUPT = """
    import os, signal, threading, time
    import numpy as np, crossentropy
    x = np.broadcast_to(np.linspace(-3, 3, {classes}, dtype=np.float32), ({rows}, {classes}))
    y = np.zeros({rows}, np.uint8)
    crossentropy.cross_entropy(x[:1, :10], y[:1])
    sent = []
    def interrupt():
        time.sleep(0.3)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    try:
        {call}
        print("ended", -1)
    except KeyboardInterrupt:
        print("interrupted", time.perf_counter() - sent[0])
    print(crossentropy.cross_entropy(x[:1, :10], y[:1]) == crossentropy.cross_entropy(x[:1, :10].copy(), y[:1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to the own process needs POSIX")
@pytest.mark.parametrize(("rows", "classes"), [(2**22, 2**14), (4, 2**34)])  # many rows; rows that take seconds each
def test_ctrl_c_ends_a_long_call(rows, classes):
    if classes > 2**30:  # a row without its memory: every class is one element
        code = INTERRUPT.replace("np.linspace(-3, 3, {classes}, dtype=np.float32)", "np.float32(1.5)")
    else:
        code = INTERRUPT
    call = 'crossentropy.cross_entropy(x, y, reduction="sum")'
    state, seconds, right = run(code.format(rows=rows, classes=classes, call=call), timeout=120).split()
    assert state == "interrupted"
    assert float(seconds) < 1
    assert right == "True"


def test_denormals_survive_import_and_calls():
    out = run("""
        import numpy as np
        tiny = np.float32(1e-40)
        before = float(tiny * np.float32(0.5))
        import crossentropy
        crossentropy.cross_entropy(np.zeros((100, 1000), np.float32), np.zeros(100, int))
        print(before > 0, float(tiny * np.float32(0.5)) == before)
    """)
    assert out.split() == ["True", "True"]


def test_python_without_assertions():
    out = run("""
        import os, subprocess, sys
        code = "import crossentropy as c\\ntry:\\n c.cross_entropy([[1.0]], [1])\\nexcept IndexError as e: print(e)"
        for option in ("-O", "-OO"):
            print(subprocess.run([sys.executable, option, "-c", code], capture_output=True, text=True).stdout)
    """)
    assert out.count("targets[0] = 1 is not in [0, 1)") == 2


# ---------------------------------------------------------------------- settings


def test_settings_belong_to_the_context():
    from crossentropy import _backends

    seen = []
    with crossentropy.config(threads=1, backend="reference"):
        assert _backends.threads() == 1
        assert _backends.current().__name__.endswith("_reference_backend")
        with crossentropy.config(check=False):
            assert not _backends.checks_targets()
            assert _backends.threads() == 1
        assert _backends.checks_targets()
        thread = threading.Thread(target=lambda: seen.append(_backends.threads()))
        thread.start()
        thread.join()
    assert seen == [_backends.threads()]


def test_one_config_can_be_entered_by_many_threads():
    from crossentropy import _backends

    setting, barrier, seen = crossentropy.config(threads=1), threading.Barrier(4), []

    def work():
        for _ in range(50):
            barrier.wait()
            with setting, setting:
                seen.append(_backends.threads())
            seen.append(_backends._settings.get()[-1].threads)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen.count(1) == seen.count(None) == 200


def test_environment_variables():
    code = """
        from crossentropy import _backends, native
        print(_backends.current().__name__, native.current_threads(), native.current_isa())
    """
    unset = dict.fromkeys(("CROSSENTROPY_BACKEND", "CROSSENTROPY_ISA", "CROSSENTROPY_NUM_THREADS", "OMP_NUM_THREADS"))
    name, threads, _ = run(code, **unset).split()
    assert name == "crossentropy.native"
    assert 1 <= int(threads) <= (os.cpu_count() or 1)
    own = unset | {"CROSSENTROPY_BACKEND": "reference", "CROSSENTROPY_ISA": "base", "CROSSENTROPY_NUM_THREADS": "1"}
    assert run(code, **own).split() == ["crossentropy._reference_backend", "1", "base"]
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


def test_twenty_thousand_calls_leave_nothing_behind(rng):
    import gc

    resource = pytest.importorskip("resource", reason="peak memory is read by POSIX getrusage")
    x, y = rng.standard_normal((8, 300), dtype=np.float32), rng.integers(0, 300, 8)
    bad = y.copy()
    bad[3] = 300
    q = np.full((8, 300), 1 / 300)

    def calls(n):
        for _ in range(n):
            crossentropy.cross_entropy_and_grad(x, y, out=None)
            crossentropy.cross_entropy(x, q, label_smoothing=0.1)
            with pytest.raises(IndexError):
                crossentropy.cross_entropy(x, bad)

    calls(500)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [sys.getrefcount(a) for a in (x, y, bad, q)]
    calls(6500)
    gc.collect()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [sys.getrefcount(a) for a in (x, y, bad, q)]
    assert after[1] == before[1]
    assert after[0] - before[0] < 2048  # KiB


@pytest.mark.parametrize("swapped", [False, True])
def test_the_loss_takes_no_memory_of_the_logits_size(swapped):
    """Blocks are copied, never the array: at most 5 % of the logits."""
    pytest.importorskip("resource", reason="peak memory is read by POSIX getrusage")
    dtype = ">f4" if swapped else "<f4"
    out = run(f"""
        import resource
        import numpy as np, crossentropy
        x = np.ones((4000, 8000), {dtype!r})
        y = np.zeros(4000, int)
        crossentropy.cross_entropy(x[:10], y[:10])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        crossentropy.cross_entropy(x, y)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / x.nbytes)
    """)
    assert float(out) < 0.05
