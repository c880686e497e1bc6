"""The first third of a kernel: what is found of a row, in its logits, its statistics, or its parts' statistics."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import cuda

from ..contract import Statistics
from .elements import device, elements_of
from .groups import one_by_one, together
from .intrinsics import load_vector, shifted
from .logits import logits_of
from .records import record_of
from .rows import READ
from .sums import LEADS_BELOW, RowSum, sums_of
from .vectors import vectors_of
from .weights import WeightSum

AT_ONCE = 16  # classes whose maximum is found before their sum


class Found(NamedTuple):
    """What is found of a row, or of a part of one: reals."""

    max: float
    rest: float  # the sum of e^(z - max) over all classes but one at the maximum; of a part 2^HEADROOM larger
    error: float  # what rest has lost to rounding; 0 where rest comes from memory, or is a part's
    mass: float  # the sum of the target's weights; 0 where it is not needed
    distance: float  # the sum of weight times (max - z)
    # In the backward of a log-softmax mass is the sum of what arrives but for the class that leads, error what that has
    # lost to rounding, and distance what arrives at the class that leads.


class PartStatistics(NamedTuple):
    """What is kept of a part of a row until the parts are put together: fields of `Found`.

    Of the backward of a log-softmax, whose rest is known, rest is the error.
    """

    max: float
    rest: float
    mass: float
    distance: float


class Reading(NamedTuple):
    """The functions of a kernel, and the arrays in registers that they work with."""

    words: int  # uint32: what is held of a row, or is on its way
    reals: int  # of the array v
    hold: Callable  # (row, lane, words): load what is kept of a row
    find: Callable  # (a, row, target, lane, turn, words, v, u): the Found of a row; every lane gets it


def reading_of(kind: str, shape, result, weights) -> Reading:
    """Those of the kernel of a dtype, a shape of work and a result; ``weights`` are the kernel's own."""
    elements, sums = elements_of(kind), sums_of(kind)
    real, width, kept = elements.real, elements.width, shape.kept
    zero, apart = real(0), shape.lanes * width
    group = _group(shape, width)
    settled, summed, is_part, weighs = sums.settled, weights.summed, result.is_part, result.weighs
    take_whole, nothing = vectors_of(kind, "").take_whole, real(-np.inf)

    @device
    def hold(row, lane, words):
        for k in range(kept):
            take_whole(words, 4 * k, row.x, lane * width + k * apart, row.to_read)

    if result.is_backward:
        find = _of_arriving(kind, shape, result, weights)

    elif result.reads == "row":
        row_sum = _row_sum(kind, shape)

        @device
        def find(a, row, target, lane, turn, words, v, u):
            m, rest, error = row_sum(a, row, lane, turn, words, v)
            mass, distance = zero, zero
            if is_part:
                rest, error = rest + error, zero
            else:
                m, rest, error = settled(RowSum(m, rest, error))
            if weighs:
                anchor = zero if m == nothing else m
                mass, distance = summed(a, row, target, anchor, lane, turn ^ 1, v, u)
            return Found(m, rest, error, mass, distance)

    elif result.reads == "statistics":
        record = record_of(Statistics, real, elements.real_size)
        load_record, size = record.load, record.size

        @device
        def find(a, row, target, lane, turn, words, v, u):
            kept_of_row = load_record(a.statistics + row.number * size)
            return Found(kept_of_row.max, kept_of_row.rest, zero, kept_of_row.mass, zero)

    else:
        find = _of_parts(kind, shape, weights)

    return Reading(4 * max(kept, shape.flight), group * width, hold, find)


def _of_arriving(kind, shape, result, weights):
    """The device function `Reading.find` of the backward of a log-softmax: what arrives, or has been found to."""
    elements = elements_of(kind)
    real, arrived, put_together = elements.real, weights.arrived, weights.put_together
    zero, most, nan = real(0), real(LEADS_BELOW), real(np.nan)
    of_row = record_of(Statistics, real, elements.real_size)
    of_part = record_of(PartStatistics, real, elements.real_size)
    load_row, row_size, load_part, part_size = of_row.load, of_row.size, of_part.load, of_part.size
    threads, reads = shape.threads, result.reads

    if reads == "row":

        @device
        def sums(a, row, target, leader, lane, turn, v, u):
            return arrived(a, row, target, leader, lane, turn, v, u)

    elif reads == "statistics":

        @device
        def sums(a, row, target, leader, lane, turn, v, u):
            part = load_part(a.partial + row.number * a.parts * part_size)
            return WeightSum(part.mass, part.rest, part.distance, zero)

    else:
        plus, nothing = sums_of(kind).plus, weights.nothing

        @device
        def sums(a, row, target, leader, lane, turn, v, u):
            found = nothing
            i = lane
            while i < a.parts:
                part = load_part(a.partial + (row.number * a.parts + i) * part_size)
                mass, error = plus(found.mass, found.mass_error + part.rest, part.mass)
                found = WeightSum(mass, error, found.distance + part.distance, zero)
                i += threads
            return put_together(found, turn)

    @device
    def find(a, row, target, lane, turn, words, v, u):
        kept = load_row(a.statistics + row.number * row_size)
        leader = kept.max if kept.rest < most else nan  # whose logit is its own
        found = sums(a, row, target, leader, lane, turn, v, u)
        return Found(kept.max, kept.rest, found.mass_error, found.mass, found.distance)

    return find


