"""The package's functions called inside njit: what they give outside, with every option of the table."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import AVAILABLE
from subprocesses import run

import crossentropy
from crossentropy import _options

if not AVAILABLE["numba"]:
    pytest.skip("Numba is not installed", allow_module_level=True)

import numba

from crossentropy import numba_overloads

numba_overloads.init()  # which Numba does by the entry point of an installed package

ROOT = Path(__file__).parent.parent
N, C = 12, 5
ARRAYS = {
    "class_weight": [0.5, 2.0, 0.0, 1.0, 4.0],
    "sample_weight": [1.0, 0.0, 2.0, 0.5] * 3,
    "class_prior": [0.1, -1.0, -0.5, 0.0, 2.0],
    "where": [True, True, False] * 4,
}
GIVEN = {name: np.array(value) for name, value in ARRAYS.items()}
GIVEN |= {name: _options.OPTIONS[name].samples[0] for name in _options.NUMERIC}
GIVEN |= {"ignore_index": 3, "normalizer": 12.5, "empty": -1.0, "axis": 1, "reduction": "sum"}


@numba.njit
def plain(x, y):
    return crossentropy.cross_entropy(x, y)


@numba.njit
def plain_and_grad(x, y):
    return crossentropy.cross_entropy_and_grad(x, y)


def compiled(function, names, reduction="mean"):
    """A compiled function of (logits, targets) and those options, which calls the public one."""
    arguments = ", ".join(names)
    passed = ", ".join(f"{name}={name}" for name in names)
    names = {"function": function}
    exec(f"def call(x, y, {arguments}): return function(x, y, {passed}, reduction={reduction!r})", names)
    return numba.njit(names["call"])


def close(found, expected, dtype):
    np.testing.assert_allclose(found, expected, rtol=3e-7 if dtype == "float32" else 1e-14, atol=1e-300)


def test_a_loss_and_its_gradient(rng):
    x, y = rng.standard_normal((N, C), dtype=np.float32), rng.integers(0, C, N)
    with crossentropy.config(backend="numba"):
        expected = crossentropy.cross_entropy_and_grad(x, y)
    assert plain(x, y) == expected.loss
    found = plain_and_grad(x, y)
    assert type(found) is crossentropy.LossAndGrad
    assert found.loss == expected.loss
    np.testing.assert_array_equal(found.grad, expected.grad)
    x[3, 0] = np.nan
    assert np.isnan(plain(x, y))
    assert np.isnan(plain(x[:0], y[:0]))
    for bad in (-1, C):
        y[5] = bad
        with pytest.raises(IndexError, match=r"targets must be in \[0, C\)"):
            plain(x, y)
    with pytest.raises(ValueError, match="targets must have the shape"):
        plain(x, y[1:])
    with pytest.raises(ValueError, match="at least one class"):
        plain(np.zeros((N, 0), np.float32), y)


def test_every_option_at_once(rng):
    """In strided memory, as float64 with a gradient that goes to a given array."""
    names = [name for name in GIVEN if name not in ("axis", "reduction")]
    call = compiled(crossentropy.cross_entropy_and_grad, [*names, "grad_output", "out"])
    x, y = np.zeros((N, 3 * C))[:, ::3], rng.integers(0, C, N).astype(np.uint8)
    x[:] = rng.standard_normal(x.shape)
    given = [GIVEN[name] for name in names]
    expected = crossentropy.cross_entropy_and_grad(x, y, grad_output=0.3, **dict(zip(names, given, strict=True)))
    out = np.zeros((2 * N, C))[::2]
    found = call(x, y, *given, 0.3, out)
    close(found.loss, expected.loss, "float64")
    np.testing.assert_allclose(out, expected.grad, rtol=1e-13, atol=1e-300)
    for name, option in _options.OPTIONS.items():
        for bad in (bad for bad in (np.nan, *option.bad) if option.limits and isinstance(bad, float)):
            wrong = dict(zip(names, given, strict=True)) | {name: bad}
            with pytest.raises(ValueError, match=re.escape(f"{name} must be {option.limits.told}")):
                call(x, y, *wrong.values(), 0.3, out)
    for name in ("class_weight", "sample_weight", "where", "class_prior"):
        wrong = dict(zip(names, given, strict=True)) | {name: GIVEN[name][:-1]}
        with pytest.raises(ValueError, match=f"{name} must have a number for each"):
            call(x, y, *wrong.values(), 0.3, out)
    with pytest.raises(ValueError, match="out must have the shape"):
        call(x, y, *given, 0.3, out[1:])
    wrong = dict(zip(names, given, strict=True)) | {"class_weight": -GIVEN["class_weight"]}
    with pytest.raises(ValueError, match="class_weight must be finite and not negative"):
        call(x, y, *wrong.values(), 0.3, out)


def test_the_options_are_those_of_the_table():
    assert set(GIVEN) == set(_options.OPTIONS)
    limited = {name for name, option in _options.OPTIONS.items() if option.limits}
    assert limited == {*_options.NUMERIC, "normalizer"}  # which compiled code checks


SOME = [  # Numba takes seconds to compile each
    ("class_weight", "label_smoothing", "ignore_index"),
    ("where", "z_loss", "focal", "margin"),
    ("sample_weight", "logit_scale", "softcap", "class_prior"),
]


@pytest.mark.parametrize("names", SOME, ids="-".join)
def test_some_options_of_each_row(names, rng):
    x, y = rng.standard_normal((N, C), dtype=np.float32), rng.integers(0, C, N)
    given = {name: GIVEN[name] for name in names}
    loss = compiled(crossentropy.cross_entropy, names, "none")(x, y, *given.values())
    expected = crossentropy.cross_entropy(x, y, reduction="none", **given)
    assert loss.dtype == expected.dtype
    close(loss, expected, "float32")


@numba.njit
def all_three(x, out):
    crossentropy.log_softmax(x, out=out)
    return crossentropy.softmax(x), crossentropy.logsumexp(x)


def test_functions_of_rows(rng):
    rows_equal_the_backend(rng.standard_normal((N, C), dtype=np.float32))


def test_functions_of_rows_that_are_strided(rng):
    rows_equal_the_backend(rng.standard_normal((C, N)).T)


def rows_equal_the_backend(x):
    out = np.empty((N, C), x.dtype)
    p, lse = all_three(x, out)
    with crossentropy.config(backend="numba"):
        np.testing.assert_array_equal(out, crossentropy.log_softmax(x))
        np.testing.assert_array_equal(p, crossentropy.softmax(x))
        np.testing.assert_array_equal(lse, crossentropy.logsumexp(x))


def test_no_row_counts_in_compiled_code():
    @numba.njit
    def call(x, y, v):
        return crossentropy.cross_entropy_and_grad(x, y, sample_weight=v)

    found = call(np.full((2, 3), np.nan), np.array([0, 7]), np.zeros(2))
    assert np.isnan(found.loss)
    assert not found.grad.any()


def test_from_parallel_loops(rng):
    @numba.njit(parallel=True)
    def in_parts(x, y):
        losses = np.empty(4)
        for n in numba.prange(4):
            losses[n] = crossentropy.cross_entropy(x[3 * n : 3 * n + 3], y[3 * n : 3 * n + 3])
        return losses.mean()

    x, y = rng.standard_normal((N, C)), rng.integers(0, C, N)
    close(in_parts(x, y), crossentropy.cross_entropy(x, y), "float64")


X, Y = np.zeros((2, 3)), np.zeros(2, int)
REFUSED = {
    "logits must be a two-dimensional array of float32 or float64": (lambda x, y: crossentropy.cross_entropy(y, y)),
    "targets must be a one-dimensional array of integers": (lambda x, y: crossentropy.cross_entropy(x, x)),
    "axis must be -1 or 1": (lambda x, y: crossentropy.cross_entropy(x, y, axis=0)),
    "reduction must be one of 'mean', 'sum', 'none'": (lambda x, y: crossentropy.cross_entropy(x, y, reduction="all")),
    "normalizer goes with": (lambda x, y: crossentropy.cross_entropy(x, y, reduction="sum", normalizer=2.0)),
    "sample_weight must be a one-dimensional array": (lambda x, y: crossentropy.cross_entropy(x, y, sample_weight=x)),
    "ignore_index must be an integer": (lambda x, y: crossentropy.cross_entropy(x, y, ignore_index=0.5)),
    "z_loss must be a number": (lambda x, y: crossentropy.cross_entropy(x, y, z_loss=x)),
    "label_smooth": (lambda x, y: crossentropy.cross_entropy(x, y, label_smooth=0.1)),
    "out must be a two-dimensional array": (lambda x, y: crossentropy.cross_entropy_and_grad(x, y, out=y)),
    "x must be a two-dimensional array": (lambda x, y: crossentropy.softmax(y)),
    "keepdims is not for compiled code": (lambda x, y: crossentropy.logsumexp(x, keepdims=True)),
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_is_not_compiled_is_named(told):
    with pytest.raises(numba.TypingError, match=re.escape(told)):
        numba.njit(REFUSED[told])(X, Y)


# ---------------------------------------------------------------------- the entry point


@pytest.fixture
def installed(tmp_path):
    """A folder for sys.path with the entry points of pyproject.toml, as an installation has them."""
    page = ROOT / "pyproject.toml"
    if not page.exists():
        pytest.skip("the project is in the source tree")
    points = tomllib.loads(page.read_text())["project"]["entry-points"]
    folder = tmp_path / "crossentropy_as_installed-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: crossentropy-as-installed\nVersion: 0\n")
    lines = [
        line for group, those in points.items() for line in (f"[{group}]", *(f"{n} = {v}" for n, v in those.items()))
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    return tmp_path


def test_numba_finds_the_functions_by_itself(installed):
    """Where they are loaded by it; and what it loads where they are not used is little."""
    code = f"""
        import sys, warnings
        sys.path.insert(0, {str(installed)!r})
        warnings.simplefilter("error")
        import numba
        @numba.njit
        def other(a):
            return a + 1
        assert other(1) == 2
        print(sorted(name for name in sys.modules if name.startswith("crossentropy.")))
        import numpy as np, crossentropy
        @numba.njit
        def loss(x, y):
            return crossentropy.cross_entropy(x, y)
        print(loss(np.zeros((2, 4)), np.zeros(2, np.int64)))
    """
    loaded, loss = run(code).splitlines()
    assert loaded == "['crossentropy._options', 'crossentropy.numba_overloads']"
    assert float(loss) == np.log(4)


@pytest.mark.parametrize(
    "first", ["import numba; from crossentropy import cross_entropy", "from crossentropy import cross_entropy"]
)
def test_numba_finds_functions_that_are_loaded(first, installed):
    """Before it, or after it: a call that it refuses, since that needs nothing compiled, is refused in our words."""
    code = f"""
        import sys, warnings
        sys.path.insert(0, {str(installed)!r})
        warnings.simplefilter("error")
        {first}
        import numba
        import numpy as np
        try:
            numba.njit(lambda x: cross_entropy(x, x))(np.zeros((2, 4)))
        except numba.TypingError as error:
            print("targets must be a one-dimensional array of integers" in str(error))
    """
    assert run(code).strip() == "True"


def test_importing_the_package_does_not_import_numba():
    code = """
        import sys, crossentropy
        crossentropy.cross_entropy([[0.0, 0.0]], [0])
        print("numba" in sys.modules, "crossentropy.numba_overloads" in sys.modules)
    """
    assert run(code).split() == ["False", "False"]


def test_numba_without_the_native_module(installed):
    code = f"""
        import sys, warnings
        sys.path.insert(0, {str(installed)!r})
        sys.modules["crossentropy._native"] = None
        warnings.simplefilter("error")
        import numba
        @numba.njit
        def other(a):
            return a + 1
        print(other(1))
    """
    assert run(code).strip() == "2"
