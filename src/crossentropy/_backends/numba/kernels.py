"""The kernels of the Numba backend: what is done to rows first to last of a task, with all options of a loss."""

import hashlib
import math

import numpy as np
from numba import njit

from .. import contract, exponential
from . import compiling, exponentials, layout, losses, memory, rows, tasks, weighted
from .compiling import OPTIONS, merged
from .exponentials import exp_at
from .layout import BLOCK, block, fill, number_at, put, row_of, stopped
from .losses import (
    MASS,
    MAX,
    READ,
    REST,
    SKIPPED,
    fill_unread,
    kind_of,
    loss_of,
    spread,
    statistics_of,
    target_of,
    weight_of,
    write_gradient,
)
from .memory import fence, load, view
from .rows import (
    gradient_frame,
    parts,
    place_of,
    plus,
    read_row,
    sum_arriving,
    sum_exactly,
    sum_of,
    times,
    undefined_max,
    write_exp,
    write_log_softmax,
)
from .tasks import task_at
from .weighted import weighted_sum

# Every module, besides this one, whose code or constants kernels contain; a test holds the list to the imports.
INLINED = (compiling, contract, exponential, exponentials, layout, losses, memory, rows, tasks, weighted)


def _source(module):
    """Its bytes, from a file or a zip."""
    return module.__loader__.get_data(module.__file__)


# Numba's cache key ignores imported files; their hash is in the name so that editing them invalidates it.
_SOURCES = hashlib.sha256(b"".join(map(_source, INLINED))).hexdigest()


def kernel(function):
    """A function that Python calls: kept on disk, where there is a place for it."""
    function.__qualname__ += f"-{_SOURCES[:16]}"
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no directory can be written
        return njit(**OPTIONS)(function)


@merged
def each_row(t, first, last, memory, spreads, gradients):
    """The losses of rows; their statistics where these are wanted; their gradients unless ``gradients`` is None."""
    x_buffer, q_buffer, scratch, pad = parts(memory)
    loss = view(t.loss, t.rows, np.float64)
    for n in range(first, last):
        if stopped(t.stop):
            break
        y = target_of(t, n) if t.targets else -1
        kind = kind_of(t, n, y)
        m, rest, log_sum, z, mass, distance = np.nan, np.nan, (np.nan, 0.0), 0.0, 0.0, 0.0
        if kind == READ:
            x_row = row_of(t.x, t, n)
            hides = t.targets != 0 and t.class_weight == 0
            m, rest, log_sum, z = read_row(t.x, x_row, t.classes, y, t.margin, hides, x_buffer, pad, t.stop)
            if spreads is not None and not math.isnan(m):
                q_row = row_of(t.q, t, n) if t.q.address else 0
                mass, distance = spread(t, x_row, q_row, m, y, z, x_buffer, q_buffer)
        if kind == SKIPPED:
            loss[n] = 0.0
        elif math.isnan(m):
            loss[n] = np.nan
        else:
            weight = load(t.sample_weight + 8 * n, np.float64) if t.sample_weight else 1.0
            own, _ = weight_of(t, y)
            loss[n] = weight * loss_of(t, m, rest, log_sum[0] + log_sum[1], z, own, mass, distance)
        if t.statistics:
            kept = statistics_of(t, n)
            kept[MAX], kept[REST], kept[MASS] = m, rest, mass
        if gradients is not None:
            if kind == READ and not math.isnan(m):
                write_gradient(t, n, y, m, rest, z, mass, distance, spreads, x_buffer, q_buffer, scratch, pad)
            else:
                fill_unread(t, n, kind, scratch)
    fence()


# ---------------------------------------------------------------------- kernels: None for an option that is absent


@kernel
def forward(task, odd, first, last, memory, spreads):
    """Into loss; into statistics where these are wanted."""
    t = task_at(task, odd)
    each_row(t, first, last, memory, spreads, None)


@kernel
def forward_backward(task, odd, first, last, memory, spreads):
    """Into loss, and into out the gradient."""
    t = task_at(task, odd)
    each_row(t, first, last, memory, spreads, True)


@kernel
def backward(task, odd, first, last, memory, spreads):
    """Into out the gradient, from statistics."""
    t = task_at(task, odd)
    x_buffer, q_buffer, scratch, pad = parts(memory)
    for n in range(first, last):
        if stopped(t.stop):
            break
        y = target_of(t, n) if t.targets else -1
        kind = kind_of(t, n, y)
        kept = statistics_of(t, n)
        m, rest, mass = kept[MAX], kept[REST], kept[MASS]
        if kind == READ and not math.isnan(m):
            z = number_at(t.x, row_of(t.x, t, n), y, memory) - t.margin if y >= 0 else 0.0
            distance = 0.0
            if spreads is not None and t.focal != 0:  # which the loss as a whole is a factor of
                _, distance = spread(t, row_of(t.x, t, n), 0, m, y, z, x_buffer, q_buffer)
            write_gradient(t, n, y, m, rest, z, mass, distance, spreads, x_buffer, q_buffer, scratch, pad)
        else:
            fill_unread(t, n, kind, scratch)
    fence()


