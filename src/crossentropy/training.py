"""Algorithm 1 of the note, completed: softmax regression trained by mini-batch descent on the cross-entropy.

The note's letters: E epochs of B batches b, each of n_b pairs (x, y); c(b) the cost, the mean loss of the batch. The
model is one linear layer, z = x W + bias, and p~ = softmax(z). ``docs/derivation.md`` derives every step.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import cross_entropy, cross_entropy_and_grad, softmax
from ._options import LossOptions

__all__ = ["Model", "Step", "backpropagate", "batches", "fit", "initial_model", "linear"]


class Model(NamedTuple):
    """A softmax regression: float64 weights (D, K) and bias (K,)."""

    weights: np.ndarray
    bias: np.ndarray

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Z = x W + bias, shape (N, K), for features x of shape (N, D)."""
        return linear(x, self)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """p~_c(theta), the estimated probability of each class, shape (N, K)."""
        return softmax(self.logits(x))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The most probable class of each observation, shape (N,)."""
        return self.logits(x).argmax(axis=1)

    def loss(self, x: np.ndarray, y: ArrayLike, **options: Unpack[LossOptions]) -> Any:
        """The cross-entropy of labels y (N,) under the model, in nats; options of `crossentropy.cross_entropy`."""
        return cross_entropy(self.logits(x), y, **options)


class Step(NamedTuple):
    """What the callback of `fit` gets after each batch: the counts from 0, and c(b) before the batch's step.

    The model is the one in training: copy its arrays to keep them.
    """

    epoch: int
    batch: int
    batches: int
    cost: float
    model: Model


def linear(x: np.ndarray, model: Model) -> np.ndarray:
    """The layer forward: z = x W + bias (the f_theta of algorithm 1).

    Parameters
    ----------
    x : ndarray, shape (n_b, D)
        Features.
    model : Model
        W of shape (D, K), bias of shape (K,).

    Returns
    -------
    ndarray, shape (n_b, K)
        The logits.

    Raises
    ------
    ValueError
        For shapes that do not fit, as NumPy's matmul says it.

    Examples
    --------
    >>> model = crossentropy.training.initial_model(features=2, num_classes=3)
    >>> crossentropy.training.linear(np.ones((1, 2)), model)
    array([[0., 0., 0.]])
    """
    return x @ model.weights + model.bias


def backpropagate(x: np.ndarray, grad_logits: np.ndarray) -> Model:
    """The layer backward: from dc/dz to dc/dW = x^T dc/dz and dc/dbias, the sum of dc/dz over the batch.

    Parameters
    ----------
    x : ndarray, shape (n_b, D)
    grad_logits : ndarray, shape (n_b, K)

    Returns
    -------
    Model
        The gradient, in the shape of the model.

    Raises
    ------
    ValueError
        For different numbers of rows, as NumPy's matmul says it.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 4.

    Examples
    --------
    >>> gradient = crossentropy.training.backpropagate(np.ones((4, 2)), np.full((4, 3), 0.25))
    >>> gradient.weights.shape, gradient.bias
    ((2, 3), array([1., 1., 1.]))
    """
    return Model(x.T @ grad_logits, grad_logits.sum(axis=0))


def batches(count: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """One epoch of algorithm 1: the indices 0 ... count-1 in random order, in B = ceil(count / batch_size) batches.

    Parameters
    ----------
    count : int
        Observations.
    batch_size : int
        n_b; the last batch may be smaller.
    rng : numpy.random.Generator

    Yields
    ------
    ndarray of int64, shape (n_b,)

    Raises
    ------
    ValueError
        For a ``batch_size`` below 1, or a negative ``count``.

    Examples
    --------
    >>> list(map(len, crossentropy.training.batches(10, 4, np.random.default_rng(0))))
    [4, 4, 2]
    """
    for name, value, least in (("count", count, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    order = rng.permutation(count)
    return (order[start : start + batch_size] for start in range(0, count, batch_size))


def initial_model(features: int, num_classes: int) -> Model:
    """All zeros, so that p~ is uniform; the cost is convex in the parameters, and any start of algorithm 1 will do.

    Parameters
    ----------
    features : int
        D.
    num_classes : int
        K.

    Returns
    -------
    Model
        Of float64, W of shape (D, K) and bias of shape (K,).

    Raises
    ------
    TypeError, ValueError
        For numbers that are no integers, or negative.

    Examples
    --------
    >>> model = crossentropy.training.initial_model(features=2, num_classes=4)
    >>> model.probabilities(np.ones((1, 2)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    return Model(np.zeros((features, num_classes)), np.zeros(num_classes))


def fit(
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_classes: int | None = None,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    seed: int = 0,
    start: Model | None = None,
    callback: Callable[[Step], object] | None = None,
) -> tuple[Model, np.ndarray]:
    """Train a softmax regression (algorithm 1).

    Parameters
    ----------
    x : array_like, shape (N, D)
        Features: finite numbers, best of about unit size (standardise them).
    y : array_like of integers, shape (N,)
        Labels in [0, K).
    num_classes : int, optional
        K; by default one more than the largest label.
    epochs : int, default 30
        E.
    batch_size : int, default 64
        n_b. B follows: ceil(N / n_b) batches an epoch.
    learning_rate, momentum : float
        A step is velocity = momentum * velocity - learning_rate * gradient; parameters += velocity.
    weight_decay : float, default 0
        Adds weight_decay * W to the gradient of W (not of the bias).
    class_weight, label_smoothing
        Passed to `crossentropy.cross_entropy_and_grad`.
    seed : int, default 0
        Of the batches' order: the same seed gives the same model.
    start : Model, optional
        Where to start; by default all zeros.
    callback : callable, optional
        Called with a `Step` after each batch; returning True ends the training.

    Returns
    -------
    model : Model
    costs : ndarray of float64, shape (epochs, B)
        c(b) of each batch, in nats; NaN for batches not reached because the callback ended the training.

    Raises
    ------
    TypeError, ValueError
        For features that are not a finite matrix, labels that don't go with them, or settings out of their range.
    IndexError
        For a label outside [0, K).
    FloatingPointError
        When the cost is no longer finite: the learning rate is too high.

    Examples
    --------
    >>> x, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    >>> model, costs = crossentropy.training.fit(x, y, epochs=20)
    >>> model.predict(x)
    array([0, 0, 1, 1])
    >>> costs.shape, bool(costs[-1] < costs[0])
    ((20, 1), True)
    """
    x, y = _observations(x, y)
    k = int(y.max()) + 1 if num_classes is None else operator.index(num_classes)
    bad = (y < 0) | (y >= k)
    if bad.any():
        raise IndexError(f"y[{int(bad.argmax())}] = {y[bad][0]} is not in [0, {k})")
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if operator.index(value) < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, rate in (("learning_rate", learning_rate), ("momentum", momentum), ("weight_decay", weight_decay)):
        if not 0 <= rate < (1 if name == "momentum" else math.inf):
            raise ValueError(f"{name} must be in [0, {'1' if name == 'momentum' else 'inf'}), got {rate}")

    model = initial_model(x.shape[1], k) if start is None else Model(*(np.array(a, np.float64) for a in start))
    if model.weights.shape != (x.shape[1], k) or model.bias.shape != (k,):
        shapes = f"{model.weights.shape} and {model.bias.shape}"
        raise ValueError(f"start must have weights {(x.shape[1], k)} and bias {(k,)}, got {shapes}")
    velocity = Model(*map(np.zeros_like, model))
    options: dict[str, Any] = {}  # those that are set: a call without any goes a shorter way
    if class_weight is not None or label_smoothing:
        options = {"class_weight": class_weight, "label_smoothing": label_smoothing, "empty": 0.0}
    rng = np.random.default_rng(seed)
    costs = np.full((epochs, -(-len(x) // batch_size)), math.nan)
    for epoch in range(epochs):
        for b, chosen in enumerate(batches(len(x), batch_size, rng)):
            with np.errstate(over="ignore", invalid="ignore"):  # a cost that runs away is an error below
                part = x[chosen]
                z = linear(part, model)
                cost, grad_z = cross_entropy_and_grad(z, y[chosen], out=z, **options)
                grad = backpropagate(part, grad_z)
                grad.weights[...] += weight_decay * model.weights
                for parameter, step, slope in zip(model, velocity, grad, strict=True):
                    step *= momentum
                    step -= learning_rate * slope
                    parameter += step
            if not math.isfinite(cost):
                raise FloatingPointError(f"the cost of batch {b} of epoch {epoch} is {cost}: lower the learning rate")
            costs[epoch, b] = cost
            if callback is not None and callback(Step(epoch, b, costs.shape[1], float(cost), model)):
                return model, costs
    return model, costs


def _observations(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x must have shape (N, D) with N >= 1, got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"x must be finite, got {x[~np.isfinite(x)][0]}")
    if y.dtype.kind not in "iu":
        raise TypeError(f"y must be integers, got {y.dtype}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y must have shape {x.shape[:1]}, got {y.shape}")
    return x, y
