"""Transformed logits, margin and focal factor on a device: every shape of work, where digits are lost, arrays there."""

import numpy as np
import pytest
import test_cuda
from cuda_backend import Array
from test_cuda import SHAPES, device, shared_out  # noqa: F401 -- fixtures

import crossentropy
from crossentropy import autograd, reference, testing
from crossentropy._backends.contract import FIELDS_OF_FEW
from crossentropy._backends.cuda import launch
from crossentropy.testing import same, within


def once(x, y, options):
    """The loss and gradient of some rows, in one go, are within the contract."""
    expected = {name: value for name, value in options.items() if name != "class_prior"}
    prior = options.get("class_prior")
    rows = [reference.Row(class_prior=None if prior is None else prior.tolist(), **expected)] * len(x)
    targets = y.astype(np.float64).tolist() if y.ndim == 2 else y.tolist()
    losses, grads, units = testing.exact(x, targets, rows)
    loss, grad = crossentropy.cross_entropy_and_grad(x, y, reduction="none", **options)
    times = 4 if x.dtype == np.float64 else 1
    within(loss, losses, x.dtype, "loss", times=times)
    within(grad, grads, x.dtype, "grad", unit_at=units, times=times)
    return loss, grad


def held(x, y, options):
    """And what the other kernels make of them is the same to the bit; in place, too."""
    loss, grad = once(x, y, options)
    same(crossentropy.cross_entropy(x, y, reduction="none", **options), loss)
    again, saved = autograd.forward(x, y, reduction="none", **options)
    same(again, loss)
    same(autograd.backward(saved), grad)
    into = x.copy()
    crossentropy.cross_entropy_and_grad(into, y, reduction="none", out=into, **options)
    same(into, grad)


def prior_of(classes):
    b = np.random.default_rng(classes).standard_normal(classes)
    b[classes // 3] = -np.inf
    return b


def all_options(classes):
    return {"logit_scale": 0.7, "softcap": 5.0, "class_prior": prior_of(classes), "margin": 0.6, "focal": 2.0}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_work(shared_out, name):  # noqa: F811
    """A row that is kept, and one of a class less, which is not: in both each with some of the options."""
    threads, kept, blocks = SHAPES[name]
    shared_out(threads, kept, blocks)
    full = (kept or 1) * threads * blocks * 4
    x, y, _ = test_cuda.problem(full, np.dtype(np.float32), rows=1)
    y[y == full // 3] = 0
    once(x, y, all_options(full))
    if full < 300:
        x, _, q = test_cuda.problem(full - 1, np.dtype(np.float32), rows=1)
        once(x, q, {"softcap": 3.0, "z_loss": 0.01})


@pytest.mark.parametrize("kept", [2, 0])
def test_a_row_in_parts(shared_out, monkeypatch, kept):  # noqa: F811
    monkeypatch.setattr(launch, "PART", 4)
    shared_out(4, kept, 1, multiprocessors=8)
    x, y, _ = test_cuda.problem(64, np.dtype(np.float32), rows=2)
    held(x, y, {**all_options(64), "class_prior": np.linspace(-1, 1, 64), "label_smoothing": 0.1})
    once(x, y, {"focal": 1.5, "label_smoothing": 0.1})
    ahead, rows = x.copy(), np.arange(2)
    ahead[rows, y] = 130, 104  # so far that 1 - p has no float32, but its square root has
    far = {"focal": 0.5, "label_smoothing": 0.1}
    losses, grads, units = testing.exact(ahead, y.tolist(), [reference.Row(**far)] * 2)
    loss, saved = autograd.forward(ahead, y, reduction="none", **far)
    within(loss, losses, x.dtype, "loss")
    # Each part's distance is rounded, which a target so far ahead makes the most of.
    within(autograd.backward(saved), grads, x.dtype, "grad", unit_at=units, times=6)
    x[0, :16], y[0] = -np.inf, 50
    once(x, y, {"logit_scale": 3.0, "margin": -0.4})


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_confident_rows_keep_their_digits(kind):
    """What a logit loses when it is rounded would be in the loss of a row whose target leads, and in each p."""
    rng, classes = np.random.default_rng(3), 40
    x = rng.standard_normal((5, classes)) * 3
    x[np.arange(5), np.arange(5)] += [4, 20, 45, 70, 0]
    for far in (x, x + 1e4, -300 * rng.random((5, classes))):
        x, y = far.astype(kind), np.arange(5)
        once(x, y, {"logit_scale": 0.7})
        once(x, y, {"margin": 0.3, "focal": 3.0})
    once(np.clip(x, -40, 40), np.arange(5), {"softcap": 30.0, "class_prior": rng.standard_normal(classes)})
    once(np.clip(x, -40, 40), np.arange(5), {"softcap": 4.0})  # up to ten times the cap


def test_infinite_logits_and_undefined_rows():
    x = np.random.default_rng(4).standard_normal((6, 21)).astype(np.float32)
    x[0, 3], x[1, 4], x[2], x[3, 5] = np.inf, -np.inf, -np.inf, np.nan
    y = np.array([3, 4, 0, 0, 7, 8])
    masked = np.zeros(21)
    masked[7] = -np.inf  # the target of a row: its loss is infinite
    for options in ({"softcap": 5.0}, {"class_prior": masked}, {"focal": 2.0, "margin": 1.0}):
        once(x, y, options)
    lone = np.zeros((2, 1), np.float32)
    loss, grad = crossentropy.cross_entropy_and_grad(lone, np.array([0, 0]), focal=2.0, softcap=3.0, reduction="none")
    same(loss, np.zeros(2, np.float32))
    same(grad, np.zeros((2, 1), np.float32))


def test_arrays_on_the_device():
    """A prior of any dtype; what a forward keeps of these options is more; they go with classes alone."""
    x, y, q = test_cuda.problem(20, np.dtype(np.float32))
    options = {"logit_scale": 1 / 3, "softcap": 7.0, "margin": 0.1, "focal": 0.3}
    for dtype in (np.float64, np.float32, np.float16):
        b = np.random.default_rng(1).standard_normal(20).astype(dtype)
        given = {**options, "class_prior": Array(b)}
        loss, saved = autograd.forward(Array(x), Array(y), **given)
        rows = [reference.Row(class_prior=b.astype(float).tolist(), **options)] * len(x)
        losses, grads, units = testing.exact(x, y.tolist(), rows)
        within(loss.to_host(), losses.mean(), x.dtype, "loss")
        statistics, divisor = autograd.numbers_of(saved)
        assert statistics.shape == (3, FIELDS_OF_FEW)
        kept = autograd.restored(statistics, divisor, Array(x), Array(y), **given)
        grad = autograd.backward(kept).to_host()
        within(grad, grads / 3, x.dtype, "grad", unit_at=units / 3)
        same(autograd.backward(saved).to_host(), grad)
    with pytest.raises(ValueError, match=r"statistics must be float32 of shape \(3, 8\)"):
        autograd.restored(Array(np.zeros((3, 3), np.float32)), None, Array(x), Array(y), **options)
    for name, value in (("margin", 0.5), ("focal", 2.0)):
        with pytest.raises(ValueError, match=f"{name} is for index targets"):
            crossentropy.cross_entropy(Array(x), Array(q), **{name: value})
    with pytest.raises(ValueError, match="class_prior must have shape"):
        crossentropy.cross_entropy(Array(x), Array(y), class_prior=Array(np.zeros(3)))
