"""Losses of one logit each in Numba: the binary cross-entropy and the focal loss, and the gradient, all in float64.

As in kernels/blocks/binary.h, whose names these are.
"""

import math

import numpy as np
from numba import njit

from .compiling import OPTIONS, inner
from .rows import plus, sum_of


@inner
def one(z, t, r, alpha, gamma):
    """The loss of a logit but for its weight, and its gradient."""
    size = abs(z)
    u = math.exp(-size)
    log1p = math.log1p(u)
    total = 1 + u
    rest = 1 - t
    up = r * t
    at, opposite = (u, 1.0) if z < 0 else (1.0, u)
    far = up if z < 0 else rest
    slope = (rest * at - up * opposite) / total
    loss = (size * far if far != 0 else 0.0) + log1p * (up + rest)
    if size != size:
        loss = slope = z
    if gamma != 0:
        above = t * opposite + rest * at
        power = (above / total) ** gamma
        more = gamma * (rest - t) * loss * (u / above / total) if u > 0 and above > 0 else 0.0
        slope = power * (slope + more)
        loss = power * loss
    a = alpha * t + (1 - alpha) * rest if alpha >= 0 else 1.0
    return (a * loss, a * slope) if a != 0 else (0.0, 0.0)


@njit(**OPTIONS)
def binary(z, targets, weight, pos_weight, grad_output, alpha, gamma, at_once, sums, loss, grad, first, last, stop):
    """The blocks from first up to last; a scale of one number is that of all, and one of a block's size repeats."""
    for block in range(first, last):
        if stop[0]:
            break
        total, error = 0.0, 0.0
        begin = block * at_once
        for i in range(begin, min(begin + at_once, z.size)):
            w = np.float64(weight[i] if weight.size == z.size else weight[(i - begin) % weight.size])
            r = np.float64(pos_weight[i] if pos_weight.size == z.size else pos_weight[(i - begin) % pos_weight.size])
            value, slope = one(np.float64(z[i]), np.float64(targets[i]), r, alpha, gamma)
            value = w * value if w != 0 else 0.0
            total, error = plus(total, error, value)
            if loss.size:
                loss[i] = value
            if grad.size:
                s = np.float64(grad_output[i] if grad_output.size == z.size else grad_output[0])
                grad[i] = s * w * slope if w != 0 else 0.0
        sums[block] = sum_of(total, error)
