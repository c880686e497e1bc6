"""Arrays on a GPU: the same call as for arrays on the host, and the same result.

python examples/gpu_arrays.py
"""

from collections.abc import Callable

import numpy as np

import crossentropy


def compare(to_device: Callable, to_host: Callable) -> tuple[float, float]:
    """The loss there and here; the gradients are held to each other, too."""
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((4, 40), dtype=np.float32), rng.integers(0, 40, 4)
    expected = crossentropy.cross_entropy_and_grad(logits, targets)
    there = to_device(logits)
    loss, grad = crossentropy.cross_entropy_and_grad(
        there, to_device(targets), out=there
    )  # nothing is copied or waited for
    np.testing.assert_allclose(to_host(grad), expected.grad, rtol=1e-5, atol=1e-9)
    return float(to_host(loss)), float(expected.loss)


def main() -> None:
    """By Numba's arrays; tensors of PyTorch's and arrays of CuPy's would do as well."""
    device = next(backend for backend in crossentropy.backends() if backend.name == "cuda")
    if not device.available:
        print(f"no device here: {device.reason}")
        return
    from numba import cuda

    there, here = compare(cuda.to_device, lambda array: array.copy_to_host())
    print(f"on the device {there:.7f}, on the host {here:.7f}")


if __name__ == "__main__":
    main()
