"""Arrays of rows of any layout as Numba's kernels see them: read and written a block of classes at a time.

Rows that can be read and written in place are of another type than the others (Rows, OddRows), and what depends on
it is chosen by type, because a kernel for plain arrays compiles much faster without the code for all the rest.

Every logit is read by `block` or `number_at`, and every gradient leaves by `put_gradient` or, where nothing can be left
to do, by exp_group's own stores. So an elementwise transform of the logits has its home here, and is compiled for calls
that have one alone:

1. Logits that are transformed are ChangedRows, which tasks.py fills: they are copied to float64, whatever they are, and
   `change` works on the copy. In float64 a logit is right to far below a float32's last digit, which a confident row's
   loss would show; and float64 logits are rounded about once.
2. The gradient's array is not `direct` then, so `put_gradient` sees every class: it multiplies by the slopes that
   `block_to_write` has left in the scratch memory.
"""

import math
from typing import NamedTuple

import numpy as np
from numba.extending import overload

from ..exponential import FLOAT64
from . import memory
from .compiling import INNER, inner
from .exponentials import exp_terms, fma
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


class ChangedRows(NamedTuple):
    """Logits that are read as c tanh(z a / c) + b, or as a z + b."""

    address: int
    row_strides: int
    stride: int
    element: int
    swapped: int
    direct: int
    ratio: float  # a / c; a without a cap
    ratio_low: float  # what that is short of
    scale: float  # a
    cap: float  # c; 0 for none
    prior: int  # the address of float64 (classes,), b; 0 for none


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
    if a.element == F32 and a.stride == 4 and not a.swapped and at % 4 == 0:
        to = view(at, n, np.float32)
        for i in range(n):
            to[i] = np.float32(buffer[i])
        return
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


# ---------------------------------------------------------------------- logits that are transformed

MAGIC = FLOAT64.magic + FLOAT64.bias  # of e^y as it is
LOWEST = -FLOAT64.bias * np.log(2)


@inner
def capped(a, z, prior):
    """(c tanh(u) + b, its slope on z) for u = z a / c, off by about an ulp of float64.

    With e^(-2 |u|) = E and E - 1 = m as a pair, tanh |u| is -m / (1 + E), also where u is small. The slope is
    a (1 - tanh^2 u) = a s (2 - s) with s = 2 E / (1 + E), which keeps its digits where tanh is near 1.
    """
    y = -2 * abs(z * a.ratio)
    low = fma(-2 * abs(z), a.ratio, -y) - 2 * abs(z) * a.ratio_low
    low = low if abs(low) <= 1 else 0.0  # of an infinite logit
    power, r, more = exp_terms(y, MAGIC, LOWEST)
    q = r + more
    q_low = (more - (q - r)) + low * (1 + q)
    less, part = power - 1, power * q
    m = less + part
    kept = m - less
    m_low = ((less - (m - kept)) + (part - kept)) + power * q_low
    over = 2 + m
    over_low = (m - (over - 2)) + m_low
    by = 1 / over
    t = -m * by
    t_low = (fma(-t, over, -m) - m_low - t * over_low) * by
    size = t * a.cap
    size_low = fma(t, a.cap, -size) + t_low * a.cap
    if z < 0:
        size, size_low = -size, -size_low
    total = size + prior
    kept = total - size
    lost = ((size - (total - kept)) + (prior - kept)) + size_low
    s = 2 * (power + (part + power * q_low)) * by  # u may be 100, and what it is rounded by 1e-14 of E
    return total + lost if abs(total) < np.inf else total, a.scale * (s * (2 - s))


@inner
def capped_nearly(a, z, prior):
    """The same off by a few ulp of float64: right for what has been a float32 or less."""
    power, r, more = exp_terms(-2 * abs(z * a.ratio), MAGIC, LOWEST)
    part = power * (r + more)
    m = (power - 1) + part
    by = 1 / (2 + m)
    size = m * by * a.cap
    s = 2 * (power + part) * by
    return prior + (size if z < 0 else -size), a.scale * (s * (2 - s))


@inner
def change(a, j, n, buffer):
    """Transform the logits of n classes from class j on, in a buffer."""
    b = view(a.prior + 8 * j, n, np.float64)
    if a.cap == 0:
        if a.prior:
            for i in range(n):
                buffer[i] = fma(a.scale, buffer[i], b[i])
        else:
            for i in range(n):
                buffer[i] *= a.scale
        return
    _change_capped(a, n, buffer, b)


@inner
def _change_capped(a, n, buffer, b):
    if a.element == F64:
        for i in range(n):
            buffer[i], _ = capped(a, buffer[i], b[i] if a.prior else 0.0)
    elif a.prior:
        for i in range(n):
            buffer[i], _ = capped_nearly(a, buffer[i], b[i])
    else:
        for i in range(n):
            buffer[i], _ = capped_nearly(a, buffer[i], 0.0)


@inner
def change_with_slopes(a, j, n, buffer, slopes):
    """The same, and the slopes on the logits that were given."""
    b = view(a.prior + 8 * j, n, np.float64)
    if a.cap == 0:
        change(a, j, n, buffer)
    elif a.element == F64:
        for i in range(n):
            buffer[i], slopes[i] = capped(a, buffer[i], b[i] if a.prior else 0.0)
    elif a.prior:
        for i in range(n):
            buffer[i], slopes[i] = capped_nearly(a, buffer[i], b[i])
    else:
        for i in range(n):
            buffer[i], slopes[i] = capped_nearly(a, buffer[i], 0.0)


