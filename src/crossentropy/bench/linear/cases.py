"""What is measured of linear losses: operations, shapes, the cases made of them, and a case's arrays."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..suite import IGNORED, dtype_named

LOSS, GRADIENTS = "linear loss", "linear loss + gradients"
PRODUCTS = {LOSS: 1, GRADIENTS: 3}  # of matrices, 2 N H V operations each: more than that nobody needs

SHAPES = {
    (1024, 1024, 32000): "the vocabulary of Llama 2",
    (2048, 768, 50257): "of GPT-2, and its hidden states",
    (512, 2048, 128256): "of Llama 3, with the hidden states of its 1B",
}
QUICK = (64, 48, 1000)
HALF = "half the rows ignored"


class Case(NamedTuple):
    """A loss of hidden states (N, H) against a vocabulary (V, H), whoever computes it."""

    op: str
    shape: tuple[int, int, int]  # N, H, V
    dtype: str = "float32"
    option: str = ""  # HALF, or nothing

    @property
    def rows(self) -> int:
        """Those that count."""
        return self.shape[0] // 2 if self.option == HALF else self.shape[0]

    @property
    def operations(self) -> int:
        """Multiplications and additions of the products."""
        _, features, classes = self.shape
        return PRODUCTS[self.op] * 2 * self.rows * features * classes

    @property
    def gradient_bytes(self) -> int:
        """Of both gradients, which are of their parameters' dtype."""
        n, features, classes = self.shape
        return (n + classes) * features * dtype_named(self.dtype).itemsize if self.op == GRADIENTS else 0

    @property
    def shape_text(self) -> str:
        """As in the tables."""
        return " x ".join(map(str, self.shape))

    def __str__(self):
        return ", ".join([self.op, self.shape_text, self.dtype, *filter(None, [self.option])])


def cases(quick: bool = False) -> list[Case]:
    """Every case; with ``quick`` those of a shape that takes milliseconds."""
    shapes = [QUICK] if quick else list(SHAPES)
    found = [Case(GRADIENTS, shape, dtype) for dtype in ("float32", "bfloat16") for shape in shapes]
    for dtype in ("float32", "bfloat16"):
        found += [Case(LOSS, shapes[0], dtype), Case(GRADIENTS, shapes[0], dtype, HALF)]
    return found


# ---------------------------------------------------------------------- a case's arrays


class Problem(NamedTuple):
    """A case's arrays, in memory that all processes of a contest share; bfloat16 as that of ml_dtypes."""

    case: Case
    hidden: np.ndarray
    weight: np.ndarray
    targets: np.ndarray  # int64; IGNORED where a row does not count

    @property
    def ignores(self) -> dict:
        """The option of `crossentropy.linear_cross_entropy` for rows that do not count."""
        return {"ignore_index": IGNORED} if self.case.option == HALF else {}

    @property
    def smaller(self) -> Problem:
        """A few rows and classes of it: what there is to set up is set up by them."""
        n, features, classes = min(64, self.case.shape[0]), self.case.shape[1], min(256, self.case.shape[2])
        case = self.case._replace(shape=(n, features, classes))
        targets = np.where(self.targets[:n] >= 0, self.targets[:n] % classes, self.targets[:n])
        return Problem(case, self.hidden[:n].copy(), self.weight[:classes].copy(), targets)


def write(case: Case, folder: Path) -> None:
    """Put the same numbers as in every run into files: logits of a standard deviation of 2."""
    rng = np.random.default_rng(0)
    n, features, classes = case.shape
    hidden = rng.standard_normal((n, features), np.float32)
    hidden.astype(dtype_named(case.dtype)).tofile(folder / "hidden")
    weight = rng.standard_normal((classes, features), np.float32)
    weight *= np.float32(2 / features**0.5)
    weight.astype(dtype_named(case.dtype)).tofile(folder / "weight")
    targets = rng.integers(0, classes, n)
    if case.option == HALF:
        targets[rng.permutation(n)[: n - case.rows]] = IGNORED
    targets.tofile(folder / "targets")


def read(case: Case, folder: Path) -> Problem:
    """The arrays that `write` made, with every page in this process's memory."""
    n, features, classes = case.shape
    dtype = dtype_named(case.dtype)
    places = {"hidden": (dtype, (n, features)), "weight": (dtype, (classes, features)), "targets": (np.int64, (n,))}
    arrays = {name: _mapped(folder / name, *place) for name, place in places.items()}
    for a in arrays.values():
        a.view(np.uint8).reshape(-1)[:: 1 << 12].max()
    return Problem(case, **arrays)


def _mapped(path, dtype, shape):
    bits = np.memmap(path, np.uint8, "r+")  # PyTorch warns of arrays that it may not write to
    return np.asarray(bits).view(dtype).reshape(shape)
