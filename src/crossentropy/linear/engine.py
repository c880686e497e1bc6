"""The loop over chunks of rows: their logits, the kernel in place on these, the products that make gradients of that.

Three products in all, and nothing is computed twice. Decisions:

A. Rows that count are gathered: one that does not may hold NaN, which a product would spread over the gradient of the
   weight, and time follows the rows that count.
B. The logits of a chunk lie in one buffer, which their gradient overwrites (chunks.py says how many).
C. Logits, their gradient and what is summed over chunks are float32, float64 for float64, and the bias's gradient is
   summed in float64: each result is rounded once, to its own dtype.
D. What arrives at the loss, and the divisor of a mean, go into the kernel as the rows' scale: no pass multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import _check, _memory
from .._backends import registry
from .._reduction import divisor, reduced, scaled
from . import calls, chunks
from .calls import Gradients, Layer
from .products import Products, passes
from .sums import Sums


class Chunk(NamedTuple):
    """Some rows, and their logits, which whoever gets them may overwrite."""

    rows: Any  # their numbers: a slice, or an array
    x: np.ndarray
    logits: np.ndarray
    is_last: bool


def chunks_of(layer: Layer, products: Products, counting: np.ndarray | None) -> Iterator[Chunk]:
    """The rows that count (None: all), chunk by chunk, each in the memory of the one before."""
    n = layer.row_count if counting is None else len(counting)
    rows = chunks.rows_of(n, layer.classes, layer.real.itemsize, layer.weight.nbytes, layer.chunk)
    if not rows:
        return
    bias = None if layer.bias is None else layer.bias.astype(layer.real)
    buffer = _aligned(rows, layer)
    for part in chunks.slices(n, rows):
        which = part if counting is None else _as_slice(counting[part])
        x = calls.rows_at(layer.hidden, layer.rows_shape, which)
        logits = buffer[: len(x)]
        products.logits(x, layer.weight, logits)
        if bias is not None:
            passes().add_bias(logits, bias)
        yield Chunk(which, x, logits, part.stop == n)


def _aligned(rows: int, layer: Layer) -> np.ndarray:
    """Memory for so many rows of logits, each of which begins with a line of the cache where it is large."""
    line = 64 // layer.real.itemsize
    return _memory.empty((rows, -(-layer.classes // line) * line), layer.real)[:, : layer.classes]


def _as_slice(numbers: np.ndarray) -> Any:
    """Numbers that follow each other as a slice, of which there are views."""
    first, last = int(numbers[0]), int(numbers[-1])
    return slice(first, last + 1) if last - first + 1 == len(numbers) else numbers


def loss(layer: Layer, call: _check.Loss, products: Products) -> Any:
    """The loss, by one product."""
    backend = registry.current()
    by = divisor(backend, call)
    losses = _memory.full((layer.row_count,), 0.0)
    if by != 0:
        with np.errstate(all="ignore"):
            for chunk in chunks_of(layer, products, calls.counting_rows(call)):
                found = np.empty(len(chunk.x))
                backend.forward(chunk.logits, *_of_rows(call, chunk.rows), found, None)
                losses[chunk.rows] = found
    return reduced(backend, losses, call, by)


def loss_and_gradients(
    layer: Layer, call: _check.Loss, products: Products, to: Gradients, g: float | np.ndarray = 1.0
) -> Any:
    """The loss; gradients go to their arrays.

    Parameters
    ----------
    layer, call
        Checked (calls.py).
    products
        The functions of products.py.
    to : Gradients
        Where the gradients go.
    g : float, or ndarray (N,)
        What arrives at the loss.
    """
    backend = registry.current()
    by = divisor(backend, call)
    losses = _memory.full((layer.row_count,), 0.0)
    counting = calls.counting_rows(call) if by != 0 else np.empty(0, np.int64)
    with np.errstate(all="ignore"):
        sums = Sums(layer, products, to, every_row=counting is None)
        for chunk in chunks_of(layer, products, counting):
            found, scale = np.empty(len(chunk.x)), scaled(g, by)
            if isinstance(scale, np.ndarray):
                scale = np.ascontiguousarray(scale[chunk.rows])
            backend.forward_backward(chunk.logits, *_of_rows(call, chunk.rows), scale, found, chunk.logits)
            losses[chunk.rows] = found
            sums.take(chunk.rows, chunk.x, chunk.logits, chunk.is_last)
        sums.finish()
    return reduced(backend, losses, call, by)


def _of_rows(call: _check.Loss, rows: Any) -> tuple[np.ndarray, Any]:
    """The targets and options of some rows."""
    options = call.options
    if options.sample_weight is not None:
        options = options._replace(sample_weight=np.ascontiguousarray(options.sample_weight[rows]))
    if options.probabilities:
        return calls.rows_at(call.targets, call.rows_shape, rows), options
    return np.ascontiguousarray(call.targets[rows]), options
