"""CONTRIBUTING.md says what is so: the map is the tree, and each list of files is what its example takes."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documents are in the source tree")

# Where an example is looked for: what is written by hand for it. Tests and benchmarks name it for reasons of their own.
SEARCHED = ("src", "kernels", "setup.py")
SUFFIXES = (".py", ".pyx", ".c", ".h")


def recipes():
    """(title, the example's pattern, the files of its list) of each "Add ..." section."""
    found = []
    for title, text in re.findall(r"^### (Add .+?)\n(.*?)(?=^##)", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        (example,) = re.findall(r"^Example: .*\(`/(.+?)/`\)", text, re.MULTILINE)
        paths = re.findall(r"^\d+\. `([^`]+)`", text, re.MULTILINE)
        found.append(pytest.param(example, paths, id=title))
    return found


def holding(pattern):
    """The source files in which a pattern occurs."""
    files = [ROOT / part for part in SEARCHED]
    files = [path for part in files for path in ([part] if part.is_file() else part.rglob("*"))]
    names = [path.relative_to(ROOT).as_posix() for path in files if path.suffix in SUFFIXES]
    return {name for name in names if re.search(pattern, name + "\n" + (ROOT / name).read_text(encoding="utf-8"))}


@pytest.mark.parametrize(("example", "paths"), recipes() if PAGE.exists() else [])
def test_a_list_names_every_file_of_its_example_and_no_other(example, paths):
    assert len(paths) == len(set(paths))
    source = {path for path in paths if path.startswith(SEARCHED) and Path(path).suffix in SUFFIXES}
    assert holding(example) == source
    for path in set(paths) - source:
        assert re.search(example, (ROOT / path).read_text(encoding="utf-8")), path


def test_there_is_a_list_for_whatever_is_added():
    titles = [parameters.id for parameters in recipes()]
    assert titles == ["Add an option", "Add an output", "Add a kernel", "Add an ISA", "Add a backend"]


def test_the_map_is_the_tree():
    done = subprocess.run([sys.executable, ROOT / "docs" / "house.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_file_opens_with_a_sentence():
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
    house = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(house)
    for line in house.section().splitlines():
        name, _, sentence = line.strip("- ").partition("`: ")
        assert name.endswith("/`") or name.startswith("<!--") or len(sentence) > 20, line


def test_the_layers_are_those_of_the_contracts():
    """Every module of the package's own folder stands in one of the layers that import-linter is given."""
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = {name.strip() for layer in contracts[0]["layers"] for name in re.split("[:|]", layer)}
    folder = ROOT / "src" / "crossentropy"
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert named == modules - {"__init__"}
    layers = PAGE.read_text().partition("## The layers")[2].partition("## ")[0]
    for name in named - {"__main__"}:
        assert f"`{name}`" in layers, name
