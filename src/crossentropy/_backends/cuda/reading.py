"""The first third of a kernel: what is found of a row, in its logits, its statistics, or its parts' statistics."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..contract import Statistics
from .elements import device, elements_of
from .focal import Others, others_of
from .groups import from_first, leads_of
from .intrinsics import load, load_vector
from .logits import Target
from .pair_sums import PairRowSum, pair_sums_of
from .records import record_of
from .row_sums import empty_of, group_of, reduction_of, row_sum_of
from .rows import READ
from .sums import LEADS_BELOW, RowSum, sums_of
from .vectors import vectors_of
from .weights import WeightSum

VECTOR = 16  # bytes


class Found(NamedTuple):
    """What is found of a row, or of a part of one: reals."""

    max: float
    low: float  # what the maximum is short of; 0 where logits are not transformed
    rest: float  # the sum of e^(z - max) over all classes but one at the maximum; of a part 2^HEADROOM larger
    error: float  # what rest has lost to rounding; 0 where rest comes from memory, or is a part's
    mass: float  # the sum of the target's weights; 0 where it is not needed
    distance: float  # the sum of weight times (max - z)
    others: Others  # zeros where the loss is not focal; of a part of a focal one all else is of the others, too
    # In the backward of a log-softmax mass is the sum of what arrives but for the class that leads, error what that has
    # lost to rounding, and distance what arrives at the class that leads.


class Anchor(NamedTuple):
    """What distances of a row are from: its maximum, 0 where that is -inf. Reals."""

    m: float
    low: float


class PartStatistics(NamedTuple):
    """What is kept of a part of a row until the parts are put together: fields of `Found`.

    Of the backward of a log-softmax, whose rest is known, rest is the error.
    """

    max: float
    rest: float
    mass: float
    distance: float


class PairPartStatistics(NamedTuple):
    """The same of transformed logits."""

    max: float
    low: float
    rest: float
    mass: float
    distance: float


class StatisticsOfFew(NamedTuple):
    """What a forward keeps of a row where logits are transformed, or the loss is focal: all that was found.

    The first four are of a focal loss's `focal.Others`.
    The maximum of transformed logits is a pair, and the loss as a whole is a factor of a focal one's gradient. The
    target's logit is among it, because where a row is cut into parts another may have written the gradient over it.
    """

    max: float
    low: float
    rest: float
    error: float
    mass: float
    distance: float
    target: float  # a pair, too
    target_low: float


def statistics_of(result) -> type:
    """The record that a forward keeps of a row."""
    return StatisticsOfFew if result.transforms or result.focal else Statistics


def kept_target_of(kind: str, result) -> Callable:
    """The device function (a, row, z_y): the Target of a row, its logit from the row's statistics where it is there."""
    if result.reads != "statistics" or statistics_of(result) is Statistics:
        return device(lambda a, row, z_y: z_y)
    real, real_size = elements_of(kind).real, elements_of(kind).real_size
    place, size = StatisticsOfFew._fields.index("target") * real_size, len(StatisticsOfFew._fields) * real_size

    @device
    def kept_target(a, row, z_y):
        at = a.statistics + row.number * size + place
        return Target(load(at, real), load(at + real_size, real), z_y.given)

    return kept_target


def part_statistics_of(result) -> type:
    """The record that is kept of a part of a row."""
    return PairPartStatistics if result.transforms else PartStatistics


class Reading(NamedTuple):
    """The functions of a kernel, and the arrays in registers that they work with."""

    words: int  # uint32: what is held of a row, or is on its way
    reals: int  # of the array v
    hold: Callable  # (row, lane, words): load what is kept of a row
    find: Callable  # (a, row, target, z_y, lane, turn, words, v, low, u): a row's Found, right in `leads_of` threads


