"""How the threads of a row put together what each found, a few numbers, over a warp, a block, a cluster.

Parts are merged in one order, whatever the shape: neighbours at half the number first, within warps, then warps, then
blocks. A row whose classes lie apart is one thread's, which goes through the lanes in that order by itself: so results
are the same to the bit, however a row lies in memory.
"""

from typing import NamedTuple

import numpy as np
from numba import cuda

from .elements import device
from .intrinsics import barrier_begin, barrier_expect, barrier_wait, barriers, cluster_begin, cluster_rank
from .records import EVERYONE, record_of
from .warp_sums import WARP_SUMS, WarpSums

WARP = 32  # threads of a warp
MOST_BLOCKS = 8  # of a cluster, where any card with clusters has room
SLOTS = 2 * MOST_BLOCKS
BARRIER = np.int32(8)  # bytes
TURNS = 4  # of a cluster's meetings: two barriers, each of which is waited for with two parities
FLIGHT = 4  # vectors that a thread has on their way, where a row is not kept


class Shape(NamedTuple):
    """How rows are shared out."""

    threads: int  # of a block that work on a row: a power of 2
    rows: int  # at once in a block: 1 if a row takes more than a warp
    kept: int  # vectors of a row that a thread holds in registers, where rows are vectors throughout; 0: none
    alone: bool = False  # whether one thread does the work of all: classes apart, and neighbouring rows side by side
    blocks: int = 1  # of a cluster that work on a row

    @property
    def lanes(self) -> int:
        """Among how many threads a row is shared out."""
        return self.threads * self.blocks

    @property
    def workers(self) -> int:
        """How many threads work on a row in fact."""
        return 1 if self.alone else self.lanes

    @property
    def flight(self) -> int:
        """Vectors that a thread has on their way at once."""
        return min(self.kept or FLIGHT, FLIGHT)

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.rows if self.alone else self.threads * self.rows


@device
def begin_cluster():
    """Before any block writes to another: the other's barriers are there."""
    if cuda.threadIdx.x == 0:
        barrier_begin(barriers())
        barrier_begin(np.int32(barriers() + BARRIER))
    cluster_begin()


def _exchange(record, threads, blocks):
    """The device function (found, p, turn): the place in ``found`` from which on the p of each block is.

    Each block writes what it found into every block, itself included, and each waits for what it gets: a store that
    tells a barrier how many bytes have come, so that no fence is needed, which would wait for the stores of the row
    before. A place is written again two turns later. By then every block has had what the others found of the turn
    between, which they sent when all of their threads had met, and so had read the place.
    """
    into_cluster, size = record.into_cluster, np.int32(blocks * record.size)

    @device
    def exchanged(found, p, turn):
        thread, which = np.int32(cuda.threadIdx.x) % np.int32(threads), np.int32(turn & 1)
        place = np.uint32(which) * np.uint32(MOST_BLOCKS)
        barrier = np.int32(barriers() + np.int32(which * BARRIER))
        if thread == 0:
            barrier_expect(barrier, size)
        if thread < blocks:
            into_cluster(found, np.int32(place + np.uint32(cluster_rank())), thread, p, barrier)
        barrier_wait(barrier, np.int32(turn >> 1))
        return place

    return exchanged


def leads_of(shape):
    """The device function (): whether this thread is of a block's first warp, or of a warp that works on its own."""
    if not meets(shape):
        return device(lambda: True)
    threads = shape.threads
    # All of a warp or none, as the compiler sees by the vote: threads of a warp that is one need no looking after.
    return device(lambda: cuda.ballot_sync(EVERYONE, cuda.threadIdx.x % threads < WARP) != 0)


def meets(shape) -> bool:
    """Whether several warps of a block work on a row."""
    return shape.threads > WARP and not shape.alone


