"""As sums.py, of logits that are pairs of reals: a row's maximum is one of them."""

import functools
import math
from typing import NamedTuple

import numpy as np

from .elements import device, elements_of
from .exp import exponential_of
from .intrinsics import fma, larger, smaller
from .pairs import pairs_of
from .sums import HEADROOM, Sums, added_up, sums_of


class PairRowSum(NamedTuple):
    """As `sums.RowSum`; the maximum is max + low."""

    max: float
    low: float
    rest: float
    error: float


class PairLaneSum(NamedTuple):
    """As `sums.LaneSum`."""

    max: float
    max_low: float
    second: float
    second_low: float
    sum: float
    error: float
    limit: float
    offset: float
    k: float
    magic: float
    lowest: float


@functools.cache
def pair_sums_of(kind: str) -> Sums:
    """Those of the dtype of that name; ``added`` is (v, low, n, lane), and overwrites both arrays."""
    real, e_to, one_number = elements_of(kind).real, exponential_of(kind), sums_of(kind)
    frame_at, exp_at, anchored = e_to.frame_at, e_to.exp_at, one_number.anchored
    difference, plus = one_number.difference, one_number.plus
    exp_of, parts_of = pairs_of(kind).exp_of, pairs_of(kind).parts_of
    zero, lowest_number, nan = real(0), real(-np.inf), real(np.nan)
    headroom, down, room = real(HEADROOM), real(2.0**-HEADROOM), real(20 * math.log(2))

    @device
    def distance_of(z, low, m, m_low):
        """z - m of pairs, as a pair; m may be -inf."""
        distance, off_by = difference(z, zero if m == lowest_number else m)
        return distance, off_by + (low - m_low)

    @device
    def merged(part, other):
        (m, m_low, rest, error), (n, n_low, other_rest, other_error) = part, other
        top, below = larger(m, n), smaller(m, n)
        first = m > n or (m == n and (m_low > n_low or (m_low == n_low and rest >= other_rest)))
        top_low, below_low = (m_low, n_low) if first else (n_low, m_low)
        magic, lowest = frame_at(headroom)
        distance, off_by = distance_of(below, below_low, top, top_low)
        e, more = exp_of(distance, off_by, magic, lowest)
        kept, error, lost, lost_error = (
            (rest, error, other_rest * down, other_error * down)
            if first
            else (other_rest, other_error, rest * down, error * down)
        )
        product = e * lost
        error += fma(e, lost, -product) + fma(e, lost_error, fma(more, lost, more))
        kept, error = plus(kept, error, e)
        kept, error = plus(kept, error, product)
        return PairRowSum(top, top_low, kept, error)

    @device
    def begun():
        magic, lowest = frame_at(headroom)
        nothing = lowest_number
        return PairLaneSum(nothing, zero, nothing, zero, zero, zero, nothing, zero, headroom, magic, lowest)

    @device
    def added(v, low, n, lane):
        """Of logits with the same ``high`` the first is taken to be the larger: it is one of the largest, in fact."""
        top, top_low, second, second_low, s, error, limit, offset, k, magic, lowest = lane
        for i in range(n):
            z, short = v[i], low[i]
            leads = z > top
            below, below_low = smaller(top, z), top_low if leads else short
            top, top_low = larger(top, z), short if leads else top_low
            follows = below > second
            v[i], low[i] = smaller(second, below), second_low if follows else below_low
            second, second_low = larger(second, below), below_low if follows else second_low
        if top > limit:
            old_offset, old_k = offset, k
            offset, k = anchored(top)
            limit = top + room
            move, bottom = frame_at(k - old_k + headroom)
            by = exp_at(old_offset - offset, move, bottom)
            s, error = (zero, zero) if s == zero else (s * down * by, error * down * by)
            magic, lowest = frame_at(k)
        for i in range(n // 2):
            scale, more = parts_of(v[2 * i] - offset, low[2 * i], magic, lowest)
            other, other_more = parts_of(v[2 * i + 1] - offset, low[2 * i + 1], magic, lowest)
            v[2 * i], v[2 * i + 1] = scale + other, fma(scale, more, other * other_more)
        added_up(v, n)
        s, error = plus(s, error, v[0])
        s, error = plus(s, error, v[1])
        return PairLaneSum(top, top_low, second, second_low, s, error, limit, offset, k, magic, lowest)

    @device
    def ended(lane):
        magic, lowest = frame_at(headroom - lane.k)
        e, more = exp_of(lane.offset - lane.max, -lane.max_low, magic, lowest)
        s, rest = lane.sum, lane.sum * e
        error = fma(s, e, -rest) + fma(s, more, lane.error * e)
        rest, error = (zero, zero) if s == zero else (rest, error)
        distance, off_by = distance_of(lane.second, lane.second_low, lane.max, lane.max_low)
        magic, lowest = frame_at(headroom)
        e, more = exp_of(distance, off_by, magic, lowest)
        rest, error = plus(rest, error + more, e)
        return PairRowSum(lane.max, lane.max_low, rest, error)

    @device
    def settled(row):
        m, low, rest, error = row
        total = rest + error
        error -= total - rest
        if m - m == zero:
            return PairRowSum(m, low, total * down, error * down)
        return PairRowSum(nan, zero, nan, m)

    return Sums(
        begun=begun,
        added=added,
        ended=ended,
        merged=merged,
        moved=None,
        lane_moved=None,
        lane_anchored=None,
        to_top=None,
        settled=settled,
        anchored=anchored,
        larger=None,
        plus=plus,
        difference=difference,
    )
