"""A program's own one-dimensional arrays as rows, for the functions of crossentropy/numba_rows.py."""

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from .compiling import INNER, inner
from .layout import F32, F64, Row, odd_row
from .memory import address
from .rows import SCRATCH, parts, read_row


@intrinsic
def require_row(_, a):
    """Nothing, but a TypingError for what is no row of logits."""
    if not (isinstance(a, types.Array) and a.ndim == 1 and a.dtype in (types.float32, types.float64)):
        raise TypingError(f"a row must be a one-dimensional array of float32 or float64, got {a}")
    return types.void(a), lambda context, builder, signature, args: context.get_dummy_value()


@intrinsic
def require_same_kind(_, a, b):
    """Nothing, but a TypingError for a result of another dtype."""
    if a.dtype != b.dtype:
        raise TypingError(f"the result must have the dtype of the row, {a.dtype}, got {b.dtype}")
    return types.void(a, b), lambda context, builder, signature, args: context.get_dummy_value()


@inner
def require(z, out):
    """Raise unless a result has its row's size and dtype."""
    require_row(z)
    require_row(out)
    require_same_kind(z, out)
    if out.size != z.size:
        raise ValueError("the result must have the size of the row")


def as_row(z):
    """A one-dimensional array of float32 or float64 as a Row, or as an OddRow where it is not contiguous."""


@overload(as_row, jit_options=INNER)
def _as_row(z):
    if z.layout == "C":
        return lambda z: Row(z.itemsize)

    def of_odd_array(z):
        direct = z.strides[0] == z.itemsize and address(z) % z.itemsize == 0
        return odd_row(z.strides[0], F32 if z.itemsize == 4 else F64, direct)

    return of_odd_array


@inner
def read_array(z, y):
    """(max, rest, log1p(rest) as a pair, logit of y) of an array, as `read_row` has them; NaN where it has no class."""
    require_row(z)
    if z.size == 0:
        return np.nan, np.nan, (np.nan, 0.0), np.nan
    x_buffer, _, _, pad = parts(np.empty(SCRATCH, z.dtype))
    return read_row(as_row(z), address(z), z.size, y, 0.0, y >= 0, x_buffer, pad, 0)
