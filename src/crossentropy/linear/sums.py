"""The gradients of hidden states, weight and bias, from the gradient on the logits, chunk by chunk."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from .. import _memory
from .calls import Gradients, Layer, rows_at
from .products import Products, own_for, passes

BLOCK = 1 << 20  # elements: what NumPy widens at once


class Sums:
    """What has been summed of each gradient; `finish` rounds it.

    Of a weight of 16 bits the sums are nowhere in memory where all rows are taken at once, by products that round.
    """

    def __init__(self, layer: Layer, products: Products, to: Gradients, every_row: bool) -> None:
        self.layer, self.products, self.to = layer, products, to
        if to.hidden is not None and not every_row and "hidden" not in to.added:
            to.hidden[...] = 0  # the rows that do not count
        self.weight: np.ndarray | None = None  # the sums so far
        self.begun = False
        if to.weight is not None and _is_sum(to.weight, layer.real):
            self.weight, self.begun = to.weight, "weight" in to.added
        self.bias = None if to.bias is None else np.zeros(layer.classes)

    def take(self, rows: Any, x: np.ndarray, grad: np.ndarray, are_last: bool) -> None:
        """Add what these rows have for each gradient; ``grad`` is that on their logits."""
        if self.to.hidden is not None:
            self._take_hidden(rows, grad)
        if self.to.weight is not None:
            self._take_weight(x, grad, self.to.weight, are_last)
        if self.bias is not None:
            passes().sum_bias(grad, self.bias)

    def _take_weight(self, x: np.ndarray, grad: np.ndarray, to: np.ndarray, are_last: bool) -> None:
        if are_last and not self.begun and (rounding := self._rounding(to, x)):
            rounding.rounded_weight(grad, x, to)
            self.weight = to
        else:
            if self.weight is None:
                self.weight = _memory.empty(to.shape, self.layer.real)
            self.products.weight(grad, x, self.weight, self.begun)
        self.begun = True

    def _rounding(self, to: np.ndarray, x: np.ndarray) -> ModuleType | None:
        """The products, if they can write the gradient that these rows have by themselves to where it belongs."""
        own = own_for(self.layer.hidden.dtype)
        if own is None or own is not self.products or to.itemsize != 2 or "weight" in self.to.added:
            return None
        return own if to.flags.c_contiguous and to.flags.aligned and own.rounds(len(x), x) else None

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
        to, bias = self.to, self.to.bias
        if to.weight is not None:
            self._finish_weight(to.weight)
        if bias is not None:
            bias[...] = self.bias + bias if "bias" in to.added else self.bias

    def _finish_weight(self, to: np.ndarray) -> None:
        """The sums, of no rows perhaps, to their place."""
        adds = "weight" in self.to.added
        if not self.begun:
            if not adds:
                to[...] = 0
        elif self.weight is not to:
            assert self.weight is not None
            if adds:
                for classes in _blocks(self.weight):
                    self.weight[classes] += to[classes]
            _round(self.weight, to)


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
