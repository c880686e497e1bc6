"""The weighted sum of one row's exponentials in Numba, sum b e^z for weights b of either sign, in float64 throughout.

As in kernels/blocks/weighted.h: a weight is m 2^e, the largest term about e^top 2^power, and every other is added in
units of that, so that nothing overflows or vanishes on the way.
"""

import math

import numpy as np

from .compiling import inner
from .layout import PIECE, number_at, stopped
from .rows import LN2, exp_alone, plus


@inner
def undefined_term(z, b):
    """What a term adds that is infinite or NaN, or has a weight that is; 0 for any other."""
    if math.isnan(z):
        return z
    if math.isfinite(b) and z < np.inf:
        return 0.0
    return b * (0.0 if z == -np.inf else np.inf)


@inner
def log_of(total, error, power):
    """log((total + error) 2^power) for what is positive, by log1p near 1, so that the distance keeps its digits."""
    if abs(power) < 900:
        total, error, power = math.ldexp(total, power), math.ldexp(error, power), 0
    above_1 = (total - 1) + error
    return power * LN2 + (math.log1p(above_1) if abs(above_1) < 0.5 else math.log(total + error))


@inner
def weighted_sum(x, x_row, q, q_row, classes, like, stop):
    """(log |s|, sign of s) for the sum s of q e^x over a row. What has weight 0 does not count."""
    top, power, undefined, any_undefined = -np.inf, 0, 0.0, False
    for c in range(classes):
        if c % PIECE == 0 and stopped(stop):
            break
        b = number_at(q, q_row, c, like)
        if b == 0:
            continue
        z = number_at(x, x_row, c, like)
        if not (math.isfinite(b) and z < np.inf):
            any_undefined = True
            undefined += undefined_term(z, b)
        elif z > -np.inf:
            _, e = math.frexp(b)
            if z - top > (power - e) * LN2:
                top, power = z, e
    if any_undefined:
        return abs(undefined), math.copysign(1.0, undefined) if undefined == undefined else undefined
    total, error = 0.0, 0.0
    for c in range(classes if top > -np.inf else 0):
        if c % PIECE == 0 and stopped(stop):
            break
        b = number_at(q, q_row, c, like)
        z = number_at(x, x_row, c, like)
        if b == 0 or z - top < -1e4:
            continue
        m, e = math.frexp(b)
        d = z - top
        kept = z - d
        lost = (z - (d + kept)) + (kept - top)  # of the rounding of z - top
        term = m * exp_alone(d, 0.0, float(power - e))
        total, error = plus(total, error, term + term * lost)
    sign = float(np.sign(total + error))
    if sign == 0:
        return -np.inf, 0.0
    return top + log_of(sign * total, sign * error, power), sign