def from_first(elements, shape, fields):
    """The device function (p): the first warp's record of such ``fields``, which all threads of its block get.

    There are other meetings of a block between two calls: so all have read the one before.
    """
    if not meets(shape):
        return device(lambda p: p)
    record, real, vector = record_of(fields, elements.real, elements.real_size), elements.real, 16
    put, take, held = record.put, record.take, -(-record.size // vector) * vector // elements.real_size
    threads = shape.threads

    @device
    def got(p):
        of_first = cuda.shared.array(held, real, vector)
        if cuda.threadIdx.x % threads == 0:
            put(of_first, 0, p)
        cuda.syncthreads()
        return take(of_first, 0)

    return got


def together(elements, shape, merge, empty, of_first=False):
    """The device function (p, turn): what merge makes of every lane's record, which all lanes get.

    ``merge(p, other)`` gives the same either way round; ``empty`` is the record that changes nothing. ``turn`` counts
    a kernel's calls of all such functions, modulo `TURNS`. ``of_first``: it is right in `leads_of` threads alone, since
    what several warps do alike takes the time of each.
    """
    real, lanes, warps, blocks = elements.real, min(shape.threads, WARP), shape.threads // WARP, shape.blocks
    threads, of_warps, of_blocks = shape.threads, len(empty) * WARP, len(empty) * SLOTS
    record = record_of(type(empty), real, elements.real_size)
    from_lane, put, take = record.from_lane, record.put, record.take

    def over(count):
        """The device function (p): what each ``count`` neighbours of a warp have, a power of 2, all of which get it."""

        @device
        def over_some(p):
            step = count // 2
            while step > 0:
                p = merge(p, from_lane(p, step))
                step //= 2
            return p

        return over_some

    over_lanes, over_found, over_blocks = over(lanes), over(max(warps, 1)), over(blocks)
    takes = leads_of(shape) if of_first else device(lambda: True)

    @device
    def over_warp(p, turn):
        return over_lanes(p)

    @device
    def over_warps(p, turn):
        found = cuda.shared.array(of_warps, real)
        p = over_warp(p, turn)
        thread = np.uint32(cuda.threadIdx.x) % np.uint32(threads)
        lane, warp = thread % np.uint32(WARP), thread // np.uint32(WARP)
        cuda.syncthreads()  # every warp has read what was found of the row before
        if lane == 0:
            put(found, warp, p)
        cuda.syncthreads()
        if takes():
            p = over_found(take(found, lane % np.uint32(warps)))  # each so many lanes read the same
        return p

    over_block = over_warps if warps > 1 else over_warp
    if blocks == 1:
        return over_block

    exchanged = _exchange(record, threads, blocks)

    @device
    def over_cluster(p, turn):
        found = cuda.shared.array(of_blocks, real)
        p = over_block(p, turn)
        if takes():
            place = exchanged(found, p, turn)
            p = over_blocks(take(found, place + np.uint32(cuda.threadIdx.x) % np.uint32(blocks)))
        return p

    return over_cluster


def rows_together(elements, shape, sums, empty, of_lanes=True):
    """As `together`, of `sums.LaneEnd`: the common maximum first, then one move of each lane's sum, then plain sums.

    It makes the RowSum of all, in `leads_of` threads alone, but for its maximum within a block; not ``of_lanes``: of
    RowSums. A block has its maximum before sums are moved; blocks of a cluster meet once, and so each has a sum of its
    own, which is moved again.
    """
    real, lanes, warps, blocks = elements.real, min(shape.threads, WARP), max(shape.threads // WARP, 1), shape.blocks
    threads, of_blocks, row_sum = shape.threads, len(empty) * SLOTS, type(empty)
    real_size = elements.real_size
    (moved, to_top), take = _moving(sums, warps, of_lanes), record_of(row_sum, real, real_size).take
    top_of_lanes, lowest_of_lanes, _ = _among(lanes, sums)
    top_of_warps, _, sum_of_warps = _among(warps, sums)
    of_lanes_sums, leads = _lane_sums(lanes, real, sums), leads_of(shape)
    parts_of_lanes, number_of, of_parts = of_lanes_sums.over_lanes, of_lanes_sums.number_of, of_lanes_sums.parts
    word, of_warps = of_lanes_sums.word, len(of_parts._fields) * WARP
    record_of_parts = record_of(of_parts, word, real_size)
    put_parts, take_parts = record_of_parts.put, record_of_parts.take

    @device
    def over_warp(p, turn):
        lane = np.uint32(cuda.threadIdx.x) % np.uint32(WARP)
        top = top_of_lanes(p.max)
        s, error = moved(p, top, lowest_of_lanes(p.max == top, lane))
        s, error = number_of(parts_of_lanes(s, error))
        return row_sum(top, s, error)

    @device
    def over_warps(p, turn):
        tops = cuda.shared.array(WARP, real)
        found = cuda.shared.array(of_warps, word)
        thread = np.uint32(cuda.threadIdx.x) % np.uint32(threads)
        lane, warp = thread % np.uint32(WARP), thread // np.uint32(WARP)
        of_warp = top_of_lanes(p.max)
        if lane == 0:
            tops[np.int32(warp)] = of_warp
        cuda.syncthreads()  # and every warp has read the sums of the row before
        its = np.int32(lane % np.uint32(warps))  # each so many lanes read the same
        top = top_of_warps(tops[its])
        # Of those whose maximum is the common one, that of the lowest lane of the lowest warp stays out of the sum.
        before = np.uint32(cuda.ballot_sync(EVERYONE, tops[its] == top)) & lower(warp)
        s, error = moved(p, top, lowest_of_lanes(p.max == top, lane) and before == np.uint32(0))
        parts = parts_of_lanes(s, error)
        if lane == 0:
            put_parts(found, np.int32(warp), parts)
        cuda.syncthreads()
        if leads():
            s, error = to_top(top, *sum_of_warps(*number_of(take_parts(found, its))))
        return row_sum(top, s, error)

    over_block = over_warps if warps > 1 else over_warp
    if blocks == 1:
        return over_block
    top_of_blocks, lowest_of_blocks, sum_of_blocks = _among(blocks, sums)
    block_moved, exchanged = sums.moved, _exchange(record_of(row_sum, real, real_size), threads, blocks)

    @device
    def over_cluster(p, turn):
        found = cuda.shared.array(of_blocks, real)
        p = over_block(p, turn)
        if leads():
            place = exchanged(found, p, turn)
            lane = np.uint32(cuda.threadIdx.x) % np.uint32(WARP)
            p = take(found, place + lane % np.uint32(blocks))
            top = top_of_blocks(p.max)
            s, error = block_moved(p, top, lowest_of_blocks(p.max == top, lane))
            s, error = sum_of_blocks(s, error)
            p = row_sum(top, s, error)
        return p

    return over_cluster


def _moving(sums, warps, of_lanes=True):
    """(moved, to_top): how what lanes found is moved before it is added up, and the sum of a block of so many warps."""
    if of_lanes and warps > 1:
        return sums.lane_anchored, sums.to_top
    return sums.lane_moved if of_lanes else sums.moved, device(lambda top, s, error: (s, error))


def _among(count, sums):
    """Device functions over each ``count`` lanes of a warp, a power of 2: the largest, the lowest lane, the sum.

    (number): the largest, NaN where one is. (holds, lane): whether this is the lowest for which it holds. (s, error):
    the sum of all, with errors.
    """
    larger, plus, group, within = sums.larger, sums.plus, np.uint32(WARP - count), np.uint32(count - 1)

    @device
    def largest(number):
        step = count // 2
        while step > 0:
            number = larger(number, cuda.shfl_xor_sync(EVERYONE, number, step))
            step //= 2
        return number

    @device
    def lowest(holds, lane):
        before = (np.uint32(cuda.ballot_sync(EVERYONE, holds)) >> (lane & group)) & lower(lane & within)
        return holds and before == np.uint32(0)

    @device
    def sum_of(s, error):
        step = count // 2
        while step > 0:
            other, other_error = cuda.shfl_xor_sync(EVERYONE, s, step), cuda.shfl_xor_sync(EVERYONE, error, step)
            s, error = plus(s, error + other_error, other)
            step //= 2
        return s, error

    if count == 1:
        return device(lambda number: number), device(lambda holds, lane: holds), device(lambda s, error: (s, error))
    return largest, lowest, sum_of


class LanePair(NamedTuple):
    """A sum of lanes' numbers, and what it has lost to rounding: reals."""

    sum: float
    error: float


def _lane_sums(count, real, sums):
    """The `WarpSums` of ``count`` lanes: in pairs of reals, where they are no whole warp or reals are float64."""
    if count == WARP and real is np.float32:
        return WARP_SUMS
    plus, sum_of = sums.plus, _among(count, sums)[2]

    @device
    def over_lanes(s, error):
        s, error = sum_of(s, error)
        return LanePair(s, error)

    return WarpSums(over_lanes, sum_by_halves(plus, count), device(lambda p: (p.sum, p.error)), LanePair, real)


def sum_by_halves(plus, count):
    """The device function (found): the LanePair of so many pairs (sum, error), a power of 2, which it overwrites."""

    @device
    def sum_of(found):
        step = count // 2
        while step > 0:
            for i in range(step):
                s, error = plus(found[2 * i], found[2 * i + 1] + found[2 * (i + step) + 1], found[2 * (i + step)])
                found[2 * i], found[2 * i + 1] = s, error
            step //= 2
        return LanePair(found[0], found[1])

    return sum_of


@device
def lower(lane):
    """The lanes of a warp below one, as bits."""
    return (np.uint32(1) << lane) - np.uint32(1)


def rows_one_by_one(elements, shape, part, top_of, sums, empty):
    """The device function (given): what `rows_together` makes of part(lane, given), by one thread for all.

    ``top_of(lane, given)`` is the maximum of part(lane, given).
    """
    real, row_sum = elements.real, type(empty)
    larger, plus, moved, nothing = sums.larger, sums.plus, sums.moved, empty.max
    lanes, warps, blocks = min(shape.threads, WARP), max(1, shape.threads // WARP), shape.blocks
    lane_moved, to_top = _moving(sums, warps)
    of_lanes, of_warps, of_blocks, threads = 2 * lanes, 2 * warps, 3 * blocks, shape.threads
    lane_sums, sum_of_warps, sum_of_blocks = (
        _lane_sums(lanes, real, sums),
        sum_by_halves(plus, warps),
        sum_by_halves(plus, blocks),
    )
    in_turn, number_of = lane_sums.in_turn, lane_sums.number_of

    @device
    def over_block(block, given):
        found, found_of_warps = cuda.local.array(of_lanes, real), cuda.local.array(of_warps, real)
        lane, top = block * threads, nothing
        for i in range(threads):
            top = larger(top, top_of(lane + i, given))
        left_out = False
        for warp in range(warps):
            for i in range(lanes):
                p = part(lane, given)
                first = p.max == top and not left_out
                left_out = left_out or first
                found[2 * i], found[2 * i + 1] = lane_moved(p, top, first)
                lane += 1
            found_of_warps[2 * warp], found_of_warps[2 * warp + 1] = number_of(in_turn(found))
        total = sum_of_warps(found_of_warps)
        s, error = to_top(top, total.sum, total.error)
        return row_sum(top, s, error)

    if blocks == 1:
        return device(lambda given: over_block(0, given))

    @device
    def over_blocks(given):
        found = cuda.local.array(of_blocks, real)
        top = nothing
        for block in range(blocks):
            p = over_block(block, given)
            found[block], found[blocks + 2 * block], found[blocks + 2 * block + 1] = p.max, p.rest, p.error
            top = larger(top, p.max)
        left_out = False
        for block in range(blocks):
            p = row_sum(found[block], found[blocks + 2 * block], found[blocks + 2 * block + 1])
            first = p.max == top and not left_out
            left_out = left_out or first
            found[blocks + 2 * block], found[blocks + 2 * block + 1] = moved(p, top, first)
        total = sum_of_blocks(found[blocks:])
        return row_sum(top, total.sum, total.error)

    return over_blocks


def one_by_one(elements, shape, part, merge, empty):
    """The device function (given): what `together` makes of the records part(lane, given), by one thread for all."""
    real, lanes = elements.real, shape.lanes
    record = record_of(type(empty), real, elements.real_size)
    put, take = record.put, record.take
    fields, left, sizes = [], lanes, (WARP, shape.threads // WARP, shape.blocks)
    for size in sizes:  # the bits of a lane's number: its place in a warp, the warp, the block
        width = min(max(size, 1), left).bit_length() - 1
        fields.append(width)
        left >>= width
    (low, middle, high), levels = fields, lanes.bit_length()
    waiting = len(empty) * levels

    @device
    def lane_at(step):
        """The lane whose turn it is: its number's bits are a count's, backwards within each field."""
        lane = 0
        for b in range(low):
            lane |= ((step >> b) & 1) << (low - 1 - b)
        for b in range(middle):
            lane |= ((step >> (low + b)) & 1) << (low + middle - 1 - b)
        for b in range(high):
            lane |= ((step >> (low + middle + b)) & 1) << (low + middle + high - 1 - b)
        return lane

    @device
    def over_lanes(given):
        found = cuda.local.array(waiting, real)
        for step in range(lanes):
            p = part(lane_at(step), given)
            level = 0
            while (step >> level) & 1:
                p = merge(take(found, level), p)
                level += 1
            put(found, level, p)
        return take(found, levels - 1)

    return over_lanes
