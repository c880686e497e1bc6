"""Arrays of rows of any layout as Numba's kernels see them: read and written a block of classes at a time.

Rows that can be read and written in place are of another type than the others (Rows, OddRows), and what depends on
it is chosen by type, because a kernel for plain arrays compiles much faster without the code for all the rest.

Every logit is read by `block` or `number_at`, and every gradient leaves by `put_gradient` or, where nothing can be left
to do, by exp_group's own stores. So an elementwise transform of the logits (a softcap, c tanh(z / c)) would come here:

1. OddRows gets a field for its parameter, which tasks.py fills, and logits that have one are never `direct`: all of
   them are copied by `odd_number` then, which applies the transform, and plain kernels neither hold nor run its code.
2. The gradient's array is not `direct` then either, so `put_gradient` sees every class, with the logits ``z`` as they
   were read: it multiplies by the derivative, here 1 - (z / c)^2.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from . import memory
from .compiling import INNER, inner, merged
from .memory import LINE, address, view

BLOCK = 2048  # classes that are copied at a time, of rows that can't be read or written in place
PIECE = 2**16  # classes of those that can, between two looks at the stop flag

F16, BF16, F32, F64 = range(4)  # codes of `element`, the same as in C


class Rows(NamedTuple):
    """An array of rows of the lanes' type (float32 for 16-bit logits, else the logits'), aligned and contiguous."""

    address: int  # 0 where there is no array
    row_strides: int  # the address of an int64 for each dimension of the task; bytes, as all strides
    stride: int  # from class to class


class OddRows(NamedTuple):
    """Any other array of rows."""

    address: int
    row_strides: int
    stride: int
    element: int  # F16, BF16, F32 or F64
    swapped: int  # whether the bytes of its numbers are in the other order than the machine's
    direct: int  # whether it meets what Rows asks for; 1 where another array made its task one of OddRows


class Row(NamedTuple):
    """A single row, which the functions below take as one of Rows."""

    stride: int


class OddRow(NamedTuple):
    """A single row, which the functions below take as one of OddRows."""

    stride: int
    element: int
    swapped: int
    direct: int


@inner
def row_of(a, t, n):
    """The address of row n of an array of a task."""
    at = a.address
    for d in range(8 * t.dims - 8, 0, -8):
        size = memory.load(t.shape + d, np.int64)
        at += n % size * memory.load(a.row_strides + d, np.int64)
        n //= size
    return at + n * memory.load(a.row_strides, np.int64)


@inner
def stopped(flag):
    """Whether the int64 at an address is not 0, which ends the call. The address 0 stands for no flag."""
    return flag != 0 and memory.flag_at(flag) != 0


# ---------------------------------------------------------------------- numbers in any of the four types


@inner
def from_half(bits):
    """float16 to float32, exactly: its bits read as a float32's, times 2^112, which is between the two biases."""
    wide = np.uint32((bits & 0x7FFF) << 13)
    value = memory.of_bits(wide) * np.float32(2.0**112)
    if (bits & 0x7C00) == 0x7C00:
        value = memory.of_bits(np.uint32(wide | 0x7F800000))
    return -value if bits & 0x8000 else value


@inner
def to_half(value):
    """The bits of the float16 nearest to a float32, the even one of two as near; overflow gives inf."""
    bits = np.int64(memory.bits_of(value))
    size, sign = bits & 0x7FFFFFFF, (bits >> 16) & 0x8000
    if size > 0x7F800000:
        half = np.int64(0x7E00)
    elif size >= 0x47800000:  # 2^16
        half = np.int64(0x7C00)
    elif size < 0x38800000:  # 2^-14: adding 1/2 rounds to the spacing of subnormals, which is an ulp of 1/2
        half = np.int64(memory.bits_of(memory.of_bits(np.uint32(size)) + np.float32(0.5))) - 0x3F000000
    else:
        half = (size - 0x38000000 + 0xFFF + ((size >> 13) & 1)) >> 13
    return np.uint16(half | sign)


@inner
def to_bfloat16(value):
    """The bits of the bfloat16 nearest to a float32, the even one of two as near."""
    bits = np.int64(memory.bits_of(value))
    if bits & 0x7FFFFFFF > 0x7F800000:
        return np.uint16((bits >> 16) | 0x40)
    return np.uint16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


