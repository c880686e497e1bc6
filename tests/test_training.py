"""Algorithm 1: the trainer learns real data, its steps are the derivation's, and bad arguments are refused."""

import math

import numpy as np
import pytest

import crossentropy
from crossentropy import training


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets", reason="the real data is scikit-learn's digits")
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(y))
    return x[order] / 16, y[order]


def test_learns_the_digits(digits):
    x, y = digits
    steps = []
    model, costs = training.fit(x[:1300], y[:1300], epochs=20, callback=steps.append)
    assert (model.predict(x[1300:]) == y[1300:]).mean() >= 0.93
    assert costs.shape == (20, math.ceil(1300 / 64))
    assert costs[0, 0] == pytest.approx(math.log(10), rel=1e-12)  # all zeros: p~ is uniform
    assert costs[-1].mean() < 0.2
    assert [step.cost for step in steps] == costs.ravel().tolist()
    assert (steps[-1].epoch, steps[-1].batch, steps[-1].batches) == (19, costs.shape[1] - 1, costs.shape[1])
    assert model.loss(x[:1300], y[:1300]) < costs[0].mean()
    np.testing.assert_allclose(model.probabilities(x[:5]).sum(axis=1), 1)


def test_finds_the_optimum_that_scikit_learn_finds():
    """The cost with weight decay is strictly convex in W: another optimiser must end at the same p~."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the peer is scikit-learn")
    from sklearn.linear_model import LogisticRegression

    x, y = datasets.load_iris(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    model, _ = training.fit(x, y, epochs=4000, batch_size=len(y), weight_decay=0.01, learning_rate=0.5)
    peer = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-10, max_iter=10000).fit(x, y)
    np.testing.assert_allclose(model.probabilities(x), peer.predict_proba(x), atol=1e-5)


def test_back_propagation_against_finite_differences(rng):
    x, y = rng.standard_normal((6, 4)), rng.integers(0, 3, 6)
    model = training.Model(rng.standard_normal((4, 3)), rng.standard_normal(3))
    _, grad_z = crossentropy.cross_entropy_and_grad(training.linear(x, model), y)
    grad = training.backpropagate(x, grad_z)
    for parameter, slope in zip(model, grad, strict=True):
        for index in np.ndindex(parameter.shape):
            at = parameter[index]
            parameter[index] = at + 1e-6
            above = model.loss(x, y)
            parameter[index] = at - 1e-6
            below = model.loss(x, y)
            parameter[index] = at
            assert slope[index] == pytest.approx((above - below) / 2e-6, abs=1e-8)


def test_an_epoch_takes_every_observation_once(rng):
    seen = list(training.batches(100, 32, rng))
    assert [len(batch) for batch in seen] == [32, 32, 32, 4]
    assert sorted(np.concatenate(seen)) == list(range(100))


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [
        (10, 0, "batch_size must be at least 1, got 0"),
        (10, -1, "batch_size must be at least 1, got -1"),
        (-1, 4, "count must be at least 0, got -1"),
    ],
)
def test_an_epoch_of_impossible_batches_is_refused(rng, count, size, message):
    with pytest.raises(ValueError, match=message):
        training.batches(count, size, rng)


def test_the_same_seed_gives_the_same_model(digits):
    x, y = digits
    one, two = (training.fit(x[:300], y[:300], epochs=2, seed=5)[0] for _ in range(2))
    np.testing.assert_array_equal(one.weights, two.weights)
    assert not np.array_equal(one.weights, training.fit(x[:300], y[:300], epochs=2, seed=6)[0].weights)


def test_weights_and_smoothing_reach_the_loss(digits):
    x, y = digits
    model, _ = training.fit(x, y, epochs=3, class_weight=np.r_[np.ones(9), 0.0])  # the nines do not count
    assert not (model.predict(x) == 9).any()
    smooth, _ = training.fit(x, y, epochs=30, label_smoothing=0.3)
    assert smooth.probabilities(x).max() < 0.95


def test_the_callback_can_end_it(digits):
    x, y = digits
    _, costs = training.fit(x, y, epochs=5, callback=lambda step: step.epoch == 1)
    assert np.isfinite(costs[0]).all()
    assert np.isfinite(costs[1, 0])
    assert np.isnan(costs[1, 1:]).all()


def test_start_is_continued_from_and_not_changed(digits):
    x, y = digits
    first, _ = training.fit(x, y, epochs=1)
    kept = first.weights.copy()
    training.fit(x, y, epochs=1, start=first)
    np.testing.assert_array_equal(first.weights, kept)


X, Y = np.zeros((4, 2)), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": np.zeros(4)}, ValueError, r"x must have shape \(N, D\)"),
        ({"x": np.full((4, 2), np.nan)}, ValueError, "x must be finite, got nan"),
        ({"y": Y[:3]}, ValueError, r"y must have shape \(4,\), got \(3,\)"),
        ({"y": Y.astype(float)}, TypeError, "y must be integers, got float64"),
        ({"y": Y - 1}, IndexError, r"y\[0\] = -1 is not in \[0, 1\)"),
        ({"num_classes": 1}, IndexError, r"y\[1\] = 1 is not in \[0, 1\)"),
        ({"start": training.initial_model(3, 2)}, ValueError, r"start must have weights \(2, 2\)"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"batch_size": -1}, ValueError, "batch_size must be at least 1"),
        ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\)"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate must be in"),
        ({"class_weight": [1.0]}, ValueError, r"class_weight must have shape \(2,\)"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        training.fit(arguments.pop("x", X), arguments.pop("y", Y), **arguments)


def test_a_cost_that_runs_away_is_an_error(rng):
    x, y = rng.standard_normal((200, 5)) * 1e200, rng.integers(0, 2, 200)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="lower the learning rate"):
        training.fit(x, y, learning_rate=1e100, epochs=50)
