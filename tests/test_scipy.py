"""SciPy's own tests of its logsumexp, softmax and log_softmax, on this package's functions in their place."""

import inspect

import numpy as np
import pytest

import crossentropy

theirs = pytest.importorskip("scipy.special.tests.test_logsumexp", reason="the tests are SciPy's")


def over_all(function):
    """A function with SciPy's default axis, which is all of them; ours is the last."""

    def call(x, axis=None, **options):
        return function(x, axis, **options)

    return call


# What is left out, and why: by the name of a test, with a word of its parameters, or ''.
LEFT_OUT = {
    ("test_logsumexp_complex_sign", ""): "complex logits are refused",
    ("test_gh21610", ""): "complex logits",
    ("test_gh21709_small_imaginary", ""): "complex logits",
    ("test_gh22601_infinite_elements", "complex"): "complex logits",
    ("test_dtypes_a", "complex"): "complex logits",
    ("test_dtypes_ab", "complex"): "complex logits or weights",
    ("test_dtypes_ab", "float32-float64"): "weights do not change the dtype of the result",
    ("test_dtypes_ab", "float32-int"): "weights do not change the dtype of the result",
    ("test_device", ""): "of the array libraries' devices, by a fixture of SciPy's",
}


def cases(group):
    """(name, parameters) of each test of one of SciPy's classes, as its own marks have them."""
    for name, function in vars(group).items():
        if not name.startswith("test_"):
            continue
        sets = [{}]
        for mark in getattr(function, "pytestmark", []):
            if mark.name == "parametrize":
                names = [each.strip() for each in mark.args[0].split(",")]
                values = [each if len(names) > 1 else (each,) for each in mark.args[1]]
                sets = [{**dict(zip(names, value, strict=True)), **given} for value in values for given in sets]
        for given in sets:
            yield name, given


def words(given):
    """Parameters as they are told apart by."""
    return "-".join("complex" if isinstance(value, complex) else str(value) for value in given.values())


# Once: some of their parameters are iterators.
GROUPS = (theirs.TestLogSumExp, theirs.TestSoftmax, theirs.TestLogSoftmax)
ALL = [(group, name, given) for group in GROUPS for name, given in cases(group)]
RUN = [
    pytest.param(*each, id=f"{each[1]}-{words(each[2])}".strip("-"))
    for each in ALL
    if not any(each[1] == test and word in words(each[2]) for test, word in LEFT_OUT)
]


@pytest.mark.parametrize(("group", "name", "given"), RUN)
@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # of what they compute to compare with
def test_scipys_own(backend, monkeypatch, group, name, given):
    for function in ("logsumexp", "softmax", "log_softmax"):
        monkeypatch.setattr(theirs, function, over_all(getattr(crossentropy, function)))
    test = getattr(group(), name)
    test(**given, **({"xp": np} if "xp" in inspect.signature(test).parameters else {}))


def test_all_of_them_are_run():
    """But for those that are left out; each reason is one of a test that there is."""
    everything, run = {name for _, name, _ in ALL}, {each.values[1] for each in RUN}
    assert everything - run == {name for name, word in LEFT_OUT if not word}
    assert {name for name, _ in LEFT_OUT} <= everything
    assert {"test_log_softmax_noneaxis", "test_log_softmax_3d", "test_log_softmax_scalar", "test_logsumexp_b"} <= run
