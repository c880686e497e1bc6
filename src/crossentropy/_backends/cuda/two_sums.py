"""As sums.py, of logits of 16 bits, of which a word has two: the largest of each half, two logits an operation."""

import functools
import math
from typing import NamedTuple

import numpy as np

from .elements import device, elements_of
from .exp import exponential_of
from .intrinsics import fma, larger, smaller
from .sums import FAR, HEADROOM, LaneEnd, Sums, sum_of_terms_by, sums_of


class TwoLaneSum(NamedTuple):
    """Of the classes that a lane has seen so far: reals, but for two words with a number for each half of words."""

    max: int
    sum: float  # with error: of e^(z - offset) 2^k, over all of the classes but one at each half's max
    error: float
    limit: float  # a class beyond it needs another anchor
    offset: float  # the anchor
    k: float
    magic: float  # of e^y 2^k, as exp.py says
    lowest: float
    floor: int  # where the offset is 0: that as a number of 16 bits


@functools.cache
def two_sums_of(kind: str) -> Sums:
    """Those of the dtype of that name; ``added`` is (words, at, n, v, lane), of words[at : at + n] by way of v."""
    elements, e_to, of_one = elements_of(kind), exponential_of(kind), sums_of(kind)
    real, halves, two = elements.real, elements.halves, elements.two
    larger_two, smaller_two = elements.larger_two, elements.smaller_two
    ln2, log2e, frame_at, nearest = e_to.ln2, e_to.log2e, e_to.frame_at, e_to.nearest
    exp_inside, exp_term, scale_of = e_to.exp_inside, e_to.exp_term, e_to.scale_of
    plus, onto, sum_of_terms = (
        of_one.plus,
        of_one.onto,
        sum_of_terms_by(device(lambda y, magic, lowest: exp_inside(y, magic))),
    )
    zero, far = real(0), real(FAR[kind])
    headroom, room, bias, most = real(HEADROOM), real(20 * math.log(2)), real(127), real(np.inf)
    least, deep = np.uint32(elements.absent[0]), real(-126)

    @device
    def anchored(m):
        """(offset, k, floor): as `sums.Sums.anchored`, and where e^(z - offset) 2^k is 0, a number of 16 bits.

        It is -127 by its nearest integer of powers of two, for which k makes room.
        """
        size = abs(m)
        offset = m if size >= far and size < most else zero
        k = headroom - nearest((m - offset) * log2e) if size < most else headroom
        edge = -(bias + k) * ln2
        floor = two(edge, edge)
        return offset, -bias - nearest(halves(floor)[0] * log2e) if offset == zero else k, floor

    @device
    def highest(words, at, n, tops):
        for i in range(n):
            tops = larger_two(tops, words[at + i])
        return tops

    @device
    def begun(tops):
        """The TwoLaneSum of no class, whose anchor is that of a lane with these maxima."""
        low, high = halves(tops)
        top = larger(low, high)
        offset, k, floor = anchored(top)
        magic, lowest = frame_at(k)
        return TwoLaneSum(least, zero, zero, top + room, offset, k, magic, lowest, floor)

    @device
    def summed(words, at, n, v, lane):
        """The TwoLaneSum with 2n classes more, none beyond its limit."""
        tops, s, error, limit, offset, k, magic, lowest, floor = lane
        if offset == zero:
            for i in range(n):
                word = words[at + i]
                v[2 * i], v[2 * i + 1] = halves(larger_two(smaller_two(tops, word), floor))
                tops = larger_two(tops, word)
        else:
            for i in range(n):
                word = words[at + i]
                low, high = halves(smaller_two(tops, word))
                v[2 * i], v[2 * i + 1] = larger(low - offset, lowest), larger(high - offset, lowest)
                tops = larger_two(tops, word)
        sum_of_terms(v, 2 * n, magic, lowest)
        s, error = onto(s, error, v[0])
        return TwoLaneSum(tops, s, error + v[1], limit, offset, k, magic, lowest, floor)

    @device
    def added(words, at, n, v, lane):
        tops = highest(words, at, n, lane.max)
        low, high = halves(tops)
        top = larger(low, high)
        if top > lane.limit:
            moved = begun(tops)
            # Between anchors that are 0 by a power of two, and elsewhere nothing that counts is left.
            by = scale_of(max(moved.k - lane.k, deep)) if moved.offset == lane.offset else zero
            lane = TwoLaneSum(
                lane.max, lane.sum * by, lane.error * by, moved.limit, moved.offset, moved.k, moved.magic,
                moved.lowest, moved.floor,
            )  # fmt: skip
        return summed(words, at, n, v, lane)

    @device
    def ended(lane):
        low, high = halves(lane.max)
        m, other = larger(low, high), smaller(low, high)
        scale, more = exp_term(other - lane.offset, lane.magic, lane.lowest)
        s, error = plus(lane.sum, fma(scale, more, lane.error), scale)
        return LaneEnd(m, s, error, lane.offset, lane.k)

    return of_one._replace(begun=begun, added=added, ended=ended, highest=highest, summed=summed, least=least)
