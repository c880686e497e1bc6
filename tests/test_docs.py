"""The documents say what the code does: quoted lines exist, identities hold, what is named is there."""

import re
from pathlib import Path

import numpy as np
import pytest

import crossentropy
from crossentropy import autograd

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
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "kernels").glob("*.md")]
    assert len(pages) >= 6
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (page.parent / path).exists(), (page, path)
        for path in re.findall(r"`((?:src|kernels|tests|benchmarks|docs|examples|\.ci)/[\w./-]+)", text):
            assert (ROOT / path).exists(), (page, path)
