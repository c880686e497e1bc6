"""Losses over several processes: classes, rows or both spread over ranks, and what goes wrong between these.

All processes are those of one run of torch_ranks.py: starting PyTorch takes longer than the cases.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the losses of several processes need PyTorch")
distributed = pytest.importorskip("torch.distributed", reason="and its process groups")
if not (hasattr(os, "fork") and distributed.is_available() and distributed.is_gloo_available()):
    pytest.skip("ranks are forked, and talk by gloo", allow_module_level=True)

import torch_rank_cases as cases  # noqa: E402
import torch_rank_faults as faults  # noqa: E402

HERE = Path(__file__).parent
SECONDS = 300


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank found in each case: {"cases-0": {name: {"error": ..., "said": ...}}, ...}."""
    path = tmp_path_factory.mktemp("ranks") / "found.json"
    command = [sys.executable, str(HERE / "torch_ranks.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", cases.CASES)
def test_ranks(name, found):
    for rank in range(4):
        of_rank = found.get(f"cases-{rank}", {})
        assert name in of_rank, f"rank {rank} did not come so far: {list(of_rank)[-1:]}"
        assert not of_rank[name]["error"], f"rank {rank}: {of_rank[name]['error']}"


# What each rank is told: the type of error, and a part of its words.
TOLD = {
    "killed": [("RuntimeError", "another one is gone"), None],
    "late": [("RuntimeError", "gone or late"), None],
    "other_rows": [("RuntimeError", "number of rows"), ("RuntimeError", "number of rows")],
    "other_new_rows": [("ValueError", "got [4, 5]"), ("ValueError", "got [4, 5]")],
    "rows_that_one_has_seen": [("RuntimeError", "number of rows"), ("RuntimeError", "number of rows")],
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
