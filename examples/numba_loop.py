"""A loop of one's own, compiled by Numba, that computes the gradient of a row and uses it at once.

    python examples/numba_loop.py

Softmax regression by single observations: the logits of a row, its gradient, and the step, in one pass and no array of
all logits.
"""

import numba
import numpy as np

import crossentropy
from crossentropy.numba_rows import cross_entropy_grad_row


@numba.njit
def epoch(x, labels, weight, rate):
    """One pass over the observations; the mean loss on the way."""
    classes, features = weight.shape
    logits, grad, total = np.empty(classes), np.empty(classes), 0.0
    for n in range(len(x)):
        for c in range(classes):
            logits[c] = 0.0
            for k in range(features):
                logits[c] += weight[c, k] * x[n, k]
        total += cross_entropy_grad_row(logits, labels[n], 1.0, grad)
        for c in range(classes):
            for k in range(features):
                weight[c, k] -= rate * grad[c] * x[n, k]
    return total / len(x)


def main() -> None:
    """Train on points about five centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, 8)) * 2
    labels = rng.integers(0, 5, 2000)
    x = centres[labels] + rng.standard_normal((2000, 8))
    weight = np.zeros((5, 8))
    for turn in range(5):
        print(f"epoch {turn}: mean loss on the way {epoch(x, labels, weight, 0.02):.4f}")
    loss = crossentropy.cross_entropy(x @ weight.T, labels)
    print(f"afterwards: loss {loss:.4f}, {((x @ weight.T).argmax(axis=1) == labels).mean():.1%} right")


if __name__ == "__main__":
    main()
