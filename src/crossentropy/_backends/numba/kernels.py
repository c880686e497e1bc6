"""The kernels of the Numba backend: what is done to rows first to last of a task, with all options of a loss."""

import hashlib
import math
from typing import NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from . import layout, llvm, rows
from . import llvm as lanes
from .layout import (
    BLOCK,
    OPTIONS,
    OddRows,
    Rows,
    block,
    fill,
    inner,
    merged,
    number_at,
    put,
    row_of,
    stopped,
)
from .llvm import added, exp_at, view
from .rows import (
    CHUNK,
    PAD,
    gradient_frame,
    parts,
    plus,
    read_row,
    sum_of,
    target_gradient,
    times,
    write_exp,
    write_log_softmax,
)

SKIPPED, BAD, READ = range(3)  # what becomes of a row


class Task(NamedTuple):
    """What a kernel works on; what is absent has the address 0."""

    x: Rows | OddRows
    q: Rows | OddRows  # probability targets, or the grad_output of log_softmax_backward
    out: Rows | OddRows
    dims: int
    shape: int  # the address of int64: the rows, by dimension
    rows: int
    classes: int
    targets: int  # address
    target_size: int  # bytes, negative where signed
    has_ignored: int
    ignored: int
    class_weight: int  # address of float64 (classes,)
    sample_weight: int  # address of float64 (rows,)
    row_scale: int  # address of float64 (rows,), or of one number:
    row_scale_step: int
    loss: int  # address of float64 (rows,)
    saved: int  # address of float64 (rows, 3): max, rest, mass
    streams: int  # whether results go past the caches
    stop: int  # address of int64: not 0 once the call is to end
    label_smoothing: float
    z_loss: float


_KINDS = {int: types.int64, float: types.float64}


def _source(module):
    """Its bytes, from a file or a zip."""
    return module.__loader__.get_data(module.__file__)


# Numba keeps a kernel on disk for as long as its own file stays as it is; by this name it does not outlive the others.
_SOURCES = hashlib.sha256(b"".join(map(_source, (layout, llvm, rows)))).hexdigest()


def kernel(function):
    """A function that Python calls: kept on disk, where there is a place for it."""
    function.__qualname__ += f"-{_SOURCES[:16]}"
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no directory can be written
        return njit(**OPTIONS)(function)


@intrinsic
def task_at(_, address, odd):
    """The Task whose numbers, 8 bytes each, lie at an address: its arrays are OddRows, or Rows where odd is None.

    (A tuple as an argument, or one made of an array's numbers, takes half a second or more to compile.)
    """
    rows = Rows if isinstance(odd, types.NoneType) else OddRows
    array = types.NamedUniTuple(types.int64, len(rows._fields), rows)
    kind = types.NamedTuple([_KINDS.get(of, array) for of in Task.__annotations__.values()], Task)

    def code(context, builder, signature, args):
        to = context.get_value_type(kind).as_pointer()
        return builder.load(builder.inttoptr(args[0], to), align=8)

    return kind(types.int64, odd), code


# ---------------------------------------------------------------------- targets and options


@inner
def target_of(t, n):
    """Target n, widened; the bits of an int64 where it is uint64."""
    at, size = t.targets + n * abs(t.target_size), t.target_size
    if size == -8 or size == 8:
        return lanes.load(at, np.int64)
    if size == -4:
        return np.int64(lanes.load(at, np.int32))
    if size == 4:
        return np.int64(lanes.load(at, np.uint32))
    if size == -2:
        return np.int64(lanes.load(at, np.int16))
    if size == 2:
        return np.int64(lanes.load(at, np.uint16))
    if size == -1:
        return np.int64(lanes.load(at, np.int8))
    return np.int64(lanes.load(at, np.uint8))


@inner
def kind_of(t, n, y):
    """Whether row n is read; it is skipped by its target or by a sample weight of 0."""
    if t.sample_weight and lanes.load(t.sample_weight + 8 * n, np.float64) == 0:
        return SKIPPED
    if not t.targets:
        return READ
    if t.has_ignored and y == t.ignored:
        return SKIPPED
    return READ if 0 <= y < t.classes else BAD


