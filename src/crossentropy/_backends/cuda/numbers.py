"""The second third of a kernel: the numbers of a row, from what was found of it; its loss and its factors."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .elements import device, elements_of
from .exp import exponential_of
from .intrinsics import fma, load, word_of, words_of
from .logits import logits_of
from .rows import READ, SKIPPED
from .sums import HEADROOM, LEADS_BELOW, sums_of


class RowNumbers(NamedTuple):
    """Of a row: reals."""

    own: float  # keep w_y: the weight that the target's class has to itself
    floor_y: float  # floor w_y: what that class has of the weight that all have alike
    share: float  # 1 / (1 + rest): the softmax of the maximum
    log_sum: float  # log(1 + rest)
    lse: float  # the logsumexp: max + log_sum


class Frame(NamedTuple):
    """What makes a row's logits into results: reals."""

    max: float
    log_sum: float
    offset: float  # e^(z - offset) 2^k, at the anchor (magic, lowest) of exp.py, times of_e is factor e^(z - max)
    magic: float
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
    elements, difference = elements_of(kind), sums_of(kind).difference
    real, real_size, spreads = elements.real, elements.real_size, result.spreads
    zero, one, nan = real(0), real(1), real(np.nan)
    gradient_frame, factors = _gradient_frame(kind), _factors(kind, result, times)

    @device
    def numbers_of(a, row, smoothing, found):
        own, floor_y = zero, zero
        if a.targets != 0 and row.state == READ:
            w_y = load(a.class_weight + row.y * real_size, real) if a.class_weight != 0 else one
            own, floor_y = smoothing.keep * w_y, times(smoothing.floor, w_y)
        share = one / (one + found.rest)
        log_sum = real(math.log1p(found.rest)) + found.error * share
        return RowNumbers(own, floor_y, share, log_sum, found.max + log_sum)

    @device
    def from_target(m, z_y, log_sum):
        """m - z_y + log_sum: the loss of a class, with the rounding error of m - z_y."""
        d, error = difference(m, z_y)
        return d + (log_sum + error)

    @device
    def loss_of(a, row, found, numbers, z_y):
        value = nan
        if row.state == SKIPPED:
            value = zero
        elif row.state == READ and a.targets == 0 and not spreads:
            value = numbers.lse if found.max == found.max else found.error  # see sums.settled
        elif row.state == READ and found.max == found.max:
            value = times(numbers.own, from_target(found.max, z_y, numbers.log_sum))
            value = value + found.distance + times(found.mass, numbers.log_sum)
            value = row.sample_weight * (value + times(a.z_loss, numbers.lse * numbers.lse))
        return value

    @device
    def frame_of(a, row, found, numbers, z_y):
        factor, row_factor, at_target = factors(a, row, found, numbers, z_y)
        offset, magic, lowest, of_e = gradient_frame(factor, found.max)
        return Frame(found.max, numbers.log_sum, offset, magic, lowest, of_e, row_factor, at_target)

    return Numbers(numbers_of, loss_of, frame_of)


def _factors(kind, result, times):
    """The device function (a, row, found, numbers, z_y): (factor of e^(z - max), row_factor, at_target)."""
    elements, gradient, target_gradient = elements_of(kind), logits_of(kind).gradient, _target_gradient(kind)
    real = elements.real
    zero, one, two = real(0), real(1), real(2)
    if result.writes == "gradient":

        @device
        def factors(a, row, found, numbers, z_y):
            row_factor, at_target = a.scale * row.sample_weight / row.divisor, zero
            if a.row_scale != 0:
                row_factor *= load(a.row_scale + row.number * a.row_scale_step, real)
            z_term = times(two * a.z_loss, numbers.lse)
            total = numbers.own + found.mass + z_term
            factor = row_factor * total / (one + found.rest)
            if a.targets != 0:
                others, own = (found.mass - numbers.floor_y) + z_term, numbers.own + numbers.floor_y
                value = row_factor * target_gradient(found.max, found.rest, z_y, total, others, own)
                at_target = gradient(a, value, z_y)
            return factor, row_factor, at_target

    elif result.is_backward:
        plus, most = sums_of(kind).plus, real(LEADS_BELOW)

        @device
        def factors(a, row, found, numbers, z_y):
            """With row_factor 1 at_target is subtracted at the maximum, with 0 it is what the leader gets."""
            whole, error = plus(found.mass, found.error, found.distance)
            share = (whole + error) / (one + found.rest)
            if not found.rest < most:
                return share, one, share
            others = found.mass + found.error
            return share, zero, (times(found.rest, found.distance) - others) / (one + found.rest)

    else:

        @device
        def factors(a, row, found, numbers, z_y):
            return numbers.share, one, zero

    return factors


@functools.cache
def _gradient_frame(kind):
    """The device function (factor, m): (offset, magic, lowest, of_e), as `Frame` says of them."""
    real, e_to, anchored = elements_of(kind).real, exponential_of(kind), sums_of(kind).anchored
    frame_at, exp_at, scale_of = e_to.frame_at, e_to.exp_at, e_to.scale_of
    headroom = real(HEADROOM)
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
    def gradient_frame(factor, m):
        """The result is right down to the least number, because of_e is about 2^-32 there.

        So whatever of e^z is flushed to 0 would have been flushed by the product, too.
        """
        up = min(max(real(exponent_of(factor)) + deep, -most), most)
        offset, k = anchored(m)
        magic, lowest = frame_at(k - headroom + up)
        back, bottom = frame_at(headroom - k)
        return offset, magic, lowest, factor * scale_of(-up) * exp_at(offset - m, back, bottom)

    return gradient_frame


@functools.cache
def _target_gradient(kind):
    """The device function (m, rest, z, a, others, weight): a p_y - weight, where a is others + weight.

    p_y, the softmax of the target's class, comes from its logit z.
    """
    real, exp = elements_of(kind).real, exponential_of(kind).exp
    one, half = real(1), real(0.5)

    @device
    def target_gradient(m, rest, z, a, others, weight):
        """Where p_y passes 1/2 it is 1 - rest / (1 + rest), because a p_y - weight would lose the digits of 1 - p_y."""
        share = one / (one + rest)
        p = exp(z - m) * share
        return fma(-a, rest * share, others) if p > half else fma(a, p, -weight)

    return target_gradient
