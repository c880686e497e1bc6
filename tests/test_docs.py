"""The documents say what the code does: quoted lines exist, identities hold, what is named is there."""

import doctest
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import crossentropy
from crossentropy import autograd
from crossentropy.linear import chunks

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    not (ROOT / "docs" / "derivation.md").exists(), reason="the documents are in the source tree"
)


def test_the_derivation_quotes_lines_of_the_code():
    quotes = re.findall(r"^- code: `([^`]+)`: `([^`]+)`$", (ROOT / "docs" / "derivation.md").read_text(), re.MULTILINE)
    assert len(quotes) >= 15
    for path, line in quotes:
        assert line in (ROOT / path).read_text(), f"{path} has no line {line!r}"


def test_the_second_derivative(rng):
    """H u by the backward of the log-softmax, against differences of the gradient."""
    z, u = rng.standard_normal(7), rng.standard_normal(7)
    p = crossentropy.softmax(z)
    _, saved = autograd.log_softmax_forward(z)
    product = autograd.log_softmax_backward(saved, p * u)
    np.testing.assert_allclose(product, (np.diag(p) - np.outer(p, p)) @ u, atol=1e-15)
    up, down = (crossentropy.cross_entropy_grad(z + step * u, 2) for step in (1e-6, -1e-6))
    np.testing.assert_allclose(product, (up - down) / 2e-6, atol=1e-9)


def test_documents_name_no_file_that_is_not_there():
    """In links, and in code as paths from the root."""
    pages = [page for folder in ("docs", "kernels", "examples") for page in (ROOT / folder).rglob("*.md")]
    pages += ROOT.glob("*.md")
    assert len(pages) >= 6
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (page.parent / path).exists(), (page, path)
        for path in re.findall(r"`((?:src|kernels|tests|benchmarks|docs|examples|\.ci)/[\w./-]+)", text):
            assert (ROOT / path).exists(), (page, path)


# ---------------------------------------------------------------------- docs/language_models.md


MODELS = {"GPT-2": (768, 50257), "Llama 3, 8B": (4096, 128256), "Gemma 2, 2B": (2304, 256000)}
TOKENS = 8192


def memory_table():
    """The lines of the table, from the rule that the engine goes by."""
    for name, (features, classes) in MODELS.items():
        rows = chunks.rows_of(TOKENS, classes, 4, 2 * classes * features)
        sizes = [4 * TOKENS * classes, 4 * rows * classes, 4 * classes * features]
        logits, at_once, total = (f"{size / 1e6:.0f}" for size in sizes)
        yield f"| {name} | {features} | {classes} | {logits} | {rows} | {at_once} | {total} |"


def test_the_memory_that_language_models_need():
    text = (ROOT / "docs" / "language_models.md").read_text(encoding="utf-8")
    table = text.partition("<!-- memory: begin -->")[2].partition("<!-- memory: end -->")[0]
    assert table.strip().splitlines()[2:] == list(memory_table())


def test_the_examples_for_language_models_run():
    """Block by block, in one namespace; those for PyTorch where it is."""
    text = (ROOT / "docs" / "language_models.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    names, runner = {}, doctest.DocTestRunner()
    for block in blocks:
        if "torch" not in block or find_spec("torch"):
            test = doctest.DocTestParser().get_doctest(block, names, "language_models.md", None, None)
            assert test.examples
            result = runner.run(test, clear_globs=False)
            names.update(test.globs)
            assert not result.failed, block


def test_the_picture_of_who_holds_what_is_what_its_script_draws():
    script = ROOT / "docs" / "who_holds_what.py"
    assert subprocess.run([sys.executable, script, "--check"]).returncode == 0
