"""How the threads of a row put together what each found, a few numbers, over a warp, a block, a cluster.

Parts are merged in one order, whatever the shape: neighbours at half the number first, within warps, then warps, then
blocks. A row whose classes lie apart is one thread's, which goes through the lanes in that order by itself: so results
are the same to the bit, however a row lies in memory.
"""

from typing import NamedTuple

from numba import cuda

from .elements import device
from .intrinsics import cluster_rank, cluster_sync
from .records import record_of

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
