"""The benchmarks of linear losses: who takes part, what is written down, and how README shows it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import within
from subprocesses import run

import crossentropy

if not crossentropy.backends()[0].available:
    pytest.skip("the native backend is not built", allow_module_level=True)
from crossentropy import bench
from crossentropy.bench.linear import cases, contenders, contest, records, tables

SMALL = cases.Case(cases.GRADIENTS, cases.QUICK)
FIELDS = {"op", "shape", "dtype", "option", "implementation", "threads", "median_s", "least_s", "rounds"}
FIELDS |= {"gflop_per_s", "of_products", "peak_bytes", "gradient_bytes"}


@pytest.fixture(scope="module")
def document():
    """What needs no other library, on a case of each kind."""
    return contest.run([SMALL, SMALL._replace(op=cases.LOSS, option=cases.HALF)], peers=False, seconds=0)


def test_the_cases_are_those_of_the_plan():
    every = cases.cases()
    assert len(set(every)) == len(every)
    assert {case.shape for case in every} == {(1024, 1024, 32000), (2048, 768, 50257), (512, 2048, 128256)}
    for dtype in ("float32", "bfloat16"):
        those = [case for case in every if case.dtype == dtype]
        assert {case.shape for case in those if case.op == cases.GRADIENTS and not case.option} == set(cases.SHAPES)
        assert {(case.op, case.option) for case in those} == {
            (cases.GRADIENTS, ""),
            (cases.LOSS, ""),
            (cases.GRADIENTS, cases.HALF),
        }
    assert {case.shape for case in cases.cases(quick=True)} == {cases.QUICK}
    assert SMALL.operations == 3 * 2 * 64 * 48 * 1000
    assert SMALL._replace(option=cases.HALF).operations == SMALL.operations // 2
    assert SMALL._replace(op=cases.LOSS).operations == SMALL.operations // 3
    assert SMALL.gradient_bytes == 4 * 48 * 1064
    assert SMALL._replace(dtype="bfloat16").gradient_bytes == 2 * 48 * 1064


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inputs_are_read_as_they_were_written(tmp_path, dtype):
    pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    case = SMALL._replace(dtype=dtype, option=cases.HALF)
    cases.write(case, tmp_path)
    p, again = cases.read(case, tmp_path), cases.read(case, tmp_path)
    assert (p.hidden.shape, p.weight.shape, p.hidden.dtype.name) == ((64, 48), (1000, 48), dtype)
    assert (p.targets < 0).sum() == 32
    assert 1.8 < (p.hidden.astype(np.float64) @ p.weight.astype(np.float64).T).std() < 2.2
    for a, b in zip(p[1:], again[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_records_are_complete(document):
    found = records.by_case(document["linear"])
    with_gradients, half = found.values()
    assert set(with_gradients) == {contenders.OURS, contenders.ALLOCATING, contenders.FLOORS[0]}
    assert set(half) == {contenders.OURS, contenders.EVERY_ROW, contenders.FLOORS[0]}
    for case, by_name in found.items():
        for name, r in by_name.items():
            assert set(r) == FIELDS
            assert 0 < r["least_s"] <= r["median_s"]
            assert r["rounds"] >= (1 if name in contenders.FLOORS else contest.FEWEST)
            assert r["gflop_per_s"] == pytest.approx(case.operations / r["median_s"] / 1e9, rel=1e-4)
            assert r["gradient_bytes"] == case.gradient_bytes
            assert (r["of_products"] == 1) == (name == contenders.FLOORS[0])
            assert r["peak_bytes"] is None or r["peak_bytes"] >= case.gradient_bytes
    assert document["records"] == []
    assert json.loads(bench.to_json(document)) == document


def test_the_peak_is_that_of_the_contender_alone():
    """Of 16 MB of logits: the products alone have them all, and ours, told to take few rows at a time, does not."""
    case = cases.Case(cases.LOSS, (1024, 8, 4000))
    found, _ = contest.measure(case, peers=False, seconds=0)
    peaks = {r["implementation"]: r["peak_bytes"] for r in found}
    if None in peaks.values():
        pytest.skip("the system does not tell a process's peak")
    logits = 4 * 1024 * 4000
    assert logits <= peaks[contenders.FLOORS[0]] < 3 * logits
    assert peaks[contenders.OURS] < 0.75 * peaks[contenders.FLOORS[0]]


def test_products_of_another_round_are_not_compared():
    """The machine may be twice as slow for a while: a round's time is over that of the products in that round."""
    r = records.record(SMALL, "x", 2, [1.2, 2.4, 1.2, 2.4], [1.0, 2.0, 1.0, 2.0], None)
    assert r["of_products"] == pytest.approx(1.2)
    assert records.record(SMALL, "x", 2, [3.0], [1.0, 2.0], None)["of_products"] == 3
    assert records.record(SMALL, "x", 2, [3.0], [], None)["of_products"] is None


