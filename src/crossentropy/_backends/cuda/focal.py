"""The focal factor of a row's loss, f = (1 - p)^gamma, in pairs of reals: what gamma multiplies must be exact.

1 - p may be far below the least number, and f not: so the target's class is left out of a row's sum, what all others
have is known by its logarithm, and a gradient is made of numbers that are powers of two smaller and larger.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .elements import device, elements_of
from .exp import exponential_of
from .intrinsics import fma
from .log import log1p_of
from .pair_sums import PairRowSum, pair_sums_of
from .pairs import pairs_of
from .rows import READ
from .sums import HEADROOM, RowSum, sums_of

LEAST_LOG = -1e6  # of 1 - p: below, f is 0, which a gamma of less than 1e-4 would show


class Others(NamedTuple):
    """Of all classes of a row but its target's: reals, as in `reading.Found`."""

    max: float
    low: float
    rest: float
    error: float
    left: float  # log(1 - p), where p is the softmax of the target's class
    left_low: float


class Focus(NamedTuple):
    """Of a row: reals."""

    factor: float  # f, larger by what `factor_down` undoes, so that it keeps its digits
    factor_low: float
    factor_down: float
    # gamma (1 - p)^(gamma - 1) p 2^-k: f times what a target's weight gains by it, over the row's loss
    slope: float
    slope_low: float
    less: float  # (1 - p) 2^k
    less_low: float
    down: float  # 2^-k; 0 where that has no number


def others_of(kind: str, transforms: bool) -> Callable:
    """The device function (row, m, low, rest, error, z): ((max, low, rest, error) of a whole row, its Others).

    m, low, rest and error are of all classes but the target's, as a sum is when it has been settled; z is the Target.
    """
    real, sums = elements_of(kind).real, (pair_sums_of if transforms else sums_of)(kind)
    merged, settled, difference = sums.merged, sums.settled, sums_of(kind).difference
    log1p, two_sum, zero, up = log1p_of(kind), pairs_of(kind).two_sum, real(0), real(2.0**HEADROOM)
    nothing = real(-np.inf)
    if transforms:

        @device
        def with_target(m, low, rest, error, z):
            return settled(merged(PairRowSum(m, low, rest * up, error * up), PairRowSum(z.z, z.low, zero, zero)))

    else:

        @device
        def with_target(m, low, rest, error, z):
            top, both, lost = settled(merged(RowSum(m, rest * up, error * up), RowSum(z.z, zero, zero)))
            return top, zero, both, lost

    @device
    def others(row, m, low, rest, error, z):
        if row.state != READ or row.y < 0:  # of a part, too, which the target's class is not in
            return (m, low, rest, error), Others(m, low, rest, error, zero, zero)
        if m != m:  # where it is undefined, see sums.settled
            m, low, rest, error = error, zero, zero, zero
        top, top_low, both, lost = with_target(m, low, rest, error, z)
        if m == nothing:
            return (top, top_low, both, lost), Others(top, top_low, zero, zero, nothing, zero)
        distance, off_by = difference(m, top)
        log_others, more = log1p(rest, error)
        log_all, most = log1p(both, lost)
        left, first = two_sum(distance, log_others)
        left, second = two_sum(left, -log_all)
        left_low = (off_by + (low - top_low)) + (more - most) + (first + second)
        return (top, top_low, both, lost), Others(m, low, rest, error, left, left_low)

    return others


def focus_of(kind: str) -> Callable:
    """The device function (a, found, z): the Focus of a row, from what was Found of it and its Target."""
    real, plus, e_to = elements_of(kind).real, sums_of(kind).plus, exponential_of(kind)
    two_sum, times, exp_of = pairs_of(kind).two_sum, pairs_of(kind).times, pairs_of(kind).exp_of
    frame_at, scale_of, nearest, log2e = e_to.frame_at, e_to.scale_of, e_to.nearest, e_to.log2e
    zero, half, one, least, headroom = real(0), real(0.5), real(1), real(LEAST_LOG), real(HEADROOM)
    reach, most = (real(90), real(126)) if real is np.float32 else (real(900), real(1022))

    @device
    def power_of(left, low, gamma, gamma_low, k):
        """(1 - p)^gamma 2^k as a pair, of the logarithm of 1 - p."""
        high, more = times(left, low, gamma, gamma_low)
        magic, lowest = frame_at(k)
        return exp_of(high, more, magic, lowest)

    @device
    def focus(a, found, z):
        left, low = found.others.left, found.others.left_low
        if not left >= least:
            return Focus(zero, zero, one, zero, zero, zero, zero, one)
        k = max(-nearest(left * log2e) - reach, zero)
        up = headroom if left * a.focal < -reach * half else zero
        factor, factor_low = power_of(left, low, a.focal, a.focal_low, up)
        less, less_low = power_of(left, low, one, zero, k)
        gamma, gamma_low = two_sum(a.focal, -one)
        slope, slope_low = power_of(left, low, gamma, gamma_low + a.focal_low, -k)
        slope, slope_low = times(slope, slope_low, a.focal, a.focal_low)
        magic, lowest = frame_at(zero)
        of_all, all_low = plus(one, found.error, found.rest)
        own, own_low = one, zero
        if z.z != found.max or z.low != found.low:
            own, own_low = exp_of(z.z - found.max, z.low - found.low, magic, lowest)
        share = one / of_all
        share_low = (fma(-share, of_all, one) - share * all_low) * share
        own, own_low = times(own, own_low, share, share_low)
        slope, slope_low = times(slope, slope_low, own, own_low)
        down = scale_of(max(-k, -most)) if k <= most else zero
        return Focus(factor, factor_low, scale_of(-up), slope, slope_low, less, less_low, down)

    return focus
