"""Section 1 of the note: the cross-entropy of two distributions is the likelihood of the data, divided by -N.

N observations y_1 ... y_N take values in K classes. The note counts classes from 1; labels here count from 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from . import _check

__all__ = [
    "class_counts",
    "class_probabilities",
    "cross_entropy_of",
    "entropy",
    "kl_divergence",
    "likelihood",
    "log_likelihood",
]


def class_counts(labels: ArrayLike, num_classes: int | None = None) -> np.ndarray:
    """k_c, how often each class occurs (eq. 1).

    Parameters
    ----------
    labels : array_like of integers, any shape
        Observed y_i or predicted labels, in [0, K).
    num_classes : int, optional
        K; by default one more than the largest label.

    Returns
    -------
    ndarray of int64, shape (K,)

    Raises
    ------
    TypeError
        For labels that are not integers.
    IndexError
        For a label outside [0, K).

    Examples
    --------
    >>> crossentropy.distributions.class_counts([0, 2, 2], num_classes=4)
    array([1, 0, 2, 0])
    """
    y = _check.array(labels, "labels")
    if y.size == 0 and not isinstance(labels, np.ndarray):
        y = y.astype(np.int64)
    if y.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {y.dtype}")
    y = y.reshape(-1)
    k = num_classes if num_classes is not None else int(y.max()) + 1 if y.size else 0
    bad = (y < 0) | (y >= k)
    if bad.any():
        first = int(bad.argmax())
        raise IndexError(f"labels[{first}] = {y[first]} is not in [0, {k})")
    return np.bincount(y.astype(np.int64), minlength=k)


def class_probabilities(labels: ArrayLike, num_classes: int | None = None) -> np.ndarray:
    """p_c = k_c / N, the empirical probabilities; of predicted labels, the estimated p^_c (eq. 1).

    Parameters
    ----------
    labels : array_like of integers, any shape
        At least one label.
    num_classes : int, optional
        K; by default one more than the largest label.

    Returns
    -------
    ndarray of float64, shape (K,)

    Raises
    ------
    TypeError, IndexError
        As `class_counts`.
    ValueError
        For no labels at all.

    Examples
    --------
    >>> crossentropy.distributions.class_probabilities([0, 2, 2, 2])
    array([0.25, 0.  , 0.75])
    """
    counts = class_counts(labels, num_classes)
    if not counts.sum():
        raise ValueError("labels must hold at least one label, got none")
    return counts / counts.sum()


def likelihood(counts: ArrayLike, q: ArrayLike) -> float:
    """P(Y_1 = y_1, ..., Y_N = y_N | model), the product of q_c^k_c (eq. 2).

    Parameters
    ----------
    counts : array_like, shape (K,)
        k_c >= 0.
    q : array_like, shape (K,)
        The model's probabilities q_c (the note's p^_c), >= 0. They need not sum to 1, and are taken as they are.

    Returns
    -------
    float
        0 where it underflows, as it does for most data: hence eq. 3.

    Raises
    ------
    ValueError
        For different shapes, or entries that are negative or not finite.

    Examples
    --------
    >>> round(crossentropy.distributions.likelihood([1, 2], [0.5, 0.5]), 6)
    0.125
    """
    return math.exp(log_likelihood(counts, q))


def log_likelihood(counts: ArrayLike, q: ArrayLike) -> float:
    """l(y_1, ..., y_N | model), the sum of k_c log q_c (eq. 3), in nats.

    Parameters
    ----------
    counts : array_like, shape (K,)
        k_c >= 0.
    q : array_like, shape (K,)
        The model's probabilities, >= 0. They need not sum to 1, and are taken as they are.

    Returns
    -------
    float
        -inf where a class that occurs has probability 0; a class that does not occur adds 0, whatever its q_c.

    Raises
    ------
    ValueError
        For different shapes, or entries that are negative or not finite.

    Examples
    --------
    >>> round(crossentropy.distributions.log_likelihood([1000, 2000], [0.5, 0.5]), 6)
    -2079.441542
    """
    k, q = _pair(counts, q, "counts")
    return math.fsum(weight * _log(value) for weight, value in zip(k, q, strict=True) if weight)


def cross_entropy_of(p: ArrayLike, q: ArrayLike) -> float:
    """H(P, Q), minus the sum of p_c log q_c (eq. 4), in nats.

    With p the empirical probabilities of N observations it is -l / N: minimising the cross-entropy is maximising the
    likelihood.

    Parameters
    ----------
    p : array_like, shape (K,)
        Probabilities, >= 0; they are divided by their sum, so that counts will do.
    q : array_like, shape (K,)
        The model's probabilities, >= 0; as in `log_likelihood` they need not sum to 1, and are taken as they are.

    Returns
    -------
    float
        inf where q_c = 0 for a class with p_c > 0.

    Raises
    ------
    ValueError
        For different shapes, or entries that are negative or not finite, or none that is positive.

    Examples
    --------
    >>> counts, q = [1000, 2000], [0.5, 0.5]
    >>> round(crossentropy.distributions.cross_entropy_of(counts, q), 6)
    0.693147
    >>> round(crossentropy.distributions.log_likelihood(counts, q) / -3000, 6)
    0.693147
    """
    p, q = _pair(p, q, "p")
    return math.fsum(-w * _log(value) for w, value in zip(_normalised(p, "p"), q, strict=True) if w)


def entropy(p: ArrayLike) -> float:
    """H(P) = H(P, P), in nats.

    Parameters
    ----------
    p : array_like, shape (K,)
        Probabilities, >= 0; they are divided by their sum, so that counts will do: ``entropy([3, 5])`` is that of 3/8
        and 5/8.

    Returns
    -------
    float
        Between 0 and log K.

    Raises
    ------
    ValueError
        For entries that are negative or not finite, or none that is positive.

    Notes
    -----
    The least that the cross-entropy of eq. 4 can be, whatever Q is.

    Examples
    --------
    >>> round(crossentropy.distributions.entropy([0.5, 0.25, 0.25]) / np.log(2).item(), 6)  # in bits
    1.5
    """
    p = _normalised(_pair(p, p, "p")[0], "p")
    return math.fsum(-value * math.log(value) for value in p if value)


def kl_divergence(p: ArrayLike, q: ArrayLike) -> float:
    """D(P || Q) = H(P, Q) - H(P), the sum of p_c log(p_c / q_c), in nats.

    Parameters
    ----------
    p, q : array_like, shape (K,)
        Probabilities, >= 0; each is divided by its sum, as scipy.stats.entropy(p, q) does, so that counts will do.

    Returns
    -------
    float
        0 for p = q; inf where q_c = 0 for a class with p_c > 0.

    Raises
    ------
    ValueError
        For different shapes, or entries that are negative or not finite, or none that is positive.

    Notes
    -----
    By how much the cross-entropy of eq. 4 is above that least.

    References
    ----------
    Kullback, Leibler: On information and sufficiency, Ann. Math. Statist. 22, 1951.

    Examples
    --------
    >>> round(crossentropy.distributions.kl_divergence([1, 1], [1, 3]), 6)
    0.143841
    """
    p, q = _pair(p, q, "p")
    return math.fsum(a * _log_ratio(a, b) for a, b in zip(_normalised(p, "p"), _normalised(q, "q"), strict=True) if a)


def _normalised(values: list[float], name: str) -> list[float]:
    """The values over their sum."""
    _, exponent = math.frexp(max(values, default=0.0))
    scaled = [math.ldexp(value, -exponent) for value in values]  # exact, and of a sum within float64's range
    total = math.fsum(scaled)
    if not total:
        raise ValueError(f"{name} must have an entry that is positive, got {values}")
    return [value / total for value in scaled]


def _pair(p: ArrayLike, q: ArrayLike, name: str) -> tuple[list[float], list[float]]:
    (p, _), (q, _) = _check.floats(p, name), _check.floats(q, "q")
    if p.ndim != 1 or p.shape != q.shape:
        raise ValueError(f"{name} and q must have the same shape (K,), got {p.shape} and {q.shape}")
    for value, its_name in ((p, name), (q, "q")):
        if not ((value >= 0) & (value < np.inf)).all():
            raise ValueError(f"{its_name} must be finite and not negative, got {value}")
    return p.astype(np.float64).tolist(), q.astype(np.float64).tolist()


def _log(value: float) -> float:
    return math.log(value) if value else -math.inf


def _log_ratio(a: float, b: float) -> float:
    """log(a / b), by log1p where they are close: log a - log b would leave only the rounding errors of a - b."""
    if not b:
        return math.inf
    return math.log1p((a - b) / b) if 0.5 < a / b < 2 else math.log(a) - math.log(b)
