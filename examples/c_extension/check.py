"""What the extensions give beside the Python functions, and what a call of each costs: `python check.py`."""

from timeit import repeat

import c_losses
import cython_losses
import numpy as np

import crossentropy


def main() -> None:
    """Compare bits, then times."""
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((1000, 300), dtype=np.float32), rng.integers(0, 300, 1000)
    grad = np.empty_like(logits)
    for name, module in (("C", c_losses), ("Cython", cython_losses)):
        for x, out in ((logits, grad), (logits[::-2, ::3], grad[::2, :100])):  # any strides
            y = targets[: len(x)] % x.shape[1]
            for smoothing in (0.0, 0.1):
                loss = module.loss_and_grad(x, y, out, smoothing)
                expected = crossentropy.cross_entropy_and_grad(x, y, label_smoothing=smoothing)
                assert np.float32(loss) == expected.loss
                np.testing.assert_array_equal(out, expected.grad)
        try:
            module.loss_and_grad(logits, targets + 300, grad)
        except ValueError as error:
            print(f"{name}: the same bits as in Python; and an error: {error}")
    cython_losses.log_softmax(logits, grad)
    np.testing.assert_array_equal(grad, crossentropy.log_softmax(logits))
    losses = np.empty(1000)
    cython_losses.losses(logits, targets, losses)
    np.testing.assert_array_equal(
        losses.astype(np.float32), crossentropy.cross_entropy(logits, targets, reduction="none")
    )

    x, y, out = logits[:32, :10].copy(), targets[:32] % 10, np.empty((32, 10), np.float32)
    calls = {
        "from Python": lambda: crossentropy.cross_entropy_and_grad(x, y, out=out),
        "from C": lambda: c_losses.loss_and_grad(x, y, out),
        "32 rows, one by one": lambda: cython_losses.losses(x, y, losses[:32]),
    }
    for name, call in calls.items():
        print(f"32 x 10, {name}: {min(repeat(call, number=200, repeat=20)) / 200 * 1e6:.2f} us")


if __name__ == "__main__":
    main()
