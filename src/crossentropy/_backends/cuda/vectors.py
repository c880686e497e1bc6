"""A row in memory: its vectors of 16 bytes, wherever it begins and ends."""

from types import SimpleNamespace

import numpy as np
from numba import cuda

from .arithmetic import arithmetic, device
from .intrinsics import load, load_vector, shifted, store_vector


@device
def target_at(at, size):
    """The target at an address, widened; the bits of an int64 where it is uint64."""
    if size == -8 or size == 8:
        return load(at, np.int64)
    if size == -4:
        return np.int64(load(at, np.int32))
    if size == 4:
        return np.int64(load(at, np.uint32))
    if size == -2:
        return np.int64(load(at, np.int16))
    if size == 2:
        return np.int64(load(at, np.uint16))
    if size == -1:
        return np.int64(load(at, np.int8))
    return np.int64(load(at, np.uint8))


@device
def row_at(address, outer, row, inner, n):
    """Where row n begins."""
    if n < inner:  # no division, where there is one dimension of rows
        return address + n * row
    return address + n // inner * outer + n % inner * row


def vectors_of(a, q_kind):
    """How a row's vectors are read and written; ``q_kind`` is the dtype of a second array of rows, if there is one."""
    real, size, width, number_at, put, pack = a.real, a.size, a.width, a.number_at, a.put, a.pack
    nothing, absent = real(-np.inf), a.absent

    @device
    def gathered(row, stride, first, classes):
        """The words of a vector that is read one class at a time; -inf stands for what is not of the row."""
        z = cuda.local.array(width, real)
        for j in range(width):
            c = first + j
            z[j] = number_at(row + c * stride) if c >= 0 and c < classes else nothing
        return pack(z)

    @device
    def take_whole(words, place, row, first, classes):
        """The vector from a class on, of a row of whole ones, to where it is held; -inf where it has none."""
        if first < classes:
            w = load_vector(row + first * size)
            for b in range(4):
                words[place + b] = w[b]
        else:
            for b in range(4):
                words[place + b] = absent[b]

    @device
    def take_any(words, place, row, stride, first, classes):
        """The vector from a class on, of any row.

        Where it does not lie in one vector of memory it lies in two; these are read if both are the row's own, and
        otherwise (three of a row at most, where classes are not apart) one class at a time.
        """
        at, end = row + first * size, row + classes * size
        low = at & -16
        if first >= classes:
            w = absent
        elif stride == size and at == low and first >= 0 and first + width <= classes:
            w = load_vector(at)
        elif stride == size and at != low and low >= row and low + 32 <= end:
            w = shifted(load_vector(low), load_vector(low + 16), at)
        else:
            w = gathered(row, stride, first, classes)
        for b in range(4):
            words[place + b] = w[b]

    @device
    def give_whole(to, first, v):
        """The classes of a vector to a row of whole ones."""
        store_vector(to + first * size, pack(v))

    @device
    def give(to, stride, first, classes, v):
        """The classes of a vector to any row."""
        at = to + first * size
        if stride == size and at % 16 == 0 and first >= 0 and first + width <= classes:
            store_vector(at, pack(v))
        else:
            for j in range(width):
                c = first + j
                if c >= 0 and c < classes:
                    put(to + c * stride, v[j])

    functions = SimpleNamespace(take_whole=take_whole, take_any=take_any, give_whole=give_whole, give=give)
    if not q_kind:
        return functions

    other = arithmetic(q_kind)
    q_size, q_width, q_at, unpack = other.size, other.width, other.number_at, other.unpack
    loads = width // q_width  # vectors of q beside one of x; 0: less than one

    if loads:

        @device
        def beside_whole(u, row, first):
            """The classes of the second array that a vector has in the first, of rows that are vectors throughout."""
            for k in range(loads):
                unpack(load_vector(row + first * q_size + 16 * k), 0, u, k * q_width)

    else:

        @device
        def beside_whole(u, row, first):
            for j in range(width):
                u[j] = real(q_at(row + (first + j) * q_size))

    @device
    def beside(u, row, stride, first, classes):
        """The classes of the second array that a vector has in the first; 0 for those past the row."""
        at = row + first * q_size
        if stride == q_size and at % 16 == 0 and first >= 0 and first + width <= classes:
            beside_whole(u, row, first)
        else:
            for j in range(width):
                c = first + j
                u[j] = real(q_at(row + c * stride)) if c >= 0 and c < classes else real(0)

    functions.beside, functions.beside_whole = beside, beside_whole
    return functions
