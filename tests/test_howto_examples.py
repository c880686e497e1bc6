"""Each example of a how-to page runs, in a process of its own, and says what it found."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples"
NEEDED = {
    "scikit_learn": ["sklearn"],
    "pytorch_step": ["torch"],
    "transformers_model": ["torch", "transformers"],
    "data_parallel": ["torch"],
    "jax_model": ["jax"],
    "numba_loop": ["numba"],
    "command_line": ["click", "sklearn", "pandas", "skops"],
    "boosters": ["xgboost", "lightgbm", "sklearn"],
    "streaming_evaluation": ["torch", "click", "rich", "matplotlib"],  # by way of character_model
}
SAYS = {
    "scikit_learn": "after one pass over a stream",
    "numpy_classifier": "held out: loss",
    "other_arrays": "the losses differ by",
    "pytorch_step": "the gradients differ by",
    "jax_model": "right on the other half",
    "transformers_model": "the losses differ by",
    "data_parallel": "the gradients differ by",
    "language_model_loss": "perplexity",
    "gpu_arrays": "device",
    "numba_loop": "right",
    "command_line": "H(P,Q)",
    "blocks_of_classes": "the gradients differ by",
    "boosters": "at most",
    "streaming_evaluation": "the same bits: True",
}
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the examples are in the source tree")


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name, tmp_path):
    missing = [module for module in NEEDED.get(name, []) if not find_spec(module)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    command = [sys.executable, "-W", "default", FOLDER / f"{name}.py"]  # warnings of libraries are theirs
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
    assert not list(tmp_path.iterdir())


def test_every_example_is_run_and_named():
    files = {path.stem for path in FOLDER.glob("*.py")}
    assert files == {*SAYS, "character_model"}  # which tests/test_examples.py runs in pieces
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    for name in files:
        assert f"{name}.py" in text
        assert f"examples/{name}.py" in pages, name
    howto = [
        *(ROOT / "docs" / "howto").glob("*.md"),
        *(ROOT / "docs" / f"{name}.md" for name in ("command_line", "language_models")),
    ]
    assert [page.name for page in howto if "examples/" not in page.read_text(encoding="utf-8")] == []
