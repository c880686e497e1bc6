"""Passes over matrices on a device: rows that count copied, sums rounded, columns added up, gradients of log p.

A block works on one row after the other. Matrices lie as rows in two dimensions, as arguments.TABLE has them; ``first``
is the number that a matrix counts the first row of the pass by.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from numba import cuda
from numba.cuda import types

from . import driver
from .elements import device, elements_of
from .intrinsics import load, load_vector, store, store_vector
from .rows import row_at, target_at

THREADS = 256
SLICES = 32  # of rows, at most, whose columns are added up apart


@functools.cache
def _counts_of(real_name: str) -> Callable:
    """The device function: whether a row counts, by its target, its weight, and what all are divided by."""
    real, size = elements_of(real_name).real, elements_of(real_name).real_size

    @device
    def counts(n, targets, targets_row, target_size, has_ignored, ignored, sample_weight, divisor, none):
        found = none == 0
        if targets != 0 and has_ignored != 0 and target_at(targets + n * targets_row, target_size) == ignored:
            found = False
        if sample_weight != 0 and load(sample_weight + n * size, real) == real(0):
            found = False
        if divisor != 0 and load(divisor, real) == real(0):
            found = False
        return found

    return counts


_COUNTING = 9  # arguments of `counts`, from the number of the first row on


@functools.cache
def copied(on: int, source_kind: str, to_kind: str, real_name: str, in_vectors: bool) -> driver.Kernel:
    """A matrix to another: 0 for rows that do not count; ``add``: added to what is there.

    (source, outer, row, inner, column, first; to and the same; rows, columns, add; the number of the first row and what
    says which rows count). Without a source (0) only rows that do not count are written. ``in_vectors``: all rows are
    whole vectors of 16 bytes.
    """
    s, t, counts = elements_of(source_kind), elements_of(to_kind), _counts_of(real_name)
    real = np.float64 if "float64" in (source_kind, to_kind) else np.float32
    s_width, t_width, s_size, t_size = s.width, t.width, s.size, t.size
    s_at, t_at, put, s_unpack, t_unpack, pack = s.number_at, t.number_at, t.put, s.unpack, t.unpack, t.pack
    group = max(s_width, t_width) if in_vectors else 1
    s_loads, t_loads = max(1, group // s_width), max(1, group // t_width)
    s_real, t_real = s.real, t.real

    @device
    def move_vectors(source, to, c, reads, add):
        v, u, w = cuda.local.array(group, s_real), cuda.local.array(group, t_real), cuda.local.array(t_width, t_real)
        for j in range(group):
            v[j] = s_real(0)
        if reads:
            for k in range(s_loads):
                s_unpack(load_vector(source + (c + k * s_width) * s_size), 0, v, k * s_width)
        if add != 0:
            for k in range(t_loads):
                t_unpack(load_vector(to + (c + k * t_width) * t_size), 0, u, k * t_width)
            for j in range(group):
                v[j] += s_real(u[j])
        for k in range(t_loads):
            for j in range(t_width):
                w[j] = t_real(v[k * t_width + j])
            store_vector(to + (c + k * t_width) * t_size, pack(w))

    @device
    def move_one(source, to, c, reads, add, source_column, to_column):
        value = real(0)
        if reads:
            value = real(s_at(source + c * source_column))
        if add != 0:
            value += real(t_at(to + c * to_column))
        put(to + c * to_column, t_real(value))

    def body(
        source, source_outer, source_row, source_inner, source_column, source_first,
        to, to_outer, to_row, to_inner, to_column, to_first,
        rows, columns, add,
        number, targets, targets_row, target_size, has_ignored, ignored, sample_weight, divisor, none,
    ):  # fmt: skip
        n = np.int64(cuda.blockIdx.x)
        while n < rows:
            reads = counts(
                number + n, targets, targets_row, target_size, has_ignored, ignored, sample_weight, divisor, none
            )
            if source != 0 or not reads:
                s_begin = row_at(source, source_outer, source_row, source_inner, source_first + n)
                t_begin = row_at(to, to_outer, to_row, to_inner, to_first + n)
                c = np.int64(cuda.threadIdx.x) * group
                while c < columns:
                    if in_vectors:
                        move_vectors(s_begin, t_begin, c, reads, add)
                    else:
                        move_one(s_begin, t_begin, c, reads, add, source_column, to_column)
                    c += THREADS * group
            n += np.int64(cuda.gridDim.x)

    return driver.Kernel(
        body, [types.int64] * (15 + _COUNTING), THREADS, of=("copied", source_kind, to_kind, real_name, in_vectors)
    )


@functools.cache
def column_sums(on: int, kind: str) -> driver.Kernel:
    """(a, row, rows, columns, slices, sums, more): of each slice of rows a float64 for each column.

    ``more``: added to what is there.
    """
    size, number_at = elements_of(kind).size, elements_of(kind).number_at

    def body(a, row, rows, columns, slices, sums, more):
        across = (columns + THREADS - 1) // THREADS
        block = np.int64(cuda.blockIdx.x)
        part = block // across
        c = (block - part * across) * THREADS + cuda.threadIdx.x
        each = (rows + slices - 1) // slices
        n, last = part * each, min(part * each + each, rows)
        if c < columns and part < slices:
            to = sums + 8 * (part * columns + c)
            total = np.float64(0)
            if more != 0:
                total = load(to, np.float64)
            while n < last:
                total += np.float64(number_at(a + n * row + c * size))
                n += 1
            store(to, total)

    return driver.Kernel(body, [types.int64] * 7, THREADS, of=("column_sums", kind))


@functools.cache
def column_totals(on: int, kind: str) -> driver.Kernel:
    """(sums, slices, columns, to, to_column, add): the slices' sums together, rounded to a dtype."""
    real, number_at, put = elements_of(kind).real, elements_of(kind).number_at, elements_of(kind).put

    def body(sums, slices, columns, to, to_column, add):
        c = np.int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
        if c < columns:
            total = np.float64(0)
            if add != 0:
                total = np.float64(number_at(to + c * to_column))
            part = np.int64(0)
            while part < slices:
                total += load(sums + 8 * (part * columns + c), np.float64)
                part += 1
            put(to + c * to_column, real(total))

    return driver.Kernel(body, [types.int64] * 6, THREADS, of=("column_totals", kind))


