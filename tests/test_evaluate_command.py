"""``crossentropy evaluate LOGITS TARGETS``: files of every kind, what is told of bad ones, stopping and going on."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from command_line import within

import crossentropy

for _needed in ("click", "rich", "matplotlib"):
    pytest.importorskip(_needed, reason=f"the command line needs {_needed}")

PNG = b"\x89PNG\r\n\x1a\n"
IGNORED = ("--ignore-index", "-100")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 7, 400)
    x = rng.standard_normal((400, 7)).astype(np.float32)
    x[np.arange(400), y] += 2
    y[::9] = -100
    return x, y


@pytest.fixture
def folder(tmp_path, data):
    x, y = data
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    return tmp_path


@pytest.fixture
def result(data):
    """The JSON of the evaluation of all, as one call makes it."""
    return crossentropy.Evaluation(ignore_index=-100).update(*data).compute().to_json()


def _as_json(*arguments, cwd):
    out, _ = within("evaluate", *arguments, *IGNORED, "--json", cwd=cwd)
    return out.strip()


def test_files_of_each_kind(folder, data, result):
    x, y = data
    assert _as_json("x.npy", "y.npy", cwd=folder) == result
    np.savez(folder / "both.npz", other=np.zeros(3), targets=y, logits=x)
    assert _as_json("both.npz", "both.npz", cwd=folder) == result
    np.savez_compressed(folder / "small.npz", targets=y, logits=x)
    assert _as_json("small.npz", "small.npz", cwd=folder) == result
    np.save(folder / "fortran.npy", np.asfortranarray(x))
    assert _as_json("fortran.npy", "y.npy", cwd=folder) == result
    np.save(folder / "swapped.npy", x.astype(">f4"))
    np.save(folder / "small.npy", y.astype(np.int16))
    assert _as_json("swapped.npy", "small.npy", cwd=folder) == result
    np.save(folder / "deep.npy", x.reshape(20, 20, 7))
    np.save(folder / "deep_targets.npy", y.reshape(20, 20))
    assert _as_json("deep.npy", "deep_targets.npy", cwd=folder) == result
    for name, whole, parts in (("logits", x, 12), ("targets", y, 3)):
        (folder / name).mkdir()
        for i, rows in enumerate(np.array_split(whole, parts)):  # of which part-10 comes after part-2
            np.save(folder / name / f"part-{i}.npy", rows)
    assert _as_json("logits", "targets", cwd=folder) == result


def test_bfloat16_as_numpy_writes_it(folder, data):
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    x, y = data
    np.save(folder / "x.npy", x.astype(bfloat16))
    found = crossentropy.Evaluation(ignore_index=-100).update(x.astype(bfloat16), y).compute()
    assert _as_json("x.npy", "y.npy", cwd=folder) == found.to_json()


def test_zarr_stores(folder, data, result):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    x, y = data
    zarr.create_array(folder / "x.zarr", data=x, chunks=(70, 3))
    assert _as_json("x.zarr", "y.npy", cwd=folder) == result
    group = zarr.open_group(folder / "both", mode="w")
    group.create_array("logits", data=x, chunks=(50, 7))
    group.create_array("targets", data=y)
    assert _as_json("both", "both", cwd=folder) == result


def test_tables_and_files(folder, data):
    out, _ = within("evaluate", "x.npy", "y.npy", *IGNORED, "--top", "1,3", "--bins", "5", "--out", "found", cwd=folder)
    found = crossentropy.Evaluation(ignore_index=-100, top=(1, 3), bins=5).update(*data).compute()
    for name, value in found.lines():
        assert re.search(re.escape(name) + r"\s+" + re.escape(value), out), name
    assert "top-3 accuracy" in out
    assert re.search(rf"\n\s+6\s+{found.class_counts[6]}\s+{found.predicted_counts[6]}\s+", out)
    assert sorted(path.name for path in (folder / "found").iterdir()) == [
        "calibration.png",
        "evaluation.json",
        "per_class.png",
    ]
    assert (folder / "found" / "evaluation.json").read_text() == found.to_json() + "\n"
    for name in ("calibration.png", "per_class.png"):
        assert (folder / "found" / name).read_bytes().startswith(PNG)
    _, err = within("evaluate", "x.npy", "y.npy", *IGNORED, "--out", "found", cwd=folder, code=2)
    assert "--force writes over them" in err


def test_what_is_wrong_gets_one_line(folder, data):
    x, y = data
    np.save(folder / "float.npy", y.astype(float))
    np.save(folder / "short.npy", y[1:])
    np.save(folder / "bad.npy", np.where(np.arange(400) == 123, 7, y))
    np.save(folder / "void.npy", x.view("V4"))
    np.save(folder / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:-8])
    (folder / "text.npy").write_text("no array")
    (folder / "empty").mkdir()
    (folder / "mixed").mkdir()
    np.save(folder / "mixed" / "0.npy", x)
    np.save(folder / "mixed" / "1.npy", x[:, 1:])
    np.savez(folder / "two.npz", a=x, b=y)
    (folder / "state").write_text("no state")
    for told, *arguments in (
        (r"bad.npy: targets\[123\] = 7 is not in \[0, 7\)", "x.npy", "bad.npy", *IGNORED),
        (r"y.npy: targets\[0\] = -100 is not in \[0, 7\); --ignore-index leaves rows", "x.npy", "y.npy"),
        (r"short.npy: targets must have the shape of logits without the classes, \(400,\)", "x.npy", "short.npy"),
        ("float.npy: targets must be integers, classes from 0 on, got float64", "x.npy", "float.npy"),
        (r"void.npy: logits must be float16, .*, got \|V4", "void.npy", "y.npy"),
        (r"y.npy: logits must have shape \(..., C\), got \(400,\)", "y.npy", "y.npy"),
        ("none.npy: no such file or folder", "none.npy", "y.npy"),
        ("objects.npy: it holds Python objects", "objects.npy", "y.npy"),
        ("cut.npy: must have 11328 bytes, got 11320: was it cut off", "cut.npy", "y.npy"),
        ("text.npy: ", "text.npy", "y.npy"),
        ("empty: no .npy files in it, nor is it a Zarr store", "empty", "y.npy"),
        (r"mixed/1.npy: it must be float32 \(n, 7\), as 0.npy is, got float32 \(400, 6\)", "mixed", "y.npy"),
        ("two.npz: it holds several arrays, a, b; logits must be the only one, or be called 'logits'", "two.npz", "y"),
        ("--engine must be threads, dask or dask:ADDRESS, got 'mpi'", "x.npy", "y.npy", "--engine", "mpi"),
        ("--top must be numbers, as 1,5, got 'all'", "x.npy", "y.npy", "--top", "all"),
        ("top must be at least 1, got 0", "x.npy", "y.npy", "--top", "0"),
        ("--state state: it holds no state of an evaluation", "x.npy", "y.npy", *IGNORED, "--state", "state"),
        ("--label is for a model and a table", "x.npy", "y.npy", "--label", "a"),
        ("--bins is for logits in files", "model.skops", "table.csv", "--bins", "3"),
    ):
        out, err = within("evaluate", *arguments, "--out", "found", cwd=folder, code=2)
        assert re.search(f"^Error: .*{told}", err.replace("\n", " ")), err
        assert not out
    assert not (folder / "found").exists()


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_what_is_stopped_goes_on_with_the_same_bits(folder, result, monkeypatch, number):
    from crossentropy.cli import logit_evaluation, logit_files

    number = getattr(signal, number)
    monkeypatch.setattr(logit_files, "ROWS", 50 * 7 * 4)  # 8 blocks
    evaluated, seen = logit_evaluation.Work.evaluated, []

    def stops(work, block):
        seen.append(block)
        if len(seen) in (3, 5):
            os.kill(os.getpid(), number)
        return evaluated(work, block)

    monkeypatch.setattr(logit_evaluation.Work, "evaluated", stops)
    arguments = ("evaluate", "x.npy", "y.npy", *IGNORED, "--state", "state.npz", "--json")
    _, err = within(*arguments, cwd=folder, code=128 + number)
    assert "stopped after 150 of 400 rows; --state state.npz goes on from there" in err
    _, err = within(*arguments, cwd=folder, code=128 + number)
    assert "going on after 150 of 400 rows, from state.npz" in err
    assert "stopped after 250 of 400 rows" in err
    out, err = within(*arguments, cwd=folder)
    assert out.strip() == result
    assert seen == list(range(8))
    assert within(*arguments, cwd=folder)[0].strip() == result
    assert seen == list(range(8))
    assert sorted(path.name for path in folder.iterdir()) == ["state.npz", "x.npy", "y.npy"]
    np.save(folder / "y.npy", np.zeros(400, int))
    _, err = within(*arguments, cwd=folder, code=2)
    assert "--state state.npz: it belongs to an evaluation with other files of targets" in err.replace("\n", " ")
    _, err = within(*arguments, "--top", "1,2", cwd=folder, code=2)
    assert "options" in err


def test_workers_that_the_same_interrupt_ends_are_no_fault(folder, monkeypatch):
    """A terminal sends Ctrl-C to all processes, and a cluster whose workers are gone raises first."""
    from crossentropy.cli import logit_evaluation

    def ended(work, todo, address):
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("Nanny failed to start.")
        yield

    monkeypatch.setattr(logit_evaluation, "by_dask", ended)
    _, err = within("evaluate", "x.npy", "y.npy", *IGNORED, "--engine", "dask", cwd=folder, code=130)
    assert "stopped after 0 of 400 rows; --state FILE would keep them" in err
    assert "Nanny" not in err


def test_nothing_half_written_where_the_disk_is_full(folder, monkeypatch):
    from crossentropy.cli import logit_evaluation

    within("evaluate", "x.npy", "y.npy", *IGNORED, "--state", "state.npz", cwd=folder)
    before = (folder / "state.npz").read_bytes()

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logit_evaluation.np, "savez", full)
    (folder / "state.npz").rename(folder / "kept.npz")
    _, err = within("evaluate", "x.npy", "y.npy", *IGNORED, "--state", "state.npz", cwd=folder, code=2)
    assert "--state state.npz: No space left on device" in err
    (folder / "kept.npz").rename(folder / "state.npz")
    assert (folder / "state.npz").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["state.npz", "x.npy", "y.npy"]


def test_pictures_of_any_number_of_classes_and_rows():
    from crossentropy.cli import evaluation_plots

    rng = np.random.default_rng(0)
    for classes, rows in ((2, 50), (40, 300), (41, 300), (3000, 500), (41, 0), (3, 0)):
        evaluation = crossentropy.Evaluation()
        evaluation.update(rng.standard_normal((rows, classes)), rng.integers(0, classes, rows))
        found = evaluation.compute()
        above, below = evaluation_plots.reliability(found).axes
        assert above.get_ylabel() == "share of right predictions"
        assert sum(bar.get_height() for bar in below.patches) == rows
        made = evaluation_plots.per_class(found)
        if classes <= 40:
            assert len(made.axes[0].patches) == 2 * classes
        elif rows:
            (points,) = made.axes[0].collections
            assert len(points.get_offsets()) == np.count_nonzero(found.class_counts + found.predicted_counts)
        made.canvas.draw()


def test_dask_processes_have_the_same_bits(folder, result):
    pytest.importorskip("distributed", reason="Dask's distributed is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "crossentropy", "evaluate", "x.npy", "y.npy", *IGNORED, "--engine", "dask", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == result
    _, err = within("evaluate", "x.npy", "y.npy", *IGNORED, "--engine", "dask:tcp://127.0.0.1:9", cwd=folder, code=2)
    assert "--engine dask:tcp://127.0.0.1:9:" in err


@pytest.mark.skipif(sys.platform == "win32", reason="asks the system for a child's peak of memory")
def test_the_command_has_a_few_blocks_in_memory_at_a_time(tmp_path):
    """Of a gigabyte, which a hole of a file holds. A small process starts it: a child begins with its parent's peak."""
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (16384, 16384)).flush()
    np.save(tmp_path / "y.npy", np.zeros(16384, int))
    code = """
import resource, subprocess, sys
command = [sys.executable, "-m", "crossentropy", "evaluate", "x.npy", "y.npy", "--state", "s.npz", "--json"]
print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    found, _, peak = done.stdout.strip().rpartition("\n")
    assert json.loads(found)["loss"] == pytest.approx(np.log(16384), rel=1e-6)
    assert int(peak) / (1024 if sys.platform == "linux" else 2**20) < 500
