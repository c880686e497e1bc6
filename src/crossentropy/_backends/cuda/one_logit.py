"""Losses of one logit each on a device: the binary cross-entropy and the focal loss, value and gradient.

By the formulas of kernels/blocks/binary.h, whose names these are. Float32 and 16-bit logits are computed in float32
where |z| < NEAR and the loss is not focal; all else is in float64.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from numba import cuda
from numba.cuda import types

from . import driver
from .elements import device, elements_of
from .exp import exponential_of
from .intrinsics import fma, load, load_vector, store, store_vector
from .log import log_of
from .pairs import pairs_of
from .reductions import THREADS, _sum
from .rows import row_at, target_at

NEAR = 80  # e^-80 and its half ulp are normal numbers of float32
LEAST = 2.0**-1000  # a probability below is none


@device
def _sides(z, t, r, u):
    """(1 - t, r t; the parts of sigma(z) and sigma(-z) over 1 + u), u = e^-|z|."""
    rest, up = 1.0 - t, r * t
    return (rest, up, u, 1.0) if z < 0 else (rest, up, 1.0, u)


@device
def _line(size, far):
    """|z| times what it counts, which of an infinite one may be nothing."""
    return size * far if far != 0 else 0.0


@device
def _weighted(value, slope, w, s):
    """A loss and its gradient times its weight and what arrives; a weight of 0 leaves nothing of either."""
    return (w * value, s * w * slope) if w != 0 else (0.0, 0.0)


@device
def _beyond(z, t, w, r, s):
    """(loss, gradient) where |z| >= NEAR, or NaN: there log(1 + u) is u, in float64."""
    size = abs(z)
    u = math.exp(-size)
    rest, up, at, opposite = _sides(z, t, r, u)
    value = _line(size, up if z < 0 else rest) + u * (up + rest)
    return _weighted(value, rest * at - up * opposite, w, s)


@functools.cache
def _power() -> Callable:
    """The device function (q, gamma): q^gamma, 0 <= q <= 1, with more digits of the exponent than a number has."""
    log, times, exp_of = log_of("float64"), pairs_of("float64").times, pairs_of("float64").exp_of
    frame_at = exponential_of("float64").frame_at

    @device
    def power(q, gamma):
        if q < LEAST:
            return 0.0
        high, low = log(q, 0.0)
        high, low = times(high, low, gamma, 0.0)
        magic, lowest = frame_at(0.0)
        found, more = exp_of(high, low, magic, lowest)
        return found + more

    return power


def _any_of(focal: bool) -> Callable:
    """The device function (z, t, w, r, s, alpha, gamma): (loss, gradient) of any logit, in float64."""
    power = _power()

    @device
    def any_logit(z, t, w, r, s, alpha, gamma):
        size = abs(z)
        u = math.exp(-size)
        over = 1.0 + u
        rest, up, at, opposite = _sides(z, t, r, u)
        slope = (rest * at - up * opposite) / over
        value = _line(size, up if z < 0 else rest) + math.log1p(u) * (up + rest)
        if size != size:
            value = slope = z
        if focal:
            above = t * opposite + rest * at
            q = above / over
            factor = q * q if gamma == 2 else 1.0 if gamma == 0 else power(q, gamma)
            more = gamma * (rest - t) * value * (u / above / over) if u > 0 and above > 0 else 0.0
            slope = factor * (slope + more)
            value = factor * value
            if alpha >= 0:
                w *= alpha * t + (1.0 - alpha) * rest
        return _weighted(value, slope, w, s)

    return any_logit


_TERMS = tuple(map(float.fromhex, ("0x1.1ef882p-2", "0x1.1eb60cp-2", "0x1.99d27cp-2", "0x1.5555p-1")))


def _log1p_near() -> Callable:
    """The device function (u, low): log(1 + u + low) of float32, 0 <= u <= 1; as kernels/blocks/binary.h has it."""
    a, b, c, d = map(np.float32, _TERMS)
    one, two = np.float32(1), np.float32(2)

    @device
    def log1p(u, low):
        s = u / (two + u)
        y = s * s
        p = fma(fma(fma(a, y, b), y, c), y, d)
        rest = one - s
        return u - fma(-(rest * rest), low, s * fma(-y, p, u))

    return log1p


def _one_of(kind: str, focal: bool) -> Callable:
    """The device function (z, t, w, r, s, alpha, gamma, wants_grad): a logit's (loss, gradient), all reals."""
    real = elements_of(kind).real
    if focal or real is np.float64:
        wide, any_logit = np.float64, _any_of(focal)

        @device
        def one(z, t, w, r, s, alpha, gamma, wants_grad):
            value, slope = any_logit(wide(z), wide(t), wide(w), wide(r), wide(s), alpha, gamma)
            return real(value), real(slope)

        return one
    e_to, log1p = exponential_of(kind), _log1p_near()
    frame_at, exp_pair = e_to.frame_at, e_to.exp_pair
    zero, one_, near, wide = real(0), real(1), real(NEAR), np.float64

    @device
    def one(z, t, w, r, s, alpha, gamma, wants_grad):
        size = abs(z)
        if not size < near:
            value, slope = _beyond(wide(z), wide(t), wide(w), wide(r), wide(s))
            return real(value), real(slope)
        magic, lowest = frame_at(zero)
        u, low = exp_pair(-size, magic, lowest)
        rest, up = one_ - t, r * t
        value = w * fma(size, up if z < zero else rest, log1p(u, low) * (up + rest))
        slope = zero
        if wants_grad:
            at, opposite = (u, one_) if z < zero else (one_, u)
            slope = s * w * (fma(-up, opposite, rest * at) / (one_ + u))
        return value, slope

    return one