@inner
def gather_plainly(a, at, n, buffer):
    """As `gather`, faster where numbers are neighbours in the machine's own byte order (`direct`)."""
    if not a.direct:
        gather(a, at, n, buffer)
    elif a.element == F64:
        wide = view(at, n, np.float64)
        for i in range(n):
            buffer[i] = wide[i]
    elif a.element == F32:
        single = view(at, n, np.float32)
        for i in range(n):
            buffer[i] = np.float64(single[i])
    elif a.element == BF16:
        bits = view(at, n, np.uint16)
        for i in range(n):
            buffer[i] = np.float64(memory.of_bits(np.uint32(np.uint32(bits[i]) << 16)))
    else:
        bits = view(at, n, np.uint16)
        for i in range(n):
            buffer[i] = np.float64(from_half(bits[i]))


@inner
def slopes_beside(pad):
    """A block of slopes, in the scratch memory after ``pad``."""
    return view(address(pad) + pad.size * pad.itemsize, BLOCK, pad)


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


def number_at(a, row, c, like):
    """The number of class c, as float64; ``like`` is an array of the lanes' type."""


def block(a, row, j, n, buffer):
    """n classes from class j on, as an array: the row itself, or the buffer, which holds BLOCK."""


def block_to_write(a, row, j, n, buffer, pad):
    """As `block`, for `put_gradient` to follow, which is given the same ``pad``."""


def put(a, row, j, n, buffer, bypasses):
    """Write n classes from class j on, by stores that bypass the caches or by usual ones."""


def place(a, row, j, buffer):
    """The address to which a gradient from class j on is written: its own, or that of a buffer, for `flush`."""


def flush(x, a, row, j, n, buffer, pad):
    """Take a gradient that was written to `place` where it belongs; x has the logits."""


def put_gradient(x, a, row, j, n, buffer, pad, bypasses):
    """As `put`, of the gradient on logits x, of which the same `block_to_write` was the last. Overwrites the buffer."""


def fill(out, row, classes, value, scratch):
    """Write one value to all classes of a row."""


def _is_odd(a):
    return "element" in a.fields


def _is_changed(a):
    return "cap" in a.fields


@overload(in_place, jit_options=INNER)
def _in_place(a):
    if _is_changed(a):
        return lambda a: False
    return (lambda a: a.direct != 0) if _is_odd(a) else (lambda a: True)


@overload(number_at, jit_options=INNER)
def _number_at(a, row, c, like):
    def of_changed_rows(a, row, c, like):
        z = odd_number(a, row + c * a.stride)
        b = memory.load(a.prior + 8 * c, np.float64) if a.prior else 0.0
        if a.cap == 0:
            return fma(a.scale, z, b)
        value, _ = capped(a, z, b) if a.element == F64 else capped_nearly(a, z, b)
        return value

    if _is_changed(a):
        return of_changed_rows
    if _is_odd(a):
        return lambda a, row, c, like: odd_number(a, row + c * a.stride)
    return lambda a, row, c, like: np.float64(memory.load(row + c * a.stride, like.dtype))


@overload(block, jit_options=INNER)
def _block(a, row, j, n, buffer):
    def of_odd_rows(a, row, j, n, buffer):
        at = row + j * a.stride
        if a.direct:
            return view(at, n, buffer)
        gather(a, at, n, buffer)
        return view(address(buffer), n, buffer)

    def of_changed_rows(a, row, j, n, buffer):
        gather_plainly(a, row + j * a.stride, n, buffer)
        change(a, j, n, buffer)
        return view(address(buffer), n, buffer)

    if _is_changed(a):
        return of_changed_rows
    return of_odd_rows if _is_odd(a) else (lambda a, row, j, n, buffer: view(row + j * a.stride, n, buffer))


@overload(block_to_write, jit_options=INNER)
def _block_to_write(a, row, j, n, buffer, pad):
    def of_changed_rows(a, row, j, n, buffer, pad):
        gather_plainly(a, row + j * a.stride, n, buffer)
        change_with_slopes(a, j, n, buffer, slopes_beside(pad))
        return view(address(buffer), n, buffer)

    return of_changed_rows if _is_changed(a) else (lambda a, row, j, n, buffer, pad: block(a, row, j, n, buffer))


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


@overload(put_gradient, jit_options=INNER)
def _put_gradient(x, a, row, j, n, buffer, pad, bypasses):
    def of_changed_rows(x, a, row, j, n, buffer, pad, bypasses):
        slopes = slopes_beside(pad)
        if x.cap != 0:
            for i in range(n):
                buffer[i] = 0.0 if slopes[i] == 0 and math.isinf(buffer[i]) else buffer[i] * slopes[i]
        else:
            for i in range(n):
                buffer[i] *= x.scale
        put(a, row, j, n, buffer, bypasses)

    def of_rows(x, a, row, j, n, buffer, pad, bypasses):
        put(a, row, j, n, buffer, bypasses)

    return of_changed_rows if _is_changed(x) else of_rows


@overload(place, jit_options=INNER)
def _place(a, row, j, buffer):
    def of_odd_rows(a, row, j, buffer):
        return row + j * a.stride if a.direct else address(buffer)

    return of_odd_rows if _is_odd(a) else (lambda a, row, j, buffer: row + j * a.stride)


@overload(flush, jit_options=INNER)
def _flush(x, a, row, j, n, buffer, pad):
    def of_odd_rows(x, a, row, j, n, buffer, pad):
        if not a.direct:
            put_gradient(x, a, row, j, n, buffer, pad, False)

    return of_odd_rows if _is_odd(a) else (lambda x, a, row, j, n, buffer, pad: None)


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
