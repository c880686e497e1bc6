"""The second third of a kernel: the numbers of a row, from what was found of it; its loss and its factors."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .elements import device, elements_of
from .exp import exponential_of
from .focal import Focus, focus_of
from .intrinsics import exp2, fma, load, near_reciprocal
from .log import log1p_of
from .logits import logits_of
from .pairs import pairs_of
from .rows import READ, SKIPPED
from .sums import HEADROOM, LEADS_BELOW, sums_of


class RowNumbers(NamedTuple):
    """Of a row: reals."""

    own: float  # keep w_y: the weight that the target's class has to itself
    floor_y: float  # floor w_y: what that class has of the weight that all have alike
    log_sum: float  # log(1 + rest)
    lse: float  # the logsumexp: max + log_sum, without the low part of a max that is a pair
    lse_error: float  # what that has lost to rounding
    data: float  # D = sum_c t_c (lse - z_c)
    data_low: float  # what that has lost to rounding, where it has a factor
    focus: Focus  # of D


class Frame(NamedTuple):
    """What makes a row's logits into results: reals."""

    max: float
    lse: float
    lse_error: float
    offset: float  # e^(z - offset) 2^k, at the anchor (magic, lowest) of exp.py, times of_e is factor e^(z - max);
    magic: float  # for 16 bits these two are a slope and a shift: 2^(offset z + magic) times of_e is that
    lowest: float
    of_e: float
    row_factor: float  # of the gradient
    at_target: float  # the gradient on the target's logit; of a log-softmax's backward, see `_factors`


class Numbers(NamedTuple):
    """The functions of a kernel."""

    numbers_of: (
        Callable  # (a, row, smoothing, found, z_y, whole): the RowNumbers of a Row, what was Found of it and its Target
    )
    loss_of: Callable  # (a, row, found, numbers): the loss, or the logsumexp
    frame_of: Callable  # (a, row, found, numbers, z_y): the Frame


def numbers_of(kind: str, result, times) -> Numbers:
    """Those of the kernel of a dtype and a result; ``times`` is `weights.Weights.times`."""
    elements, difference, plus, log1p = elements_of(kind), sums_of(kind).difference, sums_of(kind).plus, log1p_of(kind)
    real, real_size, spreads = elements.real, elements.real_size, result.spreads
    zero, one, nan = real(0), real(1), real(np.nan)
    gradient_frame = _gradient_frame(kind, result.transforms, is_raised(kind, result))
    factors = _factors(kind, result, times)
    if result.transforms:
        with_low = device(lambda error, found, z_y: error + (found.low - z_y.low))
    else:
        with_low = device(lambda error, found, z_y: error)
    focus, whole_lse = _focus(kind, result), _whole_lse(kind, result)
    if result.focal and result.writes == "gradient":  # what all others have may be far below the maximum
        anchor_of = device(lambda found: (found.others.max, found.others.low))
    else:
        anchor_of = device(lambda found: (found.max, found.low))
    if result.focal:
        two_sum, pair_times = pairs_of(kind).two_sum, pairs_of(kind).times

        @device
        def focused(numbers):
            f, data = numbers.focus, numbers.data
            high, low = pair_times(f.factor, f.factor_low, data, numbers.data_low)
            whole = high + low if low - low == zero else high
            return whole * f.factor_down if f.factor != zero else zero

        @device
        def data_of(own, d, error, found, log_sum):
            """D as a pair: gamma multiplies it."""
            d, error = two_sum(d, error)
            high, low = pair_times(own, zero, d, error)
            high, more = two_sum(high if own != zero else zero, found.distance)
            total, most = two_sum(high, times(found.mass, log_sum))
            low = (low if own != zero else zero) + (more + most)
            return total, low if low - low == zero else zero

    else:
        focused = device(lambda numbers: numbers.data)

        @device
        def data_of(own, d, error, found, log_sum):
            from_target = d + error  # the loss of a class, rounded once
            return times(own, from_target) + found.distance + times(found.mass, log_sum), zero

    @device
    def numbers_of(a, row, smoothing, found, z_y, whole):
        """Not ``whole``: without what only the loss is made of, which is 0."""
        own, floor_y = zero, zero
        if a.targets != 0 and row.state == READ:
            w_y = load(a.class_weight + row.y * real_size, real) if a.class_weight != 0 else one
            own, floor_y = smoothing.keep * w_y, times(smoothing.floor, w_y)
        if not whole:
            return RowNumbers(own, floor_y, zero, zero, zero, zero, zero, focus(a, row, found, z_y))
        log_sum, log_error = log1p(found.rest, found.error)
        lse, error = plus(found.max, log_error, log_sum)
        rounded = lse + error
        lse_error = error - (rounded - lse)
        d, error = difference(rounded, z_y.z)
        error = lse_error + with_low(error, found, z_y)
        data, data_low = data_of(own, d, error, found, log_sum)
        return RowNumbers(own, floor_y, log_sum, rounded, lse_error, data, data_low, focus(a, row, found, z_y))

    @device
    def loss_of(a, row, found, numbers):
        value = nan
        if row.state == SKIPPED:
            value = zero
        elif row.state == READ and a.targets == 0 and not spreads:
            value = numbers.lse if found.max == found.max else found.error  # see sums.settled
        elif row.state == READ and found.max == found.max:
            lse, value = whole_lse(found, numbers), focused(numbers)
            value = row.sample_weight * (value + times(a.z_loss, lse * lse))
        return value

    @device
    def frame_of(a, row, found, numbers, z_y):
        factor, error, row_factor, at_target = factors(a, row, found, numbers, z_y)
        m, low = anchor_of(found)
        offset, magic, lowest, of_e = gradient_frame(factor, error, m, low)
        return Frame(found.max, numbers.lse, numbers.lse_error, offset, magic, lowest, of_e, row_factor, at_target)

    return Numbers(numbers_of, loss_of, frame_of)


