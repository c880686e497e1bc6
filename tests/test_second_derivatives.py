"""Second derivatives against differences of the gradient, PyTorch's, and the boosters' formulas."""

import itertools

import numpy as np
import pytest

from crossentropy import cross_entropy_and_grad, cross_entropy_grad, cross_entropy_grad_hess, softmax

OPTIONS = {
    "plain": {},
    "weights": {"class_weight": [0.5, 2.0, 1.0, 0.7, 1.5], "sample_weight": [1.0, 0.0, 2.0, 0.3]},
    "smoothing and z-loss": {"label_smoothing": 0.2, "z_loss": 0.1},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", ["index", "probability"])
def test_against_central_differences(backend, kind, name, rng):
    x, u = rng.standard_normal((2, 4, 5))
    targets = rng.integers(0, 5, 4) if kind == "index" else rng.dirichlet(np.ones(5), 4)
    options, step = OPTIONS[name], 1e-5
    found = cross_entropy_grad_hess(x, targets, hessian="gauss_newton_product", vector=u, **options)
    up, down = (cross_entropy_grad(x + h * u, targets, **options) for h in (step, -step))
    np.testing.assert_allclose(found.hess, (up - down) / (2 * step), atol=1e-9)
    diagonal = cross_entropy_grad_hess(x, targets, **options).hess
    for c in range(5):
        moved = np.zeros((4, 5))
        moved[:, c] = step
        up, down = (cross_entropy_grad(x + h * moved, targets, **options)[:, c] for h in (1, -1))
        np.testing.assert_allclose(diagonal[:, c], (up - down) / (2 * step), atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_against_torch(rng):
    torch = pytest.importorskip("torch")
    x, y = torch.tensor(rng.standard_normal((3, 6))), torch.tensor([0, 5, 2])
    loss = lambda z: torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1)  # noqa: E731
    whole = torch.func.hessian(loss)(x).reshape(18, 18).numpy()
    options = {"label_smoothing": 0.1}
    found = cross_entropy_grad_hess(x.numpy(), y.numpy(), **options)
    np.testing.assert_allclose(found.hess.reshape(-1), np.diag(whole), rtol=1e-12, atol=1e-15)
    u = rng.standard_normal((3, 6))
    product = cross_entropy_grad_hess(x.numpy(), y.numpy(), hessian="gauss_newton_product", vector=u, **options).hess
    np.testing.assert_allclose(product.reshape(-1), whole @ u.reshape(-1), rtol=1e-11, atol=1e-15)


def test_the_boosters_formulas(kernels, rng):
    """multi:softprob of XGBoost, MulticlassSoftmax of LightGBM, by hand."""
    for classes in (2, 10, 100):
        x, y = (rng.standard_normal((50, classes)) * 4).astype(np.float32), rng.integers(0, classes, 50)
        x[0, 1] = 60
        wt = rng.uniform(0.5, 2, 50)
        p = np.exp(x.astype(float) - x.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        options = {"reduction": "sum", "sample_weight": wt}
        found = cross_entropy_grad_hess(x, y, hessian="xgboost", **options)
        np.testing.assert_allclose(found.grad, (p - np.eye(classes)[y]) * wt[:, None], rtol=1e-4, atol=1e-6)
        got = np.where(p > 1 - 1e-9, 0, found.hess)  # where the formula has lost its digits, and this has not
        want = np.where(p > 1 - 1e-9, 0, np.maximum(2 * p * (1 - p) * wt[:, None], 1e-16))
        np.testing.assert_allclose(got, want, rtol=1e-5)
        assert found.hess.min() >= np.float32(1e-16)
        factor = classes / (classes - 1)
        want = np.where(p > 1 - 1e-9, 0, factor * p * (1 - p) * wt[:, None])
        got = cross_entropy_grad_hess(x, y, hessian="lightgbm", **options).hess
        np.testing.assert_allclose(np.where(p > 1 - 1e-9, 0, got), want, rtol=1e-5, atol=1e-30)


def test_what_must_hold(kernels, rng):
    """H is positive semidefinite, its rows add up to 0, and the bound is above it."""
    classes = 7
    x, y = rng.standard_normal((3, classes)) * 5, rng.integers(0, classes, 3)
    options = {"reduction": "sum", "class_weight": rng.uniform(0.5, 2, classes)}
    whole = np.empty((3, classes, classes))
    for c in range(classes):
        u = np.zeros((3, classes))
        u[:, c] = 1
        whole[:, :, c] = cross_entropy_grad_hess(x, y, hessian="gauss_newton_product", vector=u, **options).hess
    np.testing.assert_allclose(whole, whole.swapaxes(1, 2), rtol=1e-10, atol=1e-300)
    np.testing.assert_allclose(whole.sum(axis=1), 0, atol=1e-15)
    assert np.linalg.eigvalsh(whole).min() > -1e-15
    diagonal = cross_entropy_grad_hess(x, y, **options).hess
    np.testing.assert_allclose(diagonal, np.diagonal(whole, axis1=1, axis2=2), rtol=1e-12)
    bound = cross_entropy_grad_hess(x, y, hessian="upper_bound", **options).hess
    above = (np.eye(classes) - 1 / classes) * (bound[:, :1, None] / (1 - 1 / classes)) - whole
    assert np.linalg.eigvalsh(above).min() > -1e-14
    ones = np.ones((3, classes))
    product = cross_entropy_grad_hess(x, y, hessian="gauss_newton_product", vector=ones, **options).hess
    np.testing.assert_array_equal(product, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 3, 10, 64, 65, 1000])
def test_sizes_by_code_path(kernels, classes, dtype, rng):
    """Tiles that go the short way and the long one, rows in blocks, exponentials that are kept."""
    diagonals_beside_probabilities(classes, dtype, rng)


def test_rows_whose_exponentials_are_too_many_to_keep(isa_unit, rng):
    diagonals_beside_probabilities(170_000, np.float32, rng)


def diagonals_beside_probabilities(classes, dtype, rng):
    for n, ignored, size in itertools.product((1, 37) if classes < 1000 else (2,), (None, 0), (1.0, 200.0)):
        x = (rng.standard_normal((n, classes)) + size - 1).astype(dtype)
        y = rng.integers(0, classes, n)
        if classes > 3:
            x[:, 1] = -np.inf
            y[y == 1] = 2
        options = {"ignore_index": ignored, "reduction": "sum"}
        found = cross_entropy_grad_hess(x, y, **options)
        loss, grad = cross_entropy_and_grad(x, y, **options)
        assert found.loss == loss
        np.testing.assert_array_equal(found.grad, grad)
        p = np.exp(x.astype(float) - x.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        counts = 1.0 if ignored is None else (y != ignored)[:, None]
        np.testing.assert_allclose(found.hess, p * (1 - p) * counts, rtol=2e-6, atol=1e-37 if classes > 1 else 1e-15)


@pytest.mark.parametrize("hessian", ["diagonal", "upper_bound", "xgboost", "lightgbm"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bits_do_not_depend_on_where_results_lie(kernels, dtype, hessian, rng):
    """Written where the logits lie, one after the other, or by way of a tile."""
    x, y = (rng.standard_normal((101, 10)) * 3).astype(dtype), rng.integers(0, 10, 101)
    x[3] += 60
    x[5, 2], y[5] = -np.inf, 1
    x[40, 7] = np.nan
    some = rng.uniform(0.5, 2, (2, 101)) * (rng.random((2, 101)) < 0.8)
    for options in (
        {"reduction": "sum"},
        {"ignore_index": 4},
        {"class_weight": some[0, :10], "sample_weight": some[1]},
    ):
        apart = [np.empty((101, 11), dtype)[:, :10] for _ in range(2)]
        want = cross_entropy_grad_hess(x, y, hessian=hessian, out=apart[0], hess_out=apart[1], **options)
        got = cross_entropy_grad_hess(x, y, hessian=hessian, **options)
        np.testing.assert_array_equal(got.grad, want.grad)
        np.testing.assert_array_equal(got.hess, want.hess)


@pytest.mark.parametrize("hessian", ["diagonal", "xgboost"])
def test_large_results_beside_each_other(isa_unit, hessian, rng):
    """Stores bypass the caches: of both in turn where they are aligned alike, and where they are not."""
    rows, classes = 135, 32_000
    x, y = rng.standard_normal((rows, classes), np.float32), rng.integers(0, classes, rows)
    x[1] += 30
    x[2, y[2]] += 20
    x[3, 100:200] = -np.inf
    want = cross_entropy_and_grad(x, y, reduction="sum")
    p = softmax(x).astype(float)
    memory = np.empty(x.size + 32, np.float32)
    for apart in (0, 3):
        hess = memory[apart : apart + x.size].reshape(x.shape)
        out = np.empty_like(x)
        found = cross_entropy_grad_hess(x, y, hessian=hessian, reduction="sum", out=out, hess_out=hess)
        np.testing.assert_array_equal(found.loss, want.loss)
        np.testing.assert_array_equal(found.grad, want.grad)
        by, least = (2, 1e-16) if hessian == "xgboost" else (1, 0)
        near = p < 0.9  # else 1 - p has lost its digits, here
        np.testing.assert_allclose(found.hess[near], np.maximum(by * p * (1 - p), least)[near], rtol=2e-6)
        rest = np.delete(p[2], y[2]).sum()
        np.testing.assert_allclose(found.hess[2, y[2]], by * rest * (1 - rest), rtol=1e-5)


def test_weights_that_are_large_and_small(kernels, rng):
    """What is beyond the lanes' range is computed one by one."""
    for classes, size in itertools.product((4, 100), (1e-42, 1e-30, 1e20, 1e30)):
        x, y = rng.standard_normal((20, classes)).astype(np.float32), rng.integers(0, classes, 20)
        v = np.where(np.arange(20) % 2, size, 1.0)
        plain = cross_entropy_grad_hess(x, y, reduction="sum").hess
        got = cross_entropy_grad_hess(x, y, reduction="sum", sample_weight=v).hess
        np.testing.assert_allclose(got, plain * v[:, None], rtol=2e-6, atol=2.0**-148)


def test_options_that_are_not_taken_say_why(rng):
    """What they say to do instead is right: of a z + b, less the margin at the target."""
    x, t, a, prior, margin = rng.standard_normal((4, 5)), np.arange(4), 1.7, rng.standard_normal(5), 0.4
    for name in ("logit_scale", "class_prior", "margin", "softcap", "focal"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument {name!r}: .*(either sign|a\\^2 times)"):
            cross_entropy_grad_hess(x, t, **{name: 1.0})
    z = a * x + prior
    z[np.arange(4), t] -= margin
    found = cross_entropy_grad_hess(z, t, reduction="sum")
    options = {"logit_scale": a, "class_prior": prior, "margin": margin, "reduction": "sum"}
    np.testing.assert_allclose(a * found.grad, cross_entropy_and_grad(x, t, **options).grad, rtol=1e-12)
    up, down = (
        np.stack([cross_entropy_and_grad(x + h * e, t, **options).grad @ e for e in np.eye(5)], axis=1)
        for h in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(a * a * found.hess, (up - down) / 2e-5, atol=1e-9)
