"""How the threads of a row put together what each found: a pair of numbers over a warp, a block, a cluster.

Parts are merged in one order, whatever the shape: neighbours at half the number first, within warps, then warps, then
blocks. A row whose classes lie apart is one thread's, which goes through the lanes in that order by itself: so results
are the same to the bit, however a row lies in memory.
"""

from typing import NamedTuple

from numba import cuda

from .arithmetic import device
from .intrinsics import cluster_rank, cluster_store, cluster_sync

WARP = 32  # threads of a warp
EVERYONE = 0xFFFFFFFF  # of a warp
MOST_BLOCKS = 8  # of a cluster, where any card with clusters has room
SLOTS = 2 * MOST_BLOCKS


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
    def block(self) -> int:
        """Threads of a block."""
        return self.rows if self.alone else self.threads * self.rows


def together(real, shape, merge, empty):
    """(p, q, turn): what merge makes of every lane's pair; all of them get it. ``turn`` is 0 and 1 by turns.

    ``merge(p, q, other_p, other_q)`` is the same either way round; ``empty`` is the pair that changes nothing.
    """
    lanes, warps, blocks = min(shape.threads, WARP), shape.threads // WARP, shape.blocks
    threads, (empty_p, empty_q) = shape.threads, empty

    @device
    def over_warp(p, q, turn):
        step = lanes // 2
        while step > 0:
            other_p = cuda.shfl_xor_sync(EVERYONE, p, step)
            other_q = cuda.shfl_xor_sync(EVERYONE, q, step)
            p, q = merge(p, q, other_p, other_q)
            step //= 2
        return p, q

    @device
    def over_warps(p, q, turn):
        ps = cuda.shared.array(WARP, real)
        qs = cuda.shared.array(WARP, real)
        p, q = over_warp(p, q, turn)
        thread = cuda.threadIdx.x % threads
        lane, warp = thread % WARP, thread // WARP
        cuda.syncthreads()  # of the row before nothing is needed any more
        if lane == 0:
            ps[warp] = p
            qs[warp] = q
        cuda.syncthreads()
        if lane < warps:
            p, q = ps[lane], qs[lane]
        else:
            p, q = empty_p, empty_q
        return over_warp(p, q, turn)

    over_block = over_warps if warps > 1 else over_warp
    if blocks == 1:
        return over_block

    @device
    def over_cluster(p, q, turn):
        # Each block writes its pair into every block, itself included, and then reads its own memory alone: so one
        # barrier does, and none may be gone whose memory is read. A place is written again two turns later, when
        # every block has passed the barrier between, and so has read it.
        ps = cuda.shared.array(SLOTS, real)
        qs = cuda.shared.array(SLOTS, real)
        p, q = over_block(p, q, turn)
        thread = cuda.threadIdx.x % threads
        if thread < blocks:
            cluster_store(ps, turn * MOST_BLOCKS + cluster_rank(), thread, p)
            cluster_store(qs, turn * MOST_BLOCKS + cluster_rank(), thread, q)
        cluster_sync()
        lane = thread % WARP
        if lane < blocks:
            p, q = ps[turn * MOST_BLOCKS + lane], qs[turn * MOST_BLOCKS + lane]
        else:
            p, q = empty_p, empty_q
        return over_warp(p, q, turn)

    return over_cluster


def one_by_one(real, shape, part, merge):
    """(given): what `together` makes of part(lane, *given), lane by lane."""
    lanes = shape.lanes
    fields, count, left = [], lanes, (WARP, shape.threads // WARP, shape.blocks)
    for size in left:  # the bits of a lane's number: its place in a warp, the warp, the block
        width = min(max(size, 1), count).bit_length() - 1
        fields.append(width)
        count >>= width
    (low, middle, high), levels = fields, lanes.bit_length()

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
        ps = cuda.local.array(levels, real)
        qs = cuda.local.array(levels, real)
        for step in range(lanes):
            p, q = part(lane_at(step), given)
            level = 0
            while (step >> level) & 1:
                p, q = merge(ps[level], qs[level], p, q)
                level += 1
            ps[level] = p
            qs[level] = q
        return ps[levels - 1], qs[levels - 1]

    return over_lanes
