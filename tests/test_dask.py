"""crossentropy.dask: chunks of rows and of classes, lazily, on each scheduler; memory; settings; workers that die."""

import os
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest

import crossentropy

dask = pytest.importorskip("dask", reason="Dask is not installed")
da = pytest.importorskip("dask.array", reason="Dask is not installed")
ours = pytest.importorskip("crossentropy.dask", reason="Dask is not installed")

N, C = 300, 41


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(4)
    x, y = (3 * rng.standard_normal((N, C))).astype(np.float32), rng.integers(0, C, N)
    y[::7] = -100
    x[::7] = np.nan
    return x, y


def _lazy(x, chunks):
    return da.from_array(x, chunks=chunks)


CHUNKS = {
    "rows": (64, C),
    "one row": ((1, 150, 149), C),
    "classes": (N, 10),
    "one class": ((100, 200), (1, 39, 1)),
    "both": (64, 16),
}
OPTIONS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"normalizer": 7.0},
    {"label_smoothing": 0.1, "z_loss": 0.01},
    {"class_weight": np.linspace(0, 2, C)},
    {"class_prior": np.linspace(-1, 1, C), "softcap": 20.0},
    {"focal": 2.0, "margin": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options)) or "none")
@pytest.mark.parametrize("chunks", CHUNKS, ids=lambda name: name.replace(" ", "_"))
def test_a_loss_is_that_of_one_call(rows, chunks, options):
    x, y = rows
    expected = crossentropy.cross_entropy(x, y, ignore_index=-100, **options)
    lazy = ours.cross_entropy(_lazy(x, CHUNKS[chunks]), y, ignore_index=-100, **options)
    assert (lazy.dtype, lazy.shape) == (expected.dtype, np.shape(expected))
    found = lazy.compute(scheduler="sync")
    assert (np.asarray(found).dtype, np.shape(found)) == (expected.dtype, np.shape(expected))
    np.testing.assert_array_max_ulp(found, expected, 2)
    if "row" in chunks and options.get("reduction") == "none":
        assert (found == expected).all()


def test_weights_of_rows_are_chunked_with_them(rows):
    x, y = rows
    weight, where = np.linspace(0, 1, N), np.arange(N) % 3 > 0
    for chunks in ((64, C), (64, 16)):
        for options in ({}, {"class_weight": np.linspace(0, 2, C)}):
            given = {"ignore_index": -100, "sample_weight": weight, "where": where, **options}
            lazy = given | {"sample_weight": da.from_array(weight, chunks=77)}
            found = ours.cross_entropy(_lazy(x, chunks), da.from_array(y, chunks=50), **lazy).compute(scheduler="sync")
            assert found == pytest.approx(crossentropy.cross_entropy(x, y, **given), rel=1e-6)


def test_probability_targets(rows):
    x, q = np.nan_to_num(rows[0]), crossentropy.softmax(np.nan_to_num(rows[0])[::-1].astype(np.float64))
    expected = crossentropy.cross_entropy(x, q, label_smoothing=0.1)
    for chunks in ((64, C), (64, 16)):
        found = ours.cross_entropy(_lazy(x, chunks), q, label_smoothing=0.1).compute(scheduler="sync")
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chunks", CHUNKS, ids=lambda name: name.replace(" ", "_"))
def test_an_evaluation_has_the_bits_of_the_whole(rows, chunks):
    x, y = rows
    whole = crossentropy.Evaluation(ignore_index=-100, top=3).update(x, y).compute()
    found = ours.evaluate(_lazy(x, CHUNKS[chunks]), y, ignore_index=-100, top=3).compute(scheduler="threads")
    assert found.to_json() == whole.to_json()


