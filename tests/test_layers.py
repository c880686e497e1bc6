"""The fast layer keeps what layers.py promises: everything occurs in it once, and only named tests are missing."""

import importlib.util
import itertools
import re
import subprocess
import sys
from pathlib import Path

import layers
import pytest
from conftest import DTYPES, NATIVE, NUMBA

from crossentropy import testing

BACKENDS = [*NATIVE, *NUMBA]
pytestmark = pytest.mark.skipif(len(BACKENDS) < 2, reason="nothing is crossed with one backend")

HERE = Path(__file__).parent
COLLECT = """
import sys, pytest
status = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "tests"])
import layers
for name, slow in layers.collected:
    print(slow, name)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def layers_of_all():
    """The fast layer and the whole: (file, test) -> its cases, as pytest names them between brackets ('' for none)."""
    found = layers.collected
    files = {path.name for path in HERE.glob("test_*.py")} - {"test_cuda.py"}
    if not files <= {name.partition("::")[0].rpartition("/")[2] for name, _ in found}:  # this session has not all
        done = subprocess.run([sys.executable, "-c", COLLECT], capture_output=True, text=True, cwd=HERE.parent)
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.findall(r"^(True|False) (\S+::.*)$", done.stdout, re.MULTILINE)
        found = [(name, slow == "True") for slow, name in found]
    fast, whole = {}, {}
    for name, slow in found:
        file, test, case = re.fullmatch(r"(?:.*/)?(test_\w+\.py)::(\w+)(?:\[(.*)\])?", name, re.DOTALL).groups("")
        for layer in [whole] if slow else [fast, whole]:
            layer.setdefault((file, test), set()).add(case)
    return fast, whole


def test_what_is_slow_is_left_out_unless_asked_for(request):
    assert request.config.getini("addopts")[-2:] == ["-m", "not slow"]


@pytest.fixture
def fast(layers_of_all):
    return layers_of_all[0]


@pytest.fixture
def whole(layers_of_all):
    return layers_of_all[1]


def test_only_named_tests_are_missing_from_the_fast_layer(whole, fast):
    missing = {test for _, test in whole.keys() - fast.keys()}
    assert missing == layers.SLOW & {test for _, test in whole}
    assert all(cases <= whole[test] for test, cases in fast.items())
    assert sum(map(len, fast.values())) < 0.3 * sum(map(len, whole.values()))


def test_every_name_in_the_lists_is_a_test(whole):
    if not all(map(importlib.util.find_spec, ("torch", "numba", "jax"))):
        pytest.skip("some of the tests need torch, numba and jax")
    assert {test for _, test in whole} >= layers.SLOW | layers.FIRST | layers.VALUES
    assert {f"{test}[{case}]" for (_, test), cases in whole.items() for case in cases} >= layers.SLOW_CASES


def test_every_backend_meets_every_dtype(fast):
    for test in ("test_options_crossed_in_every_layout", "test_plain_rows_of_every_length", "test_edge_case"):
        cases = fast["test_contract.py", test]
        for backend, dtype in itertools.product(BACKENDS, DTYPES):
            assert any(case.startswith(f"{backend}-{dtype}-") for case in cases), (test, backend, dtype)


def test_every_choice_of_options_meets_every_backend(fast):
    cases = fast["test_contract.py", "test_options_crossed_in_every_layout"]
    for backend in {unit.partition("-")[0] for unit in BACKENDS}:
        found = {re.split("-(?=index|probability)", case)[1] for case in cases if case.startswith(backend)}
        assert found == set(map(str, testing.OPTION_SETS))
    for unit in BACKENDS:  # and each option by itself every ISA unit
        found = [re.split("-(?=index|probability)", case)[1] for case in cases if case.startswith(f"{unit}-")]
        assert {part for options in found for part in options.split("-")} == {
            part for options in map(str, testing.OPTION_SETS) for part in options.split("-")
        }


def test_every_edge_case_meets_every_backend(fast):
    cases = fast["test_contract.py", "test_edge_case"]
    for unit, name in itertools.product([*BACKENDS, "reference"], testing.EDGE_CASES):
        assert any(case.startswith(f"{unit}-") and case.endswith(f"-{name}") for case in cases), (unit, name)


def test_every_layout_meets_every_backend_and_dtype(fast):
    """In each way in which an array lies: read, written to, and as probability targets."""
    for test in (
        "test_logits_in_any_layout",
        "test_results_into_any_layout_and_in_place",
        "test_probability_targets_in_any_layout",
    ):
        cases = fast["test_layouts.py", test]
        for unit, dtype, layout in itertools.product(BACKENDS, DTYPES, testing.LAYOUTS):
            if DTYPES[dtype] is None or testing.has_layout(DTYPES[dtype], layout):
                assert any(case.startswith(f"{unit}-{dtype} {layout}") for case in cases), (test, unit, dtype, layout)


def test_every_error_is_raised(whole, fast):
    """On every backend, where it depends on one."""
    for (file, test), cases in whole.items():
        if file == "test_errors.py" or "wrong_input" in test:
            assert fast[file, test] == cases, test
