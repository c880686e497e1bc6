"""The constants of e^z and of the logarithm stand in two languages, and are those that kernels/math/fit.py fits."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "src/crossentropy/_backends/exponential.py"


def fit(root, argument):
    return subprocess.run(
        [sys.executable, str(root / "kernels/math/fit.py"), argument], capture_output=True, text=True, timeout=120
    )


def test_the_constants_are_as_they_are_fitted():
    done = fit(ROOT, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_scales_of_float32_are_found_again():
    done = fit(ROOT, "--search")
    found = re.findall(r"^float32, table of (\d+): found (\S+): \S+; held (\S+): ", done.stdout, re.MULTILINE)
    assert [entries for entries, _, _ in found] == ["16", "8"], done.stdout + done.stderr
    for entries, best, held in found:
        assert best == held, entries


@pytest.mark.parametrize(
    ("file", "digits", "others", "name"),
    [
        ("kernels/math/exp.h", "0x1.120be2p-7", "0x1.120be4p-7", "exp.h: float32: q[1]"),
        ("kernels/math/exp.h", "0x1.48348ap", "0x1.48348cp", "exp.h: float32, table of 16: exp_table_f32[5]"),
        ("kernels/math/exp.h", "0x1.555b7ep", "0x1.555b80p", "exp.h: float32, table of 8: exp_table_q_f32[1]"),
        (
            "kernels/math/exp.h",
            "0x1.11111110e0d94p",
            "0x1.11111110e0d95p",
            "exp.h: float64, table of 16: exp_table_q_f64[2]",
        ),
        ("kernels/math/exp.h", "0x1.bed8652b84007p+0, ", "", "exp.h: float64, table of 16: exp_table_f64[12]"),
        (
            "kernels/math/exp.h",
            "EXP_SCALE_f64 0x1.09b22008cb69fp",
            "EXP_SCALE_f64 0x1.09b22008cb69ep",
            "exp.h: float64, table of 16: EXP_SCALE_f64",
        ),
        ("kernels/math/anchor.h", "LN2_LO -0x1.8432a1b0e2634p", "LN2_LO 0x1.8432a1b0e2634p", "exp.h: float64: ln2_lo"),
        ("kernels/math/log.h", "0x1.2492492dfd86cp-2, ", "", "log.h: log: log_constants[4]"),
        (PYTHON, "0x1.71547652b82fep+0", "0x1.71547652b82ffp+0", "exponential.py: float64: log2e"),
        (PYTHON, '"0x1p-1"', '"0x1p-2"', "exponential.py: float32: q[4]"),
    ],
)
def test_a_constant_that_differs_is_named(tmp_path, file, digits, others, name):
    shutil.copytree(ROOT / "kernels/math", tmp_path / "kernels/math")
    (tmp_path / PYTHON).parent.mkdir(parents=True)
    shutil.copy(ROOT / PYTHON, tmp_path / PYTHON)
    text = (tmp_path / file).read_text()
    assert digits in text
    (tmp_path / file).write_text(text.replace(digits, others))
    done = fit(tmp_path, "--check")
    assert done.returncode == 1
    assert f"{name} is " in done.stdout, done.stdout + done.stderr
