"""A row of logits and its teacher's in Numba: the divergence of their softmaxes and its gradient, all in float64.

As in kernels/rows/distillation.c: what the two rows differ by is taken before anything else, so that nearly equal ones,
up to a constant, keep their digits; and of d_c = log p_s,c - log p_t,c come terms of which none is negative.
"""

import math
from typing import NamedTuple

import numpy as np

from .compiling import inner
from .exponentials import added
from .layout import BLOCK, block, put, row_of, stopped
from .rows import exp_alone, plus, sum_of

FORWARD, REVERSE, JS = range(3)  # kinds, in the order of reference.KINDS
NEAR = 0.5  # below, e^d - 1 - d is a series
HAS_SOME = -40  # a logit over T so far below the row's top: there is some probability left
EXPM1 = tuple(1 / math.factorial(k) for k in range(15, 1, -1))
LOG1P = tuple(1 / (2 * k + 1) for k in range(13, 0, -1))
LEAST = 2.0**-900  # of a probability whose logarithm counts
CHUNK = 32  # classes added up without what that loses: equal terms are all rounded to one side


class Frame(NamedTuple):
    """What is known of the two rows, x the student's and q the teacher's, both over T."""

    inverse: float  # 1 / T
    x_max: float  # what is taken off the logits before they are divided by T: z/T may be so large that rounding shows
    q_max: float
    base: float  # x - q of one class, exactly, with
    base_error: float
    above: float  # x - q at the maxima less the base, over T


class Found(NamedTuple):
    """And what was added up over them."""

    x_unit: float  # what e^x at its maximum is a probability times
    q_unit: float
    shift: float  # d_c is (x_c - q_c - base) / T - shift


@inner
def expm1_less(d):
    """e^d - 1 - d for |d| <= NEAR."""
    p = EXPM1[0]
    for term in EXPM1[1:]:
        p = p * d + term
    return d * d * p


@inner
def less_log1p(x):
    """x - log(1 + x) for -0.4 <= x <= 0.65."""
    s = x / (2 + x)
    z = s * s
    p = LOG1P[0]
    for term in LOG1P[1:]:
        p = p * z + term
    return s * (x - 2 * z * p)


@inner
def two_diff(a, b):
    """(a - b, what that is short of)."""
    d = a - b
    seen = a - d
    return d, (a - (d + seen)) + (seen - b)


@inner
def lanes(z, y, f):
    """(e^x, e^q, x - q less the base), the first two at the maxima, all over T; the last 0 where both are masked."""
    x, q = np.float64(z), np.float64(y)
    of_x = exp_alone((x - f.x_max) * f.inverse, 0.0, 0.0)
    of_q = exp_alone((q - f.q_max) * f.inverse, 0.0, 0.0)
    d, lost = two_diff(x, q)
    above = d - f.base
    more = above + (lost - f.base_error)
    above = more if more == more else above  # what an infinite difference has lost is NaN
    return of_x, of_q, 0.0 if of_x + of_q == 0 else above * f.inverse


@inner
def divergence_term(p, other, d):
    """p (e^d - 1 - d), from p and e^d p = other."""
    if abs(d) < NEAR:
        return p * expm1_less(d)
    return (other - p) - (p * d if p > 0 else 0.0)


@inner
def log_over_mixture(p, other, d, share):
    """log(p / m) of m = share other + (1 - share) p, where d = log p - log other; and the term of KL(p || m)."""
    if abs(d) < NEAR:
        y = share * (expm1_less(-d) - d)
        less = less_log1p(y)
        return less - y, p * less
    if p < LEAST:
        return 0.0, share * (other - p)
    log_p = -math.log1p(share * ((other - p) / p))
    return log_p, p * log_p + share * (other - p)


@inner
def maximum_of(a, row, classes, buffer, stop):
    """The largest number of a row; NaN where one is."""
    m = -np.inf
    for at in range(0, classes, BLOCK):
        if stopped(stop):
            break
        n = min(BLOCK, classes - at)
        z = block(a, row, at, n, buffer)
        nan = 0.0
        for i in range(n):
            value = np.float64(z[i])
            nan = added(nan, 1.0 if value != value else 0.0)
            m = max(m, value)
        if nan > 0:
            return np.nan
    return m


@inner
def base_of(t, x_row, q_row, m_x, m_q, inverse, x_buffer, q_buffer):
    """(x - q, what that is short of) of a class that has some probability in both rows, as far as there is one.

    Of others the difference may be so large that its rounding shows in those that have some. Mostly one of the two tops
    is such a class; else all are looked at.
    """
    best, base, base_error = -np.inf, 0.0, 0.0
    for every in range(2):
        if best * inverse > HAS_SOME:
            break
        tops_x, tops_q = 0, 0
        for at in range(0, t.classes, BLOCK):
            if stopped(t.stop) or (every == 0 and tops_x > 0 and tops_q > 0):
                break
            n = min(BLOCK, t.classes - at)
            z, y = block(t.x, x_row, at, n, x_buffer), block(t.q, q_row, at, n, q_buffer)
            for i in range(n):
                x, q = np.float64(z[i]), np.float64(y[i])
                tops_x += x == m_x
                tops_q += q == m_q
                if math.isfinite(x - q) and (every == 1 or x == m_x or q == m_q):
                    below = max(min(x - m_x, q - m_q), -np.finfo(np.float64).max)
                    if below > best:
                        best = below
                        base, base_error = two_diff(x, q)
    return base, base_error


