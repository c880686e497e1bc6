"""Which backends and dtypes the contract is tested on."""

import contextlib
import os
import signal

import layers
import numpy as np
import pytest
from hypothesis import settings

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    with contextlib.suppress(ImportError):
        import cuda_simulator  # noqa: F401  # before the package: it stands in for a part of it

# Test processes share the cores: threads that spin while they wait for work would take the others' time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Whoever starts the tests in a shell's background has them ignore Ctrl-C, which some are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import crossentropy

# No test is about time, and the first example of some imports a library.
settings.register_profile("without deadlines", settings(), deadline=None)
settings.load_profile("without deadlines")


@pytest.hookimpl(tryfirst=True)  # before -m leaves out what is slow
def pytest_collection_modifyitems(items):
    layers.mark(items)
    # Last, and so by one of two processes: what one compiles with Numba the other then finds on disk.
    items.sort(key=lambda item: "numba" in item.nodeid)


AVAILABLE = {found.name: found.available for found in crossentropy.backends()}


def _native_isas():
    if not AVAILABLE["native"]:
        return []
    from crossentropy import native

    asked = os.environ.get("CROSSENTROPY_ISA")
    return [asked] if asked else list(native.SUPPORTED_ISAS)


NATIVE = [f"native-{isa}" for isa in _native_isas()]
# With CROSSENTROPY_ISA the suite is run for that unit: the other backends have had their turn.
NUMBA = ["numba"] if AVAILABLE["numba"] and "CROSSENTROPY_ISA" not in os.environ else []


def _or_skipped(names, reason):
    return names or [pytest.param("none", marks=pytest.mark.skip(reason=reason))]


def _configured(name):
    name, _, isa = name.partition("-")
    return crossentropy.config(backend=name, isa=isa or None)


@pytest.fixture(params=_or_skipped([*NATIVE, *NUMBA], "neither the native nor the Numba backend is here"))
def kernels(request):
    """Each compiled backend in turn, the native one with each ISA unit."""
    with _configured(request.param):
        yield request.param


@pytest.fixture(params=_or_skipped(NATIVE, "the native backend is not built"))
def isa_unit(request):
    """Each ISA unit of the native backend in turn."""
    with _configured(request.param):
        yield request.param


@pytest.fixture(params=[*NATIVE, *NUMBA, "reference"])
def backend(request):
    """Every backend, the native one with each ISA unit."""
    with _configured(request.param):
        yield request.param


def _bfloat16():
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        return None
    return np.dtype(ml_dtypes.bfloat16)


DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": _bfloat16(),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


@pytest.fixture(params=DTYPES)
def dtype(request):
    """The four dtypes of logits."""
    if DTYPES[request.param] is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    return DTYPES[request.param]


@pytest.fixture
def rng():
    """The same numbers in every run."""
    return np.random.default_rng(20190601)
