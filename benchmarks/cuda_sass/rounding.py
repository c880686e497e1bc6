"""Arithmetic as the card rounds it, over arrays, where NumPy has no function for it."""

import numpy as np
from numba import types, vectorize
from numba.extending import intrinsic

F32, F64, U32, U64 = np.float32, np.float64, np.uint32, np.uint64
_TINY, _SIGN = F32(2.0**-126), U32(0x80000000)


@intrinsic
def _fused(_, a, b, c):
    return a(a, a, a), lambda context, builder, signature, args: builder.fma(*args)


@vectorize([types.float32(*[types.float32] * 3), types.float64(*[types.float64] * 3)])
def fma(a, b, c):
    """a b + c, rounded once."""
    return _fused(a, b, c)


def directed(a, b, c, towards: str):
    """a b + c of float32, rounded once: "RM" down, "RP" up, "RZ" to zero."""
    a, b, c = np.broadcast_arrays(*(np.asarray(x, F64) for x in (a, b, c)))
    product = a * b  # exact
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)
    near = total.astype(F32)
    off = total - near
    sign = np.where(off != 0, np.sign(off), np.sign(error))  # of what the float32 lacks
    down = {"RM": sign < 0, "RP": False, "RZ": (sign < 0) & (near > 0)}[towards]
    up = {"RP": sign > 0, "RM": False, "RZ": (sign > 0) & (near < 0)}[towards]
    near = np.where(down, np.nextafter(near, F32(-np.inf)), np.where(up, np.nextafter(near, F32(np.inf)), near))
    return np.where(np.isfinite(total), near, total.astype(F32)).astype(F32)


def flushed(x):
    """A float32 below the least normal one as 0 of its sign."""
    return np.where(np.abs(x) < _TINY, np.copysign(F32(0), x), x)


def bfloat16_bits(x):
    """float32 rounded to bfloat16, as words."""
    word = x.view(U32).astype(U64)
    word = (word + U64(0x7FFF) + ((word >> U64(16)) & U64(1))) >> U64(16)
    return np.where(np.isnan(x), U32(0x7FFF), word.astype(U32) & U32(0xFFFF))


def float16_bits(x):
    """float32 rounded to float16, as words."""
    return np.where(np.isnan(x), U32(0x7FFF), x.astype(np.float16).view(np.uint16).astype(U32))


def of_integer(value, dtype, towards: str):
    """An integer as float32 or float64, to the nearest or up ("RP")."""
    near = value.astype(dtype)
    if towards == "RP":
        # Of the integers here only those up to 2^64 are rounded at all; longdouble has 64 bits.
        low = near.astype(np.longdouble) < value.astype(np.longdouble)
        near = np.where(low, np.nextafter(near, dtype(np.inf)), near)
    return near


def approximated(x, y, relative):
    """y(x) with an error of up to ``relative`` of it, always the same for the same x.

    The multiprocessor's own functions are approximations, whose bits are not documented but whose bound is: results
    must be right whatever they are within it.
    """
    share = ((x.view(U32) * U32(2654435761)) >> U32(16)).astype(F64) / 32768 - 1
    return (y * (1 + share * relative)).astype(F32)