def test_axes_of_rows_and_a_class_axis_that_is_not_last(rows):
    x, y = np.moveaxis(rows[0].reshape(10, 30, C), -1, 1), rows[1].reshape(10, 30)
    lazy = _lazy(x, (4, 9, 13))
    expected = crossentropy.cross_entropy(x, y, axis=1, ignore_index=-100, reduction="none")
    found = ours.cross_entropy(lazy, y, axis=1, ignore_index=-100, reduction="none")
    np.testing.assert_array_max_ulp(found.compute(scheduler="sync"), expected, 2)
    mean = ours.cross_entropy(lazy, y, axis=1, ignore_index=-100).compute(scheduler="sync")
    assert mean == pytest.approx(crossentropy.cross_entropy(x, y, axis=1, ignore_index=-100), rel=1e-6)
    whole = crossentropy.Evaluation(ignore_index=-100).update(*rows).compute()
    assert ours.evaluate(lazy, y, axis=1, ignore_index=-100).compute().to_json() == whole.to_json()
    of_rows = ours.cross_entropy(_lazy(x, (4, C, 13)), y, axis=1, ignore_index=-100, reduction="none")
    assert of_rows.chunks == ((4, 4, 2), (13, 13, 4))
    np.testing.assert_array_equal(of_rows.compute(scheduler="sync"), expected)


def test_what_the_rows_say_of_the_mean():
    x = da.zeros((4, 3), chunks=(2, 2))
    ignored = [-1] * 4
    assert np.isnan(ours.cross_entropy(x, ignored, ignore_index=-1).compute())
    assert ours.cross_entropy(x, ignored, ignore_index=-1, empty=0.0).compute() == 0
    assert ours.cross_entropy(x, ignored, ignore_index=-1, reduction="sum").compute() == 0
    infinite = da.from_array(np.array([[0.0, -np.inf], [0.0, 0.0]]), chunks=(1, 1))
    assert ours.cross_entropy(infinite, [1, 0]).compute() == np.inf
    assert np.isnan(ours.cross_entropy(infinite + np.nan, [1, 0]).compute())
    nothing = da.zeros((0, 3), chunks=(1, 3))
    assert np.isnan(ours.cross_entropy(nothing, np.empty(0, int)).compute())
    assert ours.evaluate(nothing, np.empty(0, int)).compute().rows == 0


def test_nothing_is_read_before_it_is_computed():
    def fails():
        raise AssertionError("read")

    x = da.from_delayed(dask.delayed(fails)(), (4, 3), dtype=np.float32)
    lazy = [ours.cross_entropy(x, [0, 1, 2, 0]), ours.evaluate(x, [0, 1, 2, 0])]
    for each in lazy:
        with pytest.raises(AssertionError, match="read"):
            each.compute(scheduler="sync")


@pytest.mark.parametrize("chunks", [(64, C), (64, 16)])
@pytest.mark.parametrize("function", ["cross_entropy", "evaluate"])
def test_a_bad_target_is_told_by_its_place_in_the_whole(rows, chunks, function):
    y = np.where(np.arange(N) == 222, 41, rows[1])
    lazy = getattr(ours, function)(_lazy(rows[0], chunks), y, ignore_index=-100)
    with pytest.raises(IndexError, match=r"^targets\[222\] = 41 is not in \[0, 41\)$"):
        lazy.compute(scheduler="sync")


@pytest.mark.parametrize(
    ("error", "told", "targets", "options"),
    [
        (ValueError, "targets must have the shape of logits without the class axis", [0] * 5, {}),
        (TypeError, "are classes and must be integers", [0.0] * 4, {}),
        (ValueError, r"label_smoothing must be in \[0, 1\], got 2", [0] * 4, {"label_smoothing": 2}),
        (ValueError, r"class_weight must have shape \(3,\)", [0] * 4, {"class_weight": [1.0]}),
        (ValueError, r"sample_weight must have shape \(4,\), got \(3,\)", [0] * 4, {"sample_weight": [1.0] * 3}),
        (TypeError, "unexpected keyword argument 'smoothing'", [0] * 4, {"smoothing": 1}),
    ],
)
def test_what_shapes_and_options_show_is_told_at_once(error, told, targets, options):
    x = da.zeros((4, 3), chunks=(2, 3))
    for function in (ours.cross_entropy, ours.evaluate):
        with pytest.raises(error, match=told):
            function(x, targets, **options)