def is_raised(kind, result) -> bool:
    """Whether what is written are exponentials by `Exponential.exp_gradient`, times a row's factor."""
    plainly = not (result.spreads or result.transforms or result.focal)
    return kind == "float32" and result.writes == "gradient" and plainly


def _factors(kind, result, times):
    """The device function (a, row, found, numbers, z_y): (factor, error, row_factor, at_target).

    The factor is that of e^(z - max), and the error what it has lost to rounding.
    """
    elements, gradient = elements_of(kind), logits_of(kind, result.transforms).gradient
    target_gradient, whole_lse = _target_gradient(kind, result), _whole_lse(kind, result)
    real = elements.real
    zero, one, two = real(0), real(1), real(2)
    few, focal_loss = result.transforms or result.focal, result.focal
    share_of, pair_times = _share(kind, few), pairs_of(kind).times
    if result.writes == "gradient":
        weighed, row_factor_of, exactly = (
            _weighed(kind, result, times),
            _row_factor(kind, result),
            _exactly(kind, result),
        )

        @device
        def factors(a, row, found, numbers, z_y):
            (row_factor, row_low), at_target = row_factor_of(a, row), zero
            z_term = times(two * a.z_loss, whole_lse(found, numbers))
            own, mass, floor_y = weighed(found, numbers)
            if focal_loss:  # the share of the largest of the other classes, as much larger as the total is smaller
                down, of_others = numbers.focus.down, found.others
                total, total_low = exactly(own, mass * down, z_term * down)
                share, share_error = share_of(of_others.rest, of_others.error)
                share, share_error = pair_times(numbers.focus.less, numbers.focus.less_low, share, share_error)
            else:
                down = one
                total, total_low = exactly(own, mass, z_term)
                share, share_error = share_of(found.rest, found.error if few else zero)
            weight = row_factor * total
            factor = weight * share
            error = fma(weight, share, -factor) + fma(weight, share_error, fma(row_factor, total, -weight) * share)
            if few:
                error += fma(row_low, total, row_factor * total_low) * share
            error = error if error - error == zero else zero
            if a.targets != 0:
                others, weight = (mass - floor_y) + z_term, own + floor_y * down
                on_target = target_gradient(found, numbers, z_y, total, others, weight)
                value = fma(row_factor, on_target, row_low * on_target) if few else row_factor * on_target
                if focal_loss and own == np.inf:  # own (p - 1)
                    value = times(row_factor, -own)
                at_target = gradient(a, value, z_y.given)
            if focal_loss:  # f itself may have few digits
                row_factor = row_factor * numbers.focus.factor * numbers.focus.factor_down
            return factor, error, row_factor, at_target

    elif result.is_backward:
        plus, most = sums_of(kind).plus, real(LEADS_BELOW)

        @device
        def factors(a, row, found, numbers, z_y):
            """With row_factor 1 at_target is subtracted at the maximum, with 0 it is what the leader gets."""
            whole, error = plus(found.mass, found.error, found.distance)
            share = (whole + error) / (one + found.rest)
            if not found.rest < most:
                return share, zero, one, share
            others = found.mass + found.error
            return share, zero, zero, (times(found.rest, found.distance) - others) / (one + found.rest)

    else:

        @device
        def factors(a, row, found, numbers, z_y):
            share, error = share_of(found.rest, zero)
            return share, error, one, zero

    return factors


