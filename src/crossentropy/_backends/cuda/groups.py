"""How the threads of a row put together what each found, a few numbers, over a warp, a block, a cluster.

Parts are merged in one order, whatever the shape: neighbours at half the number first, within warps, then warps, then
blocks. A row whose classes lie apart is one thread's, which goes through the lanes in that order by itself: so results
are the same to the bit, however a row lies in memory.
"""

from typing import NamedTuple

import numpy as np
from numba import cuda

from .elements import device
from .intrinsics import cluster_rank, cluster_sync
from .records import EVERYONE, record_of
from .sums import LaneEnd

WARP = 32  # threads of a warp
MOST_BLOCKS = 8  # of a cluster, where any card with clusters has room
SLOTS = 2 * MOST_BLOCKS
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


def together(elements, shape, merge, empty):
    """The device function (p, turn): what merge makes of every lane's record, which all lanes get.

    ``merge(p, other)`` gives the same either way round; ``empty`` is the record that changes nothing. ``turn`` is 0 and
    1 by turns, from one call to the next.
    """
    real, lanes, warps, blocks = elements.real, min(shape.threads, WARP), shape.threads // WARP, shape.blocks
    threads, of_warps, of_blocks = shape.threads, len(empty) * WARP, len(empty) * SLOTS
    record = record_of(type(empty), real, elements.real_size)
    from_lane, put, take, into_cluster = record.from_lane, record.put, record.take, record.into_cluster

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

    @device
    def over_warp(p, turn):
        return over_lanes(p)

    @device
    def over_warps(p, turn):
        found = cuda.shared.array(of_warps, real)
        p = over_warp(p, turn)
        thread = cuda.threadIdx.x % threads
        lane, warp = thread % WARP, thread // WARP
        cuda.syncthreads()  # every warp has read what was found of the row before
        if lane == 0:
            put(found, warp, p)
        cuda.syncthreads()
        return over_found(take(found, lane % warps))  # each so many lanes read the same

    over_block = over_warps if warps > 1 else over_warp
    if blocks == 1:
        return over_block

    @device
    def over_cluster(p, turn):
        # Each block writes what it found into every block, itself included, and then reads its own memory alone. So one
        # barrier is enough, and no block can have ended whose memory is read. A place is written again two turns later:
        # by then every block has passed the barrier between, and so has read the place.
        found = cuda.shared.array(of_blocks, real)
        p = over_block(p, turn)
        thread = cuda.threadIdx.x % threads
        if thread < blocks:
            into_cluster(found, turn * MOST_BLOCKS + cluster_rank(), thread, p)
        cluster_sync()
        lane = thread % WARP
        return over_blocks(take(found, turn * MOST_BLOCKS + lane % blocks))

    return over_cluster


