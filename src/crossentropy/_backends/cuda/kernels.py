"""The kernels: each is a row's reading, its numbers, and its writing, for one dtype, one shape of work and one result.

A group of threads works on a row: part of a warp, a warp, a block, or a cluster of blocks. What the group can keep of a
row in registers (``kept`` vectors a thread) is read once; a longer row is read again to be written. Where rows are few
and long, each is cut into parts that are read as rows are, and put together by a second kernel.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import cuda

from .arithmetic import arithmetic, device
from .groups import WARP, one_by_one, together
from .intrinsics import (
    cluster_count,
    cluster_index,
    cluster_rank,
    cluster_sync,
    clustered,
    load,
    load_vector,
    shifted,
    store,
)
from .vectors import row_at, target_at, vectors_of

FLIGHT = 4  # vectors that a thread has on their way, where a row is not kept
AT_ONCE = 16  # classes whose maximum is found before their sum
SKIPPED, BAD, READ = range(3)  # what becomes of a row


class Result(NamedTuple):
    """What is computed of a row, or of a part of it."""

    reads: str = "row"  # where its maximum and sum are from: 'row', 'parts' or 'saved'
    saves: str = ""  # 'row': (m, rest, mass); 'part': (m, rest, mass, distance), to be put together
    loss: bool = False
    writes: str = ""  # 'gradient', 'softmax', 'log_softmax', 'log_softmax_backward'
    spreads: bool = False  # whether the target's weight is on all classes: smoothing or probabilities
    q: str = ""  # the dtype of probability targets, or of the gradient that arrives at a log-softmax


# The arguments of every kernel, in order; addresses and strides in bytes, absent addresses 0.
INTS = (
    "x", "x_outer", "x_row", "x_class",  # row n is at x + n // inner * x_outer + n % inner * x_row
    "out", "out_outer", "out_row", "out_class",
    "q", "q_outer", "q_row", "q_class",
    "inner", "rows", "classes",
    "parts", "part_classes",  # of a row; 1 part: the whole row
    "targets", "targets_outer", "targets_row", "target_size",  # bytes, negative where signed
    "has_ignored", "ignored",
    "class_weight", "sample_weight",  # real: (classes,), (rows,)
    "row_scale", "row_scale_step",  # real: (rows,), or one number (step 0)
    "divisor",  # real: one number
    "loss", "saved", "partial",  # real: (rows,), (rows, 3), (rows, parts, 4)
)  # fmt: skip
REALS = ("scale", "label_smoothing", "z_loss")


@functools.cache
def kernel(kind, shape, result):
    """The Python function of a kernel; its arguments are INTS and REALS."""
    a = arithmetic(kind)
    threads, rows_at_once, kept, alone, blocks = shape
    blocks = 1 if alone else blocks
    reads, saves, has_loss, writes, spreads, q_kind = result
    real, size, width, unpack, put = a.real, a.size, a.width, a.unpack, a.put
    number_at, settled, plus, sum_of, times = a.number_at, a.settled, a.plus, a.sum_of, a.times
    begun, added, ended = a.begun, a.added, a.ended
    exp, exp_near, gradient_frame, target_gradient, fma = a.exp, a.exp_near, a.gradient_frame, a.target_gradient, a.fma
    merged, memory = a.merged, vectors_of(a, q_kind)
    take_whole, take_any, give = memory.take_whole, memory.take_any, memory.give
    give_whole = memory.give_whole
    beside, beside_whole = (memory.beside, memory.beside_whole) if q_kind else (None, None)
    real_size = 8 if real is np.float64 else 4
    lanes = 1 if alone else shape.lanes  # threads that work on a row
    apart = shape.lanes * width  # classes from a lane's vector to its next
    flight = min(kept or FLIGHT, FLIGHT)
    group = min(flight, max(1, AT_ONCE // width))  # vectors
    words_held, in_flight, at_once = 4 * max(kept, flight), 4 * flight, group * width
    zero, one, two, nan, nothing = real(0), real(1), real(2), real(np.nan), real(-np.inf)
    empty_row, no_sums = (nothing, zero, zero), (zero, zero, zero, zero)
    log_softmax, is_gradient, backward = writes == "log_softmax", writes == "gradient", q_kind != "" and not spreads
    of_row, of_parts, of_saved = (reads == r for r in ("row", "parts", "saved"))
    weighs = (spreads and writes != "log_softmax") or backward
    is_part = saves == "part"

    # ---- a row's maximum and sum: of what one lane has of it, and of all

    @device
    def grouped(words, place, v, state):
        """A lane's state with some vectors more."""
        for k in range(group):
            unpack(words, place + 4 * k, v, k * width)
        return added(v, at_once, state)

    @device
    def part_of(lane, given):
        """The maximum and sum of a lane's vectors."""
        words, v, row, stride, classes = given
        state = begun()
        next_words = cuda.local.array(in_flight, np.uint32)
        first = np.int64(lane) * width
        while first < classes:
            last = first + (flight - 1) * apart
            low = (row + first * size) & -16
            if not alone and row % 16 == 0 and last + width <= classes:
                for k in range(flight):  # all on their way before the first is looked at
                    w = load_vector(low + k * apart * size)
                    for b in range(4):
                        words[4 * k + b] = w[b]
            elif not alone and low >= row and low + (flight - 1) * apart * size + 32 <= row + classes * size:
                for k in range(flight):
                    w = load_vector(low + k * apart * size)
                    after = load_vector(low + k * apart * size + 16)
                    for b in range(4):
                        words[4 * k + b] = w[b]
                        next_words[4 * k + b] = after[b]
                for k in range(flight):
                    w = words[4 * k], words[4 * k + 1], words[4 * k + 2], words[4 * k + 3]
                    after = next_words[4 * k], next_words[4 * k + 1], next_words[4 * k + 2], next_words[4 * k + 3]
                    w = shifted(w, after, row)
                    for b in range(4):
                        words[4 * k + b] = w[b]
            else:
                for k in range(flight):
                    take_any(words, 4 * k, row, stride, first + k * apart, classes)
            for k in range(flight // group):
                state = grouped(words, 4 * group * k, v, state)
            first += flight * apart
        return ended(state)

    if kept:

        @device
        def statistics(lane, turn, words, v, row, stride, classes):
            state = begun()
            for k in range(kept // group):
                state = grouped(words, 4 * group * k, v, state)
            return reduce(ended(state), turn)

    elif alone:

        @device
        def statistics(lane, turn, words, v, row, stride, classes):
            return over_lanes((words, v, row, stride, classes))

    else:

        @device
        def statistics(lane, turn, words, v, row, stride, classes):
            return reduce(part_of(lane, (words, v, row, stride, classes)), turn)

    # ---- the target's weight, and its distance from the maximum; or the sum of what arrives at a log-softmax

    @device
    def weights_of(u, first, classes, t):
        """t_c = w_c (keep q_c + floor) of a vector's classes; or what arrives at them, to a log-softmax."""
        class_weight, q_row, q_class, keep, floor = t
        if q_kind:
            if kept:
                beside_whole(u, q_row, first)
            else:
                beside(u, q_row, q_class, first, classes)
        if not backward:
            for j in range(width):
                u[j] = fma(keep, u[j], floor) if q_kind else floor
            if class_weight != 0:
                for j in range(width):
                    c = first + j
                    if c >= 0 and c < classes:
                        u[j] *= load(class_weight + c * real_size, real)

    @device
    def weigh(v, u, first, classes, t, m, found):
        """``found`` with a vector more."""
        mass, mass_error, distance, distance_error = found
        weights_of(u, first, classes, t)
        for j in range(width):
            if first + j < classes:
                mass, mass_error = plus(mass, mass_error, u[j])
                if not backward:
                    distance, distance_error = plus(distance, distance_error, times(u[j], m - v[j]))
        return mass, mass_error, distance, distance_error

    @device
    def weighed(lane, given):
        """(mass, its error, distance, its error) of a lane's vectors."""
        v, u, row, stride, classes, t, m = given
        found = zero, zero, zero, zero
        first = np.int64(lane) * width
        vector = cuda.local.array(4, np.uint32)
        while first < classes:
            if not backward:
                # What is kept, too, from memory (a cache of it): a loop over registers must be unrolled, and the
                # compiler gives up on one so long.
                if kept:
                    take_whole(vector, 0, row, first, classes)
                else:
                    take_any(vector, 0, row, stride, first, classes)
                unpack(vector, 0, v, 0)
            found = weigh(v, u, first, classes, t, m, found)
            first += apart
        return found

    @device
    def plus_both(part, other):
        mass, mass_error, distance, distance_error = part
        other_mass, other_mass_error, other_distance, other_distance_error = other
        mass, mass_error = plus(mass, mass_error + other_mass_error, other_mass)
        distance, distance_error = plus(distance, distance_error + other_distance_error, other_distance)
        return mass, mass_error, distance, distance_error

    if alone:
        over_lanes = one_by_one(real, shape, part_of, merged, empty_row)
        sums_over_lanes = one_by_one(real, shape, weighed, plus_both, no_sums)

        @device
        def sums(lane, turn, given):
            return sums_over_lanes(given)

    else:
        reduce, add_up = together(real, shape, merged, empty_row), together(real, shape, plus_both, no_sums)

        @device
        def sums(lane, turn, given):
            return add_up(weighed(lane, given), turn)

    # ---- what is written

    @device
    def finish(v, u, first, classes, t, frame):
        """Logits become results, but for the target's."""
        m, log_sum, offset, magic, lowest, of_e, row_factor = frame
        if spreads or backward:
            weights_of(u, first, classes, t)
        for j in range(width):
            if log_softmax:
                v[j] = (v[j] - m) - log_sum
            elif backward:
                v[j] = fma(-exp_near(v[j] - offset, magic, lowest), of_e, u[j])
            else:
                e = exp_near(v[j] - offset, magic, lowest) * of_e
                v[j] = fma(-row_factor, u[j], e) if spreads else e

    @device
    def wait():
        """No thread of a row goes on before all have come here."""
        if blocks > 1:
            cluster_sync()
        elif threads > WARP:
            cuda.syncthreads()
        elif not alone:
            cuda.syncwarp()

    def body(
        x, x_outer, x_row, x_class, out, out_outer, out_row, out_class, q, q_outer, q_row, q_class, inner, rows,
        classes, parts, part_classes, targets, targets_outer, targets_row, target_size, has_ignored, ignored,
        class_weight, sample_weight, row_scale, row_scale_step, divisor, loss, saved, partial, scale, label_smoothing,
        z_loss,
    ):  # fmt: skip
        words = cuda.local.array(words_held, np.uint32)
        v = cuda.local.array(at_once, real)
        u = cuda.local.array(width, real)
        thread = np.int64(cuda.threadIdx.x)
        lane, place = (np.int64(0), thread) if alone else (thread % threads, thread // threads)
        block, step = np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        if blocks > 1:
            clustered(blocks)
            block, step, place = np.int64(cluster_index()), np.int64(cluster_count()), np.int64(0)
            lane += np.int64(cluster_rank()) * threads
            cluster_sync()  # before a block's memory is written to, it must have begun
        turn = 0
        keep, floor = one - label_smoothing, label_smoothing / real(classes)
        count = rows if of_parts else rows * parts
        base = block * rows_at_once
        while base < count:
            index = base + place
            alive = index < count  # the last rows may be fewer than a block takes: its other groups do the last again
            index = min(index, count - 1)
            n, begin, here = index, np.int64(0), classes
            if parts > 1 and not of_parts:
                n = index // parts
                begin = (index - n * parts) * part_classes
                here = min(part_classes, classes - begin)

            # ---- whether the row is read, and how it lies
            y, state, weight, by = np.int64(-1), READ, one, one
            if targets != 0:
                y = target_at(row_at(targets, targets_outer, targets_row, inner, n), target_size)
                if y < 0 or y >= classes:
                    state = BAD
                if has_ignored != 0 and y == ignored:
                    state = SKIPPED
            if sample_weight != 0:
                weight = load(sample_weight + n * real_size, real)
                if weight == zero:
                    state = SKIPPED
            if divisor != 0:
                by = load(divisor, real)
                if by == zero:
                    state = SKIPPED
            at = row_at(x, x_outer, x_row, inner, n) + begin * x_class
            to = row_at(out, out_outer, out_row, inner, n) + begin * out_class
            weights = class_weight + begin * real_size if class_weight != 0 else class_weight
            t = weights, row_at(q, q_outer, q_row, inner, n) + begin * q_class, q_class, keep, floor
            target = y - begin
            own_class = state == READ and targets != 0 and target >= 0 and (of_parts or target < here)
            z_y = number_at(at + target * x_class) if own_class and not is_part else zero
            to_read = here if state == READ else np.int64(0)

            # ---- its maximum and sum, and its target's weight and distance
            m, rest, error, mass, distance = nothing, zero, zero, zero, zero
            if kept:
                for k in range(kept):
                    take_whole(words, 4 * k, at, lane * width + k * apart, to_read)
            if of_row:
                m, rest, error = statistics(lane, turn, words, v, at, x_class, to_read)
                turn ^= 1
                if is_part:
                    rest += error
                else:
                    m, rest, error = settled((m, rest, error))
                if weighs:
                    anchor = zero if m == nothing else m
                    given = v, u, at, x_class, to_read, t, anchor
                    mass, mass_error, distance, distance_error = sums(lane, turn, given)
                    turn ^= 1
                    mass += mass_error
                    if distance - distance == zero:
                        distance += distance_error
            elif of_saved:
                record = saved + 3 * n * real_size
                m, rest, mass = load(record, real), load(record + real_size, real), load(record + 2 * real_size, real)
            else:
                i = lane
                while i < parts and state == READ:
                    record = partial + 4 * (n * parts + i) * real_size
                    found = load(record, real), load(record + real_size, real), zero
                    m, rest, error = merged((m, rest, error), found)
                    i += threads
                m, rest, error = reduce((m, rest, error), turn)
                mass_error, distance_error, i = zero, zero, lane
                anchor = zero if m == nothing else m
                while i < parts and state == READ:
                    record = partial + 4 * (n * parts + i) * real_size
                    part_m, part_mass = load(record, real), load(record + 2 * real_size, real)
                    mass, mass_error = plus(mass, mass_error, part_mass)
                    moved = times(part_mass, anchor - (zero if part_m == nothing else part_m))
                    distance, distance_error = plus(distance, distance_error, moved)
                    part_distance = load(record + 3 * real_size, real)
                    distance, distance_error = plus(distance, distance_error, part_distance)
                    i += threads
                found = mass, mass_error, distance, distance_error
                mass, mass_error, distance, distance_error = add_up(found, turn)
                mass += mass_error
                if distance - distance == zero:
                    distance += distance_error
                m, rest, error = settled((m, rest, error))

            # ---- its numbers
            first_lane = alive and lane == 0
            own, floor_y = zero, zero
            if targets != 0 and state == READ:
                w_y = load(class_weight + y * real_size, real) if class_weight != 0 else one
                own, floor_y = keep * w_y, times(floor, w_y)
            share = one / (one + rest)
            log_sum = real(math.log1p(rest)) + error * share
            lse = m + log_sum
            if has_loss and first_lane:
                value = nan
                if state == SKIPPED:
                    value = zero
                elif state == READ and targets == 0 and not spreads:
                    value = lse
                elif state == READ and m == m:
                    value = times(own, sum_of(m, z_y, log_sum)) + distance + times(mass, log_sum)
                    value = weight * (value + times(z_loss, lse * lse))
                store(loss + n * real_size, value)
            if saves and first_lane:
                record = partial + 4 * index * real_size if is_part else saved + 3 * n * real_size
                store(record, m)
                store(record + real_size, rest)
                store(record + 2 * real_size, mass)
                if is_part:
                    store(record + 3 * real_size, distance)

            # ---- what is written
            if writes:
                factor, value, row_factor = share, zero, one
                if is_gradient:
                    row_factor = scale * weight / by
                    if row_scale != 0:
                        row_factor *= load(row_scale + n * row_scale_step, real)
                    z_term = times(two * z_loss, lse)
                    total = own + mass + z_term
                    factor = row_factor * total / (one + rest)
                    if targets != 0:
                        others = (mass - floor_y) + z_term
                        value = row_factor * target_gradient(m, rest, z_y, total, others, own + floor_y)
                if backward:
                    factor = mass * exp(m)
                offset, magic, lowest, of_e = gradient_frame(factor, m)
                frame = m, log_sum, offset, magic, lowest, of_e, row_factor
                if is_gradient and (of_saved or threads <= WARP):
                    wait()  # nothing is written before all have read the target's logit
                if state != READ or m != m:
                    i = lane if alive else here
                    while i < here:
                        put(to + i * out_class, zero if state == SKIPPED else nan)
                        i += lanes
                else:
                    head = np.int64(0)  # classes that the first vector has not
                    if kept:
                        for k in range(kept):
                            first = lane * width + k * apart
                            if first < here and alive:
                                unpack(words, 4 * k, v, 0)
                                finish(v, u, first, here, t, frame)
                                give_whole(to, first, v)
                    else:
                        # Vectors are now those of the memory that is written: which lane has a class matters no more.
                        head = to % 16 // size if out_class == size else head
                        first = lane * width - head if alive else here
                        between = np.int64(lanes) * width
                        while (
                            not alone
                            and first >= 0
                            and first + (flight - 1) * between + width <= here
                            and out_class == size
                            and (at + first * size) % 16 == 0
                        ):
                            for k in range(flight):  # all on their way before the first is looked at
                                w = load_vector(at + (first + k * between) * size)
                                for b in range(4):
                                    words[4 * k + b] = w[b]
                            for k in range(flight):
                                unpack(words, 4 * k, v, 0)
                                finish(v, u, first + k * between, here, t, frame)
                                give_whole(to, first + k * between, v)
                            first += flight * between
                        while first < here:
                            take_any(words, 0, at, x_class, first, here)
                            unpack(words, 0, v, 0)
                            finish(v, u, first, here, t, frame)
                            give(to, out_class, first, here, v)
                            first += between
                    if is_gradient and own_class and alive and (target + head) // width % lanes == lane:
                        put(to + target * out_class, value)  # over what this thread has just written
            base += step * rows_at_once

    return body
