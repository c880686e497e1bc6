"""A row's maximum and the sum of its exponentials: of one lane's classes, of two parts as one, of the whole row.

As in kernels/ and in Numba on the CPU, a row is (max, rest): its maximum m, and the sum of e^(z - m) over all classes
but one at the maximum. What is added up is float32 (float64 for float64) and 2^HEADROOM larger, so that a sum of terms
below 2^-126 keeps its digits.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .elements import device, elements_of
from .exp import exponential_of
from .intrinsics import fma, larger, smaller

HEADROOM = 60
# From here on neighbours of 16 bits are so far apart that only those at the maximum count, and the anchor is one.
FAR = {"bfloat16": 2.0**15, "float16": math.inf}
LEADS_BELOW = 1 - 2.0**-20  # a row's rest, where one class leads: that of two classes at the maximum is 1 when rounded


class RowSum(NamedTuple):
    """Of classes of a row: reals. Until `settled`, rest and its error are 2^HEADROOM larger."""

    max: float
    rest: float  # sum of e^(z - max) over all of the classes but one at the maximum
    error: float  # what rest has lost to rounding: rest + error is nearer


class LaneEnd(NamedTuple):
    """Of all classes of a lane: reals."""

    max: float
    sum: float  # with error: of e^(z - offset) 2^k, over all of the classes but one at the maximum
    error: float
    offset: float
    k: float


class LaneSum(NamedTuple):
    """Of the classes that a lane has seen so far: reals."""

    max: float
    sum: float  # with error: of e^(z - offset) 2^k, over all of the classes but one at max
    error: float
    limit: float  # a class beyond it needs another anchor
    offset: float  # the anchor
    k: float
    magic: float  # of e^y 2^k, as exp.py says
    lowest: float


class Sums(NamedTuple):
    """The functions of a dtype."""

    begun: Callable  # (): the LaneSum of no class
    added: Callable  # (v, n, lane): the LaneSum with v[0 : n] as well
    ended: Callable  # (lane): the LaneEnd of what a lane has seen
    merged: Callable  # (part, other): the RowSum of both
    # (part, top, first): (sum, error) of e^(z - top), 2^HEADROOM larger; ``first``: without one at top. Of a RowSum:
    moved: Callable
    lane_moved: Callable  # and of a LaneEnd
    lane_anchored: Callable  # the same at the anchor of a row with that maximum, where many lanes are added up first
    to_top: Callable  # (top, sum, error): of such sums, that of e^(z - top), 2^HEADROOM larger
    settled: Callable  # (row): the RowSum of a whole row, as itself in place of 2^HEADROOM larger
    anchored: Callable  # (m): where exponentials of a row of that maximum are anchored
    larger: Callable  # (a, b): NaN where either is
    plus: Callable  # (total, error, term): a sum, its rounding error, and another term
    difference: Callable  # (a, b): a - b and its rounding error
    onto: Callable | None = None  # as ``plus``, of a sum and a term that is smaller
    # Of dtypes of 16 bits:
    highest: Callable | None = None  # (words, at, n, tops): the largest of n words
    summed: Callable | None = None  # (words, at, n, v, lane): as ``added``, where no class needs another anchor
    least: int = 0  # the word of no class


@device
def added_up(v, n):
    """v[0] and v[1] become the sums of v[0 : n : 2] and of v[1 : n : 2], n a power of 2 up to 32."""
    for i in range(n // 4):
        v[4 * i] += v[4 * i + 2]
        v[4 * i + 1] += v[4 * i + 3]
    for i in range(n // 8):
        v[8 * i] += v[8 * i + 4]
        v[8 * i + 1] += v[8 * i + 5]
    for i in range(n // 16):
        v[16 * i] += v[16 * i + 8]
        v[16 * i + 1] += v[16 * i + 9]
    for i in range(n // 32):
        v[32 * i] += v[32 * i + 16]
        v[32 * i + 1] += v[32 * i + 17]


def sum_of_terms_by(term):
    """The device function (v, n, magic, lowest): v[0] and v[1] become the sum of term(v[i], magic, lowest), i < n.

    v[0] is that of the powers of two, v[1] of the rest; n is a power of 2 from 2 to 32. The rest of four is added one
    after another: equal ones lose nothing by that, as they would from eight on.
    """

    @device
    def sum_of_terms(v, n, magic, lowest):
        for i in range(n // 4):
            total, of_it = term(v[4 * i], magic, lowest)
            rest = total * of_it
            scale, of_it = term(v[4 * i + 1], magic, lowest)
            total, rest = total + scale, fma(scale, of_it, rest)
            scale, of_it = term(v[4 * i + 2], magic, lowest)
            rest = fma(scale, of_it, rest)
            last, of_it = term(v[4 * i + 3], magic, lowest)
            v[2 * i], v[2 * i + 1] = total + (scale + last), fma(last, of_it, rest)
        if n == 2:
            a, of_a = term(v[0], magic, lowest)
            b, of_b = term(v[1], magic, lowest)
            v[0], v[1] = a + b, fma(a, of_a, b * of_b)
        added_up(v, n // 2)

    return sum_of_terms


@functools.cache
def sums_of(kind: str) -> Sums:
    """Those of the dtype of that name."""
    real, e_to = elements_of(kind).real, exponential_of(kind)
    log2e, frame_at, exp_at, exp_pair, nearest = e_to.log2e, e_to.frame_at, e_to.exp_at, e_to.exp_pair, e_to.nearest
    exp_term, exp_parts, excess, exponent_of = e_to.exp_term, e_to.exp_parts, e_to.excess, elements_of(kind).exponent_of
    zero, lowest_number, nan = real(0), real(-np.inf), real(np.nan)
    headroom, down = real(HEADROOM), real(2.0**-HEADROOM)
    # Twice the distance at which e^z is lost beside e^m; and 2^20, by which a sum may pass its anchor.
    far, room = real(256 if real is np.float32 else 2048), real(20 * math.log(2))
    far_of_lanes, scale_of, bias = real(FAR.get(kind, far)), e_to.scale_of, real(127 if real is np.float32 else 1023)
    sum_of_terms = sum_of_terms_by(exp_term)

    @device
    def difference(a, b):
        """(a - b, its rounding error; 0 where that is undefined)."""
        d = a - b
        back = d - a
        error = (a - (d - back)) - (b + back)
        return d, error if error == error else zero

    @device
    def plus(total, error, term):
        """(total + term, error with what that has lost to rounding)."""
        new = total + term
        kept = new - total
        return new, error + ((total - (new - kept)) + (term - kept))

    @device
    def onto(total, error, term):
        """As `plus`, of a term that is hardly ever the larger: then an ulp of it is lost, once for each such term."""
        new = total + term
        return new, error + (term - (new - total))

    @device
    def merged(part, other):
        """Two RowSums as one; the same either way round, to the bit."""
        (m, rest, error), (n, other_rest, other_error) = part, other
        top, low = larger(m, n), smaller(m, n)
        magic, lowest = frame_at(headroom)
        distance, off_by = difference(low, zero if top == lowest_number else top)
        e, more = exp_pair(distance, magic, lowest)
        more = fma(e, off_by, more)
        first = m > n or (m == n and rest >= other_rest)
        kept, error, lost, lost_error = (
            (rest, error, other_rest * down, other_error * down)
            if first
            else (other_rest, other_error, rest * down, error * down)
        )
        product = e * lost
        error += fma(e, lost, -product) + fma(e, lost_error, fma(more, lost, more))
        kept, error = plus(kept, error, e)
        kept, error = plus(kept, error, product)
        return RowSum(top, kept, error)

    @device
    def moved(part, top, first):
        """(sum, error), 2^HEADROOM larger: of e^(z - top) over a RowSum's classes, but one where it is ``first``."""
        m, rest, error = part
        magic, lowest = frame_at(headroom)
        distance, off_by = difference(m, zero if top == lowest_number else top)
        e, more = exp_pair(distance, magic, lowest)
        more = fma(e, off_by, more)
        rest, error = rest * down, error * down
        product = e * rest
        error = fma(e, rest, -product) + fma(e, error, more * rest)
        own, own_error = (zero, zero) if first else (e, more)
        total, lost = plus(product, error, own)
        return total, lost + own_error

    @device
    def lane_ended(lane, first):
        """(sum, error) of e^(z - offset) 2^(k - HEADROOM) over a LaneEnd's classes, but one where it is ``first``.

        The error may be as large as half of the sum.
        """
        m, s, error, offset, k = lane
        # What `exp_term` is off by: nearly the same of all terms that count, which are 2^3 or so below their sum.
        error = fma(s + error, excess * (real(exponent_of(s) - np.int32(3)) - k), error)
        magic, lowest = frame_at(k)
        scale, more = exp_parts(m - offset, magic, lowest)
        own, own_error = (zero, zero) if first else (scale, scale * more)
        s, error = plus(s, error + own_error, own)
        return s * down, error * down

    @device
    def times_exp(s, error, y, k):
        """A sum and its error, times e^y 2^k."""
        magic, lowest = frame_at(k)
        e, more = exp_pair(y, magic, lowest)
        product = s * e
        return product, fma(s, e, -product) + fma(error, e, fma(s, more, error * more))

    @device
    def lane_moved(lane, top, first):
        s, error = lane_ended(lane, first)
        distance = lane.offset - (zero if top == lowest_number else top)
        return times_exp(s, error, distance, headroom + headroom - lane.k)

    @device
    def lane_anchored(lane, top, first):
        """Where both anchors are 0 that is a power of two, and what is left of e^(0 - top) the same of all lanes."""
        s, error = lane_ended(lane, first)
        offset, k = row_anchor(top)
        up = headroom + k - lane.k
        if lane.offset == offset:
            by = scale_of(min(max(up, -bias), bias))  # beyond that are lanes that have no class
            return s * by, error * by
        return times_exp(s, error, lane.offset - offset, up)

    @device
    def to_top(top, s, error):
        offset, k = row_anchor(top)
        return times_exp(s, error, offset - (zero if top == lowest_number else top), headroom - k)

    @device
    def anchored(m):
        """(offset, k): e^(z - offset) 2^k is about 2^HEADROOM for z = m, and z - offset exact for any z that counts.

        The offset is 0 where it can be, because z - m is rounded: that would cost e^(z - m) 16 ulp at a distance of
        20. From ``far`` on it is m, because e^z cannot be reduced as it is.
        """
        offset = m if abs(m) >= far else zero
        return offset, headroom - nearest((m - offset) * log2e)

    @device
    def row_anchor(top):
        """(offset, k): where lanes of a row with that maximum are added up."""
        m = zero if top == lowest_number else top
        offset = m if abs(m) >= far_of_lanes else zero
        return offset, headroom - nearest((m - offset) * log2e)

    @device
    def begun():
        """The LaneSum of a lane before its first class."""
        magic, lowest = frame_at(headroom)
        return LaneSum(lowest_number, zero, zero, lowest_number, zero, headroom, magic, lowest)

    @device
    def added(v, n, lane):
        """Folds v[0 : n] into a lane's sum, n a power of 2. Overwrites v: the largest makes way for smaller ones.

        The group's sum is taken by itself, and the lane's carries its rounding error from group to group: a lane that
        adds 512 equal terms one by one is off by 126 ulp. A group adds neighbours first, and powers of two by
        themselves, which loses next to nothing: so an ulp is that of the rest, which is less than half as large.
        """
        top, s, error, limit, offset, k, magic, lowest = lane
        for i in range(n):
            z = v[i]
            v[i] = smaller(top, z)
            top = larger(top, z)
        # The lane's first group always takes this branch; a later one does only where it passes the anchor by more
        # than the sum's range allows.
        if top > limit:
            old_offset, old_k = offset, k
            offset, k = anchored(top)
            limit = top + room
            move, bottom = frame_at(k - old_k + headroom)
            by = exp_at(old_offset - offset, move, bottom)
            s, error = (zero, zero) if s == zero else (s * down * by, error * down * by)
            magic, lowest = frame_at(k)
        if offset != zero:
            for i in range(n):
                v[i] -= offset
        sum_of_terms(v, n, magic, lowest)
        s, error = onto(s, error, v[0])
        return LaneSum(top, s, error + v[1], limit, offset, k, magic, lowest)

    @device
    def ended(lane):
        """The LaneEnd of what a lane has seen."""
        return LaneEnd(lane.max, lane.sum, lane.error, lane.offset, lane.k)

    @device
    def settled(row):
        """The RowSum of a whole row as itself, no longer 2^HEADROOM larger.

        Where it is undefined all is NaN but the error, which is its maximum: +inf, -inf or NaN, and so its logsumexp.
        """
        m, rest, error = row
        total = rest + error  # error may be many ulp of rest, because the distance of two maxima is rounded, too
        error -= total - rest
        return RowSum(m, total * down, error * down) if m - m == zero else RowSum(nan, nan, m)

    return Sums(
        begun, added, ended, merged, moved, lane_moved, lane_anchored, to_top, settled, anchored, larger, plus,
        difference, onto,
    )  # fmt: skip