def _group(shape, width):
    """How many vectors a lane adds to its sum at once."""
    return min(shape.flight, max(1, AT_ONCE // width))


def _row_sum(kind, shape):
    """The device function (a, row, lane, turn, words, v): the RowSum of a row, not settled. Overwrites v."""
    elements, sums, read, kept = elements_of(kind), sums_of(kind), logits_of(kind).read, shape.kept
    width, begun, added, ended = elements.width, sums.begun, sums.added, sums.ended
    empty = RowSum(elements.real(-np.inf), elements.real(0), elements.real(0))
    group = _group(shape, width)
    at_once = group * width

    @device
    def grouped(a, words, place, v, lane_sum):
        """A LaneSum with the vectors of a group as well, which begin at words[place]. Overwrites v."""
        for k in range(group):
            read(a, words, place + 4 * k, v, k * width)
        return added(v, at_once, lane_sum)

    if kept:
        reduce = together(elements, shape, sums.merged, empty)

        @device
        def row_sum(a, row, lane, turn, words, v):
            lane_sum = begun()
            for k in range(kept // group):
                lane_sum = grouped(a, words, 4 * group * k, v, lane_sum)
            return reduce(ended(lane_sum), turn)

        return row_sum

    of_lane = _streamed(kind, shape, group, grouped)
    if shape.alone:
        over_lanes = one_by_one(elements, shape, of_lane, sums.merged, empty)

        @device
        def row_sum(a, row, lane, turn, words, v):
            return over_lanes((a, row, words, v))

    else:
        reduce = together(elements, shape, sums.merged, empty)

        @device
        def row_sum(a, row, lane, turn, words, v):
            return reduce(of_lane(lane, (a, row, words, v)), turn)

    return row_sum


def _streamed(kind, shape, group, grouped):
    """The device function (lane, (a, row, words, v)): the RowSum of a lane's vectors, of a row that is not kept."""
    elements, sums = elements_of(kind), sums_of(kind)
    size, width, alone, flight = elements.size, elements.width, shape.alone, shape.flight
    begun, ended, take_any, apart = sums.begun, sums.ended, vectors_of(kind, "").take_any, shape.lanes * width
    in_flight = 4 * flight

    @device
    def of_lane(lane, given):
        a, row, words, v = given
        x, classes = row.x, row.to_read
        lane_sum = begun()
        next_words = cuda.local.array(in_flight, np.uint32)
        first = np.int64(lane) * width
        while first < classes:
            last = first + (flight - 1) * apart
            low = (x + first * size) & -16
            # Every branch has all vectors on their way before it looks at the first.
            if not alone and x % 16 == 0 and last + width <= classes:
                for k in range(flight):
                    w = load_vector(low + k * apart * size)
                    for b in range(4):
                        words[4 * k + b] = w[b]
            elif not alone and low >= x and low + (flight - 1) * apart * size + 32 <= x + classes * size:
                for k in range(flight):
                    w = load_vector(low + k * apart * size)
                    after = load_vector(low + k * apart * size + 16)
                    for b in range(4):
                        words[4 * k + b] = w[b]
                        next_words[4 * k + b] = after[b]
                for k in range(flight):
                    w = words[4 * k], words[4 * k + 1], words[4 * k + 2], words[4 * k + 3]
                    after = next_words[4 * k], next_words[4 * k + 1], next_words[4 * k + 2], next_words[4 * k + 3]
                    w = shifted(w, after, x)
                    for b in range(4):
                        words[4 * k + b] = w[b]
            else:
                for k in range(flight):
                    take_any(words, 4 * k, x, a.x_class, first + k * apart, classes)
            for k in range(flight // group):
                lane_sum = grouped(a, words, 4 * group * k, v, lane_sum)
            first += flight * apart
        return ended(lane_sum)

    return of_lane


def _of_parts(kind, shape, weights):
    """The device function `Reading.find` of a row that is put together from its parts' statistics."""
    elements, sums, threads = elements_of(kind), sums_of(kind), shape.threads
    real, merged, settled, plus = elements.real, sums.merged, sums.settled, sums.plus
    total, times = weights.total, weights.times
    zero, nothing = real(0), real(-np.inf)
    empty, no_weight = RowSum(nothing, zero, zero), weights.nothing
    reduce = together(elements, shape, merged, empty)
    record = record_of(PartStatistics, real, elements.real_size)
    load_record, size = record.load, record.size

    @device
    def find(a, row, target, lane, turn, words, v, u):
        row_sum, found = empty, no_weight
        i = lane
        while i < a.parts and row.state == READ:
            part = load_record(a.partial + (row.number * a.parts + i) * size)
            row_sum = merged(row_sum, RowSum(part.max, part.rest, zero))
            i += threads
        row_sum = reduce(row_sum, turn)
        anchor = zero if row_sum.max == nothing else row_sum.max
        i = lane
        while i < a.parts and row.state == READ:
            part = load_record(a.partial + (row.number * a.parts + i) * size)
            mass, mass_error = plus(found.mass, found.mass_error, part.mass)
            moved = times(part.mass, anchor - (zero if part.max == nothing else part.max))
            distance, distance_error = plus(found.distance, found.distance_error, moved)
            distance, distance_error = plus(distance, distance_error, part.distance)
            found = WeightSum(mass, mass_error, distance, distance_error)
            i += threads
        mass, distance = total(found, turn)
        row_sum = settled(row_sum)
        return Found(row_sum.max, row_sum.rest, row_sum.error, mass, distance)

    return find
