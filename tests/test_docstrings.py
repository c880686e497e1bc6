"""Every public function has an example, and the examples give what they say; those of the how-to pages, too."""

import doctest
import importlib
import inspect
import math
import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import crossentropy

ROOT = Path(__file__).parent.parent
# Modules of the package, with what they need; names that a module only passes on are examined where they are at home.
NEEDS = {name: name for name in ("dask", "jax", "keras", "sklearn", "torch", "transformers")} | {"numba_rows": "numba"}
HERE = ("autograd", "blocks", "boosting", "distributions", "reference", "testing", "training")
MODULES = dict.fromkeys(HERE, "") | NEEDS
os.environ.setdefault("KERAS_BACKEND", "jax" if find_spec("jax") else "torch")  # whose losses crossentropy.keras has
RECORDS = (tuple, dict)  # what functions return, or take: their functions show them


def examples_of(text, names, name):
    """Run the examples of a text in those names."""
    names.update(np=np, crossentropy=crossentropy, math=math)
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    runner.run(test, out=report.append, clear_globs=False)
    names.update(test.globs)
    assert not runner.failures, "".join(report)
    return len(test.examples)


# What is in nats: losses, and what adds up to them. The gradient of one is a number.
NATS = r"(?i)loss|entropy|log_prob|logsumexp|log_softmax|distillation|statistics|metric|evaluat|aggregate"
NOT_NATS = r"_(gradient|backward|row|objective|scorer|fwd|bwd)$|(?<!and)_grad$|restored"
# Where mathematics is from: the note, its derivation, a paper, or the function of a library that it stands for.
SOURCE = (
    r"[Ee]q\. \d|algorithm 1|[Ss]ections?\s+\d|et al|References\n|the note"
    r"|`(torch|torchvision|optax|keras|jax|sklearn|scipy)\.|scikit-learn's|ForCausalLMLoss"
    r"|`\w+` and `\w+` at once|`\w+_objective`|From `forward`"
)
MATHEMATICS = NATS + r"|softmax|gradient|backward|forward|hess|blocks\.(?!cuts)|training\.|distributions\.|objective"


def lacks(name, value):
    """The parts of a docstring that are not there."""
    text = inspect.getdoc(value) or ""
    sections = re.findall(r"^(\w[\w ]*)\n-{3,}$", text, re.MULTILINE)
    function = getattr(value, "py_func", value)  # of Numba's
    parameters = [p for p in inspect.signature(function).parameters if not p.startswith("_")]
    described = re.findall(
        r"^(?:Parameters|Attributes)\n-+\n(.*?)(?=^\w[\w ]*\n---|\Z)", text, re.MULTILINE | re.DOTALL
    )
    heads = re.findall(r"^\S.*", "".join(described), re.MULTILINE)
    named = {word.strip(" *") for head in heads for word in head.partition(" : ")[0].split(",")}
    nothing = getattr(function, "__annotations__", {}).get("return") in (None, "None")
    if set(parameters) - named:
        yield f"Parameters: {', '.join(sorted(set(parameters) - named))}"
    if not inspect.isclass(value) and not nothing and not {"Returns", "Yields"} & set(sections):
        yield "Returns"
    if "Parameters" in sections and "Raises" not in sections:
        yield "Raises"
    if re.search(NATS, name) and not re.search(NOT_NATS, name) and "nats" not in text:
        yield "its unit, nats"
    if re.search(MATHEMATICS, name) and "restored" not in name and not re.search(SOURCE, text):
        yield "its source: an equation, a section of the derivation, a paper, a library's function"


@pytest.mark.skipif(not crossentropy.__doc__, reason="python -OO has no docstrings")
def test_every_public_docstring_has_parameters_results_errors_units_and_source():
    checked, found = 0, {}
    for name, value in public():
        at_home = name.partition(".")[0] not in ("reference", "testing")  # the specification; for makers of backends
        if at_home and (inspect.isroutine(value) or inspect.isclass(value) or hasattr(value, "py_func")):
            checked += 1
            if missing := list(lacks(name, value)):
                found[name] = missing
    assert not found
    assert checked >= 40


def public():
    """(name, function or class) of everything that is public and called."""
    for name in crossentropy.__all__:
        value = getattr(crossentropy, name)
        if callable(value) and not (isinstance(value, type) and issubclass(value, RECORDS)):
            yield name, value
    for module, needed in MODULES.items():
        if not needed or find_spec(needed):
            found = importlib.import_module(f"crossentropy.{module}")
            for name in getattr(found, "__all__", [name for name in vars(found) if not name.startswith("_")]):
                value = getattr(found, name)
                at_home = getattr(value, "__module__", "").startswith(f"crossentropy.{module}")
                if callable(value) and at_home and not (isinstance(value, type) and issubclass(value, RECORDS)):
                    yield f"{module}.{name}", value


@pytest.mark.skipif(not crossentropy.__doc__, reason="python -OO has no docstrings")
def test_every_public_function_has_an_example_that_holds():
    without, count = [], 0
    page = ROOT / "docs" / "reference" / "specification.rst"  # of the specification, the functions that it shows
    shown = re.findall(r"autofunction:: (\w+)", page.read_text(encoding="utf-8")) if page.exists() else []
    for name, value in public():
        found = examples_of(inspect.getdoc(value) or "", {}, name)
        count += found
        if not found and (not name.startswith("reference.") or name.removeprefix("reference.") in shown):
            without.append(name)
    assert not without
    assert count >= 100


def pages():
    """The pages with examples, and what they need."""
    found = [ROOT / "docs" / "settings.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
    needed = {
        "pytorch.md": ["torch"],
        "numba.md": ["numba"],
        "boosters.md": ["xgboost", "lightgbm"],
        "scikit_learn.md": ["sklearn"],
        "jax.md": ["jax"],
        "arrays.md": ["xarray"],
        "beyond_one_machine.md": ["torch", "dask"],
        "transformers.md": ["transformers"],
    }
    return [pytest.param(path, needed.get(path.name, []), id=path.name) for path in found if path.exists()]


@pytest.mark.parametrize(("page", "needed"), pages())
def test_the_examples_of_a_page_run(page, needed):
    """Block by block, in one namespace."""
    for module in needed:
        pytest.importorskip(module)
    if "numba" in needed:
        crossentropy.numba_overloads.init()  # as Numba does where the package is installed
    names, count = {}, 0
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if ">>>" in block:
            count += examples_of(block, names, page.name)
        else:
            compile(block, page.name, "exec")
    assert count or page.name == "gpu.md"  # whose arrays lie on a device
