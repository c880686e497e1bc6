"""Which backends and dtypes the contract is tested on."""

import os

import numpy as np
import pytest

import crossentropy


def _native_isas():
    if not crossentropy.backends()[0].available:
        return []
    from crossentropy import native

    asked = os.environ.get("CROSSENTROPY_ISA")
    return [asked] if asked else list(native.SUPPORTED_ISAS)


KERNELS = [f"native-{isa}" for isa in _native_isas()]


@pytest.fixture(
    params=KERNELS or [pytest.param("none", marks=pytest.mark.skip(reason="the native backend is not built"))]
)
def kernels(request):
    """Each ISA unit of the native backend in turn."""
    with crossentropy.config(backend="native", isa=request.param.split("-")[1]):
        yield request.param


@pytest.fixture(params=[*KERNELS, "reference"])
def backend(request):
    """Every backend, the native one with each ISA unit."""
    name, _, isa = request.param.partition("-")
    with crossentropy.config(backend=name, isa=isa or None):
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
