"""Losses over several processes: classes, rows or both spread over ranks, and what goes wrong between these.

All processes are those of one run of torch_ranks.py: starting PyTorch takes longer than the cases.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the losses of several processes need PyTorch")
distributed = pytest.importorskip("torch.distributed", reason="and its process groups")
if not (sys.platform == "linux" and distributed.is_available() and distributed.is_gloo_available()):
    pytest.skip("ranks are forked, which macOS's own libraries do not bear, and talk by gloo", allow_module_level=True)

import torch_rank_cases as cases  # noqa: E402
import torch_rank_draws  # noqa: E402, F401 -- whose cases are among them then
import torch_rank_faults as faults  # noqa: E402

HERE = Path(__file__).parent
SECONDS = 300


@pytest.fixture(scope="module")
def found(request, tmp_path_factory):
    """What each rank found in each case: {"cases-0": {name: {"error": ..., "said": ...}}, ...}."""
    here = [item for item in request.session.items if item.path == request.path]
    chosen = {item.callspec.params["name"] for item in here if hasattr(item, "callspec")}
    path = tmp_path_factory.mktemp("ranks") / "found.json"
    command = [sys.executable, str(HERE / "torch_ranks.py"), str(path), *sorted(chosen)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def _marked(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in cases.SLOW else name for name in names]


@pytest.mark.parametrize("name", _marked(cases.CASES))
def test_what_four_ranks_find(name, found):
    _right(name, found, "cases", cases.RANKS)


@pytest.mark.parametrize("name", _marked(cases.OF_TWO))
def test_what_two_ranks_find(name, found):
    _right(name, found, "pairs", 2)


def _right(name, found, kind, ranks):
    errors = []
    for rank in range(ranks):
        of_rank = found.get(f"{kind}-{rank}", {})
        last = next(reversed(of_rank.values()))["error"] if of_rank else "nothing at all"
        errors.append(of_rank[name]["error"] if name in of_rank else f"did not come so far; the last one said {last}")
    assert errors == [""] * ranks, "\n".join(f"rank {rank}: {error}" for rank, error in enumerate(errors))


# What each rank is told: the type of error, and a part of its words; None for a rank that is not asked.
TOLD = {
    "killed": [("RuntimeError", "another one is gone"), None],
    "late": [("RuntimeError", "gone or late"), None],
    "other_rows": [("ValueError", "got [6, 3]"), ("ValueError", "got [6, 3]")],
    "other_new_rows": [("ValueError", "got [4, 5]"), ("ValueError", "got [4, 5]")],
    "more_rows_than_before": [("ValueError", "got [600, 6]"), ("ValueError", "got [600, 6]")],
    "rows_in_turn": [("a loss", ""), ("a loss", "")],
    "other_targets": [("ValueError", "target"), ("ValueError", "target")],
    "other_owner": [("ValueError", "target"), ("ValueError", "target")],
    "ignored_on_one": [("ValueError", "target"), ("ValueError", "target")],
    "bad_target": [
        ("RuntimeError", "another rank refused its arguments: [1]"),
        ("IndexError", "target[0] must be a class in [0, 100) or ignore_index -100, got 1000"),
    ],
    "bad_shape": [
        ("RuntimeError", "another rank refused its arguments: [1]"),
        ("ValueError", "the shape of the rows, (6,), or be probabilities of shape (6, 50), got (2, 3)"),
    ],
    "bad_weight": [
        ("RuntimeError", "another rank refused its arguments: [1]"),
        ("ValueError", "weight must be finite and not negative"),
    ],
    "other_options": [("ValueError", "options must be the same"), ("ValueError", "options must be the same")],
    "other_dtype": [("ValueError", "one dtype"), ("ValueError", "one dtype")],
    "overlapping_ranges": [("ValueError", "vocab_range"), ("ValueError", "vocab_range")],
    "a_range_on_one": [("ValueError", "vocab_range"), ("ValueError", "vocab_range")],
    "other_function": [("ValueError", "the same"), ("ValueError", "the same")],
    "goes_on_after_a_bad_target": [("a loss", ""), ("a loss", "")],
}


@pytest.mark.parametrize("name", faults.FAULTS)
def test_faults(name, found):
    for rank, told in enumerate(TOLD[name]):
        if told is None:
            continue
        at_rank = found[f"{name}-{rank}"][name]
        assert not at_rank["error"], at_rank["error"]
        said, seconds = at_rank["said"]
        kind, words = told
        assert said.startswith(kind), said
        assert words in said, said
        assert seconds < faults.TIMEOUT + 3, f"{seconds} s until {said}"