def _row_factor(kind, result):
    """The device function (a, row): what a row's gradient is multiplied by, and what that has lost: 0 but for few."""
    real = elements_of(kind).real
    zero = real(0)
    if not (result.transforms or result.focal):

        @device
        def row_factor_of(a, row):
            factor = a.scale * row.sample_weight / row.divisor
            if a.row_scale != 0:
                factor *= load(a.row_scale + row.number * a.row_scale_step, real)
            return factor, zero

        return row_factor_of

    @device
    def row_factor_as_pair(a, row):
        scale = a.scale * row.sample_weight
        low = fma(a.scale, row.sample_weight, -scale)
        factor = scale / row.divisor
        low = (fma(-factor, row.divisor, scale) + low) / row.divisor
        if a.row_scale != 0:
            g, before = load(a.row_scale + row.number * a.row_scale_step, real), factor
            factor *= g
            low = fma(before, g, -factor) + low * g
        return factor, low if low - low == zero else zero

    return row_factor_as_pair


def _exactly(kind, result):
    """The device function (own, mass, z_term): their sum, and what that has lost: 0 but for few."""
    two_sum, zero = pairs_of(kind).two_sum, elements_of(kind).real(0)
    if not (result.transforms or result.focal):
        return device(lambda own, mass, z_term: (own + mass + z_term, zero))

    @device
    def exactly(own, mass, z_term):
        total, low = two_sum(own, mass)
        total, more = two_sum(total, z_term)
        return total, low + more

    return exactly


def _focus(kind, result):
    """The device function (a, row, found, z_y): the Focus, whose factor is 1 where the loss is not focal."""
    zero, one = elements_of(kind).real(0), elements_of(kind).real(1)
    if not result.focal:
        return device(lambda a, row, found, z_y: Focus(one, zero, one, zero, zero, zero, zero, one))
    focus_at = focus_of(kind)

    @device
    def focus(a, row, found, z_y):
        if row.state == READ and found.max == found.max:
            return focus_at(a, found, z_y)
        return Focus(one, zero, one, zero, zero, zero, zero, one)

    return focus


def _weighed(kind, result, times):
    """The device function (found, numbers): (own, mass, floor_y), times f, and own with f's own slope.

    Own is as much smaller as `focal.Focus` says of the slope.
    """
    if not result.focal:
        return device(lambda found, numbers: (numbers.own, found.mass, numbers.floor_y))
    pair_times, two_sum, zero = pairs_of(kind).times, pairs_of(kind).two_sum, elements_of(kind).real(0)

    @device
    def weighed(found, numbers):
        by, slope = numbers.focus.factor_down, numbers.focus.slope
        f, f_low = numbers.focus.factor * by, numbers.focus.factor_low * by
        own, low = pair_times(f, f_low, numbers.own, zero)
        own, low = own * numbers.focus.down, low * numbers.focus.down
        if slope != zero:
            gained, more = pair_times(slope, numbers.focus.slope_low, numbers.data, numbers.data_low)
            own, lost = two_sum(own, gained)
            low += more + lost
        own += low if low - low == zero else zero
        return own, fma(f, found.mass, f_low * found.mass), times(f, numbers.floor_y)

    return weighed


def _whole_lse(kind, result):
    """The device function (found, numbers): the logsumexp, rounded."""
    if not result.transforms:
        return device(lambda found, numbers: numbers.lse)
    return device(lambda found, numbers: numbers.lse + (found.low + numbers.lse_error))


@functools.cache
def _share(kind, few):
    """The device function (rest, low): 1 / (1 + rest + low), the softmax of the maximum, and what that has lost."""
    plus, zero, one = sums_of(kind).plus, elements_of(kind).real(0), elements_of(kind).real(1)
    if elements_of(kind).two and not few:  # what is lost of 24 bits is nothing of 11
        return device(lambda rest, low: (near_reciprocal(one + rest), zero))

    @device
    def share_of(rest, low):
        whole, lost = plus(one, low, rest)
        share = near_reciprocal(whole)
        share = fma(share, fma(-share, whole, one), share)
        return share, (fma(-share, whole, one) - share * lost) * share

    return share_of


