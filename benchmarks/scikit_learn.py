"""Estimator, log loss and losses of one logit beside scikit-learn's and PyTorch's: `python benchmarks/scikit_learn.py`.

In each table contenders take turns, so that other work on the machine meets all alike, and have the least of the
rounds: by the clock, and of the CPU on all threads. CROSSENTROPY_NUM_THREADS=1 and OMP_NUM_THREADS=1 leave one thread
to each, whose time of the CPU other programs change least.
"""

import argparse
import time

import numpy as np
import torch
from sklearn import metrics
from sklearn.linear_model import LogisticRegression, SGDClassifier

import crossentropy
from crossentropy.sklearn import SoftmaxRegression, decision_log_loss, log_loss


def estimators(rows, rng):
    """An observation's class is the largest of noisy scores."""
    x = rng.standard_normal((rows, 50))
    y = (x @ rng.standard_normal((50, 10)) + 4 * rng.gumbel(size=(rows, 10))).argmax(1)
    alpha = 1 / rows
    return {
        "SoftmaxRegression.fit": lambda: SoftmaxRegression(alpha=alpha).fit(x, y).score(x, y),
        "LogisticRegression.fit": lambda: LogisticRegression().fit(x, y).score(x, y),
        "SoftmaxRegression.partial_fit": lambda: (
            SoftmaxRegression(random_state=0).partial_fit(x, y, classes=range(10)).score(x, y)
        ),
        "SGDClassifier.partial_fit": lambda: (
            SGDClassifier(loss="log_loss", random_state=0).partial_fit(x, y, classes=range(10)).score(x, y)
        ),
    }


def log_losses(rows, rng):
    """Of ten classes, and of two by one column."""
    z, y, two = 3 * rng.standard_normal((rows, 10)), rng.integers(10, size=rows), rng.integers(2, size=rows)
    p, names = crossentropy.softmax(z), np.array(list("abcdefghij"))[y]
    one = 1 / (1 + np.exp(-z[:, 0]))
    return {
        "scikit-learn's log_loss, int64": lambda: metrics.log_loss(y, p),
        "log_loss, int64": lambda: log_loss(y, p),
        "scikit-learn's log_loss, strings": lambda: metrics.log_loss(names, p),
        "log_loss, strings": lambda: log_loss(names, p),
        "decision_log_loss": lambda: decision_log_loss(y, z),
        "cross_entropy": lambda: crossentropy.cross_entropy(z, y),
        "scikit-learn's log_loss, one column": lambda: metrics.log_loss(two, one),
        "log_loss, one column": lambda: log_loss(two, one),
        "decision_log_loss, one column": lambda: decision_log_loss(two, z[:, 0]),
    }


def of_one_logit(rows, rng):
    """Value and gradient, of float32 logits and targets."""
    z, t = rng.standard_normal(rows, np.float32), rng.integers(2, size=rows).astype(np.float32)
    out, x, target = np.empty_like(z), torch.from_numpy(z).requires_grad_(), torch.from_numpy(t)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    here = crossentropy.binary_cross_entropy_with_logits_and_grad
    return {
        "binary_cross_entropy_with_logits_and_grad": lambda: here(z, t, out=out),
        "PyTorch's, forward and backward": lambda: torch.autograd.grad(bce(x, target), x),
        "PyTorch's, forward": lambda: bce(x.detach(), target),
        "logits + targets, by NumPy": lambda: np.add(z, t, out=out),
    }


def main():
    """Print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--share", type=float, default=1.0, help="of the observations")
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    tables = (estimators, 60_000), (log_losses, 300_000), (of_one_logit, 10_000_000)
    for make, most in tables:
        rows = int(most * asked.share)
        calls = make(rows, rng)
        found = {name: [] for name in calls}
        results = {}
        for n in range(asked.rounds + 1):
            for name, call in calls.items():
                begun = time.perf_counter(), time.process_time()
                results[name] = call()
                if n:
                    found[name].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
        print(f"{rows} observations: {make.__doc__}")
        for name, times in found.items():
            wall, cpu = 1e3 * np.min(times, axis=0)
            said = f"{results[name]:.4f}" if isinstance(results[name], float) else ""
            print(f"  {name:44}{wall:9.2f} ms {cpu:9.2f} of the CPU {said:>8}", flush=True)


if __name__ == "__main__":
    main()