def test_settings_reach_the_tasks(rows):
    """Those in force around the call that makes the graph, whoever computes it, and where."""
    from crossentropy._backends import reference
    from crossentropy._settings import in_force

    seen = []
    mine = types.ModuleType("mine")
    mine.__dict__.update({name: value for name, value in vars(reference).items() if not name.startswith("__")})

    def forward(*arguments):
        seen.append(in_force().threads)
        return reference.forward(*arguments)

    mine.forward = forward
    x, y = (a[:4] for a in rows)
    with crossentropy.config(backend=mine):
        one = ours.cross_entropy(_lazy(x, (2, C)), y, ignore_index=-100)
    with crossentropy.config(backend=mine, threads=2):
        two = ours.cross_entropy(_lazy(x, (4, C)), y, ignore_index=-100)
    for lazy in (one, two):
        lazy.compute(scheduler="threads")
    assert seen == [1, 1, 2]


def test_xarray_by_its_dask_arrays(rows):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    x, y = rows
    expected = crossentropy.cross_entropy(x, y, ignore_index=-100)
    for given in (xarray.DataArray(x, dims=("n", "c")).chunk(n=64, c=20), xarray.DataArray(x, dims=("n", "c"))):
        found = ours.cross_entropy(given, xarray.DataArray(y, dims="n"), ignore_index=-100)
        assert found.compute() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(300, 41), (6, 50, 41), (300, 41, 1)])
def test_a_file_that_is_cut_along_its_classes_is_read_by_rows(tmp_path, rows, shape, monkeypatch):
    """A block of columns of a file would touch a page of each row: slower than to read all of it."""
    monkeypatch.setattr(ours, "CHUNK", 7 * 41 * 4)  # seven rows at a time
    np.save(tmp_path / "x.npy", rows[0].reshape(shape))
    file, axis = np.load(tmp_path / "x.npy", mmap_mode="r"), shape.index(41)
    lazy = ours.from_memmap(file, chunks=tuple(10 if size == 41 else 20 for size in shape))
    targets = rows[1].reshape([size for size in shape if size != 41])
    losses = ours.cross_entropy(lazy, targets, axis=axis, reduction="none", ignore_index=-100, focal=1.0)
    assert losses.chunks == tuple(sizes for a, sizes in enumerate(lazy.chunks) if a != axis)
    given = {"axis": axis, "ignore_index": -100}
    expected = crossentropy.cross_entropy(file, targets, reduction="none", focal=1.0, **given)
    if axis == file.ndim - 1:
        np.testing.assert_array_equal(losses.compute(), expected)
    else:  # by blocks of classes
        np.testing.assert_allclose(losses.compute(), expected, rtol=3e-7)
    result = ours.evaluate(lazy, targets, **given).compute()
    assert result.to_json() == crossentropy.Evaluation(**given).update(file, targets).compute().to_json()


def test_what_was_assigned_to_an_array_of_a_file_counts(tmp_path, rows):
    np.save(tmp_path / "x.npy", np.nan_to_num(rows[0]))
    lazy = ours.from_memmap(np.load(tmp_path / "x.npy", mmap_mode="r"), chunks=(50, 10))
    lazy[lazy > 1] = 1
    found = ours.cross_entropy(lazy, rows[1], ignore_index=-100).compute(scheduler="sync")
    expected = crossentropy.cross_entropy(np.minimum(np.nan_to_num(rows[0]), 1), rows[1], ignore_index=-100)
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_benchmark_of_streaming_runs(capsys):
    import importlib.util
    from pathlib import Path

    path = Path(__file__).parent.parent / "benchmarks" / "streaming.py"
    spec = importlib.util.spec_from_file_location("streaming", path)
    streaming = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(streaming)
    streaming.main(["--rows", "300", "--classes", "70", "--rounds", "1"])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("300 x 70 float32")
    assert lines[0].startswith("cross_entropy(memmap)")
    assert len(lines) == 9
    assert all("of the call's rate" in line for line in lines)


def test_views_of_memmaps_are_read_from_their_file(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows[0])
    whole = np.load(tmp_path / "x.npy", mmap_mode="r")
    for view in (whole, whole[5:200:3], whole[3:, 2:9], whole.T):
        lazy = ours.from_memmap(view, chunks=(50, 6))
        assert lazy.chunks == da.core.normalize_chunks((50, 6), view.shape)
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), view)
    with pytest.raises(TypeError, match=r"array must be a numpy\.memmap, got ndarray"):
        ours.from_memmap(rows[0])
    with pytest.raises(ValueError, match="no negative strides"):
        ours.from_memmap(whole[::-1])


