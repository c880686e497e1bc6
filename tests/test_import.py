"""What ``import crossentropy`` costs and loads."""

import ast
import importlib.util
import inspect
import re

import pytest
from subprocesses import run

import crossentropy

HEAVY = ("numpy.ma", "numba", "torch", "jax", "matplotlib", "sklearn", "scipy", "click", "rich", "pandas")


def test_loads_nothing_heavy():
    out = run(f"""
        import sys
        import crossentropy
        crossentropy.cross_entropy([[1.0, 2.0]], [0])
        print([name for name in {HEAVY} if name in sys.modules])
    """)
    assert out.strip() == "[]"


def test_the_gil_stays_as_it_is():
    """An extension that does not say that it needs none brings it back into a free-threaded Python."""
    out = run("""
        import sys
        has_gil = getattr(sys, "_is_gil_enabled", lambda: True)
        before = has_gil()
        from crossentropy import native
        print(native.current_isa(), has_gil() == before)
    """)
    assert out.split()[1] == "True"


def test_takes_little_over_numpy():
    """At most a third of what NumPy itself takes; the least of five, since a shared machine only ever adds."""
    code = """
        import time
        start = time.process_time()
        import numpy
        middle = time.process_time()
        import crossentropy
        crossentropy.cross_entropy
        print((time.process_time() - middle) / (middle - start))
    """
    assert min(float(run(code)) for _ in range(5)) <= 1 / 3


def test_every_public_name_is_there():
    for name in crossentropy.__all__:
        assert getattr(crossentropy, name) is not None
    assert set(crossentropy.__all__) <= set(dir(crossentropy))
    with pytest.raises(AttributeError, match="no attribute 'crossentropy'"):
        crossentropy.crossentropy  # noqa: B018


def test_checkers_see_the_names_that_there_are():
    """What is imported under TYPE_CHECKING is what is imported when it is first used."""
    tree = ast.parse(inspect.getsource(crossentropy))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {name.name for node in block.body for name in node.names}
    assert seen == set(crossentropy._HOME) | set(crossentropy._MODULES)


@pytest.mark.parametrize("name", ["native", "numba_cpu"])
def test_a_backend_by_its_public_name_is_one(name):
    if name == "numba_cpu" and not importlib.util.find_spec("numba"):
        pytest.skip("numba is missing")
    backend = getattr(crossentropy, name)
    with crossentropy.config(backend=backend):
        loss, grad = crossentropy.cross_entropy_and_grad([[1.0, 2.0]], [0], z_loss=0.1)
    assert loss > 1
    assert grad.shape == (1, 2)
    with pytest.raises(TypeError, match=r"backend must have the functions of one, got crossentropy\.reference without"):
        crossentropy.config(backend=crossentropy.reference)


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