class Scripted:
    """In place of a process: it answers what it was told to."""

    def __init__(self, name, first, seconds=1.0):
        self.name, self.first, self.seconds, self.times = name, first, seconds, []

    def ask(self, what):
        if isinstance(self.first, Exception):
            raise self.first
        return self.first if what == "first" else self.seconds


RIGHT = [2.0, {"hidden": [[1.0, 2.0]], "weight": [[3.0]]}]
WRONG = [2.0, {"hidden": [[1.0, 2.5]], "weight": [[3.0]]}]


def test_a_peer_that_is_wrong_or_fails_gets_a_line():
    given = [
        Scripted("broken", contest.FailedError("fails with OSError: no compiler")),
        Scripted("wrong", WRONG),
        Scripted("NaN", [np.nan, RIGHT[1]]),
        Scripted("right", RIGHT),
        Scripted("products, NumPy", None),
        Scripted(contenders.OURS, RIGHT),
    ]
    running, lines = contest._first_calls(SMALL, given, lambda text: None)
    assert [each.name for each in running] == [contenders.OURS, "right", "products, NumPy"]
    assert lines[0] == f"broken: fails with OSError: no compiler at {SMALL}"
    assert lines[1].startswith("wrong: its result differs by 0.5 at ")
    assert lines[2].startswith("NaN: its loss is nan, not 2.0 at ")
    for ours in (Scripted(contenders.DROP_IN, WRONG), Scripted(contenders.DROP_IN, contest.FailedError("ends"))):
        with pytest.raises((bench.WrongResultError, contest.FailedError), match=r"crossentropy\.torch"):
            contest._first_calls(SMALL, [Scripted(contenders.OURS, RIGHT), ours], lambda text: None)


def test_rounds_in_turns_and_one_of_what_is_slow(monkeypatch):
    monkeypatch.setattr(contest, "PAUSE", 0)
    asked = []
    given = [Scripted(name, RIGHT, seconds) for name, seconds in ((contenders.OURS, 1.0), ("like", 2.0), ("slow", 4.0))]
    contest._rounds(given, 0, asked.append)
    assert [len(each.times) for each in given] == [contest.FEWEST, contest.FEWEST, 1]
    assert asked[:5] == [
        *(f"round 1, {name}" for name in (contenders.OURS, "like", "slow")),
        f"round 2, {contenders.OURS}",
        "round 2, like",
    ]


