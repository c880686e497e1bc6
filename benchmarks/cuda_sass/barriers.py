"""Barriers in shared memory, which count arrivals and bytes, and stores that tell another block's barrier of theirs."""

import re

import numpy as np
from accesses import own_address, registers_of, size_of
from opcodes import only, opcode
from program import Fault

U32 = np.uint32
_COUNTS = 0x100000  # what is kept of a count is how much it is less, in two fields
_PAIR = re.compile(r"\[(R\d+)\.64\]")


class Barrier:
    """One barrier: its phase ends when all have arrived, and as many bytes have come as they expect."""

    def __init__(self, count: int, number: int):
        self.count, self.number = count, number  # the number tells it from the others of a launch
        self.pending, self.lacking, self.phase = count, 0, 0

    def has_ended(self, parity: int) -> bool:
        """Whether the phase of that parity has."""
        return self.phase % 2 != parity

    def moved(self, arrivals: int, expected: int) -> bool:
        """Fewer arrivals to come, and more bytes; whether that ends the phase."""
        self.pending, self.lacking = self.pending - arrivals, self.lacking + expected
        if self.pending < 0:
            raise Fault("more arrive at a barrier than it counts")
        if self.pending or self.lacking:
            return False
        self.pending, self.phase = self.count, self.phase + 1
        return True


class Barriers:
    """Those of all blocks, by (block, address)."""

    def __init__(self):
        self._all: dict[tuple[int, int], Barrier] = {}
        self.ended = False  # a phase, since this was last looked at

    def begin(self, block: int, at: int, count: int) -> None:
        self._all[block, at] = Barrier(count, len(self._all))

    def at(self, block: int, at: int) -> Barrier:
        if (block, at) not in self._all:
            raise Fault(f"no barrier has begun at {at:#x} of block {block}")
        return self._all[block, at]

    def moved(self, block: int, at: int, arrivals: int, expected: int) -> None:
        self.ended |= self.at(block, at).moved(arrivals, expected)


def _each(m, active, *values):
    """Of each active thread: its number, and its values."""
    those = np.arange(m.count) if active is None else np.flatnonzero(active)
    return zip(those, *(np.broadcast_to(value, m.count)[those].tolist() for value in values), strict=True)


@opcode("SYNCS")
def _begin_or_arrive(m, i):
    """What waits (PHASECHK) is the machine's."""
    address, given = own_address(m, i.operands[1]), m.wide(i.operands[2])
    uniform = "UR" in i.operands[1] and "URZ" not in i.operands[1]

    def once(active):
        """The first thread of each warp, where all of it does this once, by way of uniform registers."""
        if not uniform:
            return active
        those = np.arange(m.count) if active is None else np.flatnonzero(active)
        first = np.zeros(m.count, bool)
        first[those[np.unique(m.warp[those], return_index=True)[1]]] = True
        return first

    if i.modifiers == ("EXCH", "64"):
        if i.operands[0] not in ("RZ", "URZ"):
            raise Fault("unknown")

        def begin(active):
            for thread, at, word in _each(m, once(active), address(), given()):
                at &= 0xFFFFFF
                m.shared.check(np.array([at]), 8, i.text)
                low, high = word & 0xFFFFFFFF, word >> 32
                count = _COUNTS - (low >> 1)
                if not 0 < count < _COUNTS or high != (low >> 1) << 11:
                    raise Fault(f"not what a barrier begins with: {word:#x}, {i.text}")
                m.barriers.begin(int(m.block[thread]), at, count)

        return begin
    if i.modifiers != ("ARRIVE", "TRANS64"):
        raise Fault("unknown")
    size = m.integer(i.operands[2])

    def arrive(active):
        for thread, at, expected in _each(m, once(active), address(), size()):
            m.barriers.moved(int(m.block[thread]), at & 0xFFFFFF, 1, expected)

    return arrive


def waiting(m, i):
    """The function (active): which of these threads go on: those whose phase of a barrier has ended."""
    only(i, "PHASECHK", "TRANS64", "TRYWAIT")
    address, parity, to = own_address(m, i.operands[1]), m.integer(i.operands[2]), m.into_predicate(i.operands[0])

    def those_that_go_on(active):
        found = np.zeros(m.count, bool)
        for thread, at, which in _each(m, active, address(), parity()):
            barrier = m.barriers.at(int(m.block[thread]), at & 0xFFFFFF)
            if barrier.has_ended(which >> 31):
                found[thread] = True
                m.shared.has_seen(m.warp[thread], barrier)
        to(np.ones(m.count, bool), found)
        return found

    return those_that_go_on


@opcode("STAS")
def _store_and_tell(m, i):
    """Words to a block of the cluster, and how many bytes they are to its barrier: both addresses have its number."""
    only(i, "64", "128")
    first, size = int(_PAIR.fullmatch(i.operands[0])[1][1:]), size_of(i)
    registers = registers_of(i.operands[1], size // 4)

    def execute(active):
        for thread, to, barrier in _each(m, active, m.R[first], m.R[first + 1]):
            rank, at = to >> 24, to & 0xFFFFFF
            if rank >= m.cluster or rank != barrier >> 24:
                raise Fault(f"no such block in the cluster, or its barrier is another's: {i.text}")
            block = int(m.block[thread]) // m.cluster * m.cluster + rank
            if not m.live[m.block == block].any():
                raise Fault(f"to a block that has ended: {i.text}")
            m.shared.check(np.array([at]), size, i.text)
            counting = m.barriers.at(block, barrier & 0xFFFFFF)
            words = [m.R[register][thread] for register in registers]
            m.shared.send(block, at // 4, words, counting, i.text)
            m.barriers.moved(block, barrier & 0xFFFFFF, 0, -size)

    return execute
