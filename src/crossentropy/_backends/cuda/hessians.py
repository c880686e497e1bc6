"""What stands for the second derivative of a loss on a device, from the statistics that its forward keeps, in float64.

As in kernels/rows/hessians.c: factor (diag p - p p^T) + second p p^T, its diagonal or its product with a vector.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from . import driver
from .elements import device, elements_of
from .exp import exponential_of
from .groups import Shape, together
from .intrinsics import load
from .log import log1p_of
from .rows import row_at, target_at
from .weighted import rows_for

DIAGONAL, UPPER_BOUND, PRODUCT, XGBOOST, LIGHTGBM = range(5)  # in the order of reference.HESSIANS
XGBOOST_LEAST = 1e-16


class Vector(NamedTuple):
    """What is added up over a row of the vector, and how many there are: reals."""

    sum: float
    count: float


@device
def both(p, other):
    """The two together."""
    return Vector(p.sum + other.sum, p.count + other.count)


@functools.cache
def hessians(on: int, kind: str, which: int, threads: int) -> driver.Kernel:
    """The kernel for logits of a dtype, of the Hessian of that number; q is the vector of a product, of that dtype."""
    elements, wide = elements_of(kind), elements_of("float64")
    number_at, put, real, real_size = elements.number_at, elements.put, elements.real, elements.real_size
    exp_at, frame_at, log1p = exponential_of("float64").exp_at, exponential_of("float64").frame_at, log1p_of("float64")
    at_once = rows_for(threads)
    shape = Shape(threads, at_once, 0)
    over_vectors = together(wide, shape, both, Vector(0.0, 0.0))

    def body(
        x, x_outer, x_row, x_class, q, q_outer, q_row, q_class, out, out_outer, out_row, out_class,
        targets, targets_outer, targets_row, target_size, has_ignored, ignored, inner, rows, classes,
        class_weight, sample_weight, divisor, statistics, keep, z_loss, scale,
    ):  # fmt: skip
        thread = np.int64(cuda.threadIdx.x)
        lane, place = thread % threads, thread // threads
        base = np.int64(cuda.blockIdx.x) * at_once
        magic, lowest = frame_at(0.0)
        while base < rows:
            # Surplus groups repeat the last row with their stores masked, so that all threads reach the barriers.
            alive = base + place < rows
            n = min(base + place, rows - 1)
            x_begin, q_begin = row_at(x, x_outer, x_row, inner, n), row_at(q, q_outer, q_row, inner, n)
            out_begin = row_at(out, out_outer, out_row, inner, n)
            one, weight, own = scale, 1.0, 0.0
            if divisor != 0:
                by = np.float64(load(divisor, real))
                one = one / by if by != 0 else 0.0
            if sample_weight != 0:
                weight = np.float64(load(sample_weight + n * real_size, real))
            counts, defined = weight != 0 and one != 0, True
            if targets != 0:
                y = target_at(row_at(targets, targets_outer, targets_row, inner, n), target_size)
                if has_ignored != 0 and y == ignored:
                    counts = False
                elif y < 0 or y >= classes:
                    defined = False
                else:
                    own = keep
                    if class_weight != 0:
                        own *= np.float64(load(class_weight + y * real_size, real))
            kept = statistics + 3 * n * real_size
            m = np.float64(load(kept, real))
            rest, mass = np.float64(load(kept + real_size, real)), np.float64(load(kept + 2 * real_size, real))
            defined = defined and m == m
            share = 1.0 / (1.0 + rest)
            log_sum, off = log1p(rest, 0.0)
            factor, second = own + mass, 0.0
            if z_loss != 0:
                factor += 2.0 * z_loss * (m + (log_sum + off))
                second = 2.0 * z_loss * one * weight
            factor *= one * weight
            bound, least = max(factor, 0.0) * 0.5 * (1.0 - 1.0 / classes) + second, -np.inf
            if which == XGBOOST:
                factor, second, least = 2.0 * factor, 2.0 * second, XGBOOST_LEAST * one
            if which == LIGHTGBM and classes > 1:
                by = classes / (classes - 1.0)
                factor, second = by * factor, by * second
            at_top = max(factor * share * (rest * share) + second * share * share, least)
            of_vector, mean = 0.0, 0.0
            if which == PRODUCT:
                total, count = 0.0, 0.0
                c = lane
                while c < classes:
                    if np.float64(number_at(x_begin + c * x_class)) == m:
                        total, count = total + np.float64(number_at(q_begin + c * q_class)), count + 1.0
                    c += threads
                found = over_vectors(Vector(total, count), 0)
                if found.count > 0:
                    of_vector = found.sum / found.count
                total = 0.0
                c = lane
                while c < classes:
                    p = exp_at(np.float64(number_at(x_begin + c * x_class)) - m, magic, lowest) * share
                    if p > 0:
                        total += p * (np.float64(number_at(q_begin + c * q_class)) - of_vector)
                    c += threads
                mean = over_vectors(Vector(total, 0.0), 1).sum
                if second != 0:
                    second *= of_vector + mean
            c = lane
            while c < classes and alive:
                value = 0.0
                if counts and defined:
                    p = exp_at(np.float64(number_at(x_begin + c * x_class)) - m, magic, lowest) * share
                    if which == UPPER_BOUND:
                        value = bound
                    elif which == PRODUCT:
                        if p > 0:
                            above = (np.float64(number_at(q_begin + c * q_class)) - of_vector) - mean
                            value = p * (factor * above + second)
                    elif p > 0.5:
                        value = at_top
                    else:
                        value = max(factor * p * (1.0 - p) + second * p * p, least)
                elif counts:
                    value = np.nan
                put(out_begin + c * out_class, real(value))
                c += threads
            base += np.int64(cuda.gridDim.x) * at_once

    return driver.Kernel(body, [types.int64] * 25 + [types.float64] * 3, shape.block)