@inner
def odd_number(a, at):
    """The number at an address in an array that is not direct, as float64."""
    if a.element == F64:
        wide = memory.load(at, np.float64)
        return memory.swapped(wide) if a.swapped else wide
    if a.element == F32:
        value = memory.load(at, np.float32)
        return np.float64(memory.swapped(value) if a.swapped else value)
    bits = memory.load(at, np.uint16)
    bits = memory.swapped(bits) if a.swapped else bits
    return np.float64(from_half(bits) if a.element == F16 else memory.of_bits(np.uint32(np.uint32(bits) << 16)))


@inner
def gather(a, at, n, buffer):
    """Copy n classes from an address to a buffer of the lanes' type."""
    for i in range(n):
        buffer[i] = odd_number(a, at + i * a.stride)


@inner
def scatter(a, at, n, buffer):
    """Copy n classes from such a buffer to an address, rounded to the array's type."""
    for i in range(n):
        here = at + i * a.stride
        if a.element == F64:
            wide = np.float64(buffer[i])
            memory.store(here, memory.swapped(wide) if a.swapped else wide)
        elif a.element == F32:
            value = np.float32(buffer[i])
            memory.store(here, memory.swapped(value) if a.swapped else value)
        else:
            value = np.float32(buffer[i])
            bits = to_half(value) if a.element == F16 else to_bfloat16(value)
            memory.store(here, memory.swapped(bits) if a.swapped else bits)


@inner
def odd_row(stride, element, direct):
    """A single row as an OddRow, in the machine's own byte order."""
    return OddRow(stride, element, 0, int(direct))


# ---------------------------------------------------------------------- blocks of a row


@inner
def copy(at, buffer, n, bypasses):
    """Copy n numbers to an address, whole lines by stores that bypass the caches if asked, both ends by usual ones."""
    size = buffer.itemsize
    to, source = view(at, n, buffer), address(buffer)
    head = min(n, (-at % LINE) // size) if bypasses else n
    tail = n - (n - head) % (LINE // size)
    for i in range(head):
        to[i] = buffer[i]
    for i in range(head, tail, LINE // size):
        memory.bypass_line(at + i * size, source + i * size)
    for i in range(tail, n):
        to[i] = buffer[i]


def in_place(a):
    """Whether rows are read and written where they lie."""


def number_at(a, at, like):
    """The number at an address, as float64; ``like`` is an array of the lanes' type."""


def block(a, row, j, n, buffer):
    """n classes from class j on, as an array: the row itself, or the buffer, which holds BLOCK."""


def put(a, row, j, n, buffer, bypasses):
    """Write n classes from class j on, by stores that bypass the caches or by usual ones."""


def place(a, row, j, buffer):
    """The address to which a gradient from class j on is written: its own, or that of a buffer, for `flush`."""


def flush(a, row, j, n, z, buffer):
    """Take a gradient that was written to `place` where it belongs; z are the logits of its classes."""


def fill(out, row, classes, value, scratch):
    """Write one value to all classes of a row."""


def _is_odd(a):
    return "element" in a.fields


@overload(in_place, jit_options=INNER)
def _in_place(a):
    return (lambda a: a.direct != 0) if _is_odd(a) else (lambda a: True)


@overload(number_at, jit_options=INNER)
def _number_at(a, at, like):
    if _is_odd(a):
        return lambda a, at, like: odd_number(a, at)
    return lambda a, at, like: np.float64(memory.load(at, like.dtype))


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
def _put(a, row, j, n, buffer, bypasses):
    def of_odd_rows(a, row, j, n, buffer, bypasses):
        at = row + j * a.stride
        if a.direct:
            copy(at, buffer, n, bypasses)
        else:
            scatter(a, at, n, buffer)

    def of_rows(a, row, j, n, buffer, bypasses):
        copy(row + j * a.stride, buffer, n, bypasses)

    return of_odd_rows if _is_odd(a) else of_rows


@merged
def put_gradient(a, row, j, n, z, buffer, bypasses):
    """Write the gradient of n classes from class j on; z are their logits, for the derivative of a transform."""
    put(a, row, j, n, buffer, bypasses)


@overload(place, jit_options=INNER)
def _place(a, row, j, buffer):
    def of_odd_rows(a, row, j, buffer):
        return row + j * a.stride if a.direct else address(buffer)

    return of_odd_rows if _is_odd(a) else (lambda a, row, j, buffer: row + j * a.stride)


@overload(flush, jit_options=INNER)
def _flush(a, row, j, n, z, buffer):
    def of_odd_rows(a, row, j, n, z, buffer):
        if not a.direct:
            put_gradient(a, row, j, n, z, buffer, False)

    return of_odd_rows if _is_odd(a) else (lambda a, row, j, n, z, buffer: None)


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
    """The classes that may be read at a time by `block`."""
    return PIECE if in_place(a) else BLOCK
