"""Arrays on a device: by Numba where there is a GPU, and in Numba's simulator where there is none.

    python examples/gpu_arrays.py
    NUMBA_ENABLE_CUDASIM=1 python examples/gpu_arrays.py

The result is held to that of the same arrays on the host.
"""

import sys

import numpy as np

import crossentropy


def main() -> None:
    """A loss and its gradient there, and here."""
    device = next(backend for backend in crossentropy.backends() if backend.name == "cuda")
    if not device.available:
        sys.exit(f"no device: {device.reason}\nNUMBA_ENABLE_CUDASIM=1 simulates one")
    from numba import cuda

    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((4, 40), dtype=np.float32), rng.integers(0, 40, 4)
    expected = crossentropy.cross_entropy_and_grad(logits, targets)
    there = cuda.to_device(logits)
    loss, grad = crossentropy.cross_entropy_and_grad(there, cuda.to_device(targets), out=there)
    print(f"on the host {expected.loss:.7f}, on the device {float(loss.copy_to_host()):.7f}")
    np.testing.assert_allclose(grad.copy_to_host(), expected.grad, rtol=1e-5, atol=1e-9)


if __name__ == "__main__":
    main()
