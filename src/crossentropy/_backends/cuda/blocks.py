"""Blocks of classes on a device: the numbers of each row, and a block's gradient from those of all blocks together.

Kernels of their own: a row is read class by class, its maximum first, and worked on in float64, also as its logits are
transformed. What is found of a row are float64, for blocks to be merged by.
"""

import functools
import math

import numpy as np
from numba import cuda
from numba.cuda import types

from . import driver
from .elements import device, elements_of
from .exp import exponential_of
from .intrinsics import load, store
from .row_numbers import LEAST, MOST, THREADS, Sums, Top, logits_of, over_rows, slope_of
from .rows import row_at, target_at
from .sums import sums_of
from .weighted import rows_for

PARTS = 5  # contract.BlockStatistics
KEPT = 3  # contract.Statistics

SKIPPED, BAD, READ = range(3)

# What both kernels are told of a block, beside its logits: integers, then float64.
OF_BLOCK = (
    "q", "q_outer", "q_row", "q_class", "inner", "rows", "classes", "first", "all_classes", "targets", "target_step",
    "target_size", "has_ignored", "ignored", "sample_weight", "class_weight", "prior", "prior_step",
)  # fmt: skip
NUMBERS = ("logit_scale", "softcap", "margin", "label_smoothing")


@device
def state_of(y, n, all_classes, has_targets, has_ignored, ignored, weight):
    """What becomes of a row: 0 throughout, NaN throughout, or its results."""
    if weight == 0 or (has_targets and has_ignored != 0 and y == ignored):
        return SKIPPED
    return BAD if has_targets and (y < 0 or y >= all_classes) else READ


@device
def weight_at(address, n, size, real):
    """A weight, 1 where there are none."""
    return np.float64(load(address + n * size, real)) if address != 0 else 1.0


@device
def times(weight, value):
    """Weight times value, where 0 times inf is 0."""
    return 0.0 if weight == 0 else weight * value


@functools.cache
def _of_class(kind: str, q_kind: str, prior_kind: str):
    """The device functions of class c: its logit, less a margin at the target, and what is spread over it, t_c."""
    logit_at, q_at = logits_of(kind, prior_kind), elements_of(q_kind).number_at if q_kind else None
    real, real_size = elements_of(kind).real, elements_of(kind).real_size

    @device
    def lowered_at(address, c, y, prior, prior_step, scale, cap, margin):
        z = logit_at(address, c, prior, prior_step, scale, cap)
        return z - margin if c == y else z

    if q_kind:

        @device
        def spread_at(q, c, class_weight, smoothing, all_classes):
            t = (1.0 - smoothing) * np.float64(q_at(q)) + smoothing / all_classes
            return times(weight_at(class_weight, c, real_size, real), t)

    else:

        @device
        def spread_at(q, c, class_weight, smoothing, all_classes):
            return times(weight_at(class_weight, c, real_size, real), smoothing / all_classes)

    return lowered_at, spread_at


@functools.cache
def numbers(on: int, kind: str, q_kind: str, prior_kind: str, threads: int) -> driver.Kernel:
    """(x with its strides, OF_BLOCK, parts; NUMBERS): the BlockStatistics of each row, float64."""
    elements, at_once = elements_of(kind), rows_for(threads)
    real, real_size = elements.real, elements.real_size
    lowered_at, spread_at = _of_class(kind, q_kind, prior_kind)
    frame_at, exp_at = exponential_of("float64").frame_at, exponential_of("float64").exp_at
    plus, (shape, over_tops, over_sums) = sums_of("float64").plus, over_rows(threads, at_once)

    def body(
        x, x_outer, x_row, x_class, q, q_outer, q_row, q_class, inner, rows, classes, first, all_classes, targets,
        target_step, target_size, has_ignored, ignored, sample_weight, class_weight, prior, prior_step, parts,
        scale, cap, margin, smoothing,
    ):  # fmt: skip
        thread = np.int64(cuda.threadIdx.x)
        lane, place = thread % threads, thread // threads
        base = np.int64(cuda.blockIdx.x) * at_once
        magic, lowest = frame_at(0.0)
        while base < rows:
            # Surplus groups repeat the last row with their stores masked, so that all threads reach the barriers.
            n = min(base + place, rows - 1)
            begin, begin_q = row_at(x, x_outer, x_row, inner, n), row_at(q, q_outer, q_row, inner, n)
            given = target_at(targets + n * target_step, target_size) if targets != 0 else np.int64(-1)
            weight = weight_at(sample_weight, n, real_size, real)
            reads = state_of(given, n, all_classes, targets != 0, has_ignored, ignored, weight) == READ
            y = given - first if targets != 0 else np.int64(-1)
            top, highest, undefined = LEAST, MOST, 0.0
            c = lane if reads else classes
            while c < classes:
                z = lowered_at(begin + c * x_class, c, y, prior, prior_step, scale, cap, margin)
                if z != z:
                    undefined += 1.0
                elif z > top or highest == MOST:
                    top, highest = z, np.float64(c)
                c += threads
            found = over_tops(Top(top, highest, undefined), 0)
            defined = reads and found.undefined == 0 and found.top < MOST
            m = found.top
            s, s_error, far, far_error, mass = 0.0, 0.0, 0.0, 0.0, 0.0
            c = lane if defined else classes
            while c < classes:
                z = lowered_at(begin + c * x_class, c, y, prior, prior_step, scale, cap, margin)
                t = spread_at(begin_q + c * q_class, c, class_weight, smoothing, all_classes)
                d = z - m if m > LEAST else LEAST
                if d > -1e4:
                    kept = z - d
                    lost = (z - (d + kept)) + (kept - m)  # of the rounding of z - m
                    e = exp_at(d, magic, lowest)
                    if c != np.int64(found.place):
                        s, s_error = plus(s, s_error, e + e * lost)
                far, far_error = plus(far, far_error, times(t, -d))
                mass += t
                c += threads
            sums = over_sums(Sums(s, s_error, far, far_error, mass), 1)
            if base + place < rows and lane == 0:
                at, z_y = parts + 8 * PARTS * n, LEAST
                if defined and 0 <= y < classes:
                    z_y = lowered_at(begin + y * x_class, y, y, prior, prior_step, scale, cap, margin)
                distance = sums.far if sums.far == MOST else sums.far + sums.far_error
                store(at, np.float64(m if defined else np.nan))
                store(at + 8, np.float64(sums.sum + sums.sum_error))
                store(at + 16, np.float64(z_y))
                store(at + 24, np.float64(sums.above))
                store(at + 32, np.float64(distance))
            base += np.int64(cuda.gridDim.x) * at_once

    return driver.Kernel(body, [*[types.int64] * 23, *[types.float64] * 4], shape.block)


