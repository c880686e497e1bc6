"""Arrays of rows of any layout as Numba's kernels see them: read and written a block of classes at a time.

Rows that can be read and written in place are of another type than the others (Rows, OddRows), and what depends on
it is chosen by type: a kernel for plain arrays compiles in half the time without the code for all the rest.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload

from . import llvm as lanes
from .llvm import address, view

BLOCK = 2048  # classes that are copied at a time, of rows that can't be read or written in place
PIECE = 2**16  # classes of those that can, between two looks at the stop flag

F16, BF16, F32, F64 = range(4)  # `element` in kernels/kernels.h

OPTIONS = {"nogil": True, "error_model": "numpy"}
INNER = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def inner(function):
    """A function that kernels call."""
    return njit(**INNER)(function)


def merged(function):
    """A function that becomes part of its caller before that is compiled, so that LLVM works on it once less."""
    return njit(inline="always")(function)


class Rows(NamedTuple):
    """An array of rows of the lanes' type (float32 for 16-bit logits, else the logits'), aligned and contiguous."""

    address: int  # 0: there is none
    row_strides: int  # the address of int64, by dimension, in bytes as all strides
    stride: int  # from class to class


class OddRows(NamedTuple):
    """Any other array of rows."""

    address: int
    row_strides: int
    stride: int
    element: int
    swapped: int  # whether bytes are in the other order
    direct: int  # whether these are as Rows after all


class Row(NamedTuple):
    """A single row, to the functions below as one of Rows."""

    stride: int


class OddRow(NamedTuple):
    """A single row, as one of OddRows."""

    stride: int
    element: int
    swapped: int
    direct: int


@inner
def row_of(a, t, n):
    """The address of row n of an array of a task."""
    at = a.address
    for d in range(8 * t.dims - 8, 0, -8):
        size = lanes.load(t.shape + d, np.int64)
        at += n % size * lanes.load(a.row_strides + d, np.int64)
        n //= size
    return at + n * lanes.load(a.row_strides, np.int64)


@inner
def stopped(flag):
    """Whether the int64 at an address is not 0: the call is to end. There is none at 0."""
    return flag != 0 and lanes.flag_at(flag) != 0


# ---------------------------------------------------------------------- numbers in any of the four types


@inner
def from_half(bits):
    """float16 to float32: the bits as those of a float32, times 2^112."""
    wide = np.uint32((bits & 0x7FFF) << 13)
    value = lanes.of_bits(wide) * np.float32(2.0**112)
    if (bits & 0x7C00) == 0x7C00:
        value = lanes.of_bits(np.uint32(wide | 0x7F800000))
    return -value if bits & 0x8000 else value


@inner
def to_half(value):
    """float32 to float16, to nearest even."""
    bits = np.int64(lanes.bits_of(value))
    size, sign = bits & 0x7FFFFFFF, (bits >> 16) & 0x8000
    if size > 0x7F800000:
        half = np.int64(0x7E00)
    elif size >= 0x47800000:  # 2^16
        half = np.int64(0x7C00)
    elif size < 0x38800000:  # 2^-14: one ulp of 1/2 is the subnormal spacing
        half = np.int64(lanes.bits_of(lanes.of_bits(np.uint32(size)) + np.float32(0.5))) - 0x3F000000
    else:
        half = (size - 0x38000000 + 0xFFF + ((size >> 13) & 1)) >> 13
    return np.uint16(half | sign)


@inner
def to_bfloat16(value):
    """float32 to bfloat16, to nearest even."""
    bits = np.int64(lanes.bits_of(value))
    if bits & 0x7FFFFFFF > 0x7F800000:
        return np.uint16((bits >> 16) | 0x40)
    return np.uint16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


@inner
def odd_number(a, at):
    """The number at an address, as float64."""
    if a.element == F64:
        wide = lanes.load(at, np.float64)
        return lanes.swapped(wide) if a.swapped else wide
    if a.element == F32:
        value = lanes.load(at, np.float32)
        return np.float64(lanes.swapped(value) if a.swapped else value)
    bits = lanes.load(at, np.uint16)
    bits = lanes.swapped(bits) if a.swapped else bits
    return np.float64(from_half(bits) if a.element == F16 else lanes.of_bits(np.uint32(np.uint32(bits) << 16)))


@inner
def gather(a, at, n, buffer):
    """Copy n classes from an address."""
    for i in range(n):
        buffer[i] = odd_number(a, at + i * a.stride)


@inner
def scatter(a, at, n, buffer):
    """Copy n classes to an address."""
    for i in range(n):
        here = at + i * a.stride
        if a.element == F64:
            wide = np.float64(buffer[i])
            lanes.store(here, lanes.swapped(wide) if a.swapped else wide)
        elif a.element == F32:
            value = np.float32(buffer[i])
            lanes.store(here, lanes.swapped(value) if a.swapped else value)
        else:
            value = np.float32(buffer[i])
            bits = to_half(value) if a.element == F16 else to_bfloat16(value)
            lanes.store(here, lanes.swapped(bits) if a.swapped else bits)


# ---------------------------------------------------------------------- blocks of a row


@inner
def copy(at, buffer, n, streams):
    """n numbers to an address: past the caches in whole lines, and what is left at both ends as usual."""
    size = buffer.itemsize
    to, source = view(at, n, buffer), address(buffer)
    head = min(n, (-at % 64) // size) if streams else n
    tail = n - (n - head) % (64 // size)
    for i in range(head):
        to[i] = buffer[i]
    for i in range(head, tail, 64 // size):
        lanes.stream_line(at + i * size, source + i * size)
    for i in range(tail, n):
        to[i] = buffer[i]


def in_place(a):
    """Whether rows are read and written where they lie."""


def number_at(a, at, like):
    """The number at an address, as float64; ``like`` is an array of the lanes' type."""


