"""A lane's vectors of a row that begins anywhere, some at a time, in turns."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .elements import device
from .intrinsics import load_vector
from .vectors import shifted_of


class Stream(NamedTuple):
    """Of a lane: int32, but for the address."""

    past: int  # bytes by which the row's vectors begin past those of memory
    most: int  # where no more vectors are left than this, but more than ``least``, all of memory that a turn's lie in
    least: int  # are the row's
    end: int  # the address of the turn after the last


class Streams(NamedTuple):
    """The functions of a kernel, for rows whose classes are neighbours."""

    stream_of: Callable  # (x, classes, begin, count): the Stream of a lane of the row at an address
    take: Callable  # (stream, left, words, more): the vectors of a turn, of which all of memory is the row's


@functools.cache
def streams_of(size: int, apart: int, turn: int, joined: int = 1) -> Streams:
    """Of numbers of that size. A lane has ``count`` times ``joined`` vectors of 16 bytes, which are neighbours.

    The first begin with the class ``begin``, others so many classes apart; ``turn`` of them are read at once.
    """
    words_at_once, bytes_apart, shift_down = 4 * joined, apart * size, shifted_of(turn, joined)
    turn_bits = (turn * bytes_apart).bit_length() - 1
    ahead, at_once, none = (turn - 1) * bytes_apart + 16 * joined, np.int32(turn), np.int32(0)

    @device
    def stream_of(x, classes, begin, count):
        past, low = np.int32(x & 15), (x + begin * size) & -16
        room = x + classes * size - low - ahead - (16 if past != 0 else 0)
        most = np.int32(count - (at_once if low < x else none))
        least = np.int32(count - turn * ((room >> turn_bits) + 1))
        return Stream(past, most, least, low + count * np.int64(bytes_apart))

    @device
    def take(stream, left, words, more):
        at = stream.end - np.int64(left) * bytes_apart
        for k in range(turn):  # all on their way before the first is looked at
            for i in range(joined):
                w = load_vector(at + k * bytes_apart + 16 * i)
                for b in range(4):
                    words[words_at_once * k + 4 * i + b] = w[b]
        if stream.past != 0:
            for k in range(turn):
                w = load_vector(at + k * bytes_apart + 16 * joined)
                for b in range(4):
                    more[4 * k + b] = w[b]
            shift_down(words, more, stream.past)

    return Streams(stream_of, take)
