"""Sums over all rows, always in the same order: of losses, and of the weights that a mean is divided by.

Each block adds up its share in float64, and one block what they leave: two launches, since a block that waits for the
others would need a counter of its own on every stream.
"""

import functools

import numpy as np
from numba import cuda
from numba.cuda import types

from .driver import Kernel
from .elements import device, elements_of
from .groups import WARP
from .intrinsics import load, store
from .records import EVERYONE
from .rows import row_at, target_at

THREADS = 256
SHARE = 8192  # rows of a block that adds up losses
SHARE_OF_WEIGHTS = 1024  # and weights, where a target is waited for, and then its weight
MOST = 1024  # blocks
NONE = 2**62  # no row


def blocks_for(rows: int, share: int = SHARE) -> int:
    """How many blocks, and so how many numbers they leave."""
    return max(1, min(MOST, -(-rows // share)))


@device
def _sum(value):
    """The sum of a float64 over a block, in its first thread."""
    sums = cuda.shared.array(WARP, np.float64)
    thread = cuda.threadIdx.x
    step = WARP // 2
    while step > 0:
        value += cuda.shfl_xor_sync(EVERYONE, value, step)
        step //= 2
    if thread % WARP == 0:
        sums[thread // WARP] = value
    cuda.syncthreads()
    total = np.float64(0)
    if thread == 0:
        for i in range(THREADS // WARP):
            total += sums[i]
    return total


@device
def _least(value):
    """The least of an int64 over a block, in its first thread."""
    least = cuda.shared.array(WARP, np.int64)
    thread = cuda.threadIdx.x
    step = WARP // 2
    while step > 0:
        value = min(value, cuda.shfl_xor_sync(EVERYONE, value, step))
        step //= 2
    if thread % WARP == 0:
        least[thread // WARP] = value
    cuda.syncthreads()
    if thread == 0:
        for i in range(THREADS // WARP):
            value = min(value, least[i])
    return value


@device
def _share(rows):
    """The rows of this block: the first, and one past the last."""
    each = -(-rows // np.int64(cuda.gridDim.x))
    first = each * np.int64(cuda.blockIdx.x)
    return first, min(first + each, rows)


def _real(name):
    """(size, the type) of a real number."""
    return (8, np.float64) if name == "float64" else (4, np.float32)


@functools.cache
def loss_sums(on, name):
    """(loss, rows, sums): a sum for each block."""
    size, real = _real(name)

    def body(loss, rows, sums):
        first, last = _share(rows)
        s = np.float64(0)
        n = first + cuda.threadIdx.x
        while n < last:
            s += np.float64(load(loss + n * size, real))
            n += THREADS
        s = _sum(s)
        if cuda.threadIdx.x == 0:
            store(sums + 8 * np.int64(cuda.blockIdx.x), s)

    return Kernel(body, [types.int64] * 3, THREADS, of=("loss_sums", name))


@functools.cache
def split(on, name, real_name):
    """(a, stride, count, pairs): numbers, so many bytes apart, as pairs of reals: each rounded, and what that lacks."""
    number_at, (size, real), wide = elements_of(name).number_at, _real(real_name), name == "float64"
    zero = real(0)

    def body(a, stride, count, pairs):
        i = np.int64(cuda.blockIdx.x) * THREADS + np.int64(cuda.threadIdx.x)
        while i < count:
            number = number_at(a + i * stride)
            high = real(number)
            store(pairs + 2 * i * size, high)
            low = real(number - np.float64(high)) if wide else zero
            store(pairs + (2 * i + 1) * size, low if low - low == zero else zero)
            i += THREADS * np.int64(cuda.gridDim.x)

    return Kernel(body, [types.int64] * 4, THREADS)


@functools.cache
def loss_total(on, name, summed):
    """(sums, count, divisor, by, empty, result): their sum over *divisor (or over by, where that is absent)."""
    (_, real), (each, kind) = _real(name), _real(summed)

    def body(sums, count, divisor, by, empty, result):
        s = np.float64(0)
        i = np.int64(cuda.threadIdx.x)
        while i < count:
            s += np.float64(load(sums + each * i, kind))
            i += THREADS
        s = _sum(s)
        if cuda.threadIdx.x == 0:
            if divisor != 0:
                by = np.float64(load(divisor, real))
            store(result, real(empty) if by == 0 else real(s / by))

    return Kernel(
        body, [*[types.int64] * 3, types.float64, types.float64, types.int64], THREADS, of=("loss_total", name, summed)
    )


@functools.cache
def weight_sums(on, name):
    """v w_y over the rows that count, and the first bad target, for each block; ``number`` is that of the first row."""
    size, real = _real(name)

    def body(
        targets, targets_outer, targets_row, target_size, inner, rows, classes, has_ignored, ignored, class_weight,
        sample_weight, sums, bad, number,
    ):  # fmt: skip
        first, last = _share(rows)
        s, first_bad = np.float64(0), np.int64(NONE)
        n = first + cuda.threadIdx.x
        while n < last:
            v = np.float64(1)
            if sample_weight != 0:
                v = np.float64(load(sample_weight + n * size, real))
            y = np.int64(0)
            if targets != 0:
                y = target_at(row_at(targets, targets_outer, targets_row, inner, n), target_size)
                if has_ignored != 0 and y == ignored:
                    v = np.float64(0)
            if v != 0:
                if targets != 0 and (y < 0 or y >= classes):
                    first_bad = min(first_bad, number + n)
                elif class_weight != 0:
                    s += v * np.float64(load(class_weight + y * size, real))
                else:
                    s += v
            n += THREADS
        s, first_bad = _sum(s), _least(first_bad)
        if cuda.threadIdx.x == 0:
            store(sums + 8 * np.int64(cuda.blockIdx.x), s)
            store(bad + 8 * np.int64(cuda.blockIdx.x), first_bad)

    return Kernel(body, [types.int64] * 14, THREADS, of=("weight_sums", name))


@functools.cache
def weight_total(on, name):
    """(sums, bad, count, divisor, first_bad): the divisor as a real number; 1 where no row counts but bad ones."""
    _, real = _real(name)

    def body(sums, bad, count, divisor, first_bad):
        s, least = np.float64(0), np.int64(NONE)
        i = np.int64(cuda.threadIdx.x)
        while i < count:
            s += load(sums + 8 * i, np.float64)
            least = min(least, load(bad + 8 * i, np.int64))
            i += THREADS
        s, least = _sum(s), _least(least)
        if cuda.threadIdx.x == 0:
            store(divisor, real(1) if s == 0 and least < NONE else real(s))
            store(first_bad, least)

    return Kernel(body, [types.int64] * 5, THREADS, of=("weight_total", name))


@device
def _truth_at(address):
    return np.float32(load(address, np.uint8) != 0)


@functools.cache
def conversion(on, kind, name):
    """(source, outer, row, inner, count, result): numbers of a dtype, at any strides, as real ones in a row."""
    (size, real), number_at = _real(name), _truth_at if kind == "bool" else elements_of(kind).number_at

    def body(source, outer, row, inner, count, result):
        n = np.int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
        while n < count:
            store(result + n * size, real(number_at(row_at(source, outer, row, inner, n))))
            n += np.int64(cuda.gridDim.x) * THREADS

    return Kernel(body, [types.int64] * 6, THREADS, of=("conversion", kind, name))


@functools.cache
def widened(on):
    """(targets, outer, row, target_size, inner, count, result): targets at any strides, as int64 in a row."""

    def body(targets, targets_outer, targets_row, target_size, inner, count, result):
        n = np.int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
        while n < count:
            store(result + n * 8, target_at(row_at(targets, targets_outer, targets_row, inner, n), target_size))
            n += np.int64(cuda.gridDim.x) * THREADS

    return Kernel(body, [types.int64] * 7, THREADS, of=("widened",))
