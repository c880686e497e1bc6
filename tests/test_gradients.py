"""Gradients against finite differences of the loss, and the identities that they must satisfy."""

import itertools

import numpy as np
import pytest

import crossentropy
from crossentropy import autograd
from crossentropy._options import NUMERIC, OPTIONS
from crossentropy.testing import both


def central_differences(loss, x, step=1e-5):
    grad = np.empty_like(x)
    for index in np.ndindex(x.shape):
        at = x[index]
        x[index] = at + step
        above = loss(x)
        x[index] = at - step
        grad[index] = (above - loss(x)) / (2 * step)
        x[index] = at
    return grad


@pytest.mark.parametrize(
    ("kind", "weighted", "smoothing", "z_loss", "reduction"),
    list(
        itertools.product(
            ("index", "probability"),
            (False, True),
            (0.0, 0.2),
            (0.0, 0.05),
            ("sum", "mean"),
        )
    ),
)
def test_against_central_differences(backend, kind, weighted, smoothing, z_loss, reduction, rng):
    x = rng.standard_normal((3, 5, 2))
    t = rng.integers(0, 5, (3, 2)) if kind == "index" else rng.dirichlet(np.ones(5), (3, 2)).swapaxes(1, 2)
    options = {"axis": 1, "label_smoothing": smoothing, "z_loss": z_loss, "reduction": reduction}
    if weighted:
        options |= {"class_weight": rng.uniform(0.2, 2, 5), "sample_weight": rng.uniform(0, 2, (3, 2))}
    expected = central_differences(lambda z: crossentropy.cross_entropy(z, t, **options), x)
    np.testing.assert_allclose(crossentropy.cross_entropy_grad(x, t, **options), expected, atol=2e-9)


def test_log_softmax_pair_against_central_differences(backend, rng):
    x, g = rng.standard_normal((3, 6)), rng.standard_normal((3, 6))
    expected = central_differences(lambda z: (crossentropy.log_softmax(z) * g).sum(), x)
    _, saved = autograd.log_softmax_forward(x)
    np.testing.assert_allclose(autograd.log_softmax_backward(saved, g), expected, atol=2e-9)


def test_rows_sum_to_0(kernels, rng):
    """Adding a constant to every logit of a row changes no loss (without z-loss)."""
    x = rng.standard_normal((20, 1000)) * 5
    grad = crossentropy.cross_entropy_grad(x, rng.integers(0, 1000, 20), reduction="sum", label_smoothing=0.1)
    np.testing.assert_allclose(grad.sum(axis=1), 0, atol=1e-15)


def test_shift_and_permutation(kernels, rng):
    x, y = rng.integers(-40, 40, (6, 300)) / 8, rng.integers(0, 300, 6)  # exact, also when shifted
    loss = crossentropy.cross_entropy(x, y, reduction="none")
    np.testing.assert_allclose(crossentropy.cross_entropy(x + 512, y, reduction="none"), loss, rtol=1e-15)
    order = rng.permutation(300)
    inverse = np.argsort(order)
    np.testing.assert_allclose(crossentropy.cross_entropy(x[:, order], inverse[y], reduction="none"), loss, rtol=1e-15)


def test_a_row_does_not_depend_on_its_batch(kernels, dtype, rng):
    x = rng.standard_normal((9, 777)).astype(dtype)
    y = rng.integers(0, 777, 9)
    loss, grad = crossentropy.cross_entropy_and_grad(x, y, reduction="none")
    for n in range(9):
        alone = crossentropy.cross_entropy_and_grad(x[n : n + 1].copy(), y[n : n + 1], reduction="none")
        assert alone.loss[0] == loss[n]
        np.testing.assert_array_equal(alone.grad[0], grad[n])


def test_one_hot_probabilities_are_the_index(kernels, dtype, rng):
    x = rng.standard_normal((5, 40)).astype(dtype)
    y = rng.integers(0, 40, 5)
    index = crossentropy.cross_entropy_and_grad(x, y, label_smoothing=0.1)
    one_hot = crossentropy.cross_entropy_and_grad(x, np.eye(40, dtype=np.float32)[y], label_smoothing=0.1)
    np.testing.assert_allclose(one_hot.loss, index.loss, rtol=3e-7)
    np.testing.assert_allclose(
        one_hot.grad.astype(float), index.grad.astype(float), rtol=0.01 if dtype.itemsize == 2 else 2e-6, atol=1e-7
    )


def test_saved_statistics_serve_more_than_once(kernels, rng):
    x = rng.standard_normal((4, 50), dtype=np.float32)
    y = rng.integers(0, 50, 4)
    _, saved = autograd.forward(x, y, reduction="none")
    first = autograd.backward(saved, np.arange(4.0))
    np.testing.assert_array_equal(autograd.backward(saved, np.arange(4.0)), first)
    np.testing.assert_array_equal(
        first, crossentropy.cross_entropy_grad(x, y, reduction="none", grad_output=np.arange(4.0))
    )


def test_fused_and_saved_gradients_where_an_exponent_is_halfway(kernels):
    """Logits times log2 e that end in 1/2 in float32: both ways must round to the same integer."""
    z = np.arange(-110, -94, 2.0**-17, dtype=np.float32)
    halfway = z[(z * np.float32(np.log2(np.e))) % 1 == 0.5]
    assert len(halfway) > 20
    row = np.concatenate([np.full(65, -100, np.float32), [-93.6387], halfway]).astype(np.float32)
    for g in (1.0, 2.0):  # of which one makes the other power of 2 odd
        both = crossentropy.cross_entropy_and_grad(row, 0, grad_output=g)
        _, saved = autograd.forward(row, 0)
        np.testing.assert_array_equal(autograd.backward(saved, g), both.grad)


@pytest.mark.parametrize("classes", [3, 40, 300])  # few, and rows by blocks
@pytest.mark.parametrize("name", NUMERIC)
def test_a_backward_has_the_bits_of_the_gradient_with_the_loss(kernels, dtype, name, classes, rng):
    """The numbers that are kept of a row have to be all that the gradient is made of."""
    x = (rng.standard_normal((300, classes)) * 3).astype(dtype)
    for value in OPTIONS[name].samples:
        both(x, rng.integers(0, classes, 300), reduction="sum", **{name: value})
