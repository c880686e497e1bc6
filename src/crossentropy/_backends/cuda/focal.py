"""The focal factor of a row's loss, f = (1 - p)^gamma, in pairs of reals: what gamma multiplies must be exact."""

from collections.abc import Callable
from typing import NamedTuple

from .elements import device, elements_of
from .exp import exponential_of
from .intrinsics import fma
from .log import log1p_of, log_of
from .pairs import pairs_of
from .sums import sums_of


class Focus(NamedTuple):
    """Of a row: reals."""

    factor: float  # f
    factor_low: float
    slope: float  # gamma (1 - p)^(gamma - 1) p: f times what a target's weight gains by it, over the row's loss
    slope_low: float


def focus_of(kind: str) -> Callable:
    """The device function (a, found, z): the Focus of a row, from what was Found of it and its Target.

    1 - p is what the other classes have of the sum over all: log f is gamma (log others - log all).
    """
    real, log, log1p, plus = elements_of(kind).real, log_of(kind), log1p_of(kind), sums_of(kind).plus
    two_sum, times, exp_of = pairs_of(kind).two_sum, pairs_of(kind).times, pairs_of(kind).exp_of
    frame_at = exponential_of(kind).frame_at
    zero, one = real(0), real(1)

    @device
    def power_of(log_left, low, gamma, gamma_low):
        """(1 - p)^gamma as a pair."""
        high, more = times(log_left, low, gamma, gamma_low)
        magic, lowest = frame_at(zero)
        return exp_of(high, more, magic, lowest)

    @device
    def focus(a, found, z):
        magic, lowest = frame_at(zero)
        of_all, all_low = plus(one, found.error, found.rest)
        others, low, own, own_low = found.rest, found.error, one, zero
        if z.z != found.max or z.low != found.low:
            own, own_low = exp_of(z.z - found.max, z.low - found.low, magic, lowest)
            others, low = two_sum(of_all, -own)
            low += all_low - own_low
            others, low = two_sum(others, low)
        if others <= zero:
            return Focus(zero, zero, zero, zero)
        high, more = log(others, low)
        log_all, all_more = log1p(found.rest, found.error)
        high, left = two_sum(high, -log_all)
        left += more - all_more
        factor, factor_low = power_of(high, left, a.focal, a.focal_low)
        less, less_low = two_sum(a.focal, -one)
        slope, slope_low = power_of(high, left, less, less_low + a.focal_low)
        slope, slope_low = times(slope, slope_low, a.focal, a.focal_low)
        share = one / of_all
        share_low = (fma(-share, of_all, one) - share * all_low) * share
        own, own_low = times(own, own_low, share, share_low)
        slope, slope_low = times(slope, slope_low, own, own_low)
        return Focus(factor, factor_low, slope, slope_low)

    return focus
