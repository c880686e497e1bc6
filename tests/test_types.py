"""What a type checker makes of a user's program: the package's types are there, and say no where the package would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is missing")
PROGRAM = Path(__file__).parent / "typed_program.py"


def test_a_users_program_under_mypy_strict(tmp_path):
    """Each line with a comment is an error of that kind, a misspelt option and a wrong reduction among them."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path, PROGRAM],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert "Skipping analyzing" not in done.stdout, done.stdout
    found = re.findall(r"typed_program\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    lines = PROGRAM.read_text().splitlines()
    expected = [(str(n), line.rpartition("# ")[2]) for n, line in enumerate(lines, 1) if "  # " in line]
    assert len(expected) >= 9
    assert found == expected, done.stdout
