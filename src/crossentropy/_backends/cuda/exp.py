"""e^z on a device: 2^n e^r, with the constants and the polynomial that kernels/math/exp.h has.

An anchor of e^z 2^k is a pair (magic, lowest), from `frame_at(k)`: ``magic`` added to z log2 e leaves the exponent of
the result in the last bits of the sum, and where z is below ``lowest`` the result is 0.
"""

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from .. import exponential
from .elements import device
from .intrinsics import exp2, fma, larger, power, raised


class Exponential(NamedTuple):
    """The functions of a dtype."""

    log2e: float  # as a real
    ln2: float
    frame_at: Callable  # (k): the anchor (magic, lowest) of e^y 2^k
    exp_at: Callable  # (y, magic, lowest): e^y 2^k, for a sum
    exp_pair: Callable  # (y, magic, lowest): the same and what it is off by, for numbers of a lane or a row
    exp_parts: Callable  # (y, magic, lowest): (a power of two, q), where e^y 2^k is that times 1 + q
    exp_term: Callable  # (y, magic, lowest): the same, but for a factor e^(excess n), where 2^n is about e^y
    excess: float
    exp_inside: Callable  # (y, magic): the same of what is not below the lowest
    # At the numbers of a `Frame`, which mean something else for 16 bits; for what is rounded to the dtype:
    exp_near: Callable  # (z, offset, magic, lowest): e^(z - offset) 2^k
    exp_times: Callable  # (z, offset, magic, lowest, factor): the same times a factor
    exp: Callable  # (y): e^y
    scale_of: Callable  # (k): 2^k
    nearest: Callable  # (y): y rounded to an integer
    reduced_pair: Callable  # (y): (r, what it is short of, 2^n), where y is n ln2 + r; y <= 0, and 0 for 2^n at -inf
    series: Callable  # (r): (e^r - 1 - r - r^2/2) / r^3
    # Of float32:
    exp_gradient: Callable | None = None  # (z, magic, lowest, factor): e^z 2^k times a small factor
    gradient_frame_at: Callable | None = None  # (k): the anchor (magic, lowest) of that


def _polynomial(real, terms):
    """Q(r), in the order of ``terms``: written out, since a loop over constants would keep them in memory."""
    q = [real(float.fromhex(c)) for c in terms]
    if real is np.float32:
        q0, q1, q2, q3, q4 = q
        return device(lambda r: fma(fma(fma(fma(q0, r, q1), r, q2), r, q3), r, q4))
    q0, q1, q2, q3, q4, q5, q6, q7, q8, q9 = q
    upper = device(lambda r: fma(fma(fma(fma(fma(q0, r, q1), r, q2), r, q3), r, q4), r, q5))
    return device(lambda r: fma(fma(fma(fma(upper(r), r, q6), r, q7), r, q8), r, q9))


def _series(real):
    """(e^r - 1 - r - r^2/2) / r^3, by its series."""
    if real is np.float32:
        c0, c1, c2, c3, c4, c5 = (real(1 / math.factorial(i + 3)) for i in range(6))
        return device(lambda r: fma(fma(fma(fma(fma(c5, r, c4), r, c3), r, c2), r, c1), r, c0))
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 = (real(1 / math.factorial(i + 3)) for i in range(12))
    upper = device(lambda r: fma(fma(fma(fma(fma(c11, r, c10), r, c9), r, c8), r, c7), r, c6))
    return device(lambda r: fma(fma(fma(fma(fma(fma(upper(r), r, c5), r, c4), r, c3), r, c2), r, c1), r, c0))


