"""What strangers see first: README's links lead somewhere, versions and addresses are the same wherever they stand."""

import re
import tomllib
from pathlib import Path

import pytest

import crossentropy
from crossentropy._options import OPTIONS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
pytestmark = pytest.mark.skipif(not (ROOT / "recipe").exists(), reason="the release's files are in the source tree")


def addresses():
    """The project's, from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]


def test_readme_is_short_and_its_links_work_on_a_package_index():
    """They are absolute, and name files and pages that there are."""
    text, found = README.read_text(encoding="utf-8"), addresses()
    assert len(text.splitlines()) <= 150
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) >= 15
    for link in links:
        of_file = re.fullmatch(re.escape(found["Repository"]) + r"/(?:blob|raw)/main/(.+)", link)
        of_page = re.fullmatch(re.escape(found["Documentation"]) + r"/(?:(.+)\.html)?", link)
        assert of_file or of_page, link
        if of_file:
            assert (ROOT / of_file[1]).exists(), link
        else:
            page = ROOT / "docs" / (of_page[1] or "index")
            assert page.with_suffix(".md").exists() or page.with_suffix(".rst").exists(), link


def test_readme_and_the_page_for_numpy_name_every_option():
    for path in (README, ROOT / "docs" / "howto" / "numpy.md"):
        text = path.read_text(encoding="utf-8")
        assert [name for name in OPTIONS if f"`{name}`" not in text] == [], path


def test_the_first_example_of_readme_runs():
    (block, *_) = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names = {}
    exec(block, names)
    assert names["grad"].shape == (64, 1000)
    assert block in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "pattern"),
    [("CITATION.cff", r"^version: (.+)$"), ("recipe/recipe.yaml", r'^  version: "(.+)"$')],
)
def test_the_version_stands_once_and_is_repeated_right(path, pattern):
    (version,) = re.findall(pattern, (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert version == crossentropy.__version__
    assert crossentropy.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_addresses_are_those_of_the_project():
    known = (addresses()["Repository"], addresses()["Documentation"])
    header = "src/crossentropy/include/crossentropy.h"
    for path in ("SECURITY.md", "CITATION.cff", "recipe/recipe.yaml", ".github/ISSUE_TEMPLATE/config.yml", header):
        if (ROOT / path).exists():
            for address in re.findall(
                r"https://[\w./-]*example\.org[\w./-]*", (ROOT / path).read_text(encoding="utf-8")
            ):
                assert address.startswith(known), (path, address)


def test_issues_ask_for_what_runs_there():
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    if not folder.exists():
        pytest.skip("the sdist has no templates of issues")
    forms = [path for path in folder.glob("*.yml") if path.name != "config.yml"]
    assert len(forms) >= 2
    for path in forms:
        assert "crossentropy info" in path.read_text(encoding="utf-8")


def test_the_changelog_has_the_form_that_it_names():
    """Keep a Changelog's six kinds of change, under a version or what is unreleased; the larger functions are in it."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert re.search(r"^## \[(Unreleased|\d+\.\d+\.\d+)\]", text, re.MULTILINE)
    main = [name.removesuffix("_and_grad") for name in crossentropy.__all__ if name.endswith("_and_grad")]
    added = [*main, "row_statistics", "distillation", "cross_entropy_grad_hess", "Evaluation", "blocks"]
    assert [name for name in added if name not in text] == []
