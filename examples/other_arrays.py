"""One training loop for the arrays of any library: what comes in comes out, with no branch for any of them.

    python examples/other_arrays.py

NumPy's, and PyTorch's, JAX's and array-api-strict's where they are installed; and a pandas frame of probabilities.
"""

import importlib
from importlib.util import find_spec

import numpy as np

import crossentropy

STEPS, RATE = 60, 0.5
LIBRARIES = {"numpy": "numpy", "torch": "torch", "jax": "jax.numpy", "array_api_strict": "array_api_strict"}


def train(x, targets, weight):
    """Softmax regression by plain descent; arrays of one library in, the loss and the weight of that library out."""
    for _ in range(STEPS):
        loss, grad = crossentropy.cross_entropy_and_grad(x @ weight, targets)
        weight = weight - RATE * (x.T @ grad)
    return loss, weight


def main() -> None:
    """Train by each library, and compare what it found."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 8), dtype=np.float32)
    targets = (x @ rng.standard_normal((8, 4), dtype=np.float32)).argmax(axis=1)
    losses = []
    for name, module in LIBRARIES.items():
        if not find_spec(name):
            continue
        library = importlib.import_module(module)
        loss, weight = train(*map(library.asarray, (x, targets, np.zeros((8, 4), np.float32))))
        losses.append(float(loss))
        print(
            f"{name}: loss {losses[-1]:.6f}, of type {type(loss).__name__}, by weights of type {type(weight).__name__}"
        )
    print(f"the losses differ by {max(losses) - min(losses):.1e}")

    if find_spec("pandas"):
        import pandas

        scores = pandas.DataFrame({"cat": [2.0, 0.5], "dog": [0.0, 1.5]}, index=["first", "second"])
        print(pandas.DataFrame(crossentropy.softmax(scores), scores.index, scores.columns).round(3))


if __name__ == "__main__":
    main()