@functools.cache
def gradient(on: int, kind: str, q_kind: str, prior_kind: str) -> driver.Kernel:
    """(x, out with their strides, OF_BLOCK, statistics, row_scale and its step; NUMBERS, scale): v [a p_c - t_c].

    The statistics of all blocks are float64; their mass is a but for the weight of a target in this block.
    """
    elements = elements_of(kind)
    real, real_size, put, number_at = elements.real, elements.real_size, elements.put, elements.number_at
    lowered_at, spread_at = _of_class(kind, q_kind, prior_kind)
    frame_at, exp_at = exponential_of("float64").frame_at, exponential_of("float64").exp_at

    def body(
        x, x_outer, x_row, x_class, out, out_outer, out_row, out_class, q, q_outer, q_row, q_class, inner, rows,
        classes, first, all_classes, targets, target_step, target_size, has_ignored, ignored, sample_weight,
        class_weight, prior, prior_step, statistics, row_scale, row_scale_step, scale, cap, margin, smoothing, factor,
    ):  # fmt: skip
        n = np.int64(cuda.blockIdx.x)
        magic, lowest = frame_at(0.0)
        while n < rows:
            begin, to = row_at(x, x_outer, x_row, inner, n), row_at(out, out_outer, out_row, inner, n)
            begin_q = row_at(q, q_outer, q_row, inner, n)
            given = target_at(targets + n * target_step, target_size) if targets != 0 else np.int64(-1)
            weight = weight_at(sample_weight, n, real_size, real)
            state = state_of(given, n, all_classes, targets != 0, has_ignored, ignored, weight)
            y = given - first if targets != 0 else np.int64(-1)
            at = statistics + 8 * KEPT * n
            m, rest, mass = load(at, np.float64), load(at + 8, np.float64), load(at + 16, np.float64)
            g = factor * weight
            if row_scale != 0:
                g *= np.float64(load(row_scale + n * row_scale_step, real))
            own = 0.0
            if state == READ and 0 <= y < classes:
                own = (1.0 - smoothing) * weight_at(class_weight, y, real_size, real)
            a = mass + own
            c = np.int64(cuda.threadIdx.x)
            while c < classes:
                value = 0.0
                if state == BAD or (state == READ and m != m):
                    value = np.nan
                elif state == READ:
                    z = lowered_at(begin + c * x_class, c, y, prior, prior_step, scale, cap, margin)
                    t = spread_at(begin_q + c * q_class, c, class_weight, smoothing, all_classes)
                    d, p = z - m, 0.0
                    if d > -1e4:
                        kept = z - d
                        e = exp_at(min(d, 0.0), magic, lowest)
                        p = (e + e * ((z - (d + kept)) + (kept - m))) / (1.0 + rest)
                    value = times(p, a) - t
                    if c == y:
                        value = (mass - t) - a * (rest / (1.0 + rest)) if p > 0.5 else value - own
                    value *= g
                    if value != 0.0:
                        slope = slope_of(np.float64(number_at(begin + c * x_class)), scale, cap)
                        value = 0.0 if slope == 0.0 and abs(value) == math.inf else value * slope
                put(to + c * out_class, real(value))
                c += THREADS
            n += np.int64(cuda.gridDim.x)

    return driver.Kernel(body, [*[types.int64] * 29, *[types.float64] * 5], THREADS)
