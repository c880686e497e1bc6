"""The numbers of one row in Numba: its entropy, its largest class, its target's rank; and their gradient."""

import numpy as np

from .compiling import inner
from .exponentials import exp_at
from .layout import BLOCK, block, put, stopped
from .rows import CHUNK, anchor_at, exp_alone, frame_at, gradient_frame, plus, sum_of, times


@inner
def look(x, x_row, classes, m, y, z, buffer, stop):
    """(sum of e^(z_c - m) (m - z_c), first class at m, classes above y) of a row whose maximum m is finite.

    Above y are those with a larger logit than its own, z, and those with the same before it.
    """
    far, error, largest, above = 0.0, 0.0, classes, 0
    shift, k = anchor_at(m, 64 if buffer.itemsize == 4 else 512, buffer)  # what lies far below must not vanish
    top = exp_alone(m, shift, k)
    _, magic, lowest = frame_at(shift, k, buffer)
    shift, real = buffer.dtype.type(shift), buffer.dtype.type
    for at in range(0, classes, BLOCK):
        if stopped(stop):
            break
        n = min(BLOCK, classes - at)
        row = block(x, x_row, at, n, buffer)
        for first in range(0, n, CHUNK):
            last, sums = min(n, first + CHUNK), 0.0
            for i in range(first, last):
                below = m - np.float64(row[i])
                sums += times(np.float64(exp_at(row[i] - shift, magic, lowest)), below)
            far, error = plus(far, error, sums)
        for i in range(n):
            if row[i] == real(m):
                largest = min(largest, at + i)
            above += row[i] > real(z) or (row[i] == real(z) and at + i < y)
    return sum_of(far, error) / top, largest, above


@inner
def write_log_probs_gradient(x, x_row, out, out_row, classes, m, rest, distance, y, z, g_p, g_h, bypasses, stop,
                             buffer, scratch):  # fmt: skip
    """g_p (delta_cy - p_c) - g_h p_c (log p_c + h), as p_c (g_h (m - z_c) - (g_p + g_h distance)); that of y apart."""
    real, share = scratch.dtype.type, 1 / (1 + rest)
    level = -(g_p + times(g_h, distance))
    (shift, magic, lowest), of_e, _ = gradient_frame(m, share, scratch)
    for at in range(0, classes, BLOCK):
        if stopped(stop):
            break
        n = min(BLOCK, classes - at)
        row = block(x, x_row, at, n, buffer)
        for i in range(n):
            p = np.float64(exp_at(row[i] - shift, magic, lowest)) * of_e
            scratch[i] = real(times(p, g_h * (m - np.float64(row[i])) + level))
        if at <= y < at + n:
            below = m - z
            own, k = anchor_at(m, 0, scratch)
            p = exp_alone(z, own, k) / exp_alone(m, own, k) * share
            others = rest * share if below == 0 and rest < 1 else 1 - p
            scratch[y - at] = real(g_p * others + times(p, times(g_h, below - distance)) if p > 0 else g_p)
        put(out, out_row, at, n, scratch, bypasses)
