"""The sum of a row's exponentials, from its vectors: those that are kept, or read in turns, or one by one."""

import numpy as np
from numba import cuda

from .elements import device, elements_of
from .groups import one_by_one, rows_one_by_one, rows_together, together
from .intrinsics import larger
from .logits import logits_of
from .pair_sums import PairRowSum, pair_sums_of
from .streams import streams_of
from .sums import RowSum, sums_of
from .two_sums import two_sums_of
from .vectors import vectors_of

AT_ONCE = 32  # classes whose maximum is found before their sum


def row_sum_of(kind, shape, result):
    """The device function (a, row, lane, turn, words, v, low): the RowSum of a row, not settled. Overwrites v, low.

    Of a focal loss the target's class is left out.
    """
    transforms, hides = result.transforms, result.focal
    elements, sums = elements_of(kind), _sums_of(kind, transforms)
    width, kept, begun, ended = elements.width, shape.kept, sums.begun, sums.ended
    empty, group, apart = empty_of(kind, transforms), group_of(shape, width), shape.lanes * width
    grouped = _grouped(kind, transforms, sums, group, apart, hides)
    if kept and elements.two and not transforms:
        reduce = reduction_of(elements, shape, sums, empty, transforms)
        highest, summed, least, all_words, in_group = sums.highest, sums.summed, sums.least, 4 * kept, 4 * group

        def of_first(groups):
            """The device function (words, v, lane_sum): with so many groups more. A loop would not be unrolled."""
            if groups == 0:
                return device(lambda words, v, lane_sum: lane_sum)
            before, at = of_first(groups - 1), np.int64(in_group * (groups - 1))  # a literal would make it another
            return device(lambda words, v, lane_sum: summed(words, at, in_group, v, before(words, v, lane_sum)))

        of_words, hide = of_first(kept // group), _hidden(kind, True)

        @device
        def row_sum(a, row, lane, turn, words, v, low):
            if hides:
                for k in range(kept):
                    hide(words, low, 4 * k, np.int64(lane) * width + k * apart, row.target)
            lane_sum = of_words(words, v, begun(highest(words, 0, all_words, least)))
            return reduce(ended(lane_sum), turn)

        return row_sum

    if kept:
        reduce = reduction_of(elements, shape, sums, empty, transforms)

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
    of_lane = _streamed(kind, shape, group, grouped, _grouped(kind, transforms, sums, 1, apart, hides), sums)
    if shape.alone:
        if transforms:
            over_lanes = one_by_one(elements, shape, of_lane, sums.merged, empty)
        else:
            over_lanes = rows_one_by_one(elements, shape, of_lane, _top(kind, shape, hides), sums, empty)

        @device
        def row_sum(a, row, lane, turn, words, v, low):
            return over_lanes((a, row, words, v, low))

    else:
        reduce = reduction_of(elements, shape, sums, empty, transforms)

        @device
        def row_sum(a, row, lane, turn, words, v, low):
            return reduce(of_lane(lane, (a, row, words, v, low)), turn)

    return row_sum


def group_of(shape, width):
    """How many vectors a lane adds to its sum at once."""
    return min(shape.flight, max(1, AT_ONCE // width))


def empty_of(kind, transforms):
    """The RowSum of no class."""
    zero, nothing = elements_of(kind).real(0), elements_of(kind).real(-np.inf)
    return PairRowSum(nothing, zero, zero, zero) if transforms else RowSum(nothing, zero, zero)


def _sums_of(kind, transforms):
    """The `Sums` of a dtype."""
    if transforms:
        return pair_sums_of(kind)
    return two_sums_of(kind) if elements_of(kind).two else sums_of(kind)


def reduction_of(elements, shape, sums, empty, transforms, of_lanes=True):
    """The device function (p, turn): the RowSum of all lanes together, of what `Sums.ended` gives, or of RowSums."""
    if transforms:
        return together(elements, shape, sums.merged, empty, of_first=True)
    return rows_together(elements, shape, sums, empty, of_lanes)


def _hidden(kind, words, pairs=False):
    """The device function (v, low, place, first, target): -inf in place of the target in the vector from ``first`` on.

    It is v[place : place + width], or ``words`` of 16-bit numbers in the place of v; the vector may not have it.
    ``pairs``: what v is short of is in low.
    """
    elements = elements_of(kind)
    width, nothing, zero, in_word = elements.width, elements.real(-np.inf), elements.real(0), np.int64(2)
    halves = np.uint32(0xFFFF), np.uint32(0xFFFF0000)
    (of_low, of_high), absent = halves, np.uint32(elements.absent[0])
    low_absent, high_absent = absent & of_low, absent & of_high

    # Selected, not branched to: the compiler would make one store of several, to an address, and v an array in memory.
    @device
    def hide(v, low, place, first, target):
        past = target - first
        if past >= 0 and past < width:
            for j in range(width):
                v[place + j] = nothing if past == j else v[place + j]
                if pairs:
                    low[place + j] = zero if past == j else low[place + j]

    @device
    def hide_half(v, low, place, first, target):
        past = target - first
        if past >= 0 and past < width:
            for b in range(4):
                word = v[place + b]
                word = (word & of_high) | low_absent if past == in_word * b else word
                v[place + b] = (word & of_low) | high_absent if past == in_word * b + 1 else word

    return hide_half if words else hide


def _grouped(kind, transforms, sums, group, apart, hides):
    """The device function (a, row, words, place, first, v, low, lane_sum): a LaneSum with a group of vectors as well.

    They are from words[place] on, and begin with class ``first`` and others so far apart. Vectors of absent classes at
    a group's end change nothing, to the bit: a smaller group may be in its place.
    """
    elements, read, added = elements_of(kind), logits_of(kind, transforms).read, sums.added
    width, in_group = elements.width, 4 * group
    at_once, of_words = group * width, elements.two and not transforms
    hide = _hidden(kind, of_words, transforms)
    if of_words:

        @device
        def grouped_words(a, row, words, place, first, v, low, lane_sum):
            if hides:
                for k in range(group):
                    hide(words, low, place + 4 * k, first + k * apart, row.target)
            return added(words, place, in_group, v, lane_sum)

        return grouped_words

    @device
    def grouped(a, row, words, place, first, v, low, lane_sum):
        for k in range(group):
            read(a, row, words, place + 4 * k, first + k * apart, v, low, k * width)
            if hides:
                hide(v, low, k * width, first + k * apart, row.target)
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


def _top(kind, shape, hides):
    """The device function (lane, given): the maximum of a lane's vectors, as `_streamed` has it."""
    elements, take_any = elements_of(kind), vectors_of(kind, "").take_any
    real, width, unpack, apart = elements.real, elements.width, elements.unpack, shape.lanes * elements.width
    nothing, hide = real(-np.inf), _hidden(kind, False)

    @device
    def top_of_lane(lane, given):
        a, row, words, v, low = given
        top, first = nothing, np.int64(lane) * width
        while first < row.to_read:
            take_any(words, 0, row.x, a.x_class, first, row.to_read)
            unpack(words, 0, v, 0)
            if hides:
                hide(v, low, 0, first, row.target)
            for j in range(width):
                top = larger(top, v[j])
            first += apart
        return top

    return top_of_lane
