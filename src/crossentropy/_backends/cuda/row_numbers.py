"""The numbers of each row on a device, and the gradient of log-probabilities and entropies: kernels of their own.

A row is read class by class in two passes, its maximum first, and worked on in float64, also as its logits are
transformed. The loss is that of the kernels of losses, since options weight and change its target.
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
from .rows import row_at, target_at
from .sums import sums_of
from .weighted import rows_for

LEAST, MOST = -np.inf, np.inf
THREADS = 256  # of a block that writes a row's gradient


class Top(NamedTuple):
    """Of the logits of a row so far, in float64."""

    top: float  # the largest that is a number
    place: float  # its class, the first of several
    undefined: float  # how many are NaN


class Sums(NamedTuple):
    """Of the classes of a row so far, with what rounding has lost."""

    sum: float  # of e^(z - m), but for the class at the maximum
    sum_error: float
    far: float  # of e^(z - m) (m - z)
    far_error: float
    above: float  # how many lie above the target


@functools.cache
def logits_of(kind: str, prior_kind: str):
    """The device function (address, c, prior, prior_step, scale, cap): a logit as options transform it, in float64."""
    number_at, prior_at = elements_of(kind).number_at, elements_of(prior_kind).number_at

    @device
    def logit_at(address, c, prior, prior_step, scale, cap):
        z = np.float64(number_at(address)) * scale
        if cap != 0:
            z = cap * math.tanh(z / cap)
        if prior != 0:
            z += np.float64(prior_at(prior + c * prior_step))
        return z

    return logit_at


@device
def slope_of(z, scale, cap):
    """Of c tanh(a z / c): a s (2 - s), which keeps its digits where tanh is near 1."""
    slope = scale
    if cap != 0:
        e = math.exp(-2.0 * abs(z * scale) / cap)
        s = 2.0 * e / (1.0 + e)
        slope = scale * (s * (2.0 - s))
    return slope


@device
def larger_of(p, other):
    """The Top of both."""
    top, place = p.top, p.place
    if other.top > top or (other.top == top and other.place < place):
        top, place = other.top, other.place
    return Top(top, place, p.undefined + other.undefined)


@device
def reads_row(y, n, classes, has_targets, has_ignored, ignored, sample_weight, real_size, real):
    """1 for a row that is read, 0 for one that does not count, -1 for one whose target is no class."""
    found = 1
    if (sample_weight != 0 and load(sample_weight + n * real_size, real) == real(0)) or (
        has_targets and has_ignored != 0 and y == ignored
    ):
        found = 0
    elif has_targets and (y < 0 or y >= classes):
        found = -1
    return found


@functools.cache
def over_rows(threads: int, at_once: int):
    """(the shape of thread blocks that take so many rows at once, the reductions there of a Top and of Sums)."""
    plus, wide, shape = sums_of("float64").plus, elements_of("float64"), Shape(threads, at_once, 0)

    @device
    def both(p, other):
        total, error = plus(p.sum, p.sum_error + other.sum_error, other.sum)
        far, far_error = plus(p.far, p.far_error + other.far_error, other.far)
        return Sums(total, error, far, far_error, p.above + other.above)

    tops = together(wide, shape, larger_of, Top(LEAST, MOST, 0.0))
    return shape, tops, together(wide, shape, both, Sums(0.0, 0.0, 0.0, 0.0, 0.0))


@functools.cache
def numbers(on: int, kind: str, prior_kind: str, threads: int) -> driver.Kernel:
    """(x with its strides, inner, rows, classes, targets, their stride and size, has_ignored, ignored, sample_weight,
    prior and its stride, the seven results, statistics; scale, cap): results that are 0 are not wanted.
    """
    elements, at_once = elements_of(kind), rows_for(threads)
    real, real_size, logit_at = elements.real, elements.real_size, logits_of(kind, prior_kind)
    frame_at, exp_at = exponential_of("float64").frame_at, exponential_of("float64").exp_at
    plus, (shape, over_tops, over_sums) = sums_of("float64").plus, over_rows(threads, at_once)

    @device
    def put(address, n, value):
        if address != 0:
            store(address + n * real_size, real(value))

    def body(
        x, x_outer, x_row, x_class, inner, rows, classes, targets, target_step, target_size, has_ignored, ignored,
        sample_weight, prior, prior_step, lse, entropy, log_prob, max_prob, argmax, rank, statistics, scale, cap,
    ):  # fmt: skip
        thread = np.int64(cuda.threadIdx.x)
        lane, place = thread % threads, thread // threads
        base = np.int64(cuda.blockIdx.x) * at_once
        magic, lowest = frame_at(0.0)
        while base < rows:
            # Surplus groups repeat the last row with their stores masked, so that all threads reach the barriers.
            n = min(base + place, rows - 1)
            begin = row_at(x, x_outer, x_row, inner, n)
            y = target_at(targets + n * target_step, target_size) if targets != 0 else np.int64(-1)
            reads = reads_row(y, n, classes, targets != 0, has_ignored, ignored, sample_weight, real_size, real)
            top, first, undefined = LEAST, MOST, 0.0
            c = lane if reads == 1 else classes
            while c < classes:
                z = logit_at(begin + c * x_class, c, prior, prior_step, scale, cap)
                if z != z:
                    undefined += 1.0
                elif z > top or first == MOST:
                    top, first = z, np.float64(c)
                c += threads
            found = over_tops(Top(top, first, undefined), 0)
            defined = reads == 1 and found.undefined == 0 and LEAST < found.top < MOST
            z_y = LEAST
            if defined and y >= 0:
                z_y = logit_at(begin + y * x_class, y, prior, prior_step, scale, cap)
            s, s_error, far, far_error, above = 0.0, 0.0, 0.0, 0.0, 0.0
            c = lane if defined else classes
            while c < classes:
                z = logit_at(begin + c * x_class, c, prior, prior_step, scale, cap)
                d = z - found.top
                if d > -1e4:
                    kept = z - d
                    lost = (z - (d + kept)) + (kept - found.top)  # of the rounding of z - top
                    e = exp_at(d, magic, lowest)
                    e += e * lost
                    if c != np.int64(found.place):
                        s, s_error = plus(s, s_error, e)
                    far, far_error = plus(far, far_error, e * -d)
                if z > z_y or (z == z_y and c < y):
                    above += 1.0
                c += threads
            sums = over_sums(Sums(s, s_error, far, far_error, above), 1)
            if base + place < rows and lane == 0:
                none = 0.0 if reads == 0 else np.nan
                rest, m = sums.sum + sums.sum_error, found.top
                log_sum, distance = math.log1p(rest), (sums.far + sums.far_error) / (1.0 + rest)
                if reads == 1 and not defined:
                    put(lse, n, np.nan if found.undefined > 0 else m)
                else:
                    put(lse, n, m + log_sum if defined else none)
                put(entropy, n, distance + log_sum if defined else none)
                put(log_prob, n, (z_y - m) - log_sum if defined else none)
                put(max_prob, n, 1.0 / (1.0 + rest) if defined else none)
                if argmax != 0:
                    store(argmax + 8 * n, np.int64(found.place) if defined else np.int64(-1))
                if rank != 0:
                    store(rank + 8 * n, np.int64(sums.above) if defined else np.int64(classes))
                put(statistics, 3 * n, m if defined else none)
                put(statistics, 3 * n + 1, rest if defined else none)
                put(statistics, 3 * n + 2, distance if defined else none)
            base += np.int64(cuda.gridDim.x) * at_once

    return driver.Kernel(body, [*[types.int64] * 22, types.float64, types.float64], shape.block)


@functools.cache
def gradient(on: int, kind: str, prior_kind: str) -> driver.Kernel:
    """(x and out with their strides, inner, rows, classes, of_block, targets, their stride and size, has_ignored,
    ignored, sample_weight, prior and its stride, statistics, log_prob_grad and its step, entropy_grad and its step;
    scale, cap, log_prob_scale, entropy_scale): g_p (delta_cy - p_c) - g_h p_c (log p_c + h), times a slope.

    With h = d + log1p(R), where d = sum_c p_c (m - z_c) is the third of the statistics, log p_c + h is d - (m - z_c).
    Of a block of classes a target outside them lies in another one.
    """
    elements, logit_at = elements_of(kind), logits_of(kind, prior_kind)
    real, real_size, put = elements.real, elements.real_size, elements.put
    frame_at, exp_at, number_at = (
        exponential_of("float64").frame_at,
        exponential_of("float64").exp_at,
        elements.number_at,
    )

    @device
    def arriving(scale, address, step, n):
        return scale * np.float64(load(address + n * step, real)) if address != 0 else scale

    def body(
        x, x_outer, x_row, x_class, out, out_outer, out_row, out_class, inner, rows, classes, of_block, targets,
        target_step, target_size, has_ignored, ignored, sample_weight, prior, prior_step, statistics, log_prob_grad,
        log_prob_step, entropy_grad, entropy_step, scale, cap, log_prob_scale, entropy_scale,
    ):  # fmt: skip
        n = np.int64(cuda.blockIdx.x)
        magic, lowest = frame_at(0.0)
        while n < rows:
            begin, to = row_at(x, x_outer, x_row, inner, n), row_at(out, out_outer, out_row, inner, n)
            y = target_at(targets + n * target_step, target_size) if targets != 0 else np.int64(-1)
            reads = reads_row(y, n, classes, targets != 0, has_ignored, ignored, sample_weight, real_size, real)
            if of_block != 0 and reads < 0:
                reads = 1
            at = statistics + 3 * n * real_size
            m, rest = np.float64(load(at, real)), np.float64(load(at + real_size, real))
            distance = np.float64(load(at + 2 * real_size, real))
            g_p = arriving(log_prob_scale, log_prob_grad, log_prob_step, n) if targets != 0 else 0.0
            g_h = arriving(entropy_scale, entropy_grad, entropy_step, n)
            c = np.int64(cuda.threadIdx.x)
            while c < classes:
                value = 0.0
                if reads < 0 or (reads == 1 and m != m):
                    value = np.nan
                elif reads == 1:
                    z = logit_at(begin + c * x_class, c, prior, prior_step, scale, cap)
                    below, p = m - z, 0.0
                    if below < 1e4:
                        p = exp_at(min(-below, 0.0), magic, lowest) / (1.0 + rest)
                        value = p * (g_h * (below - distance))
                    if c != y:
                        value -= g_p * p
                    elif p > 0.5:
                        value += g_p * (rest / (1.0 + rest))
                    else:
                        value += g_p * (1.0 - p)
                    if value != 0.0:
                        value *= slope_of(np.float64(number_at(begin + c * x_class)), scale, cap)
                put(to + c * out_class, real(value))
                c += THREADS
            n += np.int64(cuda.gridDim.x)

    return driver.Kernel(body, [*[types.int64] * 25, *[types.float64] * 4], THREADS)


@functools.cache
def within(on: int) -> driver.Kernel:
    """(rank, count, k, to): whether each rank is below k, as bytes of 0 and 1."""

    def body(rank, count, k, to):
        n = np.int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
        if n < count:
            store(to + n, np.uint8(1) if load(rank + 8 * n, np.int64) < k else np.uint8(0))

    return driver.Kernel(body, [types.int64] * 4, THREADS)