PEAK = """
import sys, numpy as np, dask, dask.array as da
import crossentropy.dask as ours
def now(name): return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) / 1024
x = np.load(sys.argv[1], mmap_mode="r")
y = np.zeros(len(x), int)
def made(x, chunks):
    return da.ones(x.shape, np.float32, chunks=chunks).map_blocks(np.negative)
with dask.config.set(scheduler="threads", num_workers=2):
    for function, lazy, chunks in (
        (ours.cross_entropy, ours.from_memmap, (64, 16384)),
        (ours.evaluate, ours.from_memmap, (64, 16384)),
        (ours.cross_entropy, made, (512, 2048)),
        (ours.evaluate, made, (512, 2048)),
    ):
        function(lazy(x[:512], chunks), y[:512]).compute()  # what is loaded once
        before = now("VmRSS")
        function(lazy(x, chunks), y).compute()
        print(now("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_a_few_chunks(tmp_path):
    """Of 512 MB of logits, in a hole of a file or made by tasks, in chunks of 4 MB; eight have all classes of rows."""
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (8192, 16384))
    file.flush()
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "x.npy")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    by_rows, evaluation, by_classes, gathered = map(float, done.stdout.split())
    assert by_rows < 60
    assert evaluation < 60
    assert by_classes < 60
    assert gathered < 256


CLUSTER = """
import os, signal, sys, time
import numpy as np

def slowly(x):
    time.sleep(0.3)
    return x

def main():
    import dask.array as da
    from distributed import Client, LocalCluster
    import crossentropy, crossentropy.dask as ours
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 50)).astype(np.float32), rng.integers(0, 50, 400)
    whole = crossentropy.Evaluation().update(x, y).compute().to_json()
    with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        lazy = da.from_array(x, chunks=(20, 25)).map_blocks(slowly, dtype=x.dtype)
        with crossentropy.config(isa=crossentropy.native.SUPPORTED_ISAS[-1] if "native" in sys.argv else None):
            futures = client.compute([ours.evaluate(lazy, y), ours.cross_entropy(lazy, y)])
        time.sleep(2)
        pids = client.run(os.getpid)
        os.kill(next(iter(pids.values())), signal.SIGKILL)
        found, loss = client.gather(futures)
        assert set(client.run(os.getpid).values()) != set(pids.values())
    assert found.to_json() == whole, (found, whole)
    assert abs(loss - crossentropy.cross_entropy(x, y)) < 1e-6
    print("the same")

if __name__ == "__main__":
    main()
"""


def test_a_worker_that_is_killed_changes_nothing(tmp_path):
    pytest.importorskip("distributed", reason="Dask's distributed is not installed")
    (tmp_path / "cluster.py").write_text(CLUSTER)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "cluster.py")], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same" in done.stdout


MPI = """
import pickle
import numpy as np
from mpi4py import MPI
import crossentropy

comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)
x, y = rng.standard_normal((200, 30)).astype(np.float32), rng.integers(0, 30, 200)
whole = crossentropy.Evaluation().update(x, y).compute().to_json()
ends = [0, 0, 150, 200] + [200] * comm.size  # the first rank has no rows
mine = slice(ends[comm.rank], ends[comm.rank + 1] if comm.rank + 1 < comm.size else 200)
evaluation = crossentropy.Evaluation().update(x[mine], y[mine])
others = comm.allgather(evaluation)
assert crossentropy.Evaluation().merge_state(others).compute().to_json() == whole
comm.Allreduce(MPI.IN_PLACE, evaluation.totals, op=MPI.SUM)
assert evaluation.compute().to_json() == whole
if comm.rank == 0:
    print("the same on", comm.size)
"""


def test_mpi_merges_evaluations(tmp_path):
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    mpiexec = os.path.join(os.path.dirname(sys.executable), "mpiexec")
    if not os.path.exists(mpiexec):
        pytest.skip("mpiexec is not installed beside Python: pip install mpich")
    (tmp_path / "mpi.py").write_text(textwrap.dedent(MPI))
    done = subprocess.run(
        [mpiexec, "-n", "3", sys.executable, str(tmp_path / "mpi.py")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "the same on 3\n"
