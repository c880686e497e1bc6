"""The first third of a kernel: what is found of a row, in its logits, its statistics, or its parts' statistics."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import cuda

from ..contract import Statistics
from .elements import device, elements_of
from .groups import from_first, one_by_one, rows_one_by_one, rows_together, together
from .intrinsics import larger, load, load_vector
from .logits import Target, logits_of
from .pair_sums import PairRowSum, pair_sums_of
from .records import record_of
from .rows import READ
from .streams import streams_of
from .sums import LEADS_BELOW, RowSum, sums_of
from .two_sums import two_sums_of
from .vectors import vectors_of
from .weights import WeightSum

VECTOR = 16  # bytes
AT_ONCE = 32  # classes whose maximum is found before their sum


class Found(NamedTuple):
    """What is found of a row, or of a part of one: reals."""

    max: float
    low: float  # what the maximum is short of; 0 where logits are not transformed
    rest: float  # the sum of e^(z - max) over all classes but one at the maximum; of a part 2^HEADROOM larger
    error: float  # what rest has lost to rounding; 0 where rest comes from memory, or is a part's
    mass: float  # the sum of the target's weights; 0 where it is not needed
    distance: float  # the sum of weight times (max - z)
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
    find: Callable  # (a, row, target, lane, turn, words, v, low, u): the Found of a row, right in `leads_of` threads


def reading_of(kind: str, shape, result, weights) -> Reading:
    """Those of the kernel of a dtype, a shape of work and a result; ``weights`` are the kernel's own."""
    elements = elements_of(kind)
    real, width, kept = elements.real, elements.width, shape.kept
    zero, apart = real(0), shape.lanes * width
    group = _group(shape, width)
    summed, is_part, weighs = weights.summed, result.is_part, result.weighs
    take_whole, nothing = vectors_of(kind, "").take_whole, real(-np.inf)

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

    if result.is_backward:
        find = _of_arriving(kind, shape, result, weights)

    elif result.reads == "row":
        row_sum, ended = _row_sum(kind, shape, result.transforms), _ended(kind, result.transforms, is_part)
        if result.transforms or shape.blocks > 1:
            told = from_first(elements, shape, Anchor)
        else:  # all threads of a block know the maximum
            told = device(lambda anchor: anchor)

        @device
        def find(a, row, target, lane, turn, words, v, low, u):
            m, m_low, rest, error = ended(row_sum(a, row, lane, turn, words, v, low))
            mass, distance = zero, zero
            if weighs:
                anchor = told(Anchor(zero if m == nothing else m, m_low))
                mass, distance = summed(a, row, target, anchor.m, anchor.low, lane, turn ^ 1, v, low, u)
            return Found(m, m_low, rest, error, mass, distance)

    elif result.reads == "statistics":
        record = record_of(statistics_of(result), real, elements.real_size)
        load_record, size = record.load, record.size
        if statistics_of(result) is StatisticsOfFew:

            @device
            def find(a, row, target, lane, turn, words, v, low, u):
                s = load_record(a.statistics + row.number * size)
                return Found(s.max, s.low, s.rest, s.error, s.mass, s.distance)

        else:

            @device
            def find(a, row, target, lane, turn, words, v, low, u):
                kept_of_row = load_record(a.statistics + row.number * size)
                return Found(kept_of_row.max, zero, kept_of_row.rest, zero, kept_of_row.mass, zero)

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
    threads, reads = shape.threads, result.reads

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
    def find(a, row, target, lane, turn, words, v, low, u):
        kept = load_row(a.statistics + row.number * row_size)
        leader = kept.max if kept.rest < most else nan  # whose logit is its own
        found = sums(a, row, target, leader, lane, turn, v, low, u)
        return Found(kept.max, zero, kept.rest, found.mass_error, found.mass, found.distance)

    return find