def block(a, row, j, n, buffer):
    """n classes from class j on, as an array: the row itself, or the buffer, which holds BLOCK."""


def put(a, row, j, n, buffer, streams):
    """Write n classes from class j on, ``streams``: past the caches."""


def place(a, row, j, buffer):
    """The address to write a block from class j on to: its own, or that of the buffer."""


def flush(a, row, j, n, buffer):
    """What was written to `place` is where it belongs after this."""


def fill(out, row, classes, value, scratch):
    """Write one value to a row."""


def _is_odd(a):
    return "element" in a.fields


@overload(in_place, jit_options=INNER)
def _in_place(a):
    return (lambda a: a.direct != 0) if _is_odd(a) else (lambda a: True)


@overload(number_at, jit_options=INNER)
def _number_at(a, at, like):
    if _is_odd(a):
        return lambda a, at, like: odd_number(a, at)
    return lambda a, at, like: np.float64(lanes.load(at, like.dtype))


@overload(block, jit_options=INNER)
def _block(a, row, j, n, buffer):
    def of_odd_rows(a, row, j, n, buffer):
        at = row + j * a.stride
        if a.direct:
            return view(at, n, buffer)
        gather(a, at, n, buffer)
        return view(address(buffer), n, buffer)

    return of_odd_rows if _is_odd(a) else (lambda a, row, j, n, buffer: view(row + j * a.stride, n, buffer))


@overload(put, jit_options=INNER)
def _put(a, row, j, n, buffer, streams):
    def of_odd_rows(a, row, j, n, buffer, streams):
        at = row + j * a.stride
        if a.direct:
            copy(at, buffer, n, streams)
        else:
            scatter(a, at, n, buffer)

    def of_rows(a, row, j, n, buffer, streams):
        copy(row + j * a.stride, buffer, n, streams)

    return of_odd_rows if _is_odd(a) else of_rows


@overload(place, jit_options=INNER)
def _place(a, row, j, buffer):
    def of_odd_rows(a, row, j, buffer):
        return row + j * a.stride if a.direct else address(buffer)

    return of_odd_rows if _is_odd(a) else (lambda a, row, j, buffer: row + j * a.stride)


@overload(flush, jit_options=INNER)
def _flush(a, row, j, n, buffer):
    def of_odd_rows(a, row, j, n, buffer):
        if not a.direct:
            scatter(a, row + j * a.stride, n, buffer)

    return of_odd_rows if _is_odd(a) else (lambda a, row, j, n, buffer: None)


@overload(fill, jit_options=INNER)
def _fill(out, row, classes, value, scratch):
    def of_odd_rows(out, row, classes, value, scratch):
        for i in range(BLOCK):
            scratch[i] = value
        for j in range(0, classes, BLOCK):
            put(out, row, j, min(BLOCK, classes - j), scratch, False)

    def of_rows(out, row, classes, value, scratch):
        whole = view(row, classes, scratch)
        for i in range(classes):
            whole[i] = value

    return of_odd_rows if _is_odd(out) else of_rows


@inner
def block_size(a):
    """Classes at a time."""
    return PIECE if in_place(a) else BLOCK
