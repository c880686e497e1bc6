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


def own_for(dtype: np.dtype) -> ModuleType | None:
    """The package's own products of operands of a dtype, where they are the fastest in this context on this machine.

    Of 16 bits they always are, since nobody else's give float32 logits. Of float32 they are by AVX-512; with less, and
    of float64, BLAS is as fast or faster (docs/performance.md).
    """
    own = _own()
    if own is None or dtype.itemsize == 8 or (dtype.itemsize == 4 and own.units()[0] != "avx512"):
        return None
    return own


def for_arrays(dtype: np.dtype) -> ModuleType:
    """The products for operands of a dtype in this context: the package's own, or those of NumPy's BLAS."""
    return own_for(dtype) or by_numpy


def passes() -> ModuleType:
    """What passes over logits and results, in this context."""
    return _own() or by_numpy
