"""The weights that a target puts on a row's classes, and their sums; or what arrives at a log-softmax, and its sum."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import cuda

from .elements import device, elements_of
from .groups import one_by_one, together
from .intrinsics import fma, load
from .logits import logits_of
from .rows import row_at
from .streams import streams_of
from .sums import sums_of
from .vectors import vectors_of

TURN = 32  # classes of vectors that are read at once, where none are kept


class Smoothing(NamedTuple):
    """The weight of a class is w_c (keep q_c + floor): reals."""

    keep: float  # 1 - label_smoothing
    floor: float  # label_smoothing / classes


class RowTarget(NamedTuple):
    """Where the weights of a row, or of a part of one, are from."""

    class_weight: int  # address of its first class's; 0 where there are none
    q: int  # address of its first class's probability, or of what arrives at a log-softmax there
    q_class: int  # bytes from class to class
    keep: float  # as in `Smoothing`
    floor: float


class WeightSum(NamedTuple):
    """Over classes of a row: reals, each with what it has lost to rounding."""

    mass: float  # the sum of the weights
    mass_error: float
    distance: float  # the sum of weight times (m - z), m the row's maximum
    distance_error: float


class Weights(NamedTuple):
    """The functions of a kernel."""

    smoothing_of: Callable  # (a): the Smoothing of every row
    target_of: Callable  # (a, row, smoothing): the RowTarget of a Row
    weights_of: Callable  # (u, first, classes, target): the weights of a vector's classes, into u[0 : width]
    weights_inside: Callable  # (u, first, classes, target): the same of classes that are all the row's
    summed: Callable  # (a, row, target, m, m_low, lane, turn, v, low, u): (mass, distance) of the whole row
    total: Callable  # (found, turn): (mass, distance) of every lane's WeightSum together
    times: Callable  # (weight, value): their product, where 0 times inf is 0
    nothing: WeightSum  # of no class
    # Of the backward of a log-softmax, whose mass leaves out the class with the logit ``leader``, which distance is:
    arrived: Callable  # (a, row, target, leader, lane, turn, v, low, u): the WeightSum of the whole row
    put_together: Callable | None  # (found, turn): that of every lane's WeightSum together


def weights_of(kind: str, shape, result) -> Weights:
    """Those of the kernel of a dtype, a shape of work and a result."""
    elements, vectors, plus = elements_of(kind), vectors_of(kind, result.q), sums_of(kind).plus
    real, real_size, width = elements.real, elements.real_size, elements.width
    read, transforms = logits_of(kind, result.transforms).read, result.transforms
    take_whole, take_any = vectors.take_whole, vectors.take_any
    beside, beside_whole, beside_inside = vectors.beside, vectors.beside_whole, vectors.beside_inside
    q_kind, backward, kept, apart = result.q, result.is_backward, shape.kept, shape.lanes * width
    apart_bits, none, one_more = apart.bit_length() - 1, np.int32(0), np.int32(1)
    zero, one, full = real(0), real(1), real(width)
    may_be_alike = not (q_kind or backward or transforms)
    nothing = WeightSum(zero, zero, zero, zero)

    @device
    def times(weight, value):
        return zero if weight == zero else weight * value

    if result.spreads:

        @device
        def smoothing_of(a):
            return Smoothing(one - a.label_smoothing, a.label_smoothing / real(a.classes))

    else:  # then there is none
        smoothing_of = device(lambda a: Smoothing(one, zero))

    @device
    def target_of(a, row, smoothing):
        class_weight = a.class_weight + row.begin * real_size if a.class_weight != 0 else a.class_weight
        q = row_at(a.q, a.q_outer, a.q_row, a.inner, row.number) + row.begin * a.q_class
        return RowTarget(class_weight, q, a.q_class, smoothing.keep, smoothing.floor)

    @device
    def weigh(u, first, classes, target):
        """What `weights_of` makes of what u has of the second array."""
        if not backward:
            for j in range(width):
                u[j] = fma(target.keep, u[j], target.floor) if q_kind else target.floor
            if target.class_weight != 0:
                for j in range(width):
                    c = first + j
                    if c >= 0 and c < classes:
                        u[j] *= load(target.class_weight + c * real_size, real)

    @device
    def weights_of(u, first, classes, target):
        """w_c (keep q_c + floor); or what arrives at a log-softmax."""
        if q_kind:
            if kept:
                beside_whole(u, target.q, first)
            else:
                beside(u, target.q, target.q_class, first, classes)
        weigh(u, first, classes, target)

    @device
    def weights_inside(u, first, classes, target):
        """The same of classes that are all the row's."""
        if q_kind:
            beside_inside(u, target.q, target.q_class, first)
        weigh(u, first, classes, target)

    @device
    def added(v, low, u, first, classes, target, m, m_low, found):
        """A WeightSum with the classes of a vector, whose logits are v, as well. Overwrites u.

        In a backward m is the logit of the class that leads, NaN where none does; v need only be read for that.
        """
        mass, mass_error, distance, distance_error = found
        weights_of(u, first, classes, target)
        for j in range(width):
            if first + j < classes:
                if backward and m == m and v[j] == m:
                    distance = u[j]
                else:
                    mass, mass_error = plus(mass, mass_error, u[j])
                if not backward:
                    below = (m - v[j]) + (m_low - low[j]) if transforms else m - v[j]
                    distance, distance_error = plus(distance, distance_error, times(u[j], below))
        return WeightSum(mass, mass_error, distance, distance_error)

    def tree(count):
        """The device function (v): the sum of v[0 : count], neighbours first. Overwrites v."""
        if count == 1:
            return device(lambda v: v[0])
        half, rest = count // 2, tree(count // 2)

        @device
        def summed(v):
            for j in range(half):
                v[j] += v[j + half]
            return rest(v)

        return summed

    sum_of = tree(width)

    @device
    def added_whole(v, products, u, m, found):
        """As `added`, of a vector whose weights are u and whose classes are all the row's. Overwrites v and u.

        The vector's sums are taken by themselves, and what arrives carries their rounding errors from one to the next.
        """
        mass, mass_error, distance, distance_error = found
        for j in range(width):
            v[j] = m - v[j]
            products[j] = u[j] * v[j]
        more = sum_of(products)
        if more != more:  # a weight of 0 met a logit of -inf; or a NaN is there, and the row's results are NaN
            for j in range(width):
                products[j] = times(u[j], v[j])
            more = sum_of(products)
        mass, mass_error = plus(mass, mass_error, sum_of(u))
        distance, distance_error = plus(distance, distance_error, more)
        return WeightSum(mass, mass_error, distance, distance_error)

    @device
    def added_alike_whole(v, m, found):
        """As `added_alike`, of a vector whose classes are all the row's. Overwrites v."""
        count, nothing_lost, distance, distance_error = found
        for j in range(width):
            v[j] = m - v[j]
        distance, distance_error = plus(distance, distance_error, sum_of(v))
        return WeightSum(count + full, nothing_lost, distance, distance_error)

    @device
    def added_alike(v, first, classes, m, found):
        """As `added`, where all weights are 1. Overwrites v."""
        if first + width <= classes:
            return added_alike_whole(v, m, found)
        count, nothing_lost, distance, distance_error = found
        for j in range(width):
            if first + j < classes:
                distance, distance_error = plus(distance, distance_error, m - v[j])
                count += one
        return WeightSum(count, nothing_lost, distance, distance_error)

    @device
    def times_all(weight, found):
        """A WeightSum of weights that are 1, as if each were ``weight``."""
        mass, distance = weight * found.mass, times(weight, found.distance)
        mass_error = fma(weight, found.mass, -mass)
        return WeightSum(
            mass, mass_error, distance, fma(weight, found.distance, -distance) + weight * found.distance_error
        )

    @device
    def with_vector(a, row, target, m, m_low, v, low, u, first, vector, products, found):
        """A WeightSum with the vector from a class on, wherever it lies. Overwrites v, low, u and the next two."""
        if not backward or m == m:
            # What registers hold is read again, too, from memory (a cache of it): a loop over registers must be
            # unrolled, and the compiler gives up on one so long.
            if kept:
                take_whole(vector, 0, row.x, first, row.to_read)
            else:
                take_any(vector, 0, row.x, a.x_class, first, row.to_read)
            read(a, row, vector, 0, first, v, low, 0)
        if may_be_alike and target.class_weight == 0:
            return added_alike(v, first, row.to_read, m, found)
        if backward or transforms or first + width > row.to_read:
            return added(v, low, u, first, row.to_read, target, m, m_low, found)
        weights_of(u, first, row.to_read, target)
        return added_whole(v, products, u, m, found)

    @device
    def of_lane(lane, given):
        """The WeightSum of a lane's vectors. Overwrites v, low and u."""
        a, row, target, m, m_low, v, low, u = given
        found = nothing
        first = np.int64(lane) * width
        vector = cuda.local.array(4, np.uint32)
        products = cuda.local.array(width, real)
        while first < row.to_read:
            found = with_vector(a, row, target, m, m_low, v, low, u, first, vector, products, found)
            first += apart
        return times_all(target.floor, found) if may_be_alike and target.class_weight == 0 else found

    if not (kept or shape.alone or backward or transforms) and (not q_kind or vectors.joined):
        in_turn, joined = min(shape.flight, TURN // width), vectors.joined or 1
        at_once = np.int32(in_turn)
        streams = streams_of(elements.size, apart, in_turn)
        q_size, unpack_q = (elements_of(q_kind).size, elements_of(q_kind).unpack) if q_kind else (0, None)
        q_streams, q_width = streams_of(q_size, apart, in_turn, joined) if q_kind else streams, width // joined
        stream_of, take, q_stream_of, take_q = streams.stream_of, streams.take, q_streams.stream_of, q_streams.take
        words_held, q_held, more_held = 4 * in_turn, 4 * in_turn * joined, 4 * in_turn

        @device
        def of_lane(lane, given):
            """As above, of rows that begin anywhere: some vectors at once, but one by one at a row's ends."""
            a, row, target, m, m_low, v, low, u = given
            found, begin = nothing, np.int64(lane) * width
            vector, products = cuda.local.array(4, np.uint32), cuda.local.array(width, real)
            words, more = cuda.local.array(words_held, np.uint32), cuda.local.array(more_held, np.uint32)
            q_words = cuda.local.array(q_held, np.uint32)
            alike = may_be_alike and target.class_weight == 0
            count = np.int32((row.to_read - begin + (apart - 1)) >> apart_bits)
            stream = stream_of(row.x, row.to_read, begin, count)
            q_stream = q_stream_of(target.q, row.to_read, begin, count) if q_kind else stream
            most, least = min(stream.most, q_stream.most), max(stream.least, q_stream.least)
            if q_kind and target.q_class != q_size:
                most = none
            left = count
            while left > none:
                first = begin + np.int64(np.int32(count - left)) * apart
                if least < left <= most:
                    take(stream, left, words, more)
                    if q_kind:
                        take_q(q_stream, left, q_words, more)
                    for k in range(in_turn):
                        read(a, row, words, 4 * k, first + k * apart, v, low, 0)
                        if alike:
                            found = added_alike_whole(v, m, found)
                        else:
                            if q_kind:
                                for i in range(joined):
                                    unpack_q(q_words, 4 * (joined * k + i), u, i * q_width)
                            weigh(u, first + k * apart, row.to_read, target)
                            found = added_whole(v, products, u, m, found)
                else:
                    k = np.int32(min(left, at_once))
                    while k > none:
                        found = with_vector(a, row, target, m, m_low, v, low, u, first, vector, products, found)
                        first += apart
                        k = np.int32(k - one_more)
                left = np.int32(left - at_once)
            return times_all(target.floor, found) if alike else found

    @device
    def both(part, other):
        """Two WeightSums as one."""
        mass, mass_error = plus(part.mass, part.mass_error + other.mass_error, other.mass)
        distance, distance_error = plus(part.distance, part.distance_error + other.distance_error, other.distance)
        return WeightSum(mass, mass_error, distance, distance_error)

    @device
    def rounded(found):
        """(mass, distance), each with its error; a distance that is infinite has none."""
        distance = found.distance
        if distance - distance == zero:
            distance += found.distance_error
        return found.mass + found.mass_error, distance

    if shape.alone:
        over_lanes = one_by_one(elements, shape, of_lane, both, nothing)

        @device
        def arrived(a, row, target, m, lane, turn, v, low, u):
            return over_lanes((a, row, target, m, zero, v, low, u))

        @device
        def summed(a, row, target, m, m_low, lane, turn, v, low, u):
            return rounded(over_lanes((a, row, target, m, m_low, v, low, u)))

        total = reduce = None
    else:
        reduce = together(elements, shape, both, nothing, of_first=True)

        @device
        def arrived(a, row, target, m, lane, turn, v, low, u):
            return reduce(of_lane(lane, (a, row, target, m, zero, v, low, u)), turn)

        @device
        def total(found, turn):
            return rounded(reduce(found, turn))

        @device
        def summed(a, row, target, m, m_low, lane, turn, v, low, u):
            return total(of_lane(lane, (a, row, target, m, m_low, v, low, u)), turn)

    return Weights(smoothing_of, target_of, weights_of, weights_inside, summed, total, times, nothing, arrived, reduce)
