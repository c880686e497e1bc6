"""A vocabulary in three files on disk, of which one is read at a time: the loss, and the gradient file by file.

    python examples/blocks_of_classes.py

The logits of all classes are never in memory together; what is kept of each file are seven numbers a row.
"""

import functools
import itertools
import tempfile
from pathlib import Path

import numpy as np

import crossentropy
from crossentropy import blocks

ROWS, CLASSES = 256, 6000


def main() -> None:
    """Write three blocks of classes of different sizes, and compare with the whole."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((ROWS, CLASSES), dtype=np.float32) * 3
    targets = rng.integers(0, CLASSES, ROWS)
    cuts, options = (0, 1000, 3500, 6000), {"label_smoothing": 0.1, "z_loss": 1e-4}
    with tempfile.TemporaryDirectory() as folder:
        files = {start: Path(folder) / f"{start}.npy" for start in cuts[:-1]}
        for start, end in itertools.pairwise(cuts):
            np.save(files[start], logits[:, start:end])
        found = (blocks.chunk(np.load(file), targets, start, CLASSES, **options) for start, file in files.items())
        together = functools.reduce(blocks.combine, found)
        loss = blocks.aggregate(together, **options).mean()
        by_rows = {"grad_output": 1 / ROWS, **options}
        grads = [
            blocks.gradient(np.load(file), targets, together, start, CLASSES, **by_rows)
            for start, file in files.items()
        ]
    whole = crossentropy.cross_entropy_and_grad(logits, targets, **options)
    print(f"loss by blocks {loss:.6f}, of the whole {whole.loss:.6f}")
    print(f"the gradients differ by at most {np.abs(np.concatenate(grads, axis=1) - whole.grad).max():.1e}")


if __name__ == "__main__":
    main()