@inner
def weight_of(t, y):
    """(1 - epsilon) w_y, the target's own weight, and w_y; 0 for probability targets."""
    if not t.targets:
        return 0.0, 0.0
    w = lanes.load(t.class_weight + 8 * y, np.float64) if t.class_weight else 1.0
    return (1 - t.label_smoothing) * w, w


@inner
def part_of(i, q, w, keep, floor, has_q, has_w):
    """t_c = w_c (keep q_c + floor) of class i of a block."""
    part = keep * np.float64(q[i]) + floor if has_q else floor
    return part * w[i] if has_w else part


@inner
def spread(t, x_row, q_row, m, buffer, q_buffer):
    """(mass, distance): the sums of t_c and t_c (m - z_c), t_c = w_c (keep q_c + floor), where 0 times inf is 0."""
    floor, keep = t.label_smoothing / t.classes, 1 - t.label_smoothing
    has_w, has_q = t.class_weight != 0, t.q.address != 0
    mass, mass_error, distance, distance_error = 0.0, 0.0, 0.0, 0.0
    for at in range(0, t.classes, CHUNK):
        if stopped(t.stop):
            break
        n = min(CHUNK, t.classes - at)
        z = block(t.x, x_row, at, n, buffer)
        q = block(t.q, q_row, at, n, q_buffer) if has_q else z
        w = view(t.class_weight + 8 * at, n, np.float64)
        masses, distances = 0.0, 0.0
        for i in range(n & -PAD):
            part = part_of(i, q, w, keep, floor, has_q, has_w)
            masses = added(masses, part)
            distances = added(distances, 0.0 if part == 0 else part * (m - np.float64(z[i])))
        mass, mass_error = plus(mass, mass_error, masses)
        distance, distance_error = plus(distance, distance_error, distances)
        for i in range(n & -PAD, n):  # one by one: up to 63 roundings
            part = part_of(i, q, w, keep, floor, has_q, has_w)
            mass, mass_error = plus(mass, mass_error, part)
            distance, distance_error = plus(distance, distance_error, times(part, m - np.float64(z[i])))
    return sum_of(mass, mass_error), sum_of(distance, distance_error)


@inner
def write_spread(t, n, m, factor, scale, y, value, x_buffer, q_buffer, scratch):
    """factor e^(z - m) - scale t_c of row n, but ``value`` at class y: in float64, where neither overflows."""
    real = scratch.dtype.type
    x_row, out_row = row_of(t.x, t, n), row_of(t.out, t, n)
    floor, keep = t.label_smoothing / t.classes, 1 - t.label_smoothing
    has_w, has_q = t.class_weight != 0, t.q.address != 0
    q_row = row_of(t.q, t, n) if has_q else 0
    (shift, magic, lowest), of_e = gradient_frame(m, factor, scratch)
    for at in range(0, t.classes, BLOCK):
        if stopped(t.stop):
            break
        size = min(BLOCK, t.classes - at)
        z = block(t.x, x_row, at, size, x_buffer)
        q = block(t.q, q_row, at, size, q_buffer) if has_q else z
        w = view(t.class_weight + 8 * at, size, np.float64)
        for i in range(size):
            part = part_of(i, q, w, keep, floor, has_q, has_w)
            scratch[i] = real(np.float64(exp_at(z[i] - shift, magic, lowest)) * of_e - scale * part)
        if at <= y < at + size:
            scratch[y - at] = real(value)
        put(t.out, out_row, at, size, scratch, t.streams)


@inner
def loss_of(t, m, rest, z, own, mass, distance):
    """The loss of a row of weight 1 (reference.py)."""
    log_sum = math.log1p(rest)
    lse = m + log_sum
    return times(own, (m - z) + log_sum) + distance + times(mass, log_sum) + times(t.z_loss, lse * lse)