def reading_of(kind: str, shape, result, weights) -> Reading:
    """Those of the kernel of a dtype, a shape of work and a result; ``weights`` are the kernel's own."""
    elements = elements_of(kind)
    real, width, kept = elements.real, elements.width, shape.kept
    zero, apart = real(0), shape.lanes * width
    group = group_of(shape, width)
    summed, is_part, weighs = weights.summed, result.is_part, result.weighs
    take_whole, nothing, no_others = vectors_of(kind, "").take_whole, real(-np.inf), _no_others(kind)

    whole_row, bytes_apart = kept * apart, apart * elements.size

    @device
    def hold(row, lane, words):
        if row.to_read == whole_row:
            at = row.x + lane * VECTOR
            for k in range(kept):
                w = load_vector(at + k * bytes_apart)
                for b in range(4):
                    words[4 * k + b] = w[b]
        else:
            for k in range(kept):
                take_whole(words, 4 * k, row.x, lane * width + k * apart, row.to_read)

    others = _others(kind, result)
    if result.is_backward:
        find = _of_arriving(kind, shape, result, weights)

    elif result.reads == "row":
        row_sum, ended = row_sum_of(kind, shape, result), _ended(kind, result.transforms, is_part)
        if result.transforms or result.focal or shape.blocks > 1:
            told = from_first(elements, shape, Anchor)
        else:  # all threads of a block know the maximum
            told = device(lambda anchor: anchor)
        leads = device(lambda: True) if weighs or result.transforms or result.focal else leads_of(shape)

        @device
        def find(a, row, target, z_y, lane, turn, words, v, low, u):
            of_row = row_sum(a, row, lane, turn, words, v, low)
            m, m_low, rest, error = of_row.max, zero, of_row.rest, of_row.error
            if leads():
                m, m_low, rest, error = ended(of_row)
            (m, m_low, rest, error), of_others = others(row, m, m_low, rest, error, z_y)
            mass, distance = zero, zero
            if weighs:
                anchor = told(Anchor(zero if m == nothing else m, m_low))
                mass, distance = summed(a, row, target, anchor.m, anchor.low, lane, turn ^ 1, v, low, u)
            return Found(m, m_low, rest, error, mass, distance, of_others)

    elif result.reads == "statistics":
        record = record_of(statistics_of(result), real, elements.real_size)
        load_record, size = record.load, record.size
        if statistics_of(result) is StatisticsOfFew:

            @device
            def find(a, row, target, z_y, lane, turn, words, v, low, u):
                s = load_record(a.statistics + row.number * size)
                (m, m_low, rest, error), of_others = others(row, s.max, s.low, s.rest, s.error, z_y)
                return Found(m, m_low, rest, error, s.mass, s.distance, of_others)

        else:

            @device
            def find(a, row, target, z_y, lane, turn, words, v, low, u):
                kept_of_row = load_record(a.statistics + row.number * size)
                return Found(kept_of_row.max, zero, kept_of_row.rest, zero, kept_of_row.mass, zero, no_others)

    else:
        find = _of_parts(kind, shape, weights, result)

    return Reading(4 * max(kept, shape.flight), group * width, hold, find)


def _ended(kind, transforms, is_part):
    """The device function (row_sum): (max, low, rest, error) of a whole row, or of a part."""
    settled, zero = (pair_sums_of if transforms else sums_of)(kind).settled, elements_of(kind).real(0)
    if is_part and transforms:
        return device(lambda s: (s.max, s.low, s.rest + s.error, zero))
    if is_part:
        return device(lambda s: (s.max, zero, s.rest + s.error, zero))
    if transforms:
        return settled

    @device
    def ended(row_sum):
        m, rest, error = settled(row_sum)
        return m, zero, rest, error

    return ended


