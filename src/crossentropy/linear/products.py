"""Which product does what: the three of a linear loss, by the module whose functions they are.

    logits(x, weight, out)        out[B, V] = x[B, H] weight[V, H]^T
    hidden(grad, weight, out)     out[B, H] = grad[B, V] weight[V, H]
    weight(grad, x, out, add)     out[V, H] = grad[B, V]^T x[B, H], or that added to it

x and weight are of any of the four dtypes; grad, logits and results are float32, float64 for float64.
"""

from __future__ import annotations

from types import ModuleType
from typing import Protocol

import numpy as np

from . import by_numpy


class Products(Protocol):
    """The three functions, as a module has them."""

    def logits(self, x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
        """The logits of a chunk of rows, without bias."""

    def hidden(self, grad: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
        """The gradient on the hidden states of a chunk."""

    def weight(self, grad: np.ndarray, x: np.ndarray, out: np.ndarray, add: bool) -> None:
        """A chunk's part of the gradient on the weight."""


def for_arrays(dtype: np.dtype) -> ModuleType:
    """The fastest products for operands of a dtype on this machine."""
    return by_numpy
