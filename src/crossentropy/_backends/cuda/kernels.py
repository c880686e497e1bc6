"""The kernels of rows: each is a row's reading, its numbers and its writing, for a dtype, a shape of work and a result.

A group of threads works on a row: part of a warp, a warp, a block, or a cluster of blocks. What the group can keep of a
row in registers (``kept`` vectors a thread) is read once; a longer row is read again to be written. Where rows are few
and long, each is cut into parts that are read as rows are, and put together by a second kernel.

The three thirds are reading.py, numbers.py and writing.py; what they are of stands in rows.py (the row), weights.py
(its target), logits.py and vectors.py (its memory), sums.py and exp.py (its arithmetic). What a kernel is given is the
table of arguments.py.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import cuda

from ..contract import Statistics
from .arguments import plain_of, plain_values
from .elements import device, elements_of
from .groups import TURNS, WARP, begin_cluster, from_first, leads_of
from .intrinsics import cluster_count, cluster_index, cluster_rank, clustered, has_come, load, store
from .logits import Target, logits_of
from .numbers import Frame, numbers_of
from .reading import (
    PairPartStatistics,
    PartStatistics,
    StatisticsOfFew,
    kept_target_of,
    part_statistics_of,
    reading_of,
    statistics_of,
)
from .records import record_of
from .rows import rows_of
from .weights import weights_of
from .writing import writing_of


class Result(NamedTuple):
    """What is computed of a row, or of a part of it."""

    # Where its maximum and sum are from: 'row', 'parts', or its 'statistics'. In the backward of a log-softmax they are
    # always from there, and this says the same of the sum of what arrives.
    reads: str = "row"
    saves: str = ""  # 'row': its Statistics; 'part': its PartStatistics, to be put together
    loss: bool = False
    writes: str = ""  # 'gradient', 'softmax', 'log_softmax', 'log_softmax_backward'
    spreads: bool = False  # whether the target's weight is on all classes: smoothing or probabilities
    q: str = ""  # the dtype of probability targets, or of the gradient that arrives at a log-softmax
    to: str = ""  # the dtype of what is written, where it is not that of the logits: 16 bits, of a float32 gradient
    plain: bool = False  # whether the values of `plain_values` are compiled in
    transforms: bool = False  # whether logits are transformed, and so pairs: by a scale, cap, prior or margin
    focal: bool = False  # whether the loss has a focal factor

    def plain_values(self, kind: str) -> dict[str, float]:
        """The arguments that a plain kernel has compiled in."""
        size, q_size = elements_of(kind).size, elements_of(self.q).size if self.q else 0
        values = plain_values(size, q_size, self.reads == "statistics")
        return values | ({"out_class": elements_of(self.to).size} if self.to else {})

    @property
    def is_part(self) -> bool:
        """Whether it is of a part."""
        return self.saves == "part"

    @property
    def is_backward(self) -> bool:
        """Whether it is the backward of a log-softmax, or of a part in one."""
        return self.q != "" and not self.spreads

    @property
    def weighs(self) -> bool:
        """Whether the weights of all classes are added up, or what arrives at them."""
        return (self.spreads and self.writes != "log_softmax") or self.is_backward


@functools.cache
def kernel(kind, shape, result):
    """The Python function of a kernel; its argument is a record of `arguments.record_of`."""
    elements, target_logit = elements_of(kind), logits_of(kind, result.transforms).target_of
    real, width, zero = elements.real, elements.width, elements.real(0)
    one = elements.real(1)
    threads, rows_at_once, alone = shape.threads, shape.rows, shape.alone
    blocks = 1 if alone else shape.blocks
    of_parts, is_part, has_loss, writes = result.reads == "parts", result.is_part, result.loss, result.writes
    row_of = rows_of(kind, of_parts)
    weights = weights_of(kind, shape, result)
    words_held, reals_held, hold, find = reading_of(kind, shape, result, weights)
    numbers, loss_of, frame_of = numbers_of(kind, result, weights.times)
    wait, write = writing_of(kind, shape, result, weights) if writes else (None, None)
    smoothing_of, target_of, real_size = weights.smoothing_of, weights.target_of, elements.real_size
    save, kept_target = _saving(kind, result), kept_target_of(kind, result)
    # A block's threads have met in a reduction since they read the target's logit. A warp's have not, nor have any
    # where the statistics come from memory; there only the thread needs it that writes over it, but blocks alone wait.
    waits = writes == "gradient" and blocks == 1 and (result.reads == "statistics" or threads <= WARP)
    meets = blocks > 1 and result.reads == "row"
    waits_for_target = meets and writes == "gradient"
    low_held, no_target = reals_held if result.transforms else 1, Target(zero, zero, zero)
    turns_of_row = 2 if result.weighs and not result.is_backward else 1  # reductions
    # Where a row is several warps', the first makes its numbers, and tells the others what they write by.
    if result.reads == "row":
        leads, told = leads_of(shape), from_first(elements, shape, Frame)
    else:
        leads, told = device(lambda: True), device(lambda frame: frame)
    no_frame = Frame(*[zero] * len(Frame._fields))

    # The logarithm of a row's sum is the loss's, which its first thread writes: warps that do not have that go without.
    if threads <= WARP or writes == "log_softmax" or result.transforms or result.focal:
        needs_all = device(lambda a, lane: True)
    else:
        needs_all = device(lambda a, lane: lane < WARP or a.z_loss != zero)

    given = device(plain_of(kind, result.plain_values(kind)) if result.plain else lambda a: a)

    def body(a):
        a = given(a)
        words = cuda.local.array(words_held, np.uint32)
        v = cuda.local.array(reals_held, real)
        u = cuda.local.array(width, real)
        low = cuda.local.array(low_held, real)
        thread = np.int64(cuda.threadIdx.x)
        lane, place = (np.int64(0), thread) if alone else (thread % threads, thread // threads)
        block, step = np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        if blocks > 1:
            clustered(blocks)
            block, step, place = np.int64(cluster_index()), np.int64(cluster_count()), np.int64(0)
            lane += np.int64(cluster_rank()) * threads
        if meets:
            begin_cluster()
        turn, leading = 0, leads()
        smoothing = smoothing_of(a)
        divisor = load(a.divisor, real) if a.divisor != 0 else one
        count = a.rows if of_parts else a.rows * a.parts
        base = block * rows_at_once
        while base < count:
            index = base + place
            # Surplus groups repeat the last row with their stores masked, so that all threads reach the barriers.
            alive = rows_at_once == 1 or index < count
            index = min(index, count - 1) if rows_at_once > 1 else index
            row = row_of(a, index, divisor)
            target = target_of(a, row, smoothing)
            z_y = target_logit(a, row) if row.has_target and not is_part and leading else no_target

            hold(row, lane, words)
            if waits_for_target and leading:
                has_come(z_y.z)  # before another block, told of what is found here, writes over it
            z_y = kept_target(a, row, z_y)
            found = find(a, row, target, z_y, lane, turn, words, v, low, u)
            turn = (turn + turns_of_row) & (TURNS - 1)
            frame = no_frame
            if leading:
                of_row = numbers(a, row, smoothing, found, z_y, needs_all(a, lane))
                if alive and lane == 0:
                    if has_loss:
                        store(a.loss + row.number * real_size, loss_of(a, row, found, of_row))
                    save(a, row, index, found, z_y)
                if writes:
                    frame = frame_of(a, row, found, of_row, z_y)

            if writes:
                frame = told(frame)
                if waits:
                    wait()  # nothing is written before all have read the target's logit
                write(a, row, target, frame, lane, alive, words, v, low, u)
            base += step * rows_at_once

    return body


def _saving(kind, result):
    """The device function (a, row, index, found, z_y): keep what was found, of the row or of the part of that index."""
    real, real_size, is_part = elements_of(kind).real, elements_of(kind).real_size, result.is_part
    of_row = record_of(statistics_of(result), real, real_size)
    of_part = record_of(part_statistics_of(result), real, real_size)
    store_row, store_part, row_size, part_size = of_row.store, of_part.store, of_row.size, of_part.size
    if result.is_backward and result.saves:

        @device
        def save(a, row, index, found, z_y):
            """What has arrived; that of a row takes the place of its first part's, which has been read."""
            place = index if is_part else row.number * a.parts
            kept = PartStatistics(max=found.max, rest=found.error, mass=found.mass, distance=found.distance)
            store_part(a.partial + place * part_size, kept)

    elif result.saves == "row" and statistics_of(result) is StatisticsOfFew:
        focal, nothing = result.focal, real(-np.inf)

        @device
        def save(a, row, index, found, z_y):
            s = found.others if focal else found
            m, error = s.max, s.error
            if focal and found.others.left == nothing:  # there are no others, whose maximum is no anchor
                m = nothing
            elif focal and m != m:  # an error is what an undefined row's maximum is read from, see `focal.others_of`
                error = m
            kept = StatisticsOfFew(m, s.low, s.rest, error, found.mass, found.distance, z_y.z, z_y.low)
            store_row(a.statistics + row.number * row_size, kept)

    elif result.saves == "row":

        @device
        def save(a, row, index, found, z_y):
            store_row(a.statistics + row.number * row_size, Statistics(max=found.max, rest=found.rest, mass=found.mass))

    elif result.saves == "part" and result.transforms:

        @device
        def save(a, row, index, found, z_y):
            kept = PairPartStatistics(found.max, found.low, found.rest, found.mass, found.distance)
            store_part(a.partial + index * part_size, kept)

    elif result.saves == "part":

        @device
        def save(a, row, index, found, z_y):
            kept = PartStatistics(max=found.max, rest=found.rest, mass=found.mass, distance=found.distance)
            store_part(a.partial + index * part_size, kept)

    else:

        @device
        def save(a, row, index, found, z_y):
            pass

    return save