# ---------------------------------------------------------------------- log-probabilities of chosen classes


@functools.cache
def log_probs(on: int, real_name: str) -> driver.Kernel:
    """(loss, entropy, rows; which rows count): losses become log-probabilities, and both 0 for rows that do not."""
    real, size, counts = elements_of(real_name).real, elements_of(real_name).real_size, _counts_of(real_name)

    def body(
        loss, entropy, rows,
        number, targets, targets_row, target_size, has_ignored, ignored, sample_weight, divisor, none,
    ):  # fmt: skip
        n = np.int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
        if n < rows:
            if counts(
                number + n, targets, targets_row, target_size, has_ignored, ignored, sample_weight, divisor, none
            ):
                store(loss + n * size, -load(loss + n * size, real))
            else:
                store(loss + n * size, real(0))
                store(entropy + n * size, real(0))

    return driver.Kernel(body, [types.int64] * (3 + _COUNTING), THREADS, of=("log_probs", real_name))


@functools.cache
def log_probs_gradient(on: int, real_name: str, to_kind: str) -> driver.Kernel:
    """The gradient on the logits: -p_c (h' (l_c + h) + l'), and l' more at y, where l' and h' arrive at l_y and at h.

    (log_p, its row, p, its row, to, its row, rows, classes, entropy, log_prob_grad, its step, entropy_grad, its step;
    which rows count; log_prob_scale, entropy_scale). What arrives is a number times that of an array, if there is one.
    """
    e, t, counts = elements_of(real_name), elements_of(to_kind), _counts_of(real_name)
    real, size, put, t_size, t_real = e.real, e.real_size, t.put, t.size, t.real

    @device
    def arriving(scale, address, step, n):
        return scale * np.float64(load(address + n * step, real)) if address != 0 else scale

    def body(
        log_p, log_p_row, p, p_row, to, to_row, rows, classes, entropy,
        log_prob_grad, log_prob_step, entropy_grad, entropy_step,
        number, targets, targets_row, target_size, has_ignored, ignored, sample_weight, divisor, none,
        log_prob_scale, entropy_scale,
    ):  # fmt: skip
        n = np.int64(cuda.blockIdx.x)
        while n < rows:
            reads = counts(
                number + n, targets, targets_row, target_size, has_ignored, ignored, sample_weight, divisor, none
            )
            y = target_at(targets + (number + n) * targets_row, target_size)
            h = np.float64(load(entropy + n * size, real))
            g_l = arriving(log_prob_scale, log_prob_grad, log_prob_step, number + n)
            g_h = arriving(entropy_scale, entropy_grad, entropy_step, number + n)
            bad = y < 0 or y >= classes
            of_l, rest = real(-g_h), real(-(g_l + g_h * h))
            c = np.int64(cuda.threadIdx.x)
            while c < classes:
                value = real(0)
                if reads and bad:
                    value = real(np.nan)
                elif reads:
                    l_c, p_c = load(log_p + n * log_p_row + c * size, real), load(p + n * p_row + c * size, real)
                    if c == y:
                        # -(e^l - 1) is what p lacks of 1, however little that is.
                        wide, at_y = np.float64(l_c), -g_l * math.expm1(np.float64(l_c))
                        if wide > -np.inf:
                            at_y -= g_h * np.float64(p_c) * (wide + h)
                        value = real(at_y)
                    else:
                        value = p_c if p_c == real(0) else p_c * (of_l * l_c + rest)  # where l is -inf, p is 0
                put(to + n * to_row + c * t_size, t_real(value))
                c += THREADS
            n += np.int64(cuda.gridDim.x)

    return driver.Kernel(
        body,
        [*[types.int64] * (13 + _COUNTING), types.float64, types.float64],
        THREADS,
        of=("log_probs_gradient", real_name, to_kind),
    )
