"""The benchmarks: what they run, what they write down, and that README shows what was measured."""

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command_line import within
from conftest import AVAILABLE
from subprocesses import run

import crossentropy

if not crossentropy.backends()[0].available:
    pytest.skip("the native backend is not built", allow_module_level=True)
from crossentropy import bench, native
from crossentropy.bench import peers as _peers
from crossentropy.bench import runner as _runner
from crossentropy.bench.prepared import result_of as _result_of

ROOT = Path(__file__).parent.parent
SMALL = (16, 4096)  # 256 KiB of float32: the least that has a roof
FIELDS = {
    *(
        "op",
        "shape",
        "axis",
        "dtype",
        "inputs",
        "option",
        "implementation",
        "isa",
        "threads",
        "median_s",
        "rounds",
        "bytes",
    ),
    *("gb_per_s", "roof", "roof_gb_per_s", "roof_fraction", "compile_s"),
}


@pytest.fixture(scope="module")
def document():
    """Every operation, ours alone: other libraries' threads would stay in this process."""
    return bench.run([bench.Case(op, SMALL) for op in bench.OPS], peers=False, seconds=0.01)


def test_records_are_complete(document):
    records = document["records"]
    settings = {(r["op"], r["isa"], r["threads"]) for r in records}
    isas = [*native.SUPPORTED_ISAS, *([None] if AVAILABLE["numba"] else [])]
    assert settings == {(op, isa, n) for op in bench.OPS for isa in isas for n in bench.thread_counts()}
    for r in records:
        assert set(r) == FIELDS
        assert r["rounds"] >= _runner.FEWEST_SLOW
        passes = {"loss": 1, "row statistics": 1, "probability targets": 3, "distillation": 3, "diagonal Hessian": 3}
        assert r["bytes"] == 4 * passes.get(r["op"], 2) * 16 * 4096
        assert r["roof"] == bench.OPS[r["op"]].roof
        for name in ("median_s", "gb_per_s", "roof_gb_per_s", "roof_fraction"):
            assert 0 < r[name] < np.inf, name
        assert r["gb_per_s"] == pytest.approx(r["bytes"] / r["median_s"] / 1e9, rel=1e-4)


def test_the_document_says_on_what(document):
    assert document["machine"]["cpu"]
    assert document["machine"]["threads"] == native.current_threads()
    assert document["versions"]["crossentropy"] == crossentropy.__version__
    text = bench.to_json(document)
    assert json.loads(text) == document
    assert f'"{platform.node()}"' not in text
    assert str(Path.home()) not in text


def test_the_share_of_the_roof_is_that_of_the_same_moment():
    """Where the machine's memory slows down in the middle, the medians by themselves would say anything."""
    case = bench.Case("loss", bench.VOCABULARY)
    runner = _runner.Runner(_peers.Prepared(lambda: None, _peers.loss_alone), roof=object())
    runner.times, runner.roof_times = [0.02, 0.02, 0.01, 0.04, 0.04], [0.016, 0.016, 0.008, 0.032, 0.008]
    record = _runner.record_of(case, bench.implementations(case, peers=False)[0][0], runner)
    assert record["roof_fraction"] == pytest.approx(0.8 * case.bytes / bench.roof_bytes(case))
    assert record["median_s"] == 0.02


def test_a_call_without_roof():
    found, _ = bench.measure(bench.Case("loss", (32, 10)), peers=False, seconds=0)
    assert {r["roof_fraction"] for r in found} == {None}


def test_the_cases_are_those_of_the_plan():
    cases = bench.cases()
    assert len(set(cases)) == len(cases)
    assert {case.shape for case in cases} == set(bench.SHAPES)
    assert {case.dtype for case in cases} == {"float16", "bfloat16", "float32", "float64"}
    assert {case.inputs for case in cases} == set(bench.INPUTS)
    assert {case.op for case in cases} == {case.op for case in bench.cases(quick=True)} == set(bench.OPS)
    assert {case.option for case in cases} == {"", *bench.OPTIONS}
    few = {shape: {case.op for case in cases if case.shape == shape and not case.option} for shape in bench.FEW}
    assert few == {(1048576, k): {"loss", "loss + gradient", "log-softmax", "softmax"} for k in (2, 3, 10, 20, 50)}
    assert {case.classes for case in cases if len(case.shape) == 4} == {21, 150}
    segmentation = next(case for case in cases if len(case.shape) == 4)
    assert (segmentation.classes, segmentation.elements) == (21, 8 * 21 * 512 * 512)
    assert max(case.elements for case in bench.cases(quick=True)) < 2**24


