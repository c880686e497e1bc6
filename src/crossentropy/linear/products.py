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

from .._backends import registry
from . import by_numpy


class Products(Protocol):
    """The functions, as a module has them: three products, and what is done to their operands and results."""

    def logits(self, x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
        """The logits of a chunk of rows, without bias."""

    def hidden(self, grad: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
        """The gradient on the hidden states of a chunk."""

    def weight(self, grad: np.ndarray, x: np.ndarray, out: np.ndarray, add: bool) -> None:
        """A chunk's part of the gradient on the weight."""


class Passes(Protocol):
    """What is done to logits and results besides, in a pass over them each."""

    def add_bias(self, logits: np.ndarray, bias: np.ndarray) -> None:
        """The bias is added to each row; both are of one dtype."""

    def sum_bias(self, grad: np.ndarray, sums: np.ndarray) -> None:
        """Its columns' sums are added to those in float64."""

    def convert(self, x: np.ndarray, out: np.ndarray) -> None:
        """Float32 is rounded once to 16 bits."""


def _own() -> ModuleType | None:
    """The package's own kernels, where the backend in force is the one that they belong to."""
    if registry.current().__name__.rpartition(".")[2] != "native":
        return None
    from . import own

    return own


def for_arrays(dtype: np.dtype) -> ModuleType:
    """The products for operands of a dtype, in this context and on this machine.

    Of 16 bits the package's own, which give float32 logits; of float32 and float64 those of NumPy's BLAS.
    """
    own = _own() if dtype.itemsize == 2 else None
    return own or by_numpy


def passes() -> ModuleType:
    """What passes over logits and results, in this context."""
    return _own() or by_numpy