@inner
def frame_of(t, x_row, q_row, m_x, m_q, temperature, x_buffer, q_buffer):
    """The Frame of two rows with these maxima."""
    base, base_error = base_of(t, x_row, q_row, m_x, m_q, 1 / temperature, x_buffer, q_buffer)
    of_max, lost = two_diff(m_x, m_q)
    above = ((of_max - base) + (lost - base_error)) * (1 / temperature)
    return Frame(1 / temperature, m_x, m_q, base, base_error, above)


@inner
def found_of(t, x_row, q_row, f, x_buffer, q_buffer):
    """What the rows' probabilities and differences are made of."""
    of_x, of_q, shift, ratio = 0.0, 0.0, 0.0, math.exp(f.above)
    x_lost, q_lost, shift_lost = 0.0, 0.0, 0.0
    for at in range(0, t.classes, BLOCK):
        if stopped(t.stop):
            break
        n = min(BLOCK, t.classes - at)
        z, y = block(t.x, x_row, at, n, x_buffer), block(t.q, q_row, at, n, q_buffer)
        for begin in range(0, n, CHUNK):
            x_part, q_part, shift_part = 0.0, 0.0, 0.0
            for i in range(begin, min(begin + CHUNK, n)):
                e_x, e_q, gap = lanes(z[i], y[i], f)
                x_part, q_part = added(x_part, e_x), added(q_part, e_q)
                near = gap if abs(gap) <= NEAR else 0.0
                more = e_q * (near + expm1_less(near)) if abs(gap) <= NEAR else ratio * e_x - e_q
                shift_part = added(shift_part, more)
            of_x, x_lost = plus(of_x, x_lost, x_part)
            of_q, q_lost = plus(of_q, q_lost, q_part)
            shift, shift_lost = plus(shift, shift_lost, shift_part)
    of_x, of_q, shift = sum_of(of_x, x_lost), sum_of(of_q, q_lost), sum_of(shift, shift_lost)
    more = shift / of_q
    shift = math.log1p(more) if -0.5 < more < 1 else f.above + math.log(of_x / of_q)
    return Found(1 / of_x, 1 / of_q, shift)


@inner
def divergences(t, x_row, q_row, f, found, kind, beta, x_buffer, q_buffer):
    """(the divergence, or that of the teacher from the mixture; that of the student from it)."""
    first, second, first_lost, second_lost = 0.0, 0.0, 0.0, 0.0
    for at in range(0, t.classes, BLOCK):
        if stopped(t.stop):
            break
        n = min(BLOCK, t.classes - at)
        z, y = block(t.x, x_row, at, n, x_buffer), block(t.q, q_row, at, n, q_buffer)
        for begin in range(0, n, CHUNK):
            of_first, of_second = 0.0, 0.0
            for i in range(begin, min(begin + CHUNK, n)):
                e_x, e_q, gap = lanes(z[i], y[i], f)
                if e_x + e_q == 0:
                    continue
                p_s, p_t, d = e_x * found.x_unit, e_q * found.q_unit, gap - found.shift
                if kind == FORWARD:
                    of_first += divergence_term(p_t, p_s, d)
                elif kind == REVERSE:
                    of_first += divergence_term(p_s, p_t, -d)
                else:
                    of_first += log_over_mixture(p_t, p_s, -d, 1 - beta)[1]
                    of_second += log_over_mixture(p_s, p_t, d, beta)[1]
            first, first_lost = plus(first, first_lost, of_first)
            second, second_lost = plus(second, second_lost, of_second)
    return sum_of(first, first_lost), sum_of(second, second_lost)


@inner
def write_distilled(t, n, x_row, q_row, f, found, kind, beta, loss, scale, x_buffer, q_buffer, scratch):
    """The gradient of row n: scale times p_s - p_t, p_s (d - loss), or p_s (log(p_s / m) - loss)."""
    real, out_row = scratch.dtype.type, row_of(t.out, t, n)
    for at in range(0, t.classes, BLOCK):
        if stopped(t.stop):
            break
        size = min(BLOCK, t.classes - at)
        z, y = block(t.x, x_row, at, size, x_buffer), block(t.q, q_row, at, size, q_buffer)
        for i in range(size):
            e_x, e_q, gap = lanes(z[i], y[i], f)
            p_s, p_t, d = e_x * found.x_unit, e_q * found.q_unit, gap - found.shift
            grad = 0.0
            if kind == FORWARD:
                if e_x + e_q > 0:
                    grad = p_t * (d + expm1_less(d)) if abs(d) < NEAR else p_s - p_t
            elif p_s >= LEAST:
                above = d if kind == REVERSE else log_over_mixture(p_s, p_t, d, beta)[0]
                grad = p_s * (above - loss)
            scratch[i] = real(scale * grad)
        put(t.out, out_row, at, size, scratch, t.bypasses)


@inner
def distilled_row(t, n, kind, temperature, beta, x_row, q_row, m_x, m_q, scale, x_buffer, q_buffer, scratch):
    """The loss of row n, of these maxima, whose gradient is written, times scale; NaN where that is NaN throughout."""
    f = frame_of(t, x_row, q_row, m_x, m_q, temperature, x_buffer, q_buffer)
    found = found_of(t, x_row, q_row, f, x_buffer, q_buffer)
    first, second = divergences(t, x_row, q_row, f, found, kind, beta, x_buffer, q_buffer)
    scale *= temperature
    loss, taken = first, first
    if kind == JS:
        loss, taken = beta * first + (1 - beta) * second, second
        scale *= 1 - beta
    if kind == REVERSE and math.isinf(loss):
        scale, taken = np.nan, 0.0
    write_distilled(t, n, x_row, q_row, f, found, kind, beta, taken, scale, x_buffer, q_buffer, scratch)
    return temperature * temperature * loss
