"""The sum of what the 32 lanes of a warp have, as integers: one instruction each, and no order that it depends on.

A number is cut at a place that the largest of a warp decides: into an integer of 22 bits, and 22 bits of what is left.
Sums of both are exact. So all lanes together are off by no more than 2^-38 of their sum, where each is rounded.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .elements import device
from .intrinsics import float_of, fma, warp_max, warp_sum, word_of

MIDDLE = np.float32(1.5 * 2.0**23)  # added to a number up to 2^22, leaves it as an integer in the last bits of the sum
WORD = int(MIDDLE.view(np.uint32))
BIAS, BITS = 127, 22  # of an exponent; of an integer
# The exponent of a warp's largest number, but for its last bit: so the one of its inverse is even, and not infinity's.
EXPONENT = np.uint32(0x7F000000)


class Parts(NamedTuple):
    """Sums over lanes, as words."""

    high: int  # of integers
    low: int  # of what is left of them, 2^22 larger
    most: int  # the bits of the largest number


class WarpSums(NamedTuple):
    """The functions; a number is a pair of reals, and not negative: s, and what that is short of, s/2 at most."""

    over_lanes: Callable  # (s, error): the parts of the sum of all lanes
    in_turn: Callable  # (found): the same of an array with a pair for each lane, by one thread
    number_of: Callable  # (parts): the sum, as such a pair
    parts: type = Parts
    word: type = np.uint32  # of each of its fields


def _warp_sums() -> WarpSums:
    least = BITS - 2  # the largest number, whose exponent may be one larger than what is kept of it, is below 2^BITS
    inverse, back = np.uint32((2 * BIAS + least) << 23), np.uint32(least << 23)
    middle, scale, down, lanes = MIDDLE, np.float32(2.0**BITS), np.float32(2.0**-BITS), 32
    of_all, last = np.uint32(lanes * WORD & 0xFFFFFFFF), np.int32(15)

    @device
    def normal(s, error):
        total = s + error
        return total, error - (total - s)

    @device
    def words(total, left, most):
        """A lane's share of high and low, each with the bits of ``middle``."""
        up = float_of(inverse - (most & EXPONENT))
        scaled = total * up
        high = scaled + middle
        rest = fma(left, up, scaled - (high - middle))
        return word_of(high), word_of(fma(rest, scale, middle))

    @device
    def over_lanes(s, error):
        total, left = normal(s, error)
        most = warp_max(word_of(total))
        high, low = words(total, left, most)
        return Parts(warp_sum(high), warp_sum(low), most)

    @device
    def in_turn(found):
        most = np.uint32(0)
        for i in range(lanes):
            most = max(most, word_of(found[2 * i] + found[2 * i + 1]))
        high_sum, low_sum = np.uint32(0), np.uint32(0)
        for i in range(lanes):
            total, left = normal(found[2 * i], found[2 * i + 1])
            high, low = words(total, left, most)
            high_sum, low_sum = np.uint32(high_sum + high), np.uint32(low_sum + low)
        return Parts(high_sum, low_sum, most)

    @device
    def number_of(parts):
        high, low = np.int32(parts.high - of_all), np.int32(parts.low - of_all)
        by = float_of((parts.most & EXPONENT) - back)
        # The last bits of high go with low: what is left has no more than a float32 keeps.
        s, error = np.float32(high & ~last), fma(np.float32(low), down, np.float32(high & last))
        return s * by, error * by

    return WarpSums(over_lanes, in_turn, number_of)


WARP_SUMS = _warp_sums()
