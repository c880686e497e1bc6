"""The log-probability of a chosen class and the entropy of each row, and their gradients, chunk by chunk.

With l = log p, on the logits: d l_y / d z_c = delta_cy - p_c, and for the entropy h = -sum_c p_c l_c

    d h / d z_c = -p_c (l_c + h)

The entropy is a cross-entropy with p itself as the target: the kernel of probability targets computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _check, _memory
from .._backends import registry
from .._options import RowOptions
from .._reduction import divisor, loss_dtype, rounded
from . import calls
from .calls import Gradients, Layer
from .engine import chunks_of
from .products import Products
from .sums import Sums

BLOCK = 8 << 20  # bytes of probabilities at once, which NumPy's passes over them find in a cache
LEAST = -1e4  # a log p below which p is 0 in any dtype
_CLASSES, _PROBABILITIES = RowOptions(), RowOptions(probabilities=True)


def log_probs(
    layer: Layer,
    call: _check.Loss,
    products: Products,
    to: Gradients | None = None,
    given: Sequence[float | np.ndarray] = (),
) -> tuple[Any, Any]:
    """(log p_y, entropy) of each row; the gradients of ``given``, what arrives at the two, go to their arrays."""
    backend = registry.current()
    divisor(backend, call)  # looks at every class
    results = _memory.full((2, layer.row_count), 0.0)
    counting = calls.counting_rows(call)
    with np.errstate(all="ignore"):
        sums = None if to is None else Sums(layer, products, to, every_row=counting is None)
        for chunk in chunks_of(layer, products, counting):
            here = np.empty((2, len(chunk.x)))
            index = np.ascontiguousarray(call.targets[chunk.rows])
            of_rows = [g[chunk.rows] if isinstance(g, np.ndarray) else np.full(len(index), g) for g in given]
            for rows in _blocks(chunk.logits):
                z, p = chunk.logits[rows], np.empty_like(chunk.logits[rows])
                backend.softmax(z, p)
                backend.forward(z, index[rows], _CLASSES, here[0, rows], None)
                backend.forward(z, p, _PROBABILITIES, here[1, rows], None)
                if sums is not None:
                    backend.log_softmax(z, z)
                    _gradient(z, p, index[rows], here[1, rows], *[g[rows] for g in of_rows])
            np.negative(here[0], out=here[0])
            results[:, chunk.rows] = here
            if sums is not None:
                sums.take(chunk.rows, chunk.x, chunk.logits, chunk.is_last)
        if sums is not None:
            sums.finish()
    log_prob, entropy = (rounded(found.reshape(call.rows_shape), loss_dtype(call.x))[()] for found in results)
    return log_prob, entropy


def _gradient(
    log_p: np.ndarray, p: np.ndarray, index: np.ndarray, entropy: np.ndarray, g_log_prob: Any, g_entropy: Any
) -> None:
    """The gradient on the logits, over their log-probabilities: -p_c (g (l_c + h) + g_y), and g_y more at y."""
    rows = np.arange(len(index)), index
    l_y, p_y = log_p[rows].astype(np.float64), p[rows].astype(np.float64)
    at_y = -g_log_prob * np.expm1(l_y) - g_entropy * p_y * (l_y + entropy)
    np.maximum(log_p, LEAST, out=log_p)  # where p is 0, and 0 times inf would be NaN
    log_p *= -g_entropy[:, None].astype(log_p.dtype)
    log_p -= (g_log_prob + g_entropy * entropy)[:, None].astype(log_p.dtype)
    log_p *= p
    log_p[rows] = np.where(np.isneginf(l_y), -g_log_prob * np.expm1(l_y), at_y)


def _blocks(z: np.ndarray) -> list[slice]:
    rows = max(1, BLOCK // max(1, z[:1].nbytes))
    return [slice(first, first + rows) for first in range(0, len(z), rows)]
