"""Training with an eye on observations that the steps do not see: it ends where their loss no longer falls."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .. import distributions, training

BATCHES = 300  # of an epoch at most, where the size of a batch is not given
LEAST = 1e-3  # what the validation loss must fall by, of itself, to count as falling


class History(NamedTuple):
    """What happened in training: c(b) of each batch of each epoch, and the losses after each, in nats."""

    costs: np.ndarray  # (epochs, B)
    validation: list[float]
    test: list[float]
    best: int  # the epoch whose model was kept, from 0
    ended: str  # why it ended, in words
    warning: str  # what went wrong; or ""


def usual_batch_size(count: int) -> int:
    """64, or as many as make 300 batches of all observations."""
    return 64 if count <= 64 * BATCHES else 2 ** math.ceil(math.log2(count / BATCHES))


def usual_patience(batches: int) -> int:
    """20 epochs, or where they have many batches about 1500 of these, but 5 epochs at least."""
    return int(np.clip(1500 // batches, 5, 20))


def usual_learning_rate(x: np.ndarray) -> float:
    """0.05, or less where features vary together: 2 / the largest eigenvalue of x^T x / N, by power iteration."""
    x = x[:: max(len(x) // 2000, 1)]
    v, size = np.ones(x.shape[1]) / math.sqrt(x.shape[1]), 0.0
    for _ in range(20):
        v = x.T @ (x @ v) / len(x)
        size = float(np.linalg.norm(v))
        if not size:
            return 0.05
        v /= size
    return min(0.05, 2 / size)


def train(estimator, x, y, classes, *, validation, test, patience, progress):
    """Fit the estimator, and keep its weights of the epoch with the least validation loss."""
    k, history, best = len(classes), ([], []), [math.inf, -1, None]
    since, least = 0, math.inf

    def after_batch(step):
        nonlocal since, least
        progress(step)
        if step.batch < step.batches - 1:
            return False
        for losses, part in zip(history, (validation, test), strict=True):
            losses.append(float(step.model.loss(*part)) if len(part[0]) else math.nan)
        loss = history[0][-1]
        if math.isnan(loss) or loss < best[0]:
            best[:] = loss, step.epoch, [np.array(each) for each in step.model]
        since = 0 if not loss >= least * (1 - LEAST) else since + 1
        least = min(least, loss) if since else loss
        return bool(patience) and since >= patience

    estimator.fit_numbers(x, y, classes, after_batch)
    if best[2] is not None:
        estimator.set_model(training.Model(*best[2]))
    done = len(history[0])
    costs = estimator.costs_[:done]
    words = f"{done} of at most {estimator.epochs} epochs of {costs.shape[1]} batches"
    if done < estimator.epochs:
        words += f", since the validation loss did not fall for {patience}"
    words += f"; kept: epoch {best[1] + 1}"
    return History(costs, *history, best[1], words, _warning(costs, history[0], y, k, estimator))


def _warning(costs, validation, y, k, estimator) -> str:
    """Whether the cost ran away: to more than what is known of a class without any feature."""
    without = distributions.entropy(distributions.class_probabilities(y, k))
    means = costs.mean(axis=1)
    if estimator.class_weight is None and not estimator.label_smoothing and means[-1] > 1.5 * max(without, 0.1):
        return (
            f"the cost ran away: {means[-1]:.3g} nats in the last epoch, where guessing by how frequent the classes "
            f"are costs {without:.3g}: --learning-rate {estimator.learning_rate:g} is too high"
        )
    if means[-1] > 2 * means.min() and means[-1] > 1.5 * math.log(k):
        return (
            f"the cost ran away: {means[-1]:.3g} nats in the last epoch, {means.min():.3g} at its best: "
            f"--learning-rate {estimator.learning_rate:g} is too high"
        )
    return ""