@pytest.mark.parametrize("inputs", bench.INPUTS)
def test_inputs(inputs):
    x, y = bench.problem(bench.Case("loss + gradient", (64, 101), inputs=inputs))[1:3]
    own = np.take_along_axis(x, y[:, None], 1)[:, 0]
    assert y.min() >= 0
    assert np.isfinite(own).all()
    low, high = {"far": (-120, -80), "wide": (-80, 80)}.get(inputs, (-6, 30))
    finite = x[np.isfinite(x)]
    assert low < finite.min() < finite.max() < high
    assert (np.isinf(x).sum() > 0) == (inputs == "masked")
    if inputs == "led":
        np.put_along_axis(x, y[:, None], -np.inf, 1)
        np.testing.assert_allclose(own - x.max(axis=1), 20, atol=4)  # over the maximum with the target's old logit


def test_a_wrong_result_is_refused():
    case = bench.Case("loss + gradient", (8, 10))
    right = bench.expected_of(bench.problem(case))
    loss, ends = right
    bench.check(case, right, right)
    for wrong in (
        (1.01 * loss, ends),
        (np.nan, ends),
        (loss, [ends[0], 8 * ends[1]]),
        (loss, [np.nan * ends[0], ends[1]]),
    ):
        with pytest.raises(bench.WrongResultError):
            bench.check(case, wrong, right)


def test_a_peer_that_is_missing_or_fails_gets_a_line(monkeypatch):
    case = bench.Case("loss", (8, 10))
    monkeypatch.setattr(_peers.importlib.util, "find_spec", lambda name: None)
    here, lines = bench.implementations(case)
    assert "torch: torch not installed" in lines
    assert "JAX: jax and optax not installed" in lines
    numba = {bench.NUMBA} if AVAILABLE["numba"] else set()
    assert {each.name for each in here} == {bench.OURS, "reference"} | numba

    def fails(p, threads):
        raise OSError("no compiler")

    def wrong(p, threads):
        return _peers.Prepared(lambda: 1.0, _peers.loss_alone)

    peers = {"broken": _peers.Peer((), fails, takes_threads=True), "wrong": _peers.Peer((), wrong)}
    monkeypatch.setattr(_peers, "PEERS", peers | {"reference": _peers.PEERS["reference"]})
    found, lines = bench.measure(case, seconds=0)
    lines = [line for line in lines if not line.startswith(bench.NUMBA)]  # where it is not installed
    assert {r["implementation"] for r in found} == {bench.OURS, "reference"} | numba
    assert lines[0] == f"broken: fails with OSError at {case}"
    assert lines[1].startswith("wrong: its loss is 1.0, not ")
    assert len(lines) == 2

    monkeypatch.setattr(_peers, "PEERS", peers)
    with pytest.raises(bench.WrongResultError, match="no peer agrees"):  # who is wrong then?
        bench.measure(case, seconds=0)


def test_options_of_a_loss():
    """Each is in force: it changes the loss, and a peer that takes it computes the same."""
    torch = pytest.importorskip("torch", reason="the peer is PyTorch")
    case = bench.Case("loss", (64, 10))
    plain, _ = bench.expected_of(bench.problem(case))
    for option in bench.OPTIONS:
        p = bench.problem(case._replace(option=option))
        assert list(p.options) == [option]
        loss, _ = bench.expected_of(p)
        assert loss != plain
        found = _peers.PEERS["torch"].prepare(p, torch.get_num_threads())
        assert _result_of(found)[0] == pytest.approx(loss, rel=1e-5)
    share = np.mean(bench.problem(bench.Case("loss", (4096, 10), option="ignore_index")).targets < 0)
    assert 0.08 < share < 0.12
    assert _peers.why_not(_peers.PEERS["reference"], p.case) == "timed without ignore_index"


