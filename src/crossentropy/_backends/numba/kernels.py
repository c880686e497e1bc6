"""The kernels of the Numba backend: what is done to rows first to last of a task, with all options of a loss."""

import hashlib
import math

import numpy as np
from numba import njit

from .. import contract, exponential
from . import compiling, distillation, exponentials, hessians, layout, losses, memory, numbers, rows, tasks, weighted
from .compiling import OPTIONS, merged
from .distillation import distilled_row, maximum_of
from .exponentials import exp_at
from .hessians import write_hessian
from .layout import BLOCK, block, fill, number_at, put, row_of, stopped
from .losses import (
    MASS,
    MAX,
    READ,
    REST,
    SKIPPED,
    fill_unread,
    keep_part,
    kind_of,
    lacks_rest,
    loss_of,
    spread,
    statistics_of,
    target_of,
    weight_of,
    within,
    write_gradient,
)
from .memory import fence, load, view
from .numbers import look, write_log_probs_gradient
from .rows import (
    gradient_frame,
    parts,
    place_of,
    plus,
    read_row,
    rest_alone,
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
INLINED = (
    compiling,
    contract,
    distillation,
    exponential,
    exponentials,
    hessians,
    layout,
    losses,
    memory,
    numbers,
    rows,
    tasks,
    weighted,
)


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
    """The losses of rows, or parts of these; statistics where these are wanted; gradients unless that is None."""
    x_buffer, q_buffer, scratch, pad = parts(memory)
    loss = view(t.loss, t.rows, np.float64)
    for n in range(first, last):
        if stopped(t.stop):
            break
        y = target_of(t, n) if t.targets else -1
        kind, y = kind_of(t, n, y), within(t, y)
        m, rest, log_sum, z, mass, distance = np.nan, np.nan, (np.nan, 0.0), 0.0, 0.0, 0.0
        if kind == READ:
            x_row = row_of(t.x, t, n)
            hides = t.targets != 0 and t.class_weight == 0
            m, rest, log_sum, z = read_row(t.x, x_row, t.classes, y, t.margin, hides, x_buffer, pad, t.stop)
            if y >= 0 and z == m and lacks_rest(t, rest, x_buffer):
                rest = rest_alone(t.x, x_row, t.classes, y, m, x_buffer, t.stop)
                log_sum = math.log1p(rest), 0.0
            if spreads is not None and not math.isnan(m):
                q_row = row_of(t.q, t, n) if t.q.address else 0
                mass, distance = spread(t, x_row, q_row, m, y, z, x_buffer, q_buffer)
        if t.parts:
            if math.isnan(m) and kind == READ:
                m, rest = undefined_max(t.x, row_of(t.x, t, n), t.classes, pad), 0.0
            keep_part(t, n, m, rest, z if y >= 0 else -np.inf, mass, distance)
        elif kind == SKIPPED:
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
    """Into loss, and into statistics where these are wanted; or into parts."""
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
        kind, y = kind_of(t, n, y), within(t, y)
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
def row_statistics(task, odd, first, last, memory):
    """Into the arrays of RowNumbers, and into statistics where these are wanted; the loss where there is a place."""
    t = task_at(task, odd)
    x_buffer, _, _, pad = parts(memory)
    for n in range(first, last):
        if stopped(t.stop):
            break
        y = target_of(t, n) if t.targets else -1
        kind, x_row = kind_of(t, n, y), row_of(t.x, t, n)
        m, rest, log_sum, z, distance, largest, above = np.nan, np.nan, (np.nan, 0.0), -np.inf, 0.0, -1, t.classes
        lse, none = np.nan, 0.0 if kind == SKIPPED else np.nan
        if kind == READ:  # in one way whatever the target is, and whether there is one
            m, rest, log_sum, _ = read_row(t.x, x_row, t.classes, -1, 0.0, False, x_buffer, pad, t.stop)
            if y >= 0:
                z = number_at(t.x, x_row, y, pad)
            if math.isnan(m):
                lse = undefined_max(t.x, x_row, t.classes, pad)
        if math.isnan(m):
            if kind == SKIPPED:
                lse = 0.0
            entropy, log_prob, max_prob, loss = none, none, none, none
            m, rest, distance = none, none, none
        else:
            far, largest, above = look(t.x, x_row, t.classes, m, y, z, x_buffer, t.stop)
            distance, log_sum_whole = far / (1 + rest), log_sum[0] + log_sum[1]
            lse, entropy, max_prob = m + log_sum_whole, distance + log_sum_whole, 1 / (1 + rest)
            log_prob = (z - m) - log_sum_whole
            weight = load(t.sample_weight + 8 * n, np.float64) if t.sample_weight else 1.0
            own, _ = weight_of(t, y)
            loss = weight * loss_of(t, m, rest, log_sum_whole, z, own, 0.0, 0.0)
        view(t.logsumexp, t.rows, np.float64)[n] = lse
        view(t.entropy, t.rows, np.float64)[n] = entropy
        view(t.max_prob, t.rows, np.float64)[n] = max_prob
        view(t.argmax, t.rows, np.int64)[n] = largest
        if t.rank:
            view(t.log_prob, t.rows, np.float64)[n] = log_prob
            view(t.rank, t.rows, np.int64)[n] = above
        if t.loss:
            view(t.loss, t.rows, np.float64)[n] = loss
        if t.statistics:
            kept = statistics_of(t, n)
            kept[MAX], kept[REST], kept[MASS] = m, rest, distance


@kernel
def log_probs_backward(task, odd, first, last, memory):
    """Into out the gradient of log-probabilities and entropies, from statistics whose mass is sum p (m - z)."""
    t = task_at(task, odd)
    x_buffer, _, scratch, _ = parts(memory)
    for n in range(first, last):
        if stopped(t.stop):
            break
        y = target_of(t, n) if t.targets else -1
        kind, kept, y = kind_of(t, n, y), statistics_of(t, n), within(t, y)
        m, rest, distance = kept[MAX], kept[REST], kept[MASS]
        if kind != READ or math.isnan(m):
            fill_unread(t, n, kind, scratch)
            continue
        g_p = load(t.row_scale + 8 * n * t.row_scale_step, np.float64) if t.targets else 0.0
        g_h = load(t.entropy_scale + 8 * n * t.entropy_scale_step, np.float64)
        x_row, out_row, bypasses, stop = row_of(t.x, t, n), row_of(t.out, t, n), t.bypasses, t.stop
        z = number_at(t.x, x_row, y, memory) if y >= 0 else 0.0
        write_log_probs_gradient(
            t.x, x_row, t.out, out_row, t.classes, m, rest, distance, y, z, g_p, g_h, bypasses, stop, x_buffer, scratch
        )
    fence()


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
def distill(task, odd, first, last, memory, kind, temperature, beta):
    """Into loss the divergence of x from the teacher's logits q, and into out its gradient."""
    t = task_at(task, odd)
    x_buffer, q_buffer, scratch, _ = parts(memory)
    loss = view(t.loss, t.rows, np.float64)
    for n in range(first, last):
        if stopped(t.stop):
            break
        out_row = row_of(t.out, t, n)
        weight = load(t.sample_weight + 8 * n, np.float64) if t.sample_weight else 1.0
        if weight == 0:
            loss[n] = 0.0
            fill(t.out, out_row, t.classes, scratch.dtype.type(0), scratch)
            continue
        x_row, q_row = row_of(t.x, t, n), row_of(t.q, t, n)
        m_x = maximum_of(t.x, x_row, t.classes, x_buffer, t.stop)
        m_q = maximum_of(t.q, q_row, t.classes, q_buffer, t.stop)
        if not (math.isfinite(m_x) and math.isfinite(m_q)):
            loss[n] = np.nan
            fill(t.out, out_row, t.classes, scratch.dtype.type(np.nan), scratch)
            continue
        scale = load(t.row_scale + 8 * n * t.row_scale_step, np.float64) * weight
        loss[n] = weight * distilled_row(
            t, n, kind, temperature, beta, x_row, q_row, m_x, m_q, scale, x_buffer, q_buffer, scratch
        )
    fence()


@kernel
def hessian(task, odd, first, last, memory, kind):
    """Into out what stands for the Hessian, from statistics; q is the vector of a product."""
    t = task_at(task, odd)
    x_buffer, q_buffer, scratch, _ = parts(memory)
    for n in range(first, last):
        if stopped(t.stop):
            break
        y = target_of(t, n) if t.targets else -1
        kind_of_row = kind_of(t, n, y)
        kept = statistics_of(t, n)
        m, rest, mass = kept[MAX], kept[REST], kept[MASS]
        if kind_of_row != READ or math.isnan(m):
            fill_unread(t, n, kind_of_row, scratch)
            continue
        one = load(t.row_scale + 8 * n * t.row_scale_step, np.float64)
        scale = one * load(t.sample_weight + 8 * n, np.float64) if t.sample_weight else one
        own, _ = weight_of(t, y)
        factor = scale * (own + mass + times(2 * t.z_loss, m + math.log1p(rest)))
        second = times(2 * t.z_loss, scale)
        write_hessian(t, n, kind, m, rest, factor, second, one, x_buffer, q_buffer, scratch)
    fence()


@kernel
def total(values):
    """The sum of float64."""
    s, error = 0.0, 0.0
    for value in values:
        s, error = plus(s, error, value)
    return sum_of(s, error)