def _target_of(kind: str, floats: bool) -> Callable:
    """The device function (address, size): a target as a real; NaN for an integer that is neither 0 nor 1."""
    real, number_at = elements_of(kind).real, elements_of(kind).number_at
    zero, one, nan = real(0), real(1), real(np.nan)
    if floats:
        return device(lambda address, size: number_at(address))

    @device
    def target(address, size):
        t = target_at(address, size)
        return one if t == 1 else zero if t == 0 else nan

    return target


@functools.cache
def binary_losses(on: int, kind: str, floats: bool, focal: bool, in_vectors: bool) -> driver.Kernel:
    """The losses of logits of a dtype, their gradient, and the sum of each block's losses.

    The arrays, each as its address and the bytes between its outer and inner rows: z; t, with the size of a target; w,
    r and s, reals; grad. Then inner, count, and the addresses of the losses, reals, and of the sums; then what w, r and
    s are multiplied by, or are where there is no array, alpha, gamma. ``floats``: targets are of the dtype of the
    logits, not integers. ``in_vectors``: all lie in one dimension, and the logits, their gradient and floating targets
    in vectors from multiples of 16 on.
    """
    e, one, target_of = elements_of(kind), _one_of(kind, focal), _target_of(kind, floats)
    real, real_size, size, unpack, pack, number_at, put = (
        e.real,
        e.real_size,
        e.size,
        e.unpack,
        e.pack,
        e.number_at,
        e.put,
    )
    of_loss = elements_of("float64" if kind == "float64" else "float32")
    loss_pack, loss_width = of_loss.pack, of_loss.width
    group, loads = (e.width, e.width // of_loss.width) if in_vectors else (1, 1)

    # In one dimension there is no division.
    place = device(lambda address, outer, row, inner, n: address + n * row) if in_vectors else row_at

    @device
    def scale_at(array, outer, row, inner, n, of_all):
        return load(place(array, outer, row, inner, n), real) * of_all if array != 0 else of_all

    def body(
        z, z_outer, z_row, t, t_outer, t_row, t_size, w, w_outer, w_row, r, r_outer, r_row, s, s_outer, s_row,
        grad, grad_outer, grad_row, inner, count, loss, sums, w_of_all, r_of_all, s_of_all, alpha, gamma,
    ):  # fmt: skip
        w_real, r_real, s_real = real(w_of_all), real(r_of_all), real(s_of_all)
        total, wants_grad = np.float64(0), grad != 0
        step = np.int64(cuda.gridDim.x) * THREADS * group
        first = (np.int64(cuda.blockIdx.x) * THREADS + np.int64(cuda.threadIdx.x)) * group
        while first < count:
            n = first
            if in_vectors and first + group <= count:
                x, y, of_all = cuda.local.array(group, real), cuda.local.array(group, real), np.float64(0)
                unpack(load_vector(z + first * size), 0, x, 0)
                if floats:
                    unpack(load_vector(t + first * size), 0, y, 0)
                else:
                    for j in range(group):
                        y[j] = target_of(t + (first + j) * t_row, t_size)
                for j in range(group):
                    weight = scale_at(w, w_outer, w_row, inner, first + j, w_real)
                    of_positives = scale_at(r, r_outer, r_row, inner, first + j, r_real)
                    arriving = scale_at(s, s_outer, s_row, inner, first + j, s_real)
                    y[j], x[j] = one(x[j], y[j], weight, of_positives, arriving, alpha, gamma, wants_grad)
                    of_all += np.float64(y[j])
                total += of_all
                if loss != 0:
                    v = cuda.local.array(loss_width, real)
                    for k in range(loads):
                        for j in range(loss_width):
                            v[j] = y[k * loss_width + j]
                        store_vector(loss + (first + k * loss_width) * real_size, loss_pack(v))
                if wants_grad:
                    store_vector(grad + first * size, pack(x))
                n = count
            while n < count and n < first + group:
                weight = scale_at(w, w_outer, w_row, inner, n, w_real)
                of_positives = scale_at(r, r_outer, r_row, inner, n, r_real)
                arriving = scale_at(s, s_outer, s_row, inner, n, s_real)
                number = number_at(place(z, z_outer, z_row, inner, n))
                target = target_of(place(t, t_outer, t_row, inner, n), t_size)
                value, slope = one(number, target, weight, of_positives, arriving, alpha, gamma, wants_grad)
                total += np.float64(value)
                if loss != 0:
                    store(loss + n * real_size, value)
                if wants_grad:
                    put(place(grad, grad_outer, grad_row, inner, n), slope)
                n += 1
            first += step
        if sums != 0:
            total = _sum(total)
            if cuda.threadIdx.x == 0:
                store(sums + 8 * np.int64(cuda.blockIdx.x), total)

    of = "binary", kind, floats, focal, in_vectors
    return driver.Kernel(body, [types.int64] * 23 + [types.float64] * 5, THREADS, of=of)
