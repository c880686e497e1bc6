"""Weighted sums of rows' exponentials on a device, sum b e^z for weights b of either sign, in float64 for every dtype.

As in kernels/blocks/weighted.h: a weight is m 2^e, the largest term about e^top 2^power, and every other is added in
units of that, so that nothing overflows or vanishes on the way. A kernel of its own: a row is read class by class, in
two passes, and what has weight 0 does not count.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from . import driver
from .elements import device, elements_of
from .exp import exponential_of
from .groups import Shape, together
from .intrinsics import double_of, store, words_of
from .rows import row_at
from .sums import sums_of

LN2 = math.log(2)
LEAST, MOST = -np.inf, np.inf


class Top(NamedTuple):
    """Of the terms of a row so far: reals."""

    top: float  # of the largest, its logit; -inf: there is none but 0
    power: float  # and the exponent of its weight
    undefined: float  # the sum of those that are infinite or NaN
    count: float  # how many these are


class Total(NamedTuple):
    """The sum of terms, in units of e^top 2^power."""

    sum: float
    error: float  # what it has lost to rounding


def threads_for(classes: int) -> int:
    """How many threads a row of so many classes has."""
    return 8 if classes <= 64 else 32 if classes <= 1024 else 256


def rows_for(threads: int) -> int:
    """How many rows of so many threads a block has at once."""
    return max(1, 128 // threads)


@device
def is_above(z, e, top, power):
    """Whether 2^e e^z is above 2^power e^top, if not the same; the other way round gives the opposite."""
    above, below = z - top, (power - e) * LN2
    return above > below or (above == below and z > top)


@device
def split(b):
    """(m, e) of a weight: b = m 2^e with 1 <= |m| < 2."""
    small = abs(b) < 2.0**-900  # which may be a subnormal
    low, high = words_of(b * 2.0**200 if small else b)
    e = np.float64(np.int32((high >> np.uint32(20)) & np.uint32(2047)) - np.int32(1023))
    m = double_of(low, (high & np.uint32(0x800FFFFF)) | np.uint32(0x3FF00000))
    return m, e - 200.0 if small else e


@device
def undefined_term(z, b):
    """What a term adds that is infinite or NaN, or has a weight that is."""
    value = b * MOST
    if z != z:
        value = z
    elif z == LEAST:
        value = b * 0.0
    return value


@device
def larger_of(p, other):
    """The Top of both."""
    top, power = p.top, p.power
    if is_above(other.top, other.power, top, power):
        top, power = other.top, other.power
    return Top(top, power, p.undefined + other.undefined, p.count + other.count)


def _log_of():
    """The device function (sum, error, power): the log of what is positive; by log1p near 1, whose distance counts."""
    scale_of = exponential_of("float64").scale_of

    @device
    def log_of(total, error, power):
        if abs(power) < 900:
            scale = scale_of(power)
            total, error, power = total * scale, error * scale, 0.0
        above_1 = (total - 1.0) + error
        return power * LN2 + (math.log1p(above_1) if abs(above_1) < 0.5 else math.log(total + error))

    return log_of


@functools.cache
def weighted_sums(on: int, kind: str, weights: str, threads: int) -> driver.Kernel:
    """(x, q, inner, rows, classes, log_sum, sign): log |sum q e^x|, and the sign of that sum.

    ``x`` and ``q`` with their strides, as in arguments.TABLE; without q (0) each weight is 1, and without sign (0) what
    belongs to a negative sum is NaN. ``weights`` is the dtype of q.
    """
    elements, e_to = elements_of(kind), exponential_of("float64")
    x_at, q_at, real, real_size = elements.number_at, elements_of(weights).number_at, elements.real, elements.real_size
    frame_at, exp_at, plus, log_of = e_to.frame_at, e_to.exp_at, sums_of("float64").plus, _log_of()
    wide, at_once = elements_of("float64"), rows_for(threads)
    shape = Shape(threads, at_once, 0)

    @device
    def both(p, other):
        total, error = plus(p.sum, p.error + other.error, other.sum)
        return Total(total, error)

    nothing, none_yet = Total(0.0, 0.0), Top(LEAST, 0.0, 0.0, 0.0)
    over_tops, over_totals = together(wide, shape, larger_of, none_yet), together(wide, shape, both, nothing)

    @device
    def weight_at(q, address):
        return np.float64(q_at(address)) if q != 0 else np.float64(1)

    @device
    def result_of(found, total):
        """(log |s|, sign of s)."""
        log_sum, sign = LEAST, 0.0
        if found.count > 0:
            log_sum = abs(found.undefined)
            sign = math.copysign(1.0, found.undefined) if found.undefined == found.undefined else found.undefined
        else:
            value = total.sum + total.error
            if value != 0:
                sign = math.copysign(1.0, value)
                log_sum = found.top + log_of(sign * total.sum, sign * total.error, found.power)
        return log_sum, sign

    def body(x, x_outer, x_row, x_class, q, q_outer, q_row, q_class, inner, rows, classes, log_sum, sign):
        thread = np.int64(cuda.threadIdx.x)
        lane, place = thread % threads, thread // threads
        base = np.int64(cuda.blockIdx.x) * at_once
        while base < rows:
            # Surplus groups repeat the last row with their stores masked, so that all threads reach the barriers.
            n = min(base + place, rows - 1)
            x_begin, q_begin = row_at(x, x_outer, x_row, inner, n), row_at(q, q_outer, q_row, inner, n)
            top, power, undefined, count = LEAST, 0.0, 0.0, 0.0
            c = lane
            while c < classes:
                b = weight_at(q, q_begin + c * q_class)
                if b != 0:
                    z = np.float64(x_at(x_begin + c * x_class))
                    if not (b - b == 0 and z < MOST):
                        undefined += undefined_term(z, b)
                        count += 1.0
                    elif z > LEAST:
                        m, e = split(b)
                        if is_above(z, e, top, power):
                            top, power = z, e
                c += threads
            found = over_tops(Top(top, power, undefined, count), 0)
            s, error = 0.0, 0.0
            c = lane if found.count == 0 and found.top > LEAST else classes
            while c < classes:
                b = weight_at(q, q_begin + c * q_class)
                z = np.float64(x_at(x_begin + c * x_class))
                d = z - found.top
                if b != 0 and d > -1e4:
                    m, e = split(b)
                    kept = z - d
                    lost = (z - (d + kept)) + (kept - found.top)  # of the rounding of z - top
                    magic, lowest = frame_at(e - found.power)
                    term = m * exp_at(d, magic, lowest)
                    s, error = plus(s, error, term + term * lost)
                c += threads
            value, sign_of = result_of(found, over_totals(Total(s, error), 1))
            if base + place < rows and lane == 0:
                if sign != 0:
                    store(sign + n * real_size, real(sign_of))
                elif sign_of < 0:
                    value = np.nan
                store(log_sum + n * real_size, real(value))
            base += np.int64(cuda.gridDim.x) * at_once

    return driver.Kernel(body, [types.int64] * 13, shape.block, of=("weighted_sums", kind, weights, threads))
