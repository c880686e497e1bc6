"""The C interface: by ctypes, as any program would call it, and by extensions that are built outside of the tree."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import AVAILABLE
from subprocesses import run

import crossentropy
from crossentropy import _options

ROOT = Path(__file__).parent.parent
HEADER = Path(crossentropy.get_include()) / "crossentropy.h"

if not AVAILABLE["native"]:
    pytest.skip("the native extension is missing", allow_module_level=True)

POINTER, SIZE, INT32, INT64, DOUBLE = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int32, ctypes.c_int64, ctypes.c_double
DTYPES = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}
ARRAYS = ("class_weight", "sample_weight", "class_prior")
NUMBERS = ("label_smoothing", "z_loss", "logit_scale", "softcap", "margin", "focal", "normalizer")


class Matrix(ctypes.Structure):
    _fields_ = (("data", POINTER), ("dtype", INT32), *((name, SIZE) for name in ("rows", "classes", "row", "column")))


class Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        *((name, INT32) for name in ("threads", "reduction", "has_ignore_index", "unused")),
        ("ignore_index", INT64),
        *((name, POINTER) for name in ARRAYS),
        *((name, DOUBLE) for name in NUMBERS),
        ("of_a_later_version", INT64),
    )


SIZE_NOW = Options.of_a_later_version.offset


class Api(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("abi", INT32),
        ("unused", INT32),
        ("message", ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int)),
        ("loss", ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, INT32, POINTER, POINTER, POINTER)),
        (
            "loss_and_grad",
            ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, INT32, POINTER, DOUBLE, POINTER, POINTER, POINTER),
        ),
        ("log_softmax", ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, INT32)),
        ("softmax", ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, INT32)),
        ("logsumexp", ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, INT32)),
    )


def table():
    from crossentropy import _native

    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.POINTER(Api), [ctypes.py_object, ctypes.c_char_p]
    return pointer(_native.c_api, b"crossentropy._native.c_api").contents


API = table()


def matrix(a):
    return Matrix(a.ctypes.data, DTYPES[a.dtype.name], *a.shape, *(stride // a.itemsize for stride in a.strides))


def target_type(targets):
    return targets.itemsize if targets.dtype.kind == "u" else -targets.itemsize


def options(reduction="mean", ignore_index=None, threads=0, **given):
    """The options as C has them, and the arrays that must last as long."""
    kept = {name: np.ascontiguousarray(given.pop(name), np.float64) for name in ARRAYS if name in given}
    found = Options(SIZE_NOW, threads, ["mean", "sum"].index(reduction), ignore_index is not None, 0, ignore_index or 0)
    for name, value in kept.items():
        setattr(found, name, value.ctypes.data)
    for name, value in given.items():
        setattr(found, name, value)
    return found, kept


def loss_and_grad(x, y, grad=None, grad_output=1.0, raw=None, **given):
    """(error, loss, rows, grad) of a call."""
    found, _kept = options(**given)
    grad = np.empty_like(x) if grad is None else grad
    rows, loss = np.full(len(x), 7.0), DOUBLE(7)
    of_x, of_grad, of_options = (ctypes.byref(a) for a in (matrix(x), matrix(grad), raw or found))
    data = y.ctypes.data
    error = API.loss_and_grad(
        of_x, data, target_type(y), of_options, grad_output, of_grad, rows.ctypes.data, ctypes.byref(loss)
    )
    if not error:
        alone, again = DOUBLE(), np.empty_like(rows)
        assert not API.loss(of_x, data, target_type(y), of_options, again.ctypes.data, ctypes.byref(alone))
        assert not API.loss(of_x, data, target_type(y), of_options, None, ctypes.byref(alone))
        np.testing.assert_array_equal(again, rows)
        np.testing.assert_equal(alone.value, loss.value)
    return error, loss.value, rows, grad


def same_bits(x, y, **given):
    """A call gives what the Python function gives."""
    error, loss, rows, grad = loss_and_grad(x, y, **given)
    assert not error, API.message(error)
    given.pop("threads", None)
    with crossentropy.config(backend="native"):
        expected = crossentropy.cross_entropy_and_grad(x, y, **given)
        given |= {"reduction": "none", "normalizer": None}
        of_rows = crossentropy.cross_entropy(x, y, **given)
    np.testing.assert_array_equal(type(expected.loss)(loss), expected.loss)
    np.testing.assert_array_equal(rows.astype(of_rows.dtype), of_rows)
    np.testing.assert_array_equal(grad.view(f"u{x.itemsize}"), expected.grad.view(f"u{x.itemsize}"))


def layouts(a):
    """The same numbers in other memory."""
    wide = np.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)
    wide[::2, ::3] = a
    yield "C", a
    yield "F", np.asfortranarray(a)
    yield "strided", wide[::2, ::3]
    yield "backwards", a[::-1, ::-1].copy()[::-1, ::-1]


@pytest.mark.parametrize("classes", [1, 10, 65, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_as_in_python(dtype, classes, rng):
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype) if dtype == "bfloat16" else dtype)
    x, y = rng.standard_normal((37, classes)).astype(kind), rng.integers(0, classes, 37)
    for name, a in layouts(x):
        same_bits(a, y)
        results = {"softmax": np.empty_like(a), "log_softmax": np.empty_like(a)}
        with crossentropy.config(backend="native"):
            for function, out in results.items():
                assert not getattr(API, function)(ctypes.byref(matrix(a)), ctypes.byref(matrix(out)), 0)
                expected = getattr(crossentropy, function)(a)
                np.testing.assert_array_equal(out.astype(float), expected.astype(float), f"{function} {name}")
            out, expected = np.empty(37), crossentropy.logsumexp(a)
        assert not API.logsumexp(ctypes.byref(matrix(a)), out.ctypes.data, 1)
        np.testing.assert_array_equal(out.astype(expected.dtype), expected)


@pytest.mark.parametrize("integer", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_targets_of_every_type(integer, rng):
    x, y = rng.standard_normal((20, 7)), rng.integers(0, 7, 20).astype(integer)
    same_bits(x, y, ignore_index=3)
    assert loss_and_grad(x, y + y.dtype.type(100))[:2] == (20, 7.0)


CASES = {
    "class_weight": [0.5, 2.0, 0.0, 1.0, 4.0],
    "sample_weight": [1.0, 0.0, 2.0, 0.5] * 5,
    "class_prior": [0.1, -1.0, -np.inf, 0.0, 2.0],
    "ignore_index": 0,
    "reduction": "sum",
    "normalizer": 12.5,
}
CASES |= {name: _options.OPTIONS[name].samples[0] for name in NUMBERS[:-1]}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_every_option(name, dtype, rng):
    """Alone, and beside each of the others."""
    x = rng.standard_normal((20, 5)).astype(dtype)
    y = rng.choice([0, 1, 3, 4], 20).astype(np.int32)  # the class 2 is masked by the prior
    same_bits(x, y, **{name: CASES[name]})
    for other in CASES:
        if other > name and {name, other} != {"reduction", "normalizer"}:
            same_bits(x, y, **{name: CASES[name], other: CASES[other]})


def test_the_options_are_those_of_the_table():
    """But for what C says otherwise: the axis by strides, rows that do not count by weights of 0, a mean over none."""
    assert set(CASES) == set(_options.OPTIONS) - {"axis", "where", "empty"}
    fields = re.search(r"typedef struct \{([^}]*)\} crossentropy_options;", HEADER.read_text())[1]
    names = re.findall(r"\*?(\w+)[;,]", re.sub(r"/\*.*?\*/", "", fields, flags=re.DOTALL))
    assert names == [name for name, _ in Options._fields_[:-1]]


def test_no_row_counts():
    x, y = np.ones((3, 2)), np.array([0, 1, 1])
    for given in ({"sample_weight": np.zeros(3)}, {"class_weight": np.zeros(2)}):
        error, loss, rows, grad = loss_and_grad(x, y, **given)
        assert not error
        assert np.isnan(loss)
        assert not rows.any()
        assert not grad.any()
    assert np.isnan(loss_and_grad(np.ones((0, 2)), y[:0])[1])
    assert loss_and_grad(np.ones((0, 2)), y[:0], reduction="sum")[:2] == (0, 0.0)


def test_what_arrives_and_in_place(rng):
    x, y = rng.standard_normal((9, 4), dtype=np.float32), rng.integers(0, 4, 9)
    with crossentropy.config(backend="native"):
        expected = crossentropy.cross_entropy_grad(x, y, grad_output=-0.3)
    np.testing.assert_array_equal(loss_and_grad(x, y, grad_output=-0.3)[3], expected)
    own = x.copy()
    assert not API.loss_and_grad(
        ctypes.byref(matrix(own)), y.ctypes.data, -8, None, -0.3, ctypes.byref(matrix(own)), None, None
    )
    np.testing.assert_array_equal(own, expected)


# ---------------------------------------------------------------------- versions


def test_options_of_an_earlier_version_are_those_that_it_has(rng):
    x, y = rng.standard_normal((6, 3)), np.zeros(6, int)
    full, _ = options(z_loss=0.1, label_smoothing=0.2)
    full.size = Options.z_loss.offset  # a program that was compiled before there was a z_loss
    expected = crossentropy.cross_entropy(x, y, label_smoothing=0.2)
    assert loss_and_grad(x, y, raw=full)[:2] == (0, expected)


def test_options_of_a_later_version_are_refused_where_they_are_set():
    x, y = np.zeros((2, 3)), np.zeros(2, int)
    later, _ = options()
    later.size = ctypes.sizeof(Options)
    assert loss_and_grad(x, y, raw=later)[0] == 0
    later.of_a_later_version = 1 << 40
    error, loss, rows, _ = loss_and_grad(x, y, raw=later)
    assert API.message(error) == b"an option is set that this version of crossentropy does not know"
    assert loss == 7
    assert (rows == 7).all()


def test_the_table_is_that_of_the_header():
    text = HEADER.read_text()
    assert API.abi == int(re.search(r"define CROSSENTROPY_ABI (\d+)", text)[1])
    assert API.size == ctypes.sizeof(Api)
    errors = re.search(r"CROSSENTROPY_OK = 0,([^}]*)\}", text)[1].split(",")
    messages = [API.message(code) for code in range(len(errors) + 1)]
    assert len(set(messages)) == len(messages)
    assert API.message(len(messages)) == API.message(-1) == b"no error of crossentropy's"


# ---------------------------------------------------------------------- errors

WRONG = {
    "threads": -1,
    "class_weight": [1.0, -1.0, 1.0],
    "sample_weight": [1.0, np.inf],
    "class_prior": [0.0, np.nan, 0.0],
    "label_smoothing": 1.5,
    "z_loss": -0.1,
    "logit_scale": np.inf,
    "softcap": -1.0,
    "margin": np.nan,
    "focal": np.nan,
    "normalizer": -2.0,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_named(name):
    error, loss, rows, grad = loss_and_grad(
        np.zeros((2, 3)), np.zeros(2, int), grad=np.full((2, 3), 7.0), **{name: WRONG[name]}
    )
    assert API.message(error).decode().startswith(f"{name} must")
    assert loss == 7
    assert (rows == 7).all()
    assert (grad == 7).all()


def test_wrong_arguments():
    x, y, grad = np.zeros((2, 3)), np.zeros(2, int), np.full((2, 3), 7.0)

    def told(logits=None, out=None, targets=y.ctypes.data, size=-8, given=None):
        of = [ctypes.byref(m) if m else None for m in (logits or matrix(x), out or matrix(grad))]
        error = API.loss_and_grad(of[0], targets, size, ctypes.byref(given) if given else None, 1.0, of[1], None, None)
        assert error
        return API.message(error).decode()

    def changed(a, **fields):
        found = matrix(a)
        for name, value in fields.items():
            setattr(found, name, value)
        return found

    assert told(targets=None).startswith("a pointer that must not be NULL")
    assert told(changed(x, data=None)).startswith("a pointer that must not be NULL")
    assert told(out=changed(grad, data=None)).startswith("a pointer that must not be NULL")
    for size in (0, 3, -16, -(2**31)):
        assert told(size=size).startswith("target_dtype must")
    assert told(changed(x, dtype=4)).startswith("dtype must")
    assert told(changed(x, dtype=-1)).startswith("dtype must")
    assert told(out=changed(grad, dtype=2)).startswith("dtype must")
    assert told(changed(x, rows=-1)).startswith("rows and classes must")
    assert told(out=changed(grad, classes=2)).startswith("rows and classes must")
    assert told(changed(x, classes=0), changed(grad, classes=0)).startswith("rows and classes must")
    assert told(out=changed(grad, row=0)).startswith("a result's strides")
    assert told(out=changed(grad, column=0)).startswith("a result's strides")
    assert told(given=Options(4)).startswith("size must")
    assert told(given=Options(2**40)).startswith("size must")
    assert told(given=Options(SIZE_NOW, 0, 2)).startswith("reduction must")
    assert told(given=Options(SIZE_NOW, 0, 1, normalizer=2.0)).startswith("normalizer must")
    assert told(given=Options(SIZE_NOW, 0, 0, 0, 1)).startswith("an option is set")
    assert (grad == 7).all()
    assert API.loss_and_grad(ctypes.byref(matrix(x)), y.ctypes.data, -8, None, 1.0, None, None, None) == 1
    assert API.loss(None, y.ctypes.data, -8, None, None, None) == 1
    assert API.logsumexp(ctypes.byref(matrix(x)), None, 0) == 1
    assert API.softmax(ctypes.byref(matrix(x)), None, 0) == 1
    assert API.message(API.softmax(*[ctypes.byref(matrix(x))] * 2, -1)).startswith(b"threads")


def test_rows_without_classes():
    x, out = np.zeros((3, 0)), np.zeros(3)
    assert not API.logsumexp(ctypes.byref(matrix(x)), out.ctypes.data, 0)
    assert (out == -np.inf).all()
    assert not API.softmax(ctypes.byref(matrix(x)), ctypes.byref(matrix(x)), 0)


# ---------------------------------------------------------------------- threads


def test_any_number_of_threads_and_calls_at_once(rng):
    x, y = rng.standard_normal((600, 200), dtype=np.float32), rng.integers(0, 200, 600)
    same_bits(x, y, threads=1)
    same_bits(x, y, threads=3)
    expected = loss_and_grad(x, y)[3]
    found = [None] * 4

    def work(n):
        found[n] = loss_and_grad(x, y)[3]  # ctypes lets go of the GIL

    calls = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    for grad in found:
        np.testing.assert_array_equal(grad, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_computes_on_one_thread():
    """Where it would wait for ever for OpenMP's threads, which only its parent has."""
    code = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import numpy as np
        from test_c_api import loss_and_grad
        x, y = np.zeros((600, 200)), np.zeros(600, int)
        loss = loss_and_grad(x, y, threads=2)[1]
        child = os.fork()
        if child == 0:
            os._exit(loss_and_grad(x, y, threads=2)[1] != loss)
        print(os.waitpid(child, 0)[1])
    """
    assert run(code).strip() == "0"


def test_the_environment_s_isa_and_threads():
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import numpy as np
        from test_c_api import same_bits
        rng = np.random.default_rng(0)
        same_bits(rng.standard_normal((400, 100), dtype=np.float32), rng.integers(0, 100, 400))
    """
    run(code, CROSSENTROPY_ISA="base", CROSSENTROPY_NUM_THREADS="1")


