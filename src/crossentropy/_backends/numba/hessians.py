"""What stands for the second derivative of a row's loss in Numba, from the statistics of its forward.

As in kernels/rows/hessians.c: factor (diag p - p p^T) + second p p^T, its diagonal or its product with a vector.
"""

import numpy as np

from .compiling import inner
from .layout import BLOCK, block, put, row_of, stopped
from .rows import anchor_at, exp_alone, times

DIAGONAL, UPPER_BOUND, PRODUCT, XGBOOST, LIGHTGBM = range(5)  # in the order of reference.HESSIANS
XGBOOST_LEAST = 1e-16


@inner
def unit_of(m, rest):
    """(shift, k, what e^z at that anchor is a probability times) of a row."""
    shift, k = anchor_at(m, 0, np.empty(0, np.float64))
    return shift, k, 1 / (1 + rest) / exp_alone(m, shift, k)


@inner
def vector_mean(t, x_row, q_row, m, shift, k, unit, x_buffer, q_buffer):
    """(the vector's number at the maximum, the mean of the others' less that)."""
    at_top, count, mean = 0.0, 0, 0.0
    for turn in range(2):
        for at in range(0, t.classes, BLOCK):
            if stopped(t.stop):
                break
            n = min(BLOCK, t.classes - at)
            z, u = block(t.x, x_row, at, n, x_buffer), block(t.q, q_row, at, n, q_buffer)
            for i in range(n):
                if turn == 0:
                    if z[i] == m:
                        at_top, count = at_top + np.float64(u[i]), count + 1
                else:
                    p = exp_alone(np.float64(z[i]), shift, k) * unit
                    mean += times(p, np.float64(u[i]) - at_top)
        if turn == 0 and count > 0:
            at_top /= count
    return at_top, mean


@inner
def write_hessian(t, n, hessian, m, rest, factor, second, one, x_buffer, q_buffer, scratch):
    """Row n: factor and second as above, ``one`` the scale of a row of weight 1."""
    real = scratch.dtype.type
    x_row, out_row = row_of(t.x, t, n), row_of(t.out, t, n)
    shift, k, unit = unit_of(m, rest)
    share, classes, least = 1 / (1 + rest), np.float64(t.classes), -np.inf
    bound = max(factor, 0.0) * 0.5 * (1 - 1 / classes) + second
    if hessian == XGBOOST:
        factor, second, least = 2 * factor, 2 * second, XGBOOST_LEAST * one
    elif hessian == LIGHTGBM and t.classes > 1:
        factor, second = classes / (classes - 1) * factor, classes / (classes - 1) * second
    at_top = factor * share * (rest * share) + second * share * share
    of_vector, mean, q_row = 0.0, 0.0, 0
    if hessian == PRODUCT:
        q_row = row_of(t.q, t, n)
        of_vector, mean = vector_mean(t, x_row, q_row, m, shift, k, unit, x_buffer, q_buffer)
        second = times(second, of_vector + mean)
    for at in range(0, t.classes, BLOCK):
        if stopped(t.stop):
            break
        size = min(BLOCK, t.classes - at)
        z = block(t.x, x_row, at, size, x_buffer)
        u = block(t.q, q_row, at, size, q_buffer) if hessian == PRODUCT else z
        for i in range(size):
            p = exp_alone(np.float64(z[i]), shift, k) * unit
            if hessian == PRODUCT:
                value = times(p, factor * ((np.float64(u[i]) - of_vector) - mean) + second)
            elif hessian == UPPER_BOUND:
                value = bound
            elif p > 0.5:
                value = max(at_top, least)
            else:
                value = max(factor * p * (1 - p) + second * p * p, least)
            scratch[i] = real(value)
        put(t.out, out_row, at, size, scratch, t.bypasses)
