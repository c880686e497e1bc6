"""Numbers as pairs of reals, high + low, to about twice the digits: float64 would be slow on most cards."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from .elements import device, elements_of
from .exp import exponential_of
from .intrinsics import fma, larger


class Pairs(NamedTuple):
    """The functions of a dtype; each returns a pair."""

    two_sum: Callable  # (a, b): a + b, exactly; the second NaN where that is infinite
    normal: Callable  # (high, low): the same number, high rounded to it; low is 0 where high is infinite or NaN
    times: Callable  # (a, a_low, b, b_low): the product
    exp_of: Callable  # (high, low, magic, lowest): e^(high + low) 2^k, as `Exponential.exp_pair`
    parts_of: Callable  # (high, low, magic, lowest): the same as `Exponential.exp_parts` has it


@functools.cache
def pairs_of(kind: str) -> Pairs:
    """Those of the dtype of that name."""
    exp_pair, exp_parts = exponential_of(kind).exp_pair, exponential_of(kind).exp_parts
    zero = elements_of(kind).real(0)

    @device
    def two_sum(a, b):
        total = a + b
        kept = total - a
        return total, (a - (total - kept)) + (b - kept)

    @device
    def normal(high, low):
        low = low if low - low == zero else zero
        total = high + low
        left = low - (total - high)
        return total, left if left - left == zero else zero

    @device
    def times(a, a_low, b, b_low):
        high = a * b
        return high, fma(a, b, -high) + fma(a, b_low, a_low * b)

    @device
    def exp_of(high, low, magic, lowest):
        """An infinite ``high`` is cut off first, because what it is short of would be NaN."""
        high = larger(high, lowest)
        y = high + low
        e, more = exp_pair(y, magic, lowest)
        return e, fma(e, low - (y - high), more)

    @device
    def parts_of(high, low, magic, lowest):
        high = larger(high, lowest)
        y = high + low
        off = low - (y - high)
        scale, more = exp_parts(y, magic, lowest)
        return scale, more + fma(off, more, off)

    return Pairs(two_sum, normal, times, exp_of, parts_of)


class Tanh(NamedTuple):
    """Of u >= 0, with E = e^(-2 u): pairs, by which tanh u is -m / over and its slope s (2 - s), s = 2 E / over."""

    m: float  # E - 1
    m_low: float
    e: float  # E
    e_low: float
    over: float  # 1 + E
    over_low: float
    by: float  # 1 / over, rounded


@functools.cache
def tanh_of(kind: str) -> Callable:
    """The device function (u, u_low): the Tanh of a pair u >= 0, which may be infinite."""
    e_to, two_sum, real = exponential_of(kind), pairs_of(kind).two_sum, elements_of(kind).real
    reduced_pair, series = e_to.reduced_pair, e_to.series
    one, two, half = real(1), real(2), real(0.5)

    @device
    def tanh(u, u_low):
        near, back, scale = reduced_pair(-two * u)
        back -= two * u_low
        r = near + back
        r_low = (near - r) + back
        square = half * r * r
        first = r + square
        # r^3 / 6 and so on, and what has been lost on the way, as in `exp_pair`; but this is e^r - 1.
        rest = fma(series(r) * r, r * r, fma(half * r, r, -square)) + (square - (first - r)) + fma(r_low, r, r_low)
        q = first + rest
        q_low = rest - (q - first)
        less = scale - one
        m, m_low = two_sum(less, scale * q)
        m_low += fma(scale, q_low, scale - (less + one))
        above = one + q
        e, e_low = scale * above, scale * ((q - (above - one)) + q_low)
        over = two + m
        return Tanh(m, m_low, e, e_low, over, (m - (over - two)) + m_low, one / over)

    return tanh
