"""The numbers of a dtype: how they lie in memory and in vectors of 16 bytes, and what is computed with them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import cuda

from .intrinsics import (
    double_of,
    float_of,
    half_of,
    larger_two_bfloat16,
    larger_two_float16,
    load,
    smaller_two_bfloat16,
    smaller_two_float16,
    store,
    two_bfloat16,
    two_float16,
    word_of,
    words_of,
)


def device(function):
    """A function that kernels call."""
    return cuda.jit(device=True)(function)


class Elements(NamedTuple):
    """What there is of a dtype. ``v`` is an array of reals and ``words`` one of uint32, both in registers."""

    real: type  # what is computed with: np.float32, or np.float64 for float64
    real_size: int  # bytes of that
    size: int  # bytes of a number in memory
    width: int  # numbers of a vector
    absent: tuple  # the four words of a vector of -inf
    unpack: Callable  # (words, at, v, i): the numbers of words[at : at + 4] into v[i : i + width]
    pack: Callable  # (v): the four words of v[0 : width], rounded to the dtype
    number_at: Callable  # (address): one number, as a real
    put: Callable  # (address, value): store a real, rounded to the dtype
    exponent_of: Callable  # (value): the int32 e, where a real is 2^e m, 1 <= m < 2
    # Where it has 16 bits, of which a word has two:
    two: Callable | None = None  # (low, high): two float32 in a word, rounded to the dtype
    halves: Callable | None = None  # (word): the two float32
    larger_two: Callable | None = None  # (word, other): the larger of each half, NaN where either is
    smaller_two: Callable | None = None  # (word, other): the smaller


@functools.cache
def elements_of(kind: str) -> Elements:
    """Those of the dtype of that name."""
    unpack, pack, number_at, put = _memory(kind)
    real = np.float64 if kind == "float64" else np.float32
    size = {"float64": 8, "float32": 4}.get(kind, 2)
    two = {"bfloat16": two_bfloat16, "float16": two_float16}.get(kind)
    larger_two = {"bfloat16": larger_two_bfloat16, "float16": larger_two_float16}.get(kind)
    smaller_two = {"bfloat16": smaller_two_bfloat16, "float16": smaller_two_float16}.get(kind)
    return Elements(
        real,
        8 if kind == "float64" else 4,
        size,
        16 // size,
        _absent(kind, size),
        unpack,
        pack,
        number_at,
        put,
        _exponent_of(real),
        two,
        _halves(kind),
        larger_two,
        smaller_two,
    )


def _halves(kind):
    low, high, mask = np.uint32(16), np.uint32(0xFFFF0000), np.uint32(0xFFFF)
    if kind == "bfloat16":
        return device(lambda word: (float_of(word << low), float_of(word & high)))
    if kind == "float16":
        return device(lambda word: (half_of(np.uint16(word & mask)), half_of(np.uint16(word >> low))))
    return None


def _exponent_of(real):
    if real is np.float32:
        return device(lambda value: np.int32((word_of(value) >> np.uint32(23)) & np.uint32(255)) - np.int32(127))
    return device(lambda value: np.int32((words_of(value)[1] >> np.uint32(20)) & np.uint32(2047)) - np.int32(1023))


def _absent(kind, size):
    """The four words of a vector of -inf."""
    if kind == "bfloat16":
        return tuple(np.full(4, 0xFF80FF80, np.uint32))
    dtype = {2: np.float16, 4: np.float32, 8: np.float64}[size]
    return tuple(np.full(16 // size, -np.inf, dtype).view(np.uint32))


def _memory(kind):
    """(unpack, pack, number_at, put), as `Elements` describes them."""
    if kind == "float64":

        @device
        def unpack(words, at, v, i):
            v[i] = double_of(words[at], words[at + 1])
            v[i + 1] = double_of(words[at + 2], words[at + 3])

        @device
        def pack(v):
            a, b = words_of(v[0]), words_of(v[1])
            return a[0], a[1], b[0], b[1]

        @device
        def number_at(address):
            return load(address, np.float64)

        @device
        def put(address, value):
            store(address, value)

    elif kind == "float32":

        @device
        def unpack(words, at, v, i):
            for j in range(4):
                v[i + j] = float_of(words[at + j])

        @device
        def pack(v):
            return word_of(v[0]), word_of(v[1]), word_of(v[2]), word_of(v[3])

        @device
        def number_at(address):
            return load(address, np.float32)

        @device
        def put(address, value):
            store(address, value)

    elif kind == "bfloat16":
        low, high = np.uint32(16), np.uint32(0xFFFF0000)

        @device
        def unpack(words, at, v, i):
            for j in range(4):
                v[i + 2 * j] = float_of(words[at + j] << low)
                v[i + 2 * j + 1] = float_of(words[at + j] & high)

        @device
        def pack(v):
            return (
                two_bfloat16(v[0], v[1]),
                two_bfloat16(v[2], v[3]),
                two_bfloat16(v[4], v[5]),
                two_bfloat16(v[6], v[7]),
            )

        @device
        def number_at(address):
            return float_of(np.uint32(load(address, np.uint16)) << low)

        @device
        def put(address, value):
            store(address, np.uint16(two_bfloat16(value, value) >> low))

    else:
        low, mask = np.uint32(16), np.uint32(0xFFFF)

        @device
        def unpack(words, at, v, i):
            for j in range(4):
                v[i + 2 * j] = half_of(np.uint16(words[at + j] & mask))
                v[i + 2 * j + 1] = half_of(np.uint16(words[at + j] >> low))

        @device
        def pack(v):
            return two_float16(v[0], v[1]), two_float16(v[2], v[3]), two_float16(v[4], v[5]), two_float16(v[6], v[7])

        @device
        def number_at(address):
            return half_of(load(address, np.uint16))

        @device
        def put(address, value):
            store(address, np.uint16(two_float16(value, value) >> low))

    return unpack, pack, number_at, put