@pytest.mark.parametrize("name", ["torch", "JAX", "TensorFlow", "onnxruntime", "scipy", "scikit-learn", "reference"])
def test_peers_compute_the_same(name):
    """In a process of their own, each operation and dtype that they have; torch.compile runs with the benchmarks."""
    if _peers.why_not(_peers.PEERS[name]._replace(lacks=lambda case: ""), None):
        pytest.skip(f"{name} is not installed")
    out = run(
        f"""
        import warnings
        warnings.simplefilter("default")  # theirs are not ours
        from crossentropy import bench
        cases = [bench.Case(op, (8, 12)) for op in bench.OPS]
        cases += [bench.Case(op, (2, 3, 4, 4), axis=1) for op in bench.OPS]
        dtypes, ops = ("bfloat16", "float16", "float64"), ("loss", "loss + gradient")
        cases += [bench.Case(op, (8, 12), dtype=dtype) for dtype in dtypes for op in ops]
        cases += [bench.Case(op, (8, 12), option=option) for option in bench.OPTIONS for op in ops]
        found = bench.run(cases, seconds=0, wanted=lambda text: ", {name}" in text and "compile" not in text)
        print(len(found["records"]), [line for line in found["left_out"] if " at " in line])
        """,
        timeout=120,
    )
    count, _, failures = out.strip().partition(" ")
    assert failures == "[]"
    assert int(count) >= 2


# ---------------------------------------------------------------------- the command


