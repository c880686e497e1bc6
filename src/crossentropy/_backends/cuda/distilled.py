"""A row of logits and its teacher's on a device: the divergence of their softmaxes and its gradient, in float64.

As in kernels/rows/distillation.c: what the two rows differ by is taken before anything else, so that nearly equal ones,
up to a constant, keep their digits; and of d_c = log p_s,c - log p_t,c come terms of which none is negative. A
kernel of its own: a row is read class by class, once for each step.
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
from .intrinsics import load, store
from .rows import row_at
from .weighted import rows_for

NEAR = 0.5  # below, e^d - 1 - d is a series
LEAST = 2.0**-900  # of a probability whose logarithm counts
NONE = 2.0**62  # the number of no class
LEAST_OF_ALL = -1.7976931348623157e308  # below the top, a class is taken to be at most
FORWARD, REVERSE = 0, 1  # and 2, js: kinds, in the order of reference.KINDS


class Maxima(NamedTuple):
    """Of classes of two rows: reals."""

    x: float
    q: float
    undefined: float  # how many are NaN


class Base(NamedTuple):
    """A class that neither row masks: the one at the top of a row that is nearest to the other's, or the first: reals.

    Of classes that have next to no probability the logits may differ by so much that rounding shows in the others.
    """

    below: float  # that other top, less where it lies
    place: float


class Sums(NamedTuple):
    """Of e^x, of e^q, of e^q (e^gap - 1): reals."""

    x: float
    q: float
    shift: float


class Divergences(NamedTuple):
    """Of the teacher from the student or from the mixture; of the student."""

    first: float
    second: float


@device
def larger_of(p, other):
    """The Maxima of both."""
    return Maxima(max(p.x, other.x), max(p.q, other.q), p.undefined + other.undefined)


@device
def better_of(p, other):
    """The Base that is the nearer, or the first."""
    below, place = p.below, p.place
    if other.below > below or (other.below == below and other.place < place):
        below, place = other.below, other.place
    return Base(below, place)


@device
def sums_of_both(p, other):
    """The Sums of both."""
    return Sums(p.x + other.x, p.q + other.q, p.shift + other.shift)


@device
def divergences_of_both(p, other):
    """The Divergences of both."""
    return Divergences(p.first + other.first, p.second + other.second)


@device
def expm1_less(d):
    """e^d - 1 - d, by its series where it is small."""
    term, s = d * d * 0.5, 0.0
    for k in range(3, 18):
        s += term
        term *= d / k
    return s if abs(d) < NEAR else math.expm1(d) - d


@device
def less_log1p(x):
    """x - log(1 + x), by its series: for -0.4 <= x <= 0.65."""
    s = x / (2.0 + x)
    z = s * s
    p, power = 0.0, z
    for k in range(3, 29, 2):
        p += power / k
        power *= z
    return s * (x - 2.0 * p)


@device
def divergence_term(p, other, d):
    """p (e^d - 1 - d), from p and e^d p = other."""
    term = other - p
    if abs(d) < NEAR:
        term = p * expm1_less(d)
    elif p > 0:
        term -= p * d
    return term


@device
def log_over_mixture(p, other, d, share):
    """(log(p / m), the term of KL(p || m)) for m = share other + (1 - share) p, where d = log p - log other."""
    log_p, term = 0.0, share * (other - p)
    if abs(d) < NEAR:
        y = share * (expm1_less(-d) - d)
        less = less_log1p(y)
        log_p, term = less - y, p * less
    elif p >= LEAST:
        log_p = -math.log1p(share * ((other - p) / p))
        term += p * log_p
    return log_p, term


@functools.cache
def distillations(on: int, kind: str, teacher: str, which: int, threads: int) -> driver.Kernel:
    """The kernel for logits of dtype ``kind`` and a teacher's of another, of the divergence of that number.

    Its arguments are ARGUMENTS, in that order.
    """
    elements, wide = elements_of(kind), elements_of("float64")
    x_at, put, q_at = elements.number_at, elements.put, elements_of(teacher).number_at
    real, real_size = elements.real, elements.real_size
    exp_at, frame_at = exponential_of("float64").exp_at, exponential_of("float64").frame_at
    at_once = rows_for(threads)
    shape = Shape(threads, at_once, 0)
    over_maxima = together(wide, shape, larger_of, Maxima(-np.inf, -np.inf, 0.0))
    over_bases = together(wide, shape, better_of, Base(-np.inf, NONE))
    over_sums = together(wide, shape, sums_of_both, Sums(0.0, 0.0, 0.0))
    over_terms = together(wide, shape, divergences_of_both, Divergences(0.0, 0.0))

    @device
    def two_diff(a, b):
        d = a - b
        seen = a - d
        return d, (a - (d + seen)) + (seen - b)

    @device
    def lanes(x, q, inverse, top_x, top_q, base, base_error):
        """(e^x, e^q at the tops, x - q less the base), all over T; the last 0 where both are masked."""
        magic, lowest = frame_at(0.0)
        of_x, of_q = exp_at((x - top_x) * inverse, magic, lowest), exp_at((q - top_q) * inverse, magic, lowest)
        d, lost = two_diff(x, q)
        above = d - base
        more = above + (lost - base_error)
        above = more if more == more else above  # what an infinite difference has lost is NaN
        return of_x, of_q, 0.0 if of_x + of_q == 0 else above * inverse

    def body(
        x, x_outer, x_row, x_class, q, q_outer, q_row, q_class, out, out_outer, out_row, out_class,
        inner, rows, classes, sample_weight, row_scale, row_scale_step, divisor, loss, temperature, beta, scale,
    ):  # fmt: skip
        thread = np.int64(cuda.threadIdx.x)
        lane, place = thread % threads, thread // threads
        base_row = np.int64(cuda.blockIdx.x) * at_once
        inverse = 1.0 / temperature
        while base_row < rows:
            # Surplus groups repeat the last row with their stores masked, so that all threads reach the barriers.
            alive = base_row + place < rows
            n = min(base_row + place, rows - 1)
            x_begin, q_begin = row_at(x, x_outer, x_row, inner, n), row_at(q, q_outer, q_row, inner, n)
            out_begin = row_at(out, out_outer, out_row, inner, n)
            weight, factor = 1.0, scale
            if sample_weight != 0:
                weight = np.float64(load(sample_weight + n * real_size, real))
            if divisor != 0:
                by = np.float64(load(divisor, real))
                factor = factor / by if by != 0 else 0.0
            if row_scale != 0:
                factor *= np.float64(load(row_scale + n * row_scale_step, real))
            top_x, top_q, undefined = -np.inf, -np.inf, 0.0
            c = lane
            while c < classes:
                z, y = np.float64(x_at(x_begin + c * x_class)), np.float64(q_at(q_begin + c * q_class))
                undefined += 1.0 if z != z or y != y else 0.0
                top_x, top_q = max(top_x, z), max(top_q, y)
                c += threads
            found = over_maxima(Maxima(top_x, top_q, undefined), 0)
            defined = found.undefined == 0 and found.x - found.x == 0 and found.q - found.q == 0
            top_x, top_q = found.x, found.q
            to_read = classes if defined and weight != 0 else np.int64(0)
            best, place_of_best = -np.inf, NONE
            c = lane
            while c < to_read:
                z, y = np.float64(x_at(x_begin + c * x_class)), np.float64(q_at(q_begin + c * q_class))
                if (z - y) - (z - y) == 0:  # both are finite, and their difference
                    below = max(min(y - top_q, z - top_x), LEAST_OF_ALL)
                    if below > best:
                        best, place_of_best = below, np.float64(c)
                c += threads
            chosen = over_bases(Base(best, place_of_best), 1)
            base, base_error = 0.0, 0.0
            if chosen.place < NONE:
                c = np.int64(chosen.place)
                z, y = np.float64(x_at(x_begin + c * x_class)), np.float64(q_at(q_begin + c * q_class))
                base, base_error = two_diff(z, y)
            apart, lost = two_diff(top_x, top_q)
            above = ((apart - base) + (lost - base_error)) * inverse
            sum_x, sum_q, shift, ratio = 0.0, 0.0, 0.0, math.exp(above)
            c = lane
            while c < to_read:
                z, y = np.float64(x_at(x_begin + c * x_class)), np.float64(q_at(q_begin + c * q_class))
                of_x, of_q, gap = lanes(z, y, inverse, top_x, top_q, base, base_error)
                sum_x, sum_q = sum_x + of_x, sum_q + of_q
                if abs(gap) <= NEAR:
                    shift += of_q * (gap + expm1_less(gap))
                else:
                    shift += ratio * of_x - of_q
                c += threads
            sums = over_sums(Sums(sum_x, sum_q, shift), 0)
            unit_x, unit_q, shift = 0.0, 0.0, 0.0
            if to_read > 0:
                unit_x, unit_q = 1.0 / sums.x, 1.0 / sums.q
                more = sums.shift * unit_q
                shift = math.log1p(more) if -0.5 < more < 1 else above + math.log(sums.x / sums.q)
            one, two = 0.0, 0.0
            c = lane
            while c < to_read:
                z, y = np.float64(x_at(x_begin + c * x_class)), np.float64(q_at(q_begin + c * q_class))
                of_x, of_q, gap = lanes(z, y, inverse, top_x, top_q, base, base_error)
                if of_x + of_q > 0:
                    p_s, p_t, d = of_x * unit_x, of_q * unit_q, gap - shift
                    if which == FORWARD:
                        one += divergence_term(p_t, p_s, d)
                    elif which == REVERSE:
                        one += divergence_term(p_s, p_t, -d)
                    else:
                        one += log_over_mixture(p_t, p_s, -d, 1.0 - beta)[1]
                        two += log_over_mixture(p_s, p_t, d, beta)[1]
                c += threads
            terms = over_terms(Divergences(one, two), 1)
            value, taken, by = terms.first, terms.first, factor * weight * temperature
            if which > REVERSE:
                value, taken, by = beta * terms.first + (1.0 - beta) * terms.second, terms.second, by * (1.0 - beta)
            value *= temperature * temperature * weight
            if weight == 0:
                value, by = 0.0, 0.0
            elif not defined or (which == REVERSE and not taken < np.inf):
                by = np.nan
                value = value if defined else np.nan
            elif factor == 0:
                by = 0.0
            # All lanes have read what another may overwrite, where the gradient goes to the logits' place.
            c = lane
            while c < classes and alive:
                grad = by
                if by != 0 and by == by:
                    z, y = np.float64(x_at(x_begin + c * x_class)), np.float64(q_at(q_begin + c * q_class))
                    of_x, of_q, gap = lanes(z, y, inverse, top_x, top_q, base, base_error)
                    p_s, p_t, d = of_x * unit_x, of_q * unit_q, gap - shift
                    moved = 0.0
                    if which == FORWARD:
                        if of_x + of_q > 0:
                            moved = p_t * (d + expm1_less(d)) if abs(d) < NEAR else p_s - p_t
                    elif p_s >= LEAST:
                        lies = d if which == REVERSE else log_over_mixture(p_s, p_t, d, beta)[0]
                        moved = p_s * (lies - taken)
                    grad = by * moved
                put(out_begin + c * out_class, real(grad))
                c += threads
            if alive and lane == 0:
                store(loss + n * real_size, real(value))
            base_row += np.int64(cuda.gridDim.x) * at_once

    return driver.Kernel(body, [types.int64] * 20 + [types.float64] * 3, shape.block)