def rows_together(elements, shape, sums, empty, of_lanes=True):
    """As `together`, of `sums.LaneEnd`: the common maximum first, then one move of each lane's sum, then plain sums.

    It makes the RowSum of all; not ``of_lanes``: of RowSums.
    """
    real, lanes, warps, blocks = elements.real, min(shape.threads, WARP), shape.threads // WARP, shape.blocks
    threads, of_warps, of_blocks = shape.threads, len(empty) * WARP, len(empty) * SLOTS
    record, row_sum = record_of(type(empty), real, elements.real_size), type(empty)
    put, take, into_cluster = record.put, record.take, record.into_cluster
    larger, plus = sums.larger, sums.plus

    def over(count, moved):
        """The device function (p, lane): as `together` has it, but that it is told which lane of its warp it is."""
        if count == 1 and moved is sums.moved:
            return device(lambda p, lane: p)
        if count == 1:

            @device
            def over_one(p, lane):
                s, error = moved(p, p.max, True)
                return row_sum(p.max, s, error)

            return over_one
        group = np.uint32(WARP - count)

        @device
        def over_some(p, lane):
            top = p.max
            step = count // 2
            while step > 0:
                top = larger(top, cuda.shfl_xor_sync(EVERYONE, top, step))
                step //= 2
            # Of those whose maximum is the common one, that of the lowest lane stays out of the sum.
            at_top = p.max == top
            before = (np.uint32(cuda.ballot_sync(EVERYONE, at_top)) >> (lane & group)) & lower(
                lane & np.uint32(count - 1)
            )
            s, error = moved(p, top, at_top and before == np.uint32(0))
            step = count // 2
            while step > 0:
                other, other_error = (
                    cuda.shfl_xor_sync(EVERYONE, s, step),
                    cuda.shfl_xor_sync(EVERYONE, error, step),
                )
                s, error = plus(s, error + other_error, other)
                step //= 2
            return row_sum(top, s, error)

        return over_some

    over_lanes = over(lanes, sums.lane_moved if of_lanes else sums.moved)
    over_found, over_blocks = over(max(warps, 1), sums.moved), over(blocks, sums.moved)

    @device
    def over_warp(p, turn):
        return over_lanes(p, np.uint32(cuda.threadIdx.x) % np.uint32(WARP))

    @device
    def over_warps(p, turn):
        found = cuda.shared.array(of_warps, real)
        p = over_warp(p, turn)
        thread = np.uint32(cuda.threadIdx.x) % np.uint32(threads)
        lane, warp = thread % np.uint32(WARP), thread // np.uint32(WARP)
        cuda.syncthreads()  # every warp has read what was found of the row before
        if lane == 0:
            put(found, np.int32(warp), p)
        cuda.syncthreads()
        return over_found(take(found, np.int32(lane % np.uint32(warps))), lane)  # each so many lanes read the same

    over_block = over_warps if warps > 1 else over_warp
    if blocks == 1:
        return over_block

    @device
    def over_cluster(p, turn):
        """As `together` has it."""
        found = cuda.shared.array(of_blocks, real)
        p = over_block(p, turn)
        thread = np.int32(cuda.threadIdx.x) % np.int32(threads)
        if thread < blocks:
            into_cluster(found, np.int32(turn * MOST_BLOCKS + cluster_rank()), thread, p)
        cluster_sync()
        lane = np.uint32(thread) % np.uint32(WARP)
        return over_blocks(take(found, np.int32(turn * MOST_BLOCKS + lane % np.uint32(blocks))), lane)

    return over_cluster


@device
def lower(lane):
    """The lanes of a warp below one, as bits."""
    return (np.uint32(1) << lane) - np.uint32(1)


def rows_one_by_one(elements, shape, part, sums, empty):
    """The device function (given): what `rows_together` makes of part(lane, given), by one thread for all."""
    real, size, row_sum = elements.real, elements.real_size, type(empty)
    record, of_lane = record_of(row_sum, real, size), record_of(LaneEnd, real, size)
    put, take, larger, plus = record.put, record.take, sums.larger, sums.plus
    put_lane, take_lane, fields = of_lane.put, of_lane.take, len(LaneEnd._fields)
    lanes, warps, blocks = min(shape.threads, WARP), max(1, shape.threads // WARP), shape.blocks
    of_lanes, of_warps, of_blocks = fields * lanes, len(empty) * max(warps, lanes), len(empty) * blocks

    def merged_of(take_part, moved):
        """The device function (found, count, made): the RowSum of so many parts; ``made`` has room for as many."""

        @device
        def merged(found, count, made):
            top = take_part(found, 0).max
            for i in range(1, count):
                top = larger(top, take_part(found, i).max)
            left_out = False
            for i in range(count):
                p = take_part(found, i)
                first = p.max == top and not left_out
                left_out = left_out or first
                s, error = moved(p, top, first)
                put(made, i, row_sum(top, s, error))
            step = count // 2
            while step > 0:
                for i in range(step):
                    p, other = take(made, i), take(made, i + step)
                    s, error = plus(p.rest, p.error + other.error, other.rest)
                    put(made, i, row_sum(top, s, error))
                step //= 2
            return take(made, 0)

        return merged

    of_warp, of_parts = merged_of(take_lane, sums.lane_moved), merged_of(take, sums.moved)

    @device
    def over_lanes(given):
        found = cuda.local.array(of_lanes, real)
        made = cuda.local.array(of_warps, real)
        found_of_warps = cuda.local.array(of_warps, real)
        found_of_blocks = cuda.local.array(of_blocks, real)
        lane = 0
        for block in range(blocks):
            for warp in range(warps):
                for i in range(lanes):
                    put_lane(found, i, part(lane, given))
                    lane += 1
                put(found_of_warps, warp, of_warp(found, lanes, made))
            if warps > 1:
                put(found_of_warps, 0, of_parts(found_of_warps, warps, made))
            put(found_of_blocks, block, take(found_of_warps, 0))
        return of_parts(found_of_blocks, blocks, made) if blocks > 1 else take(found_of_blocks, 0)

    return over_lanes


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