@merged
def write_gradient(t, n, y, m, rest, z, mass, spreads, x_buffer, q_buffer, scratch, pad):
    """The gradient of a row that was read."""
    scale = lanes.load(t.row_scale + 8 * n * t.row_scale_step, np.float64)
    if t.sample_weight:
        scale *= lanes.load(t.sample_weight + 8 * n, np.float64)
    own, w = weight_of(t, y)
    z_term = times(2 * t.z_loss, m + math.log1p(rest))
    a = own + mass + z_term
    factor, value = scale * a / (1 + rest), 0.0
    if t.targets:
        floor = times(t.label_smoothing / t.classes, w)
        value = scale * target_gradient(m, rest, z, a, (mass - floor) + z_term, own + floor, scratch)
    if spreads is not None:
        write_spread(t, n, m, factor, scale, y, value, x_buffer, q_buffer, scratch)
    else:
        x_row, out_row = row_of(t.x, t, n), row_of(t.out, t, n)
        streams, stop = t.streams, t.stop
        write_exp(t.x, x_row, t.out, out_row, t.classes, m, factor, y, value, streams, stop, x_buffer, scratch, pad)


@inner
def fill_unread(t, n, kind, scratch):
    """The gradient of a row that was skipped, 0; or of one that is bad or undefined, NaN."""
    value = scratch.dtype.type(0.0 if kind == SKIPPED else np.nan)
    fill(t.out, row_of(t.out, t, n), t.classes, value, scratch)


@merged
def losses(t, first, last, memory, spreads, gradients):
    """The losses of rows, what backward needs of them, and their gradients."""
    x_buffer, q_buffer, scratch, pad = parts(memory)
    loss, saved = view(t.loss, t.rows, np.float64), view(t.saved, 3 * t.rows, np.float64)
    for n in range(first, last):
        if stopped(t.stop):
            break
        y = target_of(t, n) if t.targets else -1
        kind = kind_of(t, n, y)
        m, rest, z, mass, distance = np.nan, np.nan, 0.0, 0.0, 0.0
        if kind == READ:
            x_row = row_of(t.x, t, n)
            hides = t.targets != 0 and t.class_weight == 0
            m, rest, z = read_row(t.x, x_row, t.classes, y, hides, x_buffer, pad, t.stop)
            if spreads is not None and not math.isnan(m):
                q_row = row_of(t.q, t, n) if t.q.address else 0
                mass, distance = spread(t, x_row, q_row, m, x_buffer, q_buffer)
        if kind == SKIPPED:
            loss[n] = 0.0
        elif math.isnan(m):
            loss[n] = np.nan
        else:
            weight = lanes.load(t.sample_weight + 8 * n, np.float64) if t.sample_weight else 1.0
            own, _ = weight_of(t, y)
            loss[n] = weight * loss_of(t, m, rest, z, own, mass, distance)
        if t.saved:
            saved[3 * n], saved[3 * n + 1], saved[3 * n + 2] = m, rest, mass
        if gradients is not None:
            if kind == READ and not math.isnan(m):
                write_gradient(t, n, y, m, rest, z, mass, spreads, x_buffer, q_buffer, scratch, pad)
            else:
                fill_unread(t, n, kind, scratch)
    lanes.fence()


# ---------------------------------------------------------------------- kernels: None for an option that is absent


@kernel
def forward(task, odd, first, last, memory, spreads):
    """loss, and saved where it is wanted."""
    t = task_at(task, odd)
    losses(t, first, last, memory, spreads, None)


@kernel
def forward_backward(task, odd, first, last, memory, spreads):
    """loss and out, the gradient."""
    t = task_at(task, odd)
    losses(t, first, last, memory, spreads, True)


@kernel
def backward(task, odd, first, last, memory, spreads):
    """out, the gradient, from saved."""
    t = task_at(task, odd)
    x_buffer, q_buffer, scratch, pad = parts(memory)
    saved = view(t.saved, 3 * t.rows, np.float64)
    for n in range(first, last):
        if stopped(t.stop):
            break
        y = target_of(t, n) if t.targets else -1
        kind = kind_of(t, n, y)
        m, rest, mass = saved[3 * n], saved[3 * n + 1], saved[3 * n + 2]
        if kind == READ and not math.isnan(m):
            z = number_at(t.x, row_of(t.x, t, n) + y * t.x.stride, memory) if y >= 0 else 0.0
            write_gradient(t, n, y, m, rest, z, mass, spreads, x_buffer, q_buffer, scratch, pad)
        else:
            fill_unread(t, n, kind, scratch)
    lanes.fence()


