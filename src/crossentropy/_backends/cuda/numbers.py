"""The second third of a kernel: the numbers of a row, from what was found of it; its loss and its factors."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .elements import device, elements_of
from .exp import exponential_of
from .intrinsics import exp2, fma, load, word_of, words_of
from .log import log1p_of
from .logits import logits_of
from .rows import READ, SKIPPED
from .sums import HEADROOM, LEADS_BELOW, sums_of


class RowNumbers(NamedTuple):
    """Of a row: reals."""

    own: float  # keep w_y: the weight that the target's class has to itself
    floor_y: float  # floor w_y: what that class has of the weight that all have alike
    log_sum: float  # log(1 + rest)
    lse: float  # the logsumexp: max + log_sum
    lse_error: float  # what that has lost to rounding


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

    numbers_of: Callable  # (a, row, smoothing, found): the RowNumbers of a Row and what was Found of it
    loss_of: Callable  # (a, row, found, numbers, z_y): the loss, or the logsumexp; z_y is the target's logit
    frame_of: Callable  # (a, row, found, numbers, z_y): the Frame


def numbers_of(kind: str, result, times) -> Numbers:
    """Those of the kernel of a dtype and a result; ``times`` is `weights.Weights.times`."""
    elements, difference, plus, log1p = elements_of(kind), sums_of(kind).difference, sums_of(kind).plus, log1p_of(kind)
    real, real_size, spreads = elements.real, elements.real_size, result.spreads
    zero, one, nan = real(0), real(1), real(np.nan)
    gradient_frame, factors = _gradient_frame(kind), _factors(kind, result, times)

    @device
    def numbers_of(a, row, smoothing, found):
        own, floor_y = zero, zero
        if a.targets != 0 and row.state == READ:
            w_y = load(a.class_weight + row.y * real_size, real) if a.class_weight != 0 else one
            own, floor_y = smoothing.keep * w_y, times(smoothing.floor, w_y)
        log_sum, log_error = log1p(found.rest, found.error)
        lse, error = plus(found.max, log_error, log_sum)
        rounded = lse + error
        return RowNumbers(own, floor_y, log_sum, rounded, error - (rounded - lse))

    @device
    def from_target(numbers, z_y):
        """lse - z_y: the loss of a class, rounded once."""
        d, error = difference(numbers.lse, z_y)
        return d + (numbers.lse_error + error)

    @device
    def loss_of(a, row, found, numbers, z_y):
        value = nan
        if row.state == SKIPPED:
            value = zero
        elif row.state == READ and a.targets == 0 and not spreads:
            value = numbers.lse if found.max == found.max else found.error  # see sums.settled
        elif row.state == READ and found.max == found.max:
            value = times(numbers.own, from_target(numbers, z_y))
            value = value + found.distance + times(found.mass, numbers.log_sum)
            value = row.sample_weight * (value + times(a.z_loss, numbers.lse * numbers.lse))
        return value

    @device
    def frame_of(a, row, found, numbers, z_y):
        factor, error, row_factor, at_target = factors(a, row, found, numbers, z_y)
        offset, magic, lowest, of_e = gradient_frame(factor, error, found.max)
        return Frame(found.max, numbers.lse, numbers.lse_error, offset, magic, lowest, of_e, row_factor, at_target)

    return Numbers(numbers_of, loss_of, frame_of)


def _factors(kind, result, times):
    """The device function (a, row, found, numbers, z_y): (factor, error, row_factor, at_target).

    The factor is that of e^(z - max), and the error what it has lost to rounding.
    """
    elements, gradient, target_gradient = elements_of(kind), logits_of(kind).gradient, _target_gradient(kind)
    real = elements.real
    zero, one, two = real(0), real(1), real(2)
    share_of = _share(kind)
    if result.writes == "gradient":

        @device
        def factors(a, row, found, numbers, z_y):
            row_factor, at_target = a.scale * row.sample_weight / row.divisor, zero
            if a.row_scale != 0:
                row_factor *= load(a.row_scale + row.number * a.row_scale_step, real)
            z_term = times(two * a.z_loss, numbers.lse)
            total = numbers.own + found.mass + z_term
            share, share_error = share_of(found.rest)
            weight = row_factor * total
            factor = weight * share
            error = fma(weight, share, -factor) + fma(weight, share_error, fma(row_factor, total, -weight) * share)
            error = error if error - error == zero else zero
            if a.targets != 0:
                others, own = (found.mass - numbers.floor_y) + z_term, numbers.own + numbers.floor_y
                value = row_factor * target_gradient(found.max, found.rest, z_y, total, others, own)
                at_target = gradient(a, value, z_y)
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
            share, error = share_of(found.rest)
            return share, error, one, zero

    return factors


@functools.cache
def _share(kind):
    """The device function (rest): 1 / (1 + rest), the softmax of the maximum, and what that has lost to rounding."""
    real, plus = elements_of(kind).real, sums_of(kind).plus
    zero, one = real(0), real(1)

    @device
    def share_of(rest):
        whole, lost = plus(one, zero, rest)
        share = one / whole
        return share, (fma(-share, whole, one) - share * lost) * share

    return share_of


@functools.cache
def _gradient_frame(kind):
    """The device function (factor, error, m): (offset, magic, lowest, of_e), as `Frame` says of them."""
    real, e_to, anchored = elements_of(kind).real, exponential_of(kind), sums_of(kind).anchored
    frame_at, exp_pair, scale_of = e_to.frame_at, e_to.exp_pair, e_to.scale_of
    headroom, zero = real(HEADROOM), real(0)
    most, deep = (real(94), real(32)) if real is np.float32 else (real(900), real(100))
    if real is np.float32:

        @device
        def exponent_of(value):
            return np.int32((word_of(value) >> np.uint32(23)) & np.uint32(255)) - np.int32(127)

    else:

        @device
        def exponent_of(value):
            return np.int32((words_of(value)[1] >> np.uint32(20)) & np.uint32(2047)) - np.int32(1023)

    @device
    def gradient_frame(factor, error, m):
        """The result is right down to the least number, because of_e is about 2^-32 there.

        So whatever of e^z is flushed to 0 would have been flushed by the product, too.
        """
        up = min(max(real(exponent_of(factor)) + deep, -most), most)
        offset, k = anchored(m)
        magic, lowest = frame_at(k - headroom + up)
        back, bottom = frame_at(headroom - k)
        e, more = exp_pair(offset - m, back, bottom)
        scale = scale_of(-up)
        factor, error = factor * scale, error * scale
        return offset, magic, lowest, fma(factor, e, fma(factor, more, error * e))

    if kind not in ("float16", "bfloat16"):
        return gradient_frame
    log2e, difference = e_to.log2e, sums_of(kind).difference
    beyond, apart = real(2.0**24), np.int32(16)

    @device
    def gradient_slope(factor, error, m):
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
def _target_gradient(kind):
    """The device function (m, rest, z, a, others, weight): a p_y - weight, where a is others + weight.

    p_y, the softmax of the target's class, comes from its logit z.
    """
    real, exp, share_of = elements_of(kind).real, exponential_of(kind).exp, _share(kind)
    half = real(0.5)

    @device
    def target_gradient(m, rest, z, a, others, weight):
        """Where p_y passes 1/2 it is 1 - rest / (1 + rest), because a p_y - weight would lose the digits of 1 - p_y."""
        share, error = share_of(rest)
        p = exp(z - m) * share
        of_others = rest * share
        lost = fma(rest, share, -of_others) + rest * error
        return fma(-a, of_others, fma(-a, lost, others)) if p > half else fma(a, p, -weight)

    return target_gradient
