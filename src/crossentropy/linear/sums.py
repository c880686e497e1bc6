"""The gradients of hidden states, weight and bias, from the gradient on the logits, chunk by chunk."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _memory
from .calls import Gradients, Layer, rows_at
from .products import Products, passes

BLOCK = 1 << 20  # elements: what NumPy widens at once


class Sums:
    """What has been summed of each gradient; `finish` rounds it."""

    def __init__(self, layer: Layer, products: Products, to: Gradients, every_row: bool) -> None:
        self.layer, self.products, self.to = layer, products, to
        if to.hidden is not None and not every_row and "hidden" not in to.added:
            to.hidden[...] = 0  # the rows that do not count
        self.weight, self.begun = to.weight, "weight" in to.added
        if to.weight is not None and not _is_sum(to.weight, layer.real):
            self.weight, self.begun = _memory.empty(to.weight.shape, layer.real), False
        self.bias = None if to.bias is None else np.zeros(layer.classes)

    def take(self, rows: Any, x: np.ndarray, grad: np.ndarray) -> None:
        """Add what these rows have for each gradient; ``grad`` is that on their logits."""
        if self.to.hidden is not None:
            self._take_hidden(rows, grad)
        if self.weight is not None:
            self.products.weight(grad, x, self.weight, self.begun)
            self.begun = True
        if self.bias is not None:
            passes().sum_bias(grad, self.bias)

    def _take_hidden(self, rows: Any, grad: np.ndarray) -> None:
        to, adds = self.to.hidden, "hidden" in self.to.added
        assert to is not None
        if not to.size:  # H = 0: an array without elements is not seen to share memory, and there is nothing to write
            return
        place = rows_at(to, self.layer.rows_shape, rows)
        is_there = isinstance(rows, slice) and np.may_share_memory(place, to)
        if is_there and not adds and _is_sum(place, self.layer.real):
            self.products.hidden(grad, self.layer.weight, place)
            return
        found = np.empty(place.shape, self.layer.real)
        self.products.hidden(grad, self.layer.weight, found)
        if adds:
            found += place
        if is_there:
            _round(found, place)
        elif to.ndim == 2:
            to[rows] = found
        else:
            numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            to[np.unravel_index(numbers, self.layer.rows_shape)] = found

    def finish(self) -> None:
        """Round what is summed, to where it belongs."""
        to, weight, bias = self.to, self.weight, self.to.bias
        if to.weight is not None and not self.begun:
            assert weight is not None
            weight[...] = 0
        if to.weight is not None and weight is not to.weight:
            assert weight is not None
            if "weight" in to.added:
                for classes in _blocks(weight):
                    weight[classes] += to.weight[classes]
            _round(weight, to.weight)
        if bias is not None:
            bias[...] = self.bias + bias if "bias" in to.added else self.bias


def _round(x: np.ndarray, out: np.ndarray) -> None:
    if x.dtype == out.dtype:
        out[...] = x
    else:
        passes().convert(x, out)


def _is_sum(a: np.ndarray, real: np.dtype) -> bool:
    """Whether products can be summed in this array itself."""
    return a.dtype == real and a.flags.c_contiguous and a.flags.aligned


def _blocks(a: np.ndarray) -> list[slice]:
    rows = max(1, BLOCK // max(1, a.shape[1]))
    return [slice(first, first + rows) for first in range(0, len(a), rows)]
