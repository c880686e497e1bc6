"""Section 1 of the note on real labels, and the edge cases of its functions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crossentropy
from crossentropy import distributions

counts = st.lists(st.integers(0, 1000), min_size=2, max_size=20).filter(any)


@pytest.fixture(scope="module")
def digits():
    """Real labels, and those that a classifier trained here predicts."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the real labels are scikit-learn's digits")
    x, y = datasets.load_digits(return_X_y=True)
    model, _ = crossentropy.training.fit(x / 16, y, epochs=2)
    return y, model.predict(x / 16), model.probabilities(x / 16)


def test_equation_4_on_real_labels(digits):
    """-l / N = H(P, Q), with the estimated probabilities of eq. 1."""
    y, predicted, _ = digits
    p, q = distributions.class_probabilities(y), distributions.class_probabilities(predicted, 10)
    k = distributions.class_counts(y)
    assert k.tolist() == np.bincount(y).tolist()
    assert -distributions.log_likelihood(k, q) / len(y) == pytest.approx(
        distributions.cross_entropy_of(p, q), rel=1e-14
    )


def test_the_mean_loss_of_constant_logits_is_eq_4(digits):
    """A model that gives every observation the same q: its mean loss on the labels is H(P, Q)."""
    y, _, probabilities = digits
    q = probabilities.mean(axis=0)
    loss = crossentropy.cross_entropy(np.broadcast_to(np.log(q), (len(y), 10)), y)
    assert loss == pytest.approx(distributions.cross_entropy_of(distributions.class_probabilities(y), q), rel=1e-14)


def test_the_mean_loss_is_the_likelihood(digits):
    """exp(-N loss) is the probability of the labels under the model, taken over the observations (eq. 2)."""
    y, _, probabilities = digits
    log_p = np.log(probabilities)
    assert crossentropy.cross_entropy(log_p, y) == pytest.approx(-log_p[np.arange(len(y)), y].mean(), rel=1e-13)


@given(counts)
def test_the_empirical_distribution_maximises_the_likelihood(k):
    p = np.array(k) / sum(k)
    uniform = np.full(len(k), 1 / len(k))
    assert distributions.log_likelihood(k, p) >= distributions.log_likelihood(k, uniform) - 1e-9 * sum(k)


@given(counts)
def test_entropy_and_divergence(k):
    p, q = np.array(k) / sum(k), (np.array(k) + 1) / (sum(k) + len(k))
    assert -1e-15 <= distributions.entropy(p) <= math.log(len(k)) + 1e-12
    assert distributions.kl_divergence(p, p) == 0
    difference = distributions.cross_entropy_of(p, q) - distributions.entropy(p)
    assert distributions.kl_divergence(p, q) == pytest.approx(difference, abs=1e-14)
    assert distributions.kl_divergence(p, q) >= -1e-16


@given(counts, st.integers(0, 3))
def test_what_does_not_sum_to_1_is_normalised_as_scipy_does(k, scale):
    stats = pytest.importorskip("scipy.stats")
    k, q = np.array(k) * 10**scale, np.arange(1, len(k) + 1)
    assert distributions.entropy(k) == pytest.approx(stats.entropy(k), rel=1e-13, abs=1e-14)
    assert distributions.entropy(k) == pytest.approx(distributions.entropy(k / k.sum()), rel=1e-13, abs=1e-14)
    assert distributions.kl_divergence(k, q) == pytest.approx(stats.entropy(k, q), rel=1e-12, abs=1e-13)
    assert distributions.cross_entropy_of(k, q / q.sum()) == pytest.approx(
        stats.entropy(k) + stats.entropy(k, q), rel=1e-12
    )


def test_counts_are_distributions_too():
    """Eq. 4 for the counts themselves, and for a q that does not sum to 1, which both of its sides take as it is."""
    assert distributions.entropy([3, 5]) == pytest.approx(0.6615632381579821, rel=1e-15)
    k, q = [3, 5, 0], [0.3, 0.1, 0.0]
    assert distributions.cross_entropy_of(k, q) == pytest.approx(-distributions.log_likelihood(k, q) / 8, rel=1e-15)
    assert distributions.entropy([1e308] * 4) == pytest.approx(math.log(4), rel=1e-15)
    assert distributions.entropy([5e-324] * 4) == pytest.approx(math.log(4), rel=1e-15)
    assert distributions.kl_divergence([2, 6], [1, 3]) == 0
    assert distributions.entropy(np.array([0.1, 0.3], np.float16)) == pytest.approx(
        distributions.entropy([1, 3]), rel=1e-3
    )


def test_equation_2():
    assert distributions.likelihood([2, 1], [0.5, 0.25]) == pytest.approx(0.5**2 * 0.25, rel=1e-15)
    assert distributions.likelihood([1000, 1000], [0.5, 0.5]) == 0  # underflows; hence eq. 3


def test_zeros():
    assert distributions.cross_entropy_of([1.0, 0.0], [0.5, 0.0]) == pytest.approx(math.log(2))
    assert distributions.cross_entropy_of([0.5, 0.5], [1.0, 0.0]) == math.inf
    assert distributions.kl_divergence([0.5, 0.5], [1.0, 0.0]) == math.inf
    assert distributions.entropy([1.0, 0.0]) == 0
    assert str(distributions.entropy([1.0])) == "0.0"


def test_counts_of_every_integer_dtype():
    assert distributions.class_counts(np.array([[1, 0], [3, 1]], np.uint8)).tolist() == [1, 2, 0, 1]
    assert distributions.class_counts([], 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: distributions.class_counts([0, 5], 3), IndexError, r"labels\[1\] = 5 is not in \[0, 3\)"),
        (lambda: distributions.class_counts([0, -1]), IndexError, r"labels\[1\] = -1 is not in"),
        (lambda: distributions.class_counts([0.5]), TypeError, "labels must be integers, got float64"),
        (lambda: distributions.class_probabilities([]), ValueError, "at least one label"),
        (
            lambda: distributions.cross_entropy_of([1.0], [0.5, 0.5]),
            ValueError,
            r"same shape \(K,\), got \(1,\) and \(2,\)",
        ),
        (lambda: distributions.entropy([0.5, -0.5]), ValueError, "p must be finite and not negative"),
        (
            lambda: distributions.log_likelihood([1, -2], [0.5, 0.5]),
            ValueError,
            "counts must be finite and not negative",
        ),
        (lambda: distributions.kl_divergence([0.5, 0.5], [0.5, math.nan]), ValueError, "q must be finite"),
        (lambda: distributions.entropy([0, 0]), ValueError, r"p must have an entry that is positive, got \[0.0, 0.0\]"),
        (lambda: distributions.entropy([]), ValueError, r"p must have an entry that is positive, got \[\]"),
        (lambda: distributions.kl_divergence([1, 0], [0, 0]), ValueError, "q must have an entry that is positive"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
