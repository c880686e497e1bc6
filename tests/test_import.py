"""What ``import crossentropy`` costs and loads."""

import importlib.util
import inspect
import re

import pytest
from subprocesses import run

import crossentropy

HEAVY = ("numba", "torch", "jax", "matplotlib", "sklearn", "scipy", "click", "rich", "pandas")


def test_loads_nothing_heavy():
    out = run(f"""
        import sys
        import crossentropy
        crossentropy.cross_entropy([[1.0, 2.0]], [0])
        print([name for name in {HEAVY} if name in sys.modules])
    """)
    assert out.strip() == "[]"


def test_takes_little_over_numpy():
    """At most 30 ms over NumPy; the least of five, since a shared machine only ever adds."""
    code = """
        import time
        import numpy
        start = time.perf_counter()
        import crossentropy
        crossentropy.cross_entropy
        print(time.perf_counter() - start)
    """
    assert min(float(run(code)) for _ in range(5)) <= 0.030


def test_every_public_name_is_there():
    for name in crossentropy.__all__:
        assert getattr(crossentropy, name) is not None
    assert set(crossentropy.__all__) <= set(dir(crossentropy))
    with pytest.raises(AttributeError, match="no attribute 'crossentropy'"):
        crossentropy.crossentropy  # noqa: B018


def test_version_is_the_metadata_s():
    from importlib.metadata import version

    assert crossentropy.__version__ == version("crossentropy")


def test_docstrings_are_complete():
    """Parameters, results and errors of every public function; no placeholder is left."""
    from crossentropy import api, autograd, distributions, training

    modules = [api, autograd, distributions, training]
    if importlib.util.find_spec("torch"):
        modules.append(importlib.import_module("crossentropy.torch"))
    for module in modules:
        names = getattr(module, "__all__", [name for name in vars(module) if name in crossentropy.__all__])
        for name in names:
            function = getattr(module, name)
            if isinstance(function, type):
                continue
            doc = function.__doc__
            assert doc, name
            assert not re.search(r"\{(options|raises)\}", doc), name
            if module is not training and inspect.signature(function).parameters:
                assert "Parameters\n" in doc, name
                assert "Returns\n" in doc, name
                assert "Raises\n" in doc, name
