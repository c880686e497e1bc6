"""The ways in which an array may lie in memory, by name; for `crossentropy.testing`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def _reversed_strides(x):
    every = (slice(None, None, -1),) * x.ndim
    return x[every].copy()[every]


def _every_other(x):
    wide = np.repeat(x, 2, axis=-1)
    wide[..., 1::2] = np.array(np.nan).astype(x.dtype) if x.dtype.kind not in "iu" else 99
    return wide[..., ::2]


def _misaligned(x):
    view = np.ndarray(x.shape, x.dtype, buffer=np.empty(x.nbytes + 1, np.uint8)[1:].data)
    view[...] = x
    return view


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


# Each gives an array equal to its argument, which lies otherwise.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.copy,
    "Fortran order": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(np.moveaxis(x, -1, 0)).transpose(*range(1, x.ndim), 0),
    "negative strides": _reversed_strides,
    "every other element": _every_other,
    "misaligned": _misaligned,
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": _read_only,
}


def has_layout(dtype, layout) -> bool:
    """Whether there is such an array: ml_dtypes has no byte-swapped bfloat16.

    Examples
    --------
    >>> crossentropy.testing.has_layout(np.float32, 'byte-swapped')
    True
    """
    return (np.dtype(dtype).name, layout) != ("bfloat16", "byte-swapped")