@kernel
def logsumexp(task, odd, first, last, memory):
    """loss, the logsumexp."""
    t = task_at(task, odd)
    x_buffer, _, _, pad = parts(memory)
    result = view(t.loss, t.rows, np.float64)
    for n in range(first, last):
        if stopped(t.stop):
            break
        m, rest, _ = read_row(t.x, row_of(t.x, t, n), t.classes, -1, False, x_buffer, pad, t.stop)
        result[n] = m + math.log1p(rest)


@kernel
def softmax(task, odd, first, last, memory):
    """out, the softmax: a gradient of factor 1 without a target."""
    t = task_at(task, odd)
    x_buffer, _, scratch, pad = parts(memory)
    streams, stop = t.streams, t.stop
    for n in range(first, last):
        if stopped(t.stop):
            break
        x_row, out_row = row_of(t.x, t, n), row_of(t.out, t, n)
        m, rest, _ = read_row(t.x, x_row, t.classes, -1, False, x_buffer, pad, t.stop)
        if math.isnan(m):
            fill(t.out, out_row, t.classes, memory.dtype.type(np.nan), scratch)
            continue
        factor = 1 / (1 + rest)
        write_exp(t.x, x_row, t.out, out_row, t.classes, m, factor, -1, 0.0, streams, stop, x_buffer, scratch, pad)
    lanes.fence()


@kernel
def log_softmax(task, odd, first, last, memory):
    """out, the log-softmax."""
    t = task_at(task, odd)
    x_buffer, _, scratch, pad = parts(memory)
    for n in range(first, last):
        if stopped(t.stop):
            break
        x_row, out_row = row_of(t.x, t, n), row_of(t.out, t, n)
        m, rest, _ = read_row(t.x, x_row, t.classes, -1, False, x_buffer, pad, t.stop)
        log_sum = math.log1p(rest)
        write_log_softmax(t.x, x_row, t.out, out_row, t.classes, m, log_sum, t.streams, t.stop, x_buffer, scratch)
    lanes.fence()


@kernel
def log_softmax_backward(task, odd, first, last, memory):
    """out = g - e^log_p sum(g), where x is log_p and q is g."""
    t = task_at(task, odd)
    x_buffer, q_buffer, scratch, pad = parts(memory)
    real = memory.dtype.type
    for n in range(first, last):
        x_row, q_row, out_row = row_of(t.x, t, n), row_of(t.q, t, n), row_of(t.out, t, n)
        m, _, _ = read_row(t.x, x_row, t.classes, -1, False, x_buffer, pad, t.stop)
        if math.isnan(m):
            fill(t.out, out_row, t.classes, real(np.nan), scratch)
            continue
        total, error = 0.0, 0.0
        for at in range(0, t.classes, CHUNK):
            if stopped(t.stop):
                break
            size = min(CHUNK, t.classes - at)
            g = block(t.q, q_row, at, size, q_buffer)
            sums = 0.0
            for i in range(size & -PAD):
                sums = added(sums, np.float64(g[i]))
            total, error = plus(total, error, sums)
            for i in range(size & -PAD, size):  # one by one: up to 63 roundings
                total, error = plus(total, error, np.float64(g[i]))
        (shift, magic, lowest), of_e = gradient_frame(m, sum_of(total, error) * math.exp(m), memory)
        for at in range(0, t.classes, BLOCK):
            if stopped(t.stop):
                break
            size = min(BLOCK, t.classes - at)
            z, g = block(t.x, x_row, at, size, x_buffer), block(t.q, q_row, at, size, q_buffer)
            for i in range(size):
                scratch[i] = real(np.float64(g[i]) - np.float64(exp_at(z[i] - shift, magic, lowest)) * of_e)
            put(t.out, out_row, at, size, scratch, t.streams)
    lanes.fence()


@kernel
def total(values):
    """The sum of float64."""
    s, error = 0.0, 0.0
    for value in values:
        s, error = plus(s, error, value)
    return sum_of(s, error)