def command(*arguments, cwd, code=0):
    """What `crossentropy bench` prints."""
    for needed in ("click", "rich", "matplotlib"):
        pytest.importorskip(needed, reason=f"the command line needs {needed}")
    done = subprocess.run(
        [sys.executable, "-m", "crossentropy", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def test_bench_writes_its_files(tmp_path):
    isa = native.SUPPORTED_ISAS[0]
    chosen = ("--quick", "--no-peers", "--only", "loss, 256 x 32000", "--only", isa, "--seconds", "0")
    out, _ = command(*chosen, "--out", "results", "--json", "a.json", cwd=tmp_path)
    assert "loss, 256 x 32000, float32, normal" in out
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["bench-loss.png", "bench.json"]
    assert (tmp_path / "results" / "bench-loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    document = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert json.loads((tmp_path / "a.json").read_text()) == document
    assert {r["isa"] for r in document["records"]} == {isa}


def test_a_quick_run_ends_with_a_verdict(tmp_path):
    out, _ = command("--quick", "--no-peers", "--seconds", "0", cwd=tmp_path)
    _, machine, verdict = out.partition(f"{crossentropy.bench.machine()['cpu']}, by {native.SUPPORTED_ISAS[0]}:")
    assert machine
    assert re.search(r"loss \+ gradient of 32 x 10: [\d.]+ µs, which is what a call costs", verdict)
    assert len(re.findall(r"\d+% of the rate at which the same memory is (read|copied)", verdict)) == 3
    assert "No other library was timed" in verdict


def test_the_words_of_a_verdict(document):
    from crossentropy.bench import verdict

    small = bench.Case("loss + gradient", SMALL)
    (ours,) = [r for r in document["records"] if r["op"] == small.op and r["implementation"] == bench.ALLOCATING]
    others = [
        dict(ours, implementation=name, median_s=ours["median_s"] * n) for name, n in (("torch", 3), ("JAX", 0.5))
    ]
    lines = list(verdict.sentences(document | {"records": [dict(ours, roof_fraction=0.9), *others]}))
    text = "\n".join(lines)
    assert "90% of the rate at which the same memory is copied" in text
    assert "memory is the limit, and the kernels reach it" in text
    assert "torch takes 3.0 times as long as a default call" in text
    assert "JAX is faster: it takes 0.50" in text
    assert "There was no time for" in text
    assert list(verdict.sentences(document | {"records": []})) == []


def test_who_takes_part_in_a_quick_run():
    from crossentropy.bench import verdict

    case = verdict.CASES[0]
    chosen = {each.name for each in bench.implementations(case)[0] if verdict.takes_part(f"{case}, {each}")}
    assert {bench.OURS, bench.ALLOCATING} <= chosen
    assert chosen <= {bench.OURS, bench.ALLOCATING, bench.DROP_IN, *verdict.PEERS}
    # On a busy machine the others take the time: late in a run a case has ours, and its part of the verdict, even so.
    late = {
        each.name for each in bench.implementations(case)[0] if verdict.takes_part(f"{case}, {each}", verdict.BUDGET)
    }
    assert late == chosen & {bench.OURS, bench.ALLOCATING, bench.DROP_IN}
    assert not any(verdict.takes_part(f"{case}, {each}", verdict.END) for each in bench.implementations(case)[0])


def test_bad_options_get_one_line(tmp_path):
    for needed in ("click", "rich", "matplotlib"):
        pytest.importorskip(needed, reason=f"the command line needs {needed}")
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["--quick", "--only", "no such case"], "--only no such case: no case and implementation with that text"),
        (["--out", "file"], "--out file: file is not a directory"),
        (["--json", "file/a.json"], "--json file: file is not a directory"),
    ):
        _, err = within("bench", *arguments, cwd=tmp_path, code=2)
        assert message in err
        assert len(err.splitlines()) == 1
        assert os.listdir(tmp_path) == ["file"]
    for arguments in (["--seconds", "nan"], ["--seconds", "-1"], ["--nonsense"]):
        _, err = within("bench", *arguments, cwd=tmp_path, code=2)
        assert arguments[0] in err


# ---------------------------------------------------------------------- README


@pytest.fixture
def report(monkeypatch):
    """benchmarks/report.py as a module."""
    path = ROOT / "benchmarks" / "report.py"
    if not path.exists():
        pytest.skip("the benchmarks are in the source tree")
    pytest.importorskip("matplotlib", reason="the plots need matplotlib")
    spec = importlib.util.spec_from_file_location("report", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_and_the_page_show_the_committed_results(report):
    found = report.documents()
    if not found:
        pytest.skip("benchmarks/results has no results yet")
    for path, text in report.written(found).items():
        assert path.read_text(encoding="utf-8") == text, path
    assert report.OVERVIEW.exists()
    for stem in found:
        for op in report.DRAWN:
            assert report.picture(stem, op).exists()


def test_the_few_cases_that_readme_shows(report):
    """Each ratio is of the committed records: those of a default call, and of the fastest that a peer was."""
    from crossentropy.bench import overview

    document, lines = overview.overview(report.documents())
    assert len(lines) >= 5
    for line in lines:
        if "hidden" not in line.of:
            those = [
                r for r in document["records"] if r["op"] == line.what and " x ".join(map(str, r["shape"])) == line.of
            ]
            those = [r for r in those if (r["dtype"], r["inputs"], r["option"]) == ("float32", "normal", "")]
            for name, times in line.times.items():
                fastest = min(r["median_s"] for r in those if r["implementation"] == name)
                assert times == pytest.approx(fastest / line.seconds)
    text = list(overview.table(document, lines))
    assert len([line for line in text if line.startswith("| ")]) == len(lines) + 1
    assert document["date"] in text[-1]


def test_each_case_is_in_one_table_of_the_report(report):
    for case in bench.cases():
        assert sum(table.takes(case) for table in report.TABLES) == 1, case
    few = report.TABLES[1]
    assert [case for case in bench.cases() if case.option and not few.takes(case)] == []


def test_the_report_of_a_document(report, document, monkeypatch, tmp_path):
    lines = report.section({"here": document}).splitlines()
    best = bench.best(document["records"], op="loss", implementation=bench.OURS, isa=document["machine"]["isas"][0])
    heading = next(line for line in lines if line.startswith("| logits |")).split("|")
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if re.match(r"\| (16 x 4096)? \| ", line)]
    assert rows[0][1:3] == ["16 x 4096", "loss"]
    assert rows[0][4] == f"{best['roof_fraction']:.0%}"
    assert len({row[2] for row in rows}) == len(rows) == len(bench.OPS)
    with_new = {row[2] for row in rows if row[heading.index(" new array, ms ")]}
    assert with_new == {row[2] for row in rows} - {"loss", "loss + gradient in place", "row statistics"}
    in_torch = {row[2] for row in rows if row[heading.index(" crossentropy.torch, ms ")]}
    assert in_torch == ({"loss + gradient"} if find_spec("torch") else set())
    monkeypatch.setattr(report, "FIGURES", tmp_path)
    report.draw({"here": document})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "here-loss-gradient.svg",
        "here-loss.svg",
        "overview.svg",
    ]
    text = f"before {report.BEGIN} old {report.END} after"
    assert report.updated(text, "new") == "before new after"
    with pytest.raises(ValueError, match=r"README\.md and docs/benchmarks\.md must have one"):
        report.updated("no marks", "new")