def test_a_worker_that_fails_says_why(tmp_path):
    cases.write(SMALL, tmp_path)
    process = contest._Process(SMALL, tmp_path, "nobody", 1)
    try:
        with pytest.raises(contest.FailedError, match="fails with KeyError: 'nobody'"):
            process.ask("first")
        with pytest.raises(contest.FailedError, match="its process ends"):
            process.ask("time")
    finally:
        process.close()


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_contenders_compute_the_same(tmp_path, library):
    """In a process of their own, each operation and dtype that they have; torch.compile's own test is the contest."""
    pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    out = run(
        f"""
        import pathlib, warnings
        warnings.simplefilter("default")  # theirs are not ours
        from crossentropy.bench.linear import cases, contenders, records
        folder, count = pathlib.Path({str(tmp_path)!r}), 0
        for case in cases.cases(quick=True):
            cases.write(case, folder)
            p = cases.read(case, folder)
            ready = contenders.CONTENDERS["crossentropy"].prepare(p, 1)
            right = records.sampled(p, *ready.arrays(ready.call()))
            for name in contenders.chosen(case)[0]:
                contender = contenders.CONTENDERS[name]
                if {library!r} in contender.needs and name != "torch.compile":
                    ready = contender.prepare(p, 1)
                    result = ready.call()
                    if ready.arrays:
                        text = records.disagrees(case, records.sampled(p, *ready.arrays(result)), right)
                        assert not text, (name, case, text)
                        count += 1
        print(count)
        """,
        timeout=120,
    )
    assert int(out) >= 4


# ---------------------------------------------------------------------- the command, and README


def test_the_command_writes_what_it_measured(tmp_path):
    for needed in ("click", "rich", "matplotlib"):
        pytest.importorskip(needed, reason=f"the command line needs {needed}")
    chosen = ("--linear", "--quick", "--no-peers", "--only", "linear loss, 64", "--only", "float32", "--seconds", "0")
    out, _ = within("bench", *chosen, "--json", "a.json", cwd=tmp_path)
    assert "linear loss, 64 x 48 x 1000, float32" in out
    assert "x products" in out
    found = json.loads((tmp_path / "a.json").read_text())
    assert {r["implementation"] for r in found["linear"]} == {contenders.OURS, contenders.FLOORS[0]}


def test_cases_that_are_measured_again_replace_the_old_ones(document):
    old = [dict(r, median_s=9.0) for r in document["linear"]]
    new = [r for r in document["linear"] if r["option"]]
    found = records.merged(old, new)
    assert len(found) == len(old)
    assert {r["median_s"] == 9.0 for r in found if not r["option"]} == {True}
    assert [r for r in found if r["option"]] == new


def test_the_lines_of_readme(document):
    lines = list(tables.lines(document))
    assert list(tables.lines({})) == list(tables.lines(document | {"linear": []})) == []
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| 64 x")]
    ours = records.by_case(document["linear"])[SMALL][contenders.OURS]
    row = next(row for row in rows if row[1] == "loss + gradients")
    assert row[0] == "64 x 48 x 1000"
    assert row[4] == f"{ours['of_products']:.2f}×"
    assert [row[1] for row in rows] == ["loss + gradients", f"loss, {cases.HALF}"]
    heading = next(line for line in lines if line.startswith("| N x H x V")).split("|")[1:-1]
    assert {len(row) for row in rows} == {len(heading)}


def test_results_are_added_to_those_of_the_same_machine(document, tmp_path, monkeypatch):
    path = Path(__file__).parent.parent / "benchmarks" / "report.py"
    if not path.exists():
        pytest.skip("the benchmarks are in the source tree")
    pytest.importorskip("matplotlib", reason="the plots need matplotlib")
    spec = importlib.util.spec_from_file_location("report", path)
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    kept = {name: value for name, value in document.items() if name != "linear"} | {"date": "2000-01-01"}
    (tmp_path / "here.json").write_text(bench.to_json(kept))
    (tmp_path / "new").write_text(bench.to_json(document))
    report.add(tmp_path / "new", "here")
    found = json.loads((tmp_path / "here.json").read_text())
    assert found["linear"] == document["linear"]
    assert (found["date"], found["linear_on"]["date"]) == ("2000-01-01", document["date"])
    assert any("Linear cross-entropy" in line for line in report.section({"here": found}).splitlines())
    other = document | {"machine": document["machine"] | {"cpu": "another"}}
    (tmp_path / "new").write_text(bench.to_json(other))
    with pytest.raises(ValueError, match=r"is of another, .*here\.json of "):
        report.add(tmp_path / "new", "here")
