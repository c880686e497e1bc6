"""A classifier in NumPy alone: gradients of the loss by this package, and the rest of training by hand.

    python examples/numpy_classifier.py

Points of three classes in the plane, a hidden layer of 32, and 200 steps over everything.
"""

import numpy as np

import crossentropy

STEPS, RATE = 200, 0.5


def points(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Three arms of a spiral, float32, and the arm of each point."""
    labels = rng.integers(0, 3, count)
    radius = rng.random(count)
    angle = 2 * np.pi * (labels / 3 + 0.6 * radius) + rng.normal(0, 0.15, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32), labels


def main() -> None:
    """Train, and report on points that were not trained on."""
    rng = np.random.default_rng(0)
    (x, y), (held_out, truth) = points(1000, rng), points(500, rng)
    first = rng.standard_normal((2, 32), dtype=np.float32)
    offset = rng.standard_normal(32, dtype=np.float32)
    second = np.zeros((32, 3), np.float32)
    for step in range(STEPS + 1):
        hidden = np.tanh(3 * x @ first + offset)
        logits = hidden @ second
        loss, grad = crossentropy.cross_entropy_and_grad(logits, y, label_smoothing=0.01, out=logits)
        below = grad @ second.T * (1 - hidden**2)
        second -= RATE * hidden.T @ grad
        first -= RATE * 3 * x.T @ below
        offset -= RATE * below.sum(axis=0)
        if step % 50 == 0:
            print(f"step {step:3}: loss {loss:.4f}")
    logits = np.tanh(3 * held_out @ first + offset) @ second
    loss = crossentropy.cross_entropy(logits, truth)
    print(f"held out: loss {loss:.4f}, {(logits.argmax(axis=1) == truth).mean():.1%} right")


if __name__ == "__main__":
    main()