@functools.cache
def _gradient_frame(kind, transforms, raised=False):
    """The device function (factor, error, m, low): (offset, magic, lowest, of_e), as `Frame` says of them.

    ``raised``: the anchor is one of `Exponential.exp_gradient`.
    """
    real, e_to, anchored = elements_of(kind).real, exponential_of(kind), sums_of(kind).anchored
    frame_at, exp_pair, exp_of, scale_of = e_to.frame_at, e_to.exp_pair, pairs_of(kind).exp_of, e_to.scale_of
    if transforms:
        exp_from = device(lambda y, low, magic, lowest: exp_of(y, -low, magic, lowest))
    else:
        exp_from = device(lambda y, low, magic, lowest: exp_pair(y, magic, lowest))
    headroom, zero = real(HEADROOM), real(0)
    most, deep = (real(94), real(32)) if real is np.float32 else (real(900), real(100))
    exponent_of = elements_of(kind).exponent_of
    written_at, most_up = (e_to.gradient_frame_at, real(126)) if raised else (frame_at, most)

    @device
    def gradient_frame(factor, error, m, low):
        """The result is right down to the least number, because of_e is about 2^-32 there.

        So whatever of e^z is flushed to 0 would have been flushed by the product, too.
        """
        up = min(max(real(exponent_of(factor)) + deep, -most), most_up)
        offset, k = anchored(m)
        magic, lowest = written_at(k - headroom + up)
        back, bottom = frame_at(headroom - k)
        e, more = exp_from(offset - m, low, back, bottom)
        scale = scale_of(-up)
        factor, error = factor * scale, error * scale
        return offset, magic, lowest, fma(factor, e, fma(factor, more, error * e))

    if transforms or kind not in ("float16", "bfloat16"):
        return gradient_frame
    log2e, difference = e_to.log2e, sums_of(kind).difference
    beyond, apart = real(2.0**24), np.int32(16)

    @device
    def gradient_slope(factor, error, m, low):
        """(slope, shift, 0, of_e): of_e 2^(slope z + shift) is factor e^(z - m), of_e about 2^-32 as above.

        What shift lacks is in of_e. From 2^24 on logits that differ do so by 2^16 or more, so that the smaller is lost,
        and any slope will do with which it is.
        """
        up = min(max(real(exponent_of(factor)) + deep, -most), most)
        slope = log2e if abs(m) < beyond else scale_of(real(apart - exponent_of(m)))
        product = m * slope
        shift, lost = difference(up, product)
        return slope, shift, zero, factor * scale_of(-up) * exp2(lost - fma(m, slope, -product))

    return gradient_slope


@functools.cache
def _target_gradient(kind, result):
    """The device function (found, numbers, z, a, others, weight): a p_y - weight, where a is others + weight.

    p_y, the softmax of the target's class, comes from its logit, the Target z.
    """
    few, half, zero = result.transforms or result.focal, elements_of(kind).real(0.5), elements_of(kind).real(0)
    share_of, exp = _share(kind, few), _exp_below(kind, result.transforms, few)

    if result.focal:

        @device
        def focal_gradient(found, numbers, z, a, others, weight):
            """The same; a and the weight are as much smaller as 1 - p_y is larger, which where p_y <= 1/2 is not."""
            share, _ = share_of(found.rest, found.error)
            p, less = exp(found, z) * share, numbers.focus.less
            lost = fma(-a, numbers.focus.less_low, others)
            return fma(-a, less, lost) if p > half else fma(a, p, -weight)

        return focal_gradient

    @device
    def target_gradient(found, numbers, z, a, others, weight):
        """Where p_y passes 1/2 it is 1 - rest / (1 + rest), because a p_y - weight would lose the digits of 1 - p_y."""
        rest = found.rest
        share, error = share_of(rest, found.error if few else zero)
        p = exp(found, z) * share
        of_others = rest * share
        lost = fma(rest, share, -of_others) + rest * error
        return fma(-a, of_others, fma(-a, lost, others)) if p > half else fma(a, p, -weight)

    return target_gradient


def _exp_below(kind, transforms, few):
    """The device function (found, z): e^(z - max)."""
    if elements_of(kind).two and not few:
        log2e, up, down = exponential_of(kind).log2e, np.float32(32), np.float32(2.0**-32)
        return device(lambda found, z: exp2(fma(z.z - found.max, log2e, up)) * down)  # least numbers, too
    if not transforms:
        exp = exponential_of(kind).exp
        return device(lambda found, z: exp(z.z - found.max))
    frame_at, exp_of, zero = exponential_of(kind).frame_at, pairs_of(kind).exp_of, elements_of(kind).real(0)

    @device
    def exp_below(found, z):
        magic, lowest = frame_at(zero)
        e, more = exp_of(z.z - found.max, z.low - found.low, magic, lowest)
        return e + more

    return exp_below