@kernel
def logsumexp(task, odd, first, last, memory):
    """Into loss the logsumexp."""
    t = task_at(task, odd)
    x_buffer, _, _, pad = parts(memory)
    result = view(t.loss, t.rows, np.float64)
    for n in range(first, last):
        if stopped(t.stop):
            break
        x_row = row_of(t.x, t, n)
        m, _, log_sum, _ = read_row(t.x, x_row, t.classes, -1, 0.0, False, x_buffer, pad, t.stop)
        result[n] = undefined_max(t.x, x_row, t.classes, pad) if math.isnan(m) else (m + log_sum[0]) + log_sum[1]


@kernel
def weighted_logsumexp(task, odd, first, last, memory):
    """Into loss log |sum q e^x|, and into sign the sign of that sum."""
    t = task_at(task, odd)
    result, sign = view(t.loss, t.rows, np.float64), view(t.sign, t.rows, np.float64)
    for n in range(first, last):
        if stopped(t.stop):
            break
        result[n], sign[n] = weighted_sum(t.x, row_of(t.x, t, n), t.q, row_of(t.q, t, n), t.classes, memory, t.stop)


@kernel
def softmax(task, odd, first, last, memory):
    """Into out the softmax, which is written as a gradient of factor 1 without a target."""
    t = task_at(task, odd)
    x_buffer, _, scratch, pad = parts(memory)
    bypasses, stop = t.bypasses, t.stop
    for n in range(first, last):
        if stopped(t.stop):
            break
        x_row, out_row = row_of(t.x, t, n), row_of(t.out, t, n)
        m, rest, _, _ = read_row(t.x, x_row, t.classes, -1, 0.0, False, x_buffer, pad, t.stop)
        if math.isnan(m):
            fill(t.out, out_row, t.classes, memory.dtype.type(np.nan), scratch)
            continue
        factor = 1 / (1 + rest)
        write_exp(t.x, x_row, t.out, out_row, t.classes, m, factor, -1, 0.0, bypasses, stop, x_buffer, scratch, pad)
    fence()


@kernel
def log_softmax(task, odd, first, last, memory):
    """Into out the log-softmax; into statistics where these are wanted."""
    t = task_at(task, odd)
    x_buffer, _, scratch, pad = parts(memory)
    for n in range(first, last):
        if stopped(t.stop):
            break
        x_row, out_row = row_of(t.x, t, n), row_of(t.out, t, n)
        m, rest, log_sum, _ = read_row(t.x, x_row, t.classes, -1, 0.0, False, x_buffer, pad, t.stop)
        if t.statistics:
            kept = statistics_of(t, n)
            kept[MAX], kept[REST], kept[MASS] = m, rest, 0.0
        write_log_softmax(t.x, x_row, t.out, out_row, t.classes, m, log_sum, t.bypasses, t.stop, x_buffer, scratch)
    fence()


@kernel
def log_softmax_backward(task, odd, first, last, memory):
    """Into out g - p sum(g), where q is g, from statistics.

    For the class y that leads, p_y > 1/2, that would cancel, and it is g_y (1 - p_y) - p_y times the sum of the others.
    """
    t = task_at(task, odd)
    x_buffer, q_buffer, scratch, pad = parts(memory)
    real = memory.dtype.type
    for n in range(first, last):
        x_row, q_row, out_row = row_of(t.x, t, n), row_of(t.q, t, n), row_of(t.out, t, n)
        kept = statistics_of(t, n)
        m, rest = kept[MAX], kept[REST]
        if math.isnan(m):
            fill(t.out, out_row, t.classes, real(np.nan), scratch)
            continue
        y, value, own, error = -1, 0.0, 0.0, 0.0
        if rest < 1:
            y = place_of(t.x, x_row, t.classes, real(m), x_buffer, t.stop)
            own = number_at(t.q, q_row, y, memory)
        whole, size = sum_arriving(t.q, q_row, t.classes, q_buffer, t.stop)
        # So much cancels, without or with the class that leads, that the error of a sum in float64 might show.
        if memory.itemsize == 8 or not min(abs(whole), abs(whole - own)) >= 2.0**-17 * size:
            whole, error = sum_exactly(t.q, q_row, t.classes, q_buffer, pad, t.stop)
        share = sum_of(whole, error) / (1 + rest)
        if rest < 1:
            value = (times(rest, own) - sum_of(*plus(whole, error, -own))) / (1 + rest)
        (shift, magic, lowest), of_e, _ = gradient_frame(m, share, memory)
        top = real(m)
        for at in range(0, t.classes, BLOCK):
            if stopped(t.stop):
                break
            size = min(BLOCK, t.classes - at)
            z, g = block(t.x, x_row, at, size, x_buffer), block(t.q, q_row, at, size, q_buffer)
            for i in range(size):
                moved = np.float64(exp_at(z[i] - shift, magic, lowest)) * of_e
                scratch[i] = real(np.float64(g[i]) - (share if z[i] == top else moved))
            if at <= y < at + size:
                scratch[y - at] = real(value)
            put(t.out, out_row, at, size, scratch, t.bypasses)
    fence()


@kernel
def total(values):
    """The sum of float64."""
    s, error = 0.0, 0.0
    for value in values:
        s, error = plus(s, error, value)
    return sum_of(s, error)
