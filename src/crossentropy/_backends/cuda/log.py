"""log(1 + x) and log y on a device, as the sum of two reals: by the formula of kernels/math/log.h."""

import functools
from collections.abc import Callable

import numpy as np

from .. import exponential
from .elements import device, elements_of
from .intrinsics import double_of, float_of, fma, near_reciprocal, word_of, words_of


def _parts(real):
    """The device function (y): (m, e, 2^-e), where y = m 2^e; m is in [sqrt(1/2), sqrt 2)."""
    if real is np.float32:
        least = np.int32(0x3F3504F3)  # the bits of sqrt(1/2)

        @device
        def parts(y):
            word = np.int32(word_of(y))
            e = np.int32((word - least) >> np.int32(23))
            scale = float_of(np.uint32((np.int32(127) - e) << np.int32(23)))
            return float_of(np.uint32(word - (e << np.int32(23)))), real(e), scale

    else:
        least = np.int32(0x3FE6A09E)  # of their upper half

        @device
        def parts(y):
            low, high = words_of(y)
            word = np.int32(high)
            e = np.int32((word - least) >> np.int32(20))
            scale = double_of(np.uint32(0), np.uint32((np.int32(1023) - e) << np.int32(20)))
            return double_of(low, np.uint32(word - (e << np.int32(20)))), real(e), scale

    return parts


def _series(real):
    """The device function (z): P(z), where 2 atanh(s) is 2 s + s z P(z) at z = s^2 <= 0.03."""
    c = [real(2 / (2 * i + 3)) for i in range(11)]
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10 = c
    if real is np.float32:
        return device(lambda z: fma(fma(fma(fma(c4, z, c3), z, c2), z, c1), z, c0))
    upper = device(lambda z: fma(fma(fma(fma(fma(c10, z, c9), z, c8), z, c7), z, c6), z, c5))
    return device(lambda z: fma(fma(fma(fma(fma(upper(z), z, c4), z, c3), z, c2), z, c1), z, c0))


@functools.cache
def log1p_of(kind: str) -> Callable:
    """The device function (x, low): log(1 + x + low) and what that is off by; x >= 0, and low is far below x's ulp."""
    log, one = log_of(kind), elements_of(kind).real(1)

    @device
    def log1p(x, low):
        """1 + x = y + lost exactly."""
        y = one + x
        kept = y - one
        return log(y, ((x - kept) + (one - (y - kept))) + low)

    return log1p


@functools.cache
def log_of(kind: str) -> Callable:
    """The device function (y, lost): log(y + lost) and what that is off by; y > 0 is no subnormal."""
    real = elements_of(kind).real
    constants = exponential.FLOAT64 if real is np.float64 else exponential.FLOAT32
    ln2_high, ln2_low = real(float.fromhex(constants.ln2_high)), real(float.fromhex(constants.ln2_low))
    one, two, half = real(1), real(2), real(0.5)
    parts, series = _parts(real), _series(real)

    @device
    def log(y, lost):
        """With y = m 2^e, f = m - 1 and s = f / (2 + f),

        log m is 2 atanh(s) = f - (f^2/2 - s (f^2/2 + s^2 P)), whose largest terms, f and e ln2, are added exactly.
        """
        m, e, scale = parts(y)
        f = m - one
        s = f * near_reciprocal(two + f)
        z = s * s
        square = half * f * f
        under = square - s * fma(z, series(z), square)
        big = e * ln2_high
        total = big + f
        seen = total - big
        over = (big - (total - seen)) + (f - seen)
        lost *= scale
        less = fma(-f, fma(-f, one - f, one), -half * lost)  # lost / m is lost (1 + less), and its square's half off
        small = over + fma(e, ln2_low, lost)
        high = total + small
        low = (small - (high - total)) + ((lost * less - fma(half * f, f, -square)) - under)
        result = high + low
        return result, low - (result - high)

    return log
