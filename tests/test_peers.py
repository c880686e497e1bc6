"""The same semantics as torch.nn.functional.cross_entropy, on real logits, wherever the two mean to agree."""

import itertools

import numpy as np
import pytest

import crossentropy

torch = pytest.importorskip("torch", reason="the peer is PyTorch")
datasets = pytest.importorskip("sklearn.datasets", reason="the real data is scikit-learn's")


@pytest.fixture(scope="module")
def problem():
    """Logits (N, K) of a classifier, real labels, and probabilities from another classifier."""
    features, y = datasets.load_digits(return_X_y=True)
    model, _ = crossentropy.training.fit(features / 16, y, epochs=2)
    teacher, _ = crossentropy.training.fit(features / 16, y, epochs=20)
    return model.logits(features / 16), y, teacher.probabilities(features / 16)


@pytest.mark.parametrize(
    ("kind", "weighted", "smoothing", "reduction", "ignored"),
    list(
        itertools.product(
            ("index", "probability"),
            (False, True),
            (0.0, 0.1),
            ("none", "sum", "mean"),
            (None, 3),
        )
    ),
)
def test_against_torch(kernels, problem, kind, weighted, smoothing, reduction, ignored):
    logits, y, q = problem
    target = y if kind == "index" else q
    w = np.linspace(0.1, 2, 10) if weighted else None
    options = {"label_smoothing": smoothing, "reduction": reduction}
    theirs = dict(options)
    if ignored is not None and kind == "index":
        options["ignore_index"] = theirs["ignore_index"] = ignored
    x = torch.tensor(logits, requires_grad=True)
    weight = None if w is None else torch.tensor(w)
    expected = torch.nn.functional.cross_entropy(x, torch.tensor(target), weight=weight, **theirs)
    expected.sum().backward()
    loss, grad = crossentropy.cross_entropy_and_grad(logits, target, class_weight=w, **options)
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_class_axis_1_against_torch(kernels, problem):
    logits, y, _ = problem
    x = np.ascontiguousarray(logits[:1792].reshape(8, 16, 14, 10).transpose(0, 3, 1, 2))
    t = y[:1792].reshape(8, 16, 14)
    expected = torch.nn.functional.cross_entropy(torch.tensor(x), torch.tensor(t), reduction="none")
    np.testing.assert_allclose(
        crossentropy.cross_entropy(x, t, axis=1, reduction="none"), expected.numpy(), rtol=1e-12, atol=1e-15
    )


def test_log_softmax_and_its_backward_against_torch(kernels, problem):
    logits, _, q = problem
    x = torch.tensor(logits, requires_grad=True)
    expected = torch.log_softmax(x, 1)
    expected.backward(torch.tensor(q))
    log_p, saved = crossentropy.autograd.log_softmax_forward(logits)
    np.testing.assert_allclose(log_p, expected.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        crossentropy.autograd.log_softmax_backward(saved, q), x.grad.numpy(), rtol=1e-11, atol=1e-13
    )