def _of_arriving(kind, shape, result, weights):
    """The device function `Reading.find` of the backward of a log-softmax: what arrives, or has been found to."""
    elements = elements_of(kind)
    real, arrived, put_together = elements.real, weights.arrived, weights.put_together
    zero, most, nan = real(0), real(LEADS_BELOW), real(np.nan)
    of_row = record_of(Statistics, real, elements.real_size)
    of_part = record_of(PartStatistics, real, elements.real_size)
    load_row, row_size, load_part, part_size = of_row.load, of_row.size, of_part.load, of_part.size
    threads, reads, no_others = shape.threads, result.reads, _no_others(kind)

    if reads == "row":

        @device
        def sums(a, row, target, leader, lane, turn, v, low, u):
            return arrived(a, row, target, leader, lane, turn, v, low, u)

    elif reads == "statistics":

        @device
        def sums(a, row, target, leader, lane, turn, v, low, u):
            part = load_part(a.partial + row.number * a.parts * part_size)
            return WeightSum(part.mass, part.rest, part.distance, zero)

    else:
        plus, nothing = sums_of(kind).plus, weights.nothing

        @device
        def sums(a, row, target, leader, lane, turn, v, low, u):
            found = nothing
            i = lane
            while i < a.parts:
                part = load_part(a.partial + (row.number * a.parts + i) * part_size)
                mass, error = plus(found.mass, found.mass_error + part.rest, part.mass)
                found = WeightSum(mass, error, found.distance + part.distance, zero)
                i += threads
            return put_together(found, turn)

    @device
    def find(a, row, target, z_y, lane, turn, words, v, low, u):
        kept = load_row(a.statistics + row.number * row_size)
        leader = kept.max if kept.rest < most else nan  # whose logit is its own
        found = sums(a, row, target, leader, lane, turn, v, low, u)
        return Found(kept.max, zero, kept.rest, found.mass_error, found.mass, found.distance, no_others)

    return find


def _no_others(kind):
    return Others(*[elements_of(kind).real(0)] * len(Others._fields))


def _others(kind, result):
    """The device function `focal.others_of`, of what is not a focal loss's the same and nothing."""
    if result.focal and not result.is_part:
        return others_of(kind, result.transforms)
    no_others = _no_others(kind)
    return device(lambda row, m, low, rest, error, z_y: ((m, low, rest, error), no_others))


def _of_parts(kind, shape, weights, result):
    """The device function `Reading.find` of a row that is put together from its parts' statistics."""
    elements, threads, transforms = elements_of(kind), shape.threads, result.transforms
    sums = (pair_sums_of if transforms else sums_of)(kind)
    real, merged, plus = elements.real, sums.merged, sums.plus
    total, times = weights.total, weights.times
    zero, nothing = real(0), real(-np.inf)
    empty, no_weight, ended = empty_of(kind, transforms), weights.nothing, _ended(kind, transforms, False)
    others = _others(kind, result)
    reduce = reduction_of(elements, shape, sums, empty, transforms, False)
    record = record_of(part_statistics_of(result), real, elements.real_size)
    load_record, size = record.load, record.size
    if transforms:
        sum_of = device(lambda part: PairRowSum(part.max, part.low, part.rest, zero))
        moved_by = device(lambda anchor, low, part: (anchor - part.max) + (low - part.low))
    else:
        sum_of = device(lambda part: RowSum(part.max, part.rest, zero))
        moved_by = device(lambda anchor, low, part: anchor - part.max)

    @device
    def find(a, row, target, z_y, lane, turn, words, v, low, u):
        row_sum, found = empty, no_weight
        i = lane
        while i < a.parts and row.state == READ:
            part = load_record(a.partial + (row.number * a.parts + i) * size)
            row_sum = merged(row_sum, sum_of(part))
            i += threads
        m, m_low, rest, error = ended(reduce(row_sum, turn))
        (m, m_low, rest, error), of_others = others(row, m, m_low, rest, error, z_y)
        anchor = m if m == m else zero
        i = lane
        while i < a.parts and row.state == READ:
            part = load_record(a.partial + (row.number * a.parts + i) * size)
            mass, mass_error = plus(found.mass, found.mass_error, part.mass)
            moved = times(part.mass, anchor if part.max == nothing else moved_by(anchor, m_low, part))
            distance, distance_error = plus(found.distance, found.distance_error, moved)
            distance, distance_error = plus(distance, distance_error, part.distance)
            found = WeightSum(mass, mass_error, distance, distance_error)
            i += threads
        mass, distance = total(found, turn)
        return Found(m, m_low, rest, error, mass, distance, of_others)

    return find
