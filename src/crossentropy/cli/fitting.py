"""Training with an eye on observations that the steps do not see: it ends where their loss no longer falls."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits  # scikit-learn's own

from .. import cross_entropy, distributions, training

BATCHES = 300  # of an epoch at most, where the size of a batch is not given
LEAST = 1e-3  # what the validation loss must fall by, of itself, to count as falling
AGAIN = 20_000  # observations, up to which those that validated are worth training once more
SHOWN = 10_000  # observations of the test part at most, whose loss is followed


class History(NamedTuple):
    """What happened in training: c(b) of each batch of each epoch, and the losses after each, in nats."""

    costs: np.ndarray  # (epochs, B)
    validation: list[float]
    test: list[float]
    best: int  # the epoch that was kept, from 0
    ended: str  # why it ended, in words
    warning: str  # what went wrong; or ""


def usual_batch_size(count: int) -> int:
    """64, or as many as make 300 batches of all observations."""
    return 64 if count <= 64 * BATCHES else 2 ** math.ceil(math.log2(count / BATCHES))


def usual_patience(batches: int) -> int:
    """20 epochs, or where they have many batches about 1500 of these, but 5 epochs at least."""
    return int(np.clip(1500 // batches, 5, 20))


def usual_weight_decay(count: int) -> float:
    """2 / N, LogisticRegression's C = 1 with two classes; less for few observations, where training ends early, too."""
    return 2 / max(count, 1000)


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


class _Watch:
    """What the validation loss says after each epoch: which epoch's weights to keep, and when it no longer falls."""

    def __init__(self, patience: int):
        self.patience, self.since, self.least = patience, 0, math.inf
        self.losses, self.best = np.zeros(0), math.inf  # of each observation and their mean, in the best epoch
        self.kept, self.weights = -1, None

    def after_epoch(self, epoch: int, model: training.Model, x, y) -> tuple[float, bool]:
        """The validation loss, and whether training should end.

        What is kept is the last epoch whose loss is within a standard error of the least: of epochs that so few
        observations can't tell apart the one that is nearest to the minimum, not the one that chance prefers.
        """
        if not len(y):
            self.kept, self.weights = epoch, model
            return math.nan, False
        losses = cross_entropy(model.logits(x), y, reduction="none")
        loss = float(losses.mean())
        if loss < self.best:
            self.losses, self.best = losses, loss
        apart = losses - self.losses if math.isfinite(self.best) else np.zeros(1)
        if not loss - self.best > float(apart.std()) / math.sqrt(len(y)):
            self.kept, self.weights = epoch, training.Model(*map(np.array, model))
        self.since = 0 if not loss >= self.least * (1 - LEAST) else self.since + 1
        self.least = min(self.least, loss) if self.since else loss
        return loss, bool(self.patience) and self.since >= self.patience


def train(estimator, x, y, classes, count, *, test, patience, progress):
    """Fit the estimator to the first ``count`` observations, for as many epochs as suit the others, which validate.

    Where there are few observations, it is fitted to all of them once more, for as many epochs.
    """
    k, watch, validation, tested = len(classes), _Watch(patience), [], []
    some = slice(None, None, -(-max(len(test[1]), 1) // SHOWN))
    shown = test[0][some], test[1][some]

    def after_batch(step):
        progress(step, estimator.epochs)
        if step.batch < step.batches - 1:
            return False
        loss, end = watch.after_epoch(step.epoch, step.model, x[count:], y[count:])
        validation.append(loss)
        tested.append(float(step.model.loss(*shown)))
        return end

    with threadpool_limits(1, "blas"):  # products so small gain nothing by a second thread, which only waits
        estimator.fit_numbers(x[:count], y[:count], classes, after_batch)
    done, epochs = len(validation), estimator.epochs
    costs = estimator.costs_[:done]
    words = f"{done} of at most {epochs} epochs of {costs.shape[1]} batches"
    if done < epochs:
        words += f", since the validation loss did not fall for {patience}"
    words += f"; kept: epoch {watch.kept + 1}"
    warning = _warning(costs, validation, y[:count], k, estimator)
    estimator.set_model(watch.weights)
    if count < len(x) <= AGAIN and not warning:
        words += f"; then anew with the validation part: {watch.kept + 1} epochs"
        estimator.set_params(epochs=watch.kept + 1)
        with threadpool_limits(1, "blas"):
            estimator.fit_numbers(x, y, classes, lambda step: progress(step, estimator.epochs, "anew, epoch"))
        estimator.set_params(epochs=epochs)
    return History(costs, validation, tested, watch.kept, words, warning)


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
