"""Instructions that move words: between registers, from constants, from thread to thread."""

import re

import numpy as np
from opcodes import only, opcode
from operands import WARP
from program import Fault

U32, U64 = np.uint32, np.uint64


# What orders memory, or lets threads of a warp meet, which here they always do where they can.
@opcode(
    "BSSY", "BSYNC", "NOP", "ERRBAR", "CGAERRBAR", "CCTL", "MEMBAR", "WARPSYNC", "YIELD", "UCGABAR_ARV", "NANOSLEEP"
)
def _nothing(m, i):
    return lambda active: None


@opcode("MOV", "UMOV")
def _move(m, i):
    only(i)
    to, get = m.into(i.operands[0]), m.integer(i.operands[1])
    return lambda active: to(get(), active)


@opcode("R2UR")
def _to_uniform(m, i):
    only(i)
    to, get = m.into(i.operands[-2]), m.integer(i.operands[-1])
    return lambda active: to(np.broadcast_to(get(), m.count), active)


@opcode("S2R", "S2UR", "CS2R")
def _special(m, i):
    only(i, "32")
    if i.operands[1] == "SRZ":
        puts = m.into_many(i.operands[0], 1 if "32" in i.modifiers else 2)
        return lambda active: [put(np.zeros(1, U32), active) for put in puts]
    to, value = m.into(i.operands[0]), m.special[i.operands[1]]
    return lambda active: to(value, active)


@opcode("LDC", "LDCU", "ULDC")
def _constant(m, i):
    only(i, "64", "128")
    count = {"64": 2, "128": 4}.get(i.modifiers[0] if i.modifiers else "", 1)
    puts = m.into_many(i.operands[0], count)
    index, offset = re.fullmatch(r"c\[0x0\]\[(?:(U?R\d+)\+?)?(0x[0-9a-f]+)?\]", i.operands[1]).groups()
    words, at = m.constants.view(U32), int(offset or "0", 16)
    get = m.integer(index) if index else None

    def execute(active):
        first = at // 4 if get is None else (get() + U32(at)) // U32(4)
        for k, put in enumerate(puts):
            put(words[first + k : first + k + 1] if get is None else words[first + U32(k)], active)

    return execute


@opcode("P2R")
def _from_predicates(m, i):
    only(i)
    to, beside, mask = m.into(i.operands[0]), m.integer(i.operands[2]), U32(int(i.operands[3], 16))

    def execute(active):
        word = sum(m.P[k].astype(U32) << U32(k) for k in range(7))
        to((word & mask) | (beside() & ~mask), active)

    return execute


@opcode("R2P")
def _to_predicates(m, i):
    only(i)
    get, mask = m.integer(i.operands[1]), int(i.operands[2], 16)
    puts = [(k, m.into_predicate(f"P{k}")) for k in range(7) if mask >> k & 1]

    def execute(active):
        word = np.broadcast_to(get(), m.count).copy()
        for k, put in puts:
            put(word >> U32(k) & U32(1) != 0, active)

    return execute


@opcode("SHFL")
def _shuffle(m, i):
    only(i, "BFLY")
    if "BFLY" not in i.modifiers or i.operands[4] != "0x1f":
        raise Fault("unknown")
    there, to, get, step = m.into_predicate(i.operands[0]), m.into(i.operands[1]), *map(m.integer, i.operands[2:4])
    threads = np.arange(m.count)

    def execute(active):
        partner = threads ^ step().astype(int)
        if active is not None and (active & ~active[partner]).any():
            raise Fault(f"a shuffle from threads that do not take part: {i.text}")
        to(np.broadcast_to(get(), m.count)[partner], active)
        there(np.ones(1, bool), active)

    return execute


@opcode("VOTE", "VOTEU")
def _vote(m, i):
    only(i, "ANY", "ALL")
    given = m.predicate(i.operands[-1])
    words = m.into(i.operands[0]) if "R" in i.operands[0] else None
    to = m.into_predicate(i.operands[1 if words else 0])

    def execute(active):
        taking = np.ones(m.count, bool) if active is None else active
        yes = (given() & taking).reshape(-1, WARP)
        found = yes.any(1) if "ANY" in i.modifiers else (yes | ~taking.reshape(-1, WARP)).all(1)
        to(np.repeat(found, WARP), active)
        if words:
            words(np.repeat((yes.astype(U64) << np.arange(WARP, dtype=U64)).sum(1).astype(U32), WARP), active)

    return execute


@opcode("REDUX")
def _reduce(m, i):
    """The sum, or the largest, of a word of all lanes of a warp."""
    only(i, "SUM", "MAX")
    to, get = m.into(i.operands[0]), m.integer(i.operands[1])
    combine = {"SUM": np.add, "MAX": np.maximum}[i.modifiers[0]]

    def execute(active):
        if active is not None and (m.warps(active) & ~active).any():
            raise Fault(f"not all of a warp take part: {i.text}")
        words = np.broadcast_to(get(), m.count).reshape(-1, WARP)
        to(np.repeat(combine.reduce(words, axis=1, dtype=U32), WARP), active)

    return execute