# ---------------------------------------------------------------------- compilers


def compiler(language):
    """The compiler that extensions are built with; for C++ the one beside it."""
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if language == "c++":
        command = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    command = command.split()[0]
    if not shutil.which(command):
        pytest.skip(f"no compiler {command} here")
    return command


@pytest.mark.skipif(os.name == "nt", reason="the options are GCC's and Clang's")
@pytest.mark.parametrize(("language", "standard"), [("c", "c11"), ("c++", "c++17")])
def test_the_header_compiles_without_a_warning(language, standard, tmp_path):
    source = tmp_path / "program.c"
    source.write_text(
        "#ifdef WITH_PYTHON\n#include <Python.h>\n#endif\n#include <crossentropy.h>\n"
        "double use(const crossentropy_api *api, const float *row);\n"
        "double use(const crossentropy_api *api, const float *row)\n"
        "{\n    const crossentropy_options o = crossentropy_no_options();\n"
        "    return crossentropy_row_loss(api, row, CROSSENTROPY_FLOAT32, 3, 1) + (double)o.size;\n}\n"
    )
    flags = ["-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic-errors", "-fsyntax-only"]
    python = ["-DWITH_PYTHON", "-isystem", sysconfig.get_path("include")]
    for more in ([], python):
        command = [compiler(language), *flags, f"-I{crossentropy.get_include()}", *more, source]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not (ROOT / "examples").exists(), reason="the examples are in the source tree")
def test_the_example_extensions_are_built_and_right(tmp_path):
    """In C and in Cython, from outside of the tree, by what is installed."""
    pytest.importorskip("Cython", reason="Cython is missing")
    pytest.importorskip("setuptools", reason="setuptools is missing")
    compiler("c")
    folder = tmp_path / "c_extension"
    shutil.copytree(ROOT / "examples" / "c_extension", folder)
    for command in (["-W", "ignore", "setup.py", "-q", "build_ext", "--inplace"], ["check.py"]):
        environment = os.environ | {"CFLAGS": "-O1 -Wall -Wextra -Wno-unused-parameter"}
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same bits") == 2
