"""Losses of one logit each on CUDA, in the simulator or on a card: what is not in the conformance suite."""

import os
import random

import numpy as np
import pytest
from conftest import DTYPES

import crossentropy
from crossentropy import binary_cross_entropy_with_logits as bce
from crossentropy import binary_cross_entropy_with_logits_and_grad as bce_and_grad
from crossentropy import sigmoid_focal_loss_and_grad as focal_and_grad
from crossentropy._backends import registry
from crossentropy.testing import same

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.importorskip("greenlet", reason="the simulated threads of a GPU are greenlets")
elif registry.device_reason():
    pytest.skip(f"needs a GPU, or NUMBA_ENABLE_CUDASIM=1: {registry.device_reason()}", allow_module_level=True)

import cuda_backend
from cuda_backend import Array

from crossentropy._backends.cuda import reductions


@pytest.fixture(autouse=True)
def device():
    random.seed(20190601)  # the order of simulated threads
    yield
    if cuda_backend.SIMULATED:
        cuda_backend.cuda_simulator.forget()


def problem(shape, dtype=np.float32):
    """Logits on both sides of where kernels go another way, and targets."""
    count = int(np.prod(shape))
    z = np.random.default_rng(count).standard_normal(count) * np.resize([0.01, 1, 30, 70], count)
    return z.astype(dtype).reshape(shape), (np.arange(count) % 3 == 1).reshape(shape)


def close(found, expected, cancels=False):
    """Loss and gradient are those of the host, of which each kernel is some ulp of the contract off."""
    for a, b in zip(found, expected, strict=True):
        eps = {2: 2**-7, 4: 2**-21, 8: 2**-48}[b.dtype.itemsize]
        atol = eps if cancels else 1e-30
        np.testing.assert_allclose(a.to_host().astype(float), np.asarray(b, float), rtol=eps, atol=atol)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("targets", ["bool", "uint8", "int64", "int16", "soft"])
def test_every_kind_of_target(kind, targets):
    """In whole vectors and a rest; from memory that is no multiple of 16 on."""
    if (dtype := DTYPES[kind]) is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    z, t = problem(1043, dtype)
    t = np.linspace(0, 1, t.size).astype(dtype) if targets == "soft" else t.astype(targets)
    for part in (slice(None), slice(1, 40)):
        for function in (bce_and_grad, focal_and_grad):
            if function is focal_and_grad and part == slice(None):
                continue
            expected = function(z[part], t[part], reduction="none")
            found = function(Array(z[part]), Array(t[part]), reduction="none")
            close(found, expected, targets == "soft")


@pytest.mark.parametrize(
    "lay", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2], lambda a: a[:, ::-1].copy()[:, ::-1]]
)
def test_any_layout_and_weights_that_repeat(lay):
    z, t = problem((3, 5, 4))
    eighths = (np.arange(60) % 9 / 8).reshape(3, 5, 4)
    weights = eighths[0, 0], eighths[:, :1], eighths.astype(np.float32), eighths[0, :, :1] > 0
    for n, weight in enumerate(weights):
        options = {"weight": weight, "pos_weight": weights[(n + 1) % 3]}
        expected = bce_and_grad(z, t, **options, reduction="none", grad_output=eighths.astype(np.float32))
        there = {name: Array(np.asarray(value)) for name, value in options.items()}
        found = bce_and_grad(
            Array(lay(z)), Array(lay(t)), **there, reduction="none", grad_output=Array(eighths.astype(np.float32))
        )
        close(found, expected)
        assert found.loss.shape == z.shape


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float64"])
def test_reductions_numbers_and_in_place(kind, monkeypatch):
    """With a block that goes on with other logits."""
    monkeypatch.setattr(reductions, "MOST", 1)
    if (dtype := DTYPES[kind]) is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    z, t = problem((37, 61), dtype)
    for options in ({"weight": 0.5, "pos_weight": 3, "reduction": "sum"}, {}):
        there = Array(z)
        found = bce_and_grad(there, Array(t), grad_output=2.0, out=there, **options)
        assert found.grad is there
        close(found, bce_and_grad(z, t, grad_output=2.0, **options))
    assert bce(Array(z), Array(t)).to_host() == found.loss.to_host()
    found = bce_and_grad(Array(z), Array(t), grad_output=Array(np.asarray(2.0)))
    close(found, bce_and_grad(z, t, grad_output=2.0))


def test_nothing_and_one_number():
    z, t = problem((2, 3))
    assert np.isnan(bce(Array(z[:0]), Array(t[:0])).to_host())
    assert bce(Array(z[:0]), Array(t[:0]), reduction="sum").to_host() == 0
    loss, grad = bce_and_grad(Array(z[:0]), Array(t[:0]), reduction="none")
    assert loss.shape == grad.shape == (0, 3)
    loss, grad = bce_and_grad(Array(z[1, 1]), Array(t[1, 1]), reduction="none")
    assert loss.shape == grad.shape == ()


def test_a_bad_target_gives_nan_where_it_is_or_raises_where_that_is_asked_for():
    z, t = problem((4, 10))
    right = bce_and_grad(Array(z), Array(t.astype(np.int32)), reduction="none")
    bad = t.astype(np.int32)
    bad[2, 3], bad[3, 1] = 7, -1
    found = bce_and_grad(Array(z), Array(bad), reduction="none")
    for got, expected in zip(found, right, strict=True):
        wrong = np.isnan(got.to_host())
        same(wrong, (bad != 0) & (bad != 1))
        same(got.to_host()[~wrong], expected.to_host()[~wrong])
    assert np.isnan(bce(Array(z), Array(bad)).to_host())
    with crossentropy.config(check=True):
        bce(Array(z), Array(t.astype(np.int32)))
        with pytest.raises(ValueError, match=r"integer targets must be 0 or 1, got targets\[2, 3\] = 7"):
            bce(Array(z), Array(bad))


X, T = problem((3, 4))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "targets must be an array on the device", lambda: bce(Array(X), T)),
        (TypeError, "targets is a CUDA array", lambda: bce(X, Array(T))),
        (TypeError, "float64 on a device, got int64", lambda: bce(Array(T.astype(int)), Array(T))),
        (TypeError, "of the dtype of logits, float32, on a device", lambda: bce(Array(X), Array(T.astype(float)))),
        (ValueError, r"the shape of logits, \(3, 4\), got \(4,\)", lambda: bce(Array(X), Array(T[0]))),
        (TypeError, "weight must be an array on the device", lambda: bce(Array(X), Array(T), weight=[1, 2, 3, 4])),
        (
            ValueError,
            "pos_weight must be finite, got pos_weight = inf",
            lambda: bce(Array(X), Array(T), pos_weight=np.inf),
        ),
        (ValueError, r"weight must have a shape that broadcasts", lambda: bce(Array(X), Array(T), weight=Array(X[:2]))),
        (TypeError, "weight must be float16", lambda: bce(Array(X), Array(T), weight=Array(np.arange(4)))),
        (ValueError, "must be a scalar with", lambda: bce_and_grad(Array(X), Array(T), grad_output=Array(X))),
        (ValueError, "out must have shape", lambda: bce_and_grad(Array(X), Array(T), out=Array(X[:2]))),
        (ValueError, "alpha must be in", lambda: focal_and_grad(Array(X), Array(T), alpha=2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors(error, message, call):
    for _ in range(2):  # also when the plan is looked for again
        with pytest.raises(error, match=message):
            call()


def test_out_shares_memory_with_nothing_but_the_logits():
    there = Array(X)
    with pytest.raises(ValueError, match="out must not share memory with targets"):
        bce_and_grad(Array(X), there, out=there)