@functools.cache
def exponential_of(kind: str) -> Exponential:
    """Those of the dtype of that name."""
    real, constants = (np.float64, exponential.FLOAT64) if kind == "float64" else (np.float32, exponential.FLOAT32)
    log2e, high, low = (real(float.fromhex(c)) for c in (constants.log2e, constants.ln2_high, constants.ln2_low))
    minus_high, minus_low, ln2, zero, one = -high, -low, real(math.log(2)), real(0), real(1)
    middle, bias, q = real(constants.magic), real(constants.bias), _polynomial(real, constants.terms)
    series, half = _series(real), real(0.5)
    exact = Fraction(float.fromhex(constants.ln2_high)) + Fraction(float.fromhex(constants.ln2_low))
    minus_ln2, excess = -ln2, real(float(Fraction(float(ln2)) - exact))

    @device
    def frame_at(k):
        """(magic, lowest): the anchor at which `exp_at` gives e^y 2^k."""
        return middle + (bias + k), -(bias + k) * ln2

    @device
    def reduced(y, magic, lowest):
        """(r, 2^(n + k)): y = n ln2 + r, where |r| <= ln2/2.

        The last bits of y log2 e + magic are n + k and the bias of an exponent.
        """
        y = larger(y, lowest)
        t = fma(y, log2e, magic)
        n = t - magic
        return fma(n, minus_low, fma(n, minus_high, y)), power(t)

    @device
    def exp_at(y, magic, lowest):
        """e^y 2^k, off by 0.7 ulp at most; y is at most about 0. 0 where y is below ``lowest``; NaN stays NaN."""
        r, scale = reduced(y, magic, lowest)
        return fma(fma(q(r), r, one), r, one) * scale

    @device
    def exp_pair(y, magic, lowest):
        """(e^y 2^k, what that is off by): off by 0.05 ulp together. y, 0 and NaN as in `exp_at`."""
        y = larger(y, lowest)
        t = fma(y, log2e, magic)
        n, scale = t - magic, power(t)
        near, back = fma(n, minus_high, y), n * minus_low
        r = near + back
        square = half * r * r
        first = one + r
        second = first + square
        # r^3 / 6 and so on, and what has been lost on the way.
        rest = fma(series(r) * r, r * r, fma(half * r, r, -square))
        rest = fma((near - r) + back, first, rest) + ((r - (first - one)) + (square - (second - first)))
        high = second + rest
        return high * scale, (rest - (high - second)) * scale

    @device
    def exp_parts(y, magic, lowest):
        """(2^n, q), where e^y 2^k is 2^n (1 + q), off by 0.2 ulp. y, 0 and NaN as in `exp_at`, NaN in q.

        What rounds e^y to an ulp of its own is the product of the two, and that ulp may be two of a sum or a product.
        """
        r, scale = reduced(y, magic, lowest)
        return scale, fma(q(r) * r, r, r)

    @device
    def exp_inside(y, magic):
        """As `exp_term`."""
        t = fma(y, log2e, magic)
        r = fma(t - magic, minus_ln2, y)
        return power(t), fma(q(r) * r, r, r)

    @device
    def exp_term(y, magic, lowest):
        """As `exp_parts`, by one operation less: n ln2 is subtracted as one number, which is off by n times ``excess``.

        A sum of such terms is corrected as a whole, because those that count have about the same n.
        """
        return exp_inside(larger(y, lowest), magic)

    if kind in ("float16", "bfloat16"):

        @device
        def exp_near(z, slope, shift, lowest):
            """2^(slope z + shift), off by 2^-17.5 of it at most: the multiprocessor's own 2^y, for 16 bits of a result.

            The product and the sum are rounded once, to a number that is at most 128. Sums use `exp_at` for these
            dtypes, too, because with 2^y the loss of a confident row would be off by 2.8 ulp.
            """
            return exp2(fma(z, slope, shift))

        @device
        def exp_times(z, slope, shift, lowest, factor):
            """`exp_near` times a factor."""
            return exp2(fma(z, slope, shift)) * factor

    else:

        @device
        def exp_near(z, offset, magic, lowest):
            """e^(z - offset) 2^k, as `exp_at`."""
            return exp_at(z - offset, magic, lowest)

        @device
        def exp_times(z, offset, magic, lowest, factor):
            """e^(z - offset) 2^k times a factor, off by 0.7 ulp. 0 and NaN as in `exp_at`."""
            scale, more = exp_parts(z - offset, magic, lowest)
            scale *= factor
            return fma(scale, more, scale)

    exp_gradient, gradient_frame_at = None, None
    if kind == "float32":
        least_exponent = real(2 - constants.bias)

        @device
        def gradient_frame_at(k):
            """The anchor (magic, lowest) of `exp_gradient`, without the bias: what it is added to has one."""
            return middle + k, (least_exponent - k) * ln2

        @device
        def exp_gradient(z, magic, lowest, factor):
            """e^z 2^k times a factor of 2^-26 or less: so whatever is below 2^-125 is 0 in the product.

            The exponent is added as an integer, to a number from 0.7 to 1.4.
            """
            y = larger(z, lowest)
            t = fma(y, log2e, magic)
            n = t - magic
            r = fma(n, minus_low, fma(n, minus_high, y))
            return raised(fma(fma(q(r), r, one), r, one), t) * factor

    @device
    def exp(y):
        """e^y, off by 0.7 ulp at most, where y is at most about 0."""
        magic, lowest = frame_at(zero)
        return exp_at(y, magic, lowest)

    @device
    def reduced_pair(y):
        magic, lowest = frame_at(zero)
        y = larger(y, lowest)
        t = fma(y, log2e, magic)
        n = t - magic
        return fma(n, minus_high, y), n * minus_low, power(t)

    @device
    def scale_of(k):
        """2^k, for an integer k as a real."""
        return power(middle + (bias + k))

    @device
    def nearest(y):
        """y rounded to an integer."""
        return (y + middle) - middle

    return Exponential(
        log2e, ln2, frame_at, exp_at, exp_pair, exp_parts, exp_term, excess, exp_inside, exp_near, exp_times, exp,
        scale_of, nearest, reduced_pair, series, exp_gradient, gradient_frame_at,
    )  # fmt: skip