def _group(shape, width):
    """How many vectors a lane adds to its sum at once."""
    return min(shape.flight, max(1, AT_ONCE // width))


def _empty(kind, transforms):
    """The RowSum of no class."""
    zero, nothing = elements_of(kind).real(0), elements_of(kind).real(-np.inf)
    return PairRowSum(nothing, zero, zero, zero) if transforms else RowSum(nothing, zero, zero)


def _sums_of(kind, transforms):
    """The `Sums` of a dtype."""
    if transforms:
        return pair_sums_of(kind)
    return two_sums_of(kind) if elements_of(kind).two else sums_of(kind)


def _reduction(elements, shape, sums, empty, transforms, of_lanes=True):
    """The device function (p, turn): the RowSum of all lanes together, of what `Sums.ended` gives, or of RowSums."""
    if transforms:
        return together(elements, shape, sums.merged, empty, of_first=True)
    return rows_together(elements, shape, sums, empty, of_lanes)


def _row_sum(kind, shape, transforms):
    """The device function (a, row, lane, turn, words, v, low): the RowSum of a row, not settled. Overwrites v, low."""
    elements, sums = elements_of(kind), _sums_of(kind, transforms)
    width, kept, begun, ended = elements.width, shape.kept, sums.begun, sums.ended
    empty, group, apart = _empty(kind, transforms), _group(shape, width), shape.lanes * width
    grouped = _grouped(kind, transforms, sums, group, apart)
    if kept and elements.two and not transforms:
        reduce = _reduction(elements, shape, sums, empty, transforms)
        highest, summed, least, all_words, in_group = sums.highest, sums.summed, sums.least, 4 * kept, 4 * group

        def of_first(groups):
            """The device function (words, v, lane_sum): with so many groups more. A loop would not be unrolled."""
            if groups == 0:
                return device(lambda words, v, lane_sum: lane_sum)
            before, at = of_first(groups - 1), in_group * (groups - 1)
            return device(lambda words, v, lane_sum: summed(words, at, in_group, v, before(words, v, lane_sum)))

        of_words = of_first(kept // group)

        @device
        def row_sum(a, row, lane, turn, words, v, low):
            lane_sum = of_words(words, v, begun(highest(words, 0, all_words, least)))
            return reduce(ended(lane_sum), turn)

        return row_sum

    if kept:
        reduce = _reduction(elements, shape, sums, empty, transforms)

        @device
        def row_sum(a, row, lane, turn, words, v, low):
            lane_sum = begun()
            for k in range(kept // group):
                first = np.int64(lane) * width + group * k * apart
                lane_sum = grouped(a, row, words, 4 * group * k, first, v, low, lane_sum)
            return reduce(ended(lane_sum), turn)

        return row_sum

    if elements.two and not transforms:
        two_begun, least = begun, sums.least
        sums = sums._replace(begun=device(lambda: two_begun(least)))
    of_lane = _streamed(kind, shape, group, grouped, _grouped(kind, transforms, sums, 1, apart), sums)
    if shape.alone:
        if transforms:
            over_lanes = one_by_one(elements, shape, of_lane, sums.merged, empty)
        else:
            over_lanes = rows_one_by_one(elements, shape, of_lane, _top(kind, shape), sums, empty)

        @device
        def row_sum(a, row, lane, turn, words, v, low):
            return over_lanes((a, row, words, v, low))

    else:
        reduce = _reduction(elements, shape, sums, empty, transforms)

        @device
        def row_sum(a, row, lane, turn, words, v, low):
            return reduce(of_lane(lane, (a, row, words, v, low)), turn)

    return row_sum


def _grouped(kind, transforms, sums, group, apart):
    """The device function (a, row, words, place, first, v, low, lane_sum): a LaneSum with a group of vectors as well.

    They are from words[place] on, and begin with class ``first`` and others so far apart. Vectors of absent classes at
    a group's end change nothing, to the bit: a smaller group may be in its place.
    """
    elements, read, added = elements_of(kind), logits_of(kind, transforms).read, sums.added
    width, in_group = elements.width, 4 * group
    at_once = group * width
    if elements.two and not transforms:
        return device(lambda a, row, words, place, first, v, low, lane_sum: added(words, place, in_group, v, lane_sum))

    @device
    def grouped(a, row, words, place, first, v, low, lane_sum):
        for k in range(group):
            read(a, row, words, place + 4 * k, first + k * apart, v, low, k * width)
        if transforms:
            return added(v, low, at_once, lane_sum)
        return added(v, at_once, lane_sum)

    return grouped


def _streamed(kind, shape, group, grouped, with_one, sums):
    """The device function (lane, (a, row, words, v, low)): the RowSum of a lane's vectors, where none are kept.

    Vectors are added in groups by ``grouped``, but by ``with_one`` where there is one left.
    """
    elements, vectors = elements_of(kind), vectors_of(kind, "")
    size, width, alone, flight = elements.size, elements.width, shape.alone, shape.flight
    begun, ended, take_any, apart = sums.begun, sums.ended, vectors.take_any, shape.lanes * width
    absent, in_flight, at_once, none, one = elements.absent, 4 * flight, np.int32(flight), np.int32(0), np.int32(1)
    streams, apart_bits = streams_of(size, apart, flight), apart.bit_length() - 1
    stream_of, take = streams.stream_of, streams.take

    @device
    def of_lane(lane, given):
        a, row, words, v, low_parts = given
        x, classes = row.x, row.to_read
        lane_sum = begun()
        more = cuda.local.array(in_flight, np.uint32)
        begin = np.int64(lane) * width
        count = np.int32((classes - begin + (apart - 1)) >> apart_bits)
        stream = stream_of(x, classes, begin, count)
        left = count
        while left > none:
            first = begin + np.int64(np.int32(count - left)) * apart
            if not alone and stream.least < left <= stream.most:
                take(stream, left, words, more)
            elif alone:
                for k in range(flight):
                    take_any(words, 4 * k, x, a.x_class, first + k * apart, classes)
            else:  # one by one, because this is a lot of code; each moves up those that come after it
                for b in range(in_flight):
                    words[b] = absent[b % 4]
                k = np.int64(min(left, at_once))
                while k > 0:
                    k -= 1
                    for b in range(in_flight - 4):
                        words[in_flight - 1 - b] = words[in_flight - 5 - b]
                    take_any(words, 0, x, a.x_class, first + k * apart, classes)
            if not alone and left == one:
                lane_sum = with_one(a, row, words, 0, first, v, low_parts, lane_sum)
            else:
                for k in range(flight // group):
                    place = 4 * group * k
                    lane_sum = grouped(a, row, words, place, first + group * k * apart, v, low_parts, lane_sum)
            left = np.int32(left - at_once)
        return ended(lane_sum)

    return of_lane


def _top(kind, shape):
    """The device function (lane, given): the maximum of a lane's vectors, as `_streamed` has it."""
    elements, take_any = elements_of(kind), vectors_of(kind, "").take_any
    real, width, unpack, apart = elements.real, elements.width, elements.unpack, shape.lanes * elements.width
    nothing = real(-np.inf)

    @device
    def top_of_lane(lane, given):
        a, row, words, v, _ = given
        top, first = nothing, np.int64(lane) * width
        while first < row.to_read:
            take_any(words, 0, row.x, a.x_class, first, row.to_read)
            unpack(words, 0, v, 0)
            for j in range(width):
                top = larger(top, v[j])
            first += apart
        return top

    return top_of_lane


def _of_parts(kind, shape, weights, result):
    """The device function `Reading.find` of a row that is put together from its parts' statistics."""
    elements, threads, transforms = elements_of(kind), shape.threads, result.transforms
    sums = (pair_sums_of if transforms else sums_of)(kind)
    real, merged, plus = elements.real, sums.merged, sums.plus
    total, times = weights.total, weights.times
    zero, nothing = real(0), real(-np.inf)
    empty, no_weight, ended = _empty(kind, transforms), weights.nothing, _ended(kind, transforms, False)
    reduce = _reduction(elements, shape, sums, empty, transforms, False)
    record = record_of(part_statistics_of(result), real, elements.real_size)
    load_record, size = record.load, record.size
    if transforms:
        sum_of = device(lambda part: PairRowSum(part.max, part.low, part.rest, zero))
        moved_by = device(lambda anchor, row_sum, part: (anchor - part.max) + (row_sum.low - part.low))
    else:
        sum_of = device(lambda part: RowSum(part.max, part.rest, zero))
        moved_by = device(lambda anchor, row_sum, part: anchor - part.max)

    @device
    def find(a, row, target, lane, turn, words, v, low, u):
        row_sum, found = empty, no_weight
        i = lane
        while i < a.parts and row.state == READ:
            part = load_record(a.partial + (row.number * a.parts + i) * size)
            row_sum = merged(row_sum, sum_of(part))
            i += threads
        row_sum = reduce(row_sum, turn)
        anchor = zero if row_sum.max == nothing else row_sum.max
        i = lane
        while i < a.parts and row.state == READ:
            part = load_record(a.partial + (row.number * a.parts + i) * size)
            mass, mass_error = plus(found.mass, found.mass_error, part.mass)
            moved = times(part.mass, anchor if part.max == nothing else moved_by(anchor, row_sum, part))
            distance, distance_error = plus(found.distance, found.distance_error, moved)
            distance, distance_error = plus(distance, distance_error, part.distance)
            found = WeightSum(mass, mass_error, distance, distance_error)
            i += threads
        mass, distance = total(found, turn)
        m, m_low, rest, error = ended(row_sum)
        return Found(m, m_low, rest, error, mass, distance)

    return find
