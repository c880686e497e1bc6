"""A row in memory: its vectors of 16 bytes, wherever it begins and ends."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import cuda

from .elements import device, elements_of
from .intrinsics import funnel, load_vector, shifted, store, store_half_if, store_vector, store_vector_if


def _whole(pack):
    @device
    def give_all(to, v):
        """A vector to a multiple of 16."""
        store_vector(to, pack(v))

    return give_all


def _whole_if(pack):
    return device(lambda whether, to, past, v: store_vector_if(whether, to, past, pack(v)))


def _half_if(two):
    return device(lambda whether, to, past, v: store_half_if(whether, to, past, two(v[0], v[1]), two(v[2], v[3])))


def _half(two):
    @device
    def give_all(to, v):
        """Four float32, rounded to 16 bits, to a multiple of 8."""
        store(to, np.uint64(two(v[0], v[1])) | np.uint64(two(v[2], v[3])) << np.uint64(32))

    return give_all


def shifted_of(n: int, joined: int = 1) -> Callable:
    """The device function (words, more, past): n times ``joined`` vectors become those so many bytes after them.

    Of words, in which vectors that are joined follow each other in memory; ``more`` has the n that come after them.
    past is a multiple of 2, and the same for all threads of a row: so a branch costs less than to select each word.
    Words are moved by what shifts them, by no bits perhaps, because the compiler makes selections again of plain moves.
    """
    at_once = 4 * joined

    def by(step):
        """The device function (words, more, bits): by so many words, and bits."""

        @device
        def word_at(words, more, k, i):
            return words[at_once * k + i] if i < at_once else more[4 * k + i - at_once]

        @device
        def shift(words, more, bits):
            for k in range(n):
                for i in range(at_once):
                    low, high = word_at(words, more, k, i + step), word_at(words, more, k, i + step + 1)
                    words[at_once * k + i] = funnel(low, high, bits)

        return shift

    by_none, by_one, by_two, by_three = (by(step) for step in range(4))

    @device
    def shift_down(words, more, past):
        bits = np.uint32(past & 2) * np.uint32(8)
        if past & 8:
            if past & 4:
                by_three(words, more, bits)
            else:
                by_two(words, more, bits)
        elif past & 4:
            by_one(words, more, bits)
        else:
            by_none(words, more, bits)

    return shift_down


class Vectors(NamedTuple):
    """How the vectors of a row are read and written.

    ``row`` and ``to`` are addresses of a row's first class, ``first`` is the class that a vector begins with, and
    ``stride`` the bytes from class to class. The functions that end in _whole are for rows whose classes are
    neighbours, their number that of whole vectors, and whose addresses are multiples of 16.
    """

    take_whole: Callable  # (words, place, row, first, classes): a vector's words, into words[place : place + 4]
    take_any: Callable  # (words, place, row, stride, first, classes): the same
    give_if: Callable  # (whether, address, past, v): v[0 : width] to past bytes, a constant, after an address
    give_whole: Callable  # (to, first, v): v[0 : width] into the row of results
    give: Callable  # (to, stride, first, classes, v): the same
    # Of the second array of rows, the classes that a vector of the first has; None where there is no second array:
    beside_whole: Callable | None  # (u, row, first): into u[0 : width]
    beside: Callable | None  # (u, row, stride, first, classes): the same
    beside_inside: Callable | None  # (u, row, stride, first): the same of classes that are all the row's
    joined: int = 0  # how many vectors of it those are; 0 where they are less than one


def vectors_of(kind: str, q_kind: str, to_kind: str = "") -> Vectors:
    """Those of rows of a dtype; ``q_kind`` is the dtype of a second array of rows, if there is one.

    ``to_kind`` is the dtype of results, if it is another: one of 16 bits beside float32, of which a vector has 8 bytes.
    """
    e = elements_of(kind)
    real, size, width, number_at, put, pack, absent = e.real, e.size, e.width, e.number_at, e.put, e.pack, e.absent
    nothing = real(-np.inf)

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

        A vector that does not lie in one vector of memory lies in two. Both are read if all of their bytes are the
        row's. Otherwise the vector is read one class at a time: three of a row at most, unless its classes are apart.
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

    to_size, give_one, give_all, give_if, bytes_at_once = size, put, _whole(pack), _whole_if(pack), 16
    if to_kind:
        narrow = elements_of(to_kind)
        to_size, give_one, bytes_at_once = narrow.size, narrow.put, 8
        give_all, give_if = _half(narrow.two), _half_if(narrow.two)

    @device
    def give_whole(to, first, v):
        """The classes of a vector to a row of whole ones."""
        give_all(to + first * to_size, v)

    @device
    def give(to, stride, first, classes, v):
        """The classes of a vector to any row."""
        at = to + first * to_size
        if stride == to_size and at % bytes_at_once == 0 and first >= 0 and first + width <= classes:
            give_all(at, v)
        else:
            for j in range(width):
                c = first + j
                if c >= 0 and c < classes:
                    give_one(to + c * stride, v[j])

    if not q_kind:
        return Vectors(take_whole, take_any, give_if, give_whole, give, None, None, None)

    other = elements_of(q_kind)
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

    @device
    def beside_inside(u, row, stride, first):
        at = row + first * q_size
        if stride == q_size and at % 16 == 0:
            beside_whole(u, row, first)
        else:
            for j in range(width):
                u[j] = real(q_at(row + (first + j) * stride))

    return Vectors(take_whole, take_any, give_if, give_whole, give, beside_whole, beside, beside_inside, loads)
