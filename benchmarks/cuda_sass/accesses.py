"""Instructions that load and store: device memory, a block's shared memory, another block's, a thread's own."""

import re

import numpy as np
from opcodes import only, opcode
from program import Fault

U32, U64 = np.uint32, np.uint64
SHARED_WINDOW = 0x00AA0000  # the upper word of an address of shared memory: any number that no array has
RESERVED = 0x400  # of a block's shared memory, by the system
_GLOBAL = re.compile(r"(?:desc\[UR\d+\])?\[(R\d+|RZ)(?:\.64|\.U32)?(?:\+(UR\d+))?(?:\+(-?0x[0-9a-f]+))?\]")
_OWN = re.compile(r"\[(?:(R\d+|RZ)(?:\.X(\d+))?)?\+?(UR\d+|URZ)?\+?(-?0x[0-9a-f]+)?\]")
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


def size_of(i) -> int:
    return next((_BYTES[name] for name in i.modifiers if name in _BYTES), 4)


def _all(m, active):
    return slice(None) if active is None else active


def _global_address(m, text):
    found = _GLOBAL.fullmatch(text)
    if not found:
        raise Fault("unknown address")
    offset, beside = int(found[3] or "0", 16), m.wide(found[2]) if found[2] else None
    get = m.wide(found[1])

    def address():
        value = get() + (beside() if beside else U64(0))
        return np.broadcast_to(value.view(np.int64) + offset, m.count)

    return address


def own_address(m, text):
    """Of shared memory, whose upper byte is the block's number in its cluster, or of a thread's own."""
    found = _OWN.fullmatch(text)
    if not found:
        raise Fault("unknown address")
    offset, scale = int(found[4] or "0", 16), int(found[2] or 1)
    gets = [(m.integer(text), factor) for text, factor in ((found[1], scale), (found[3], 1)) if text]

    def address():
        value = sum(get().astype(np.int64) * factor for get, factor in gets) + offset
        return np.broadcast_to(value & 0xFFFFFFFF, m.count)

    return address


def registers_of(text, count):
    """The numbers of registers; RZ, from which 0 is stored, is 255."""
    return [255] * count if text == "RZ" else [int(text[1:]) + k for k in range(count)]


@opcode("LDG", "LD")
def _load(m, i):
    only(i, "E", "CONSTANT", "STRONG", "GPU", "SYS", *_BYTES)
    address, size, has_sign = _global_address(m, i.operands[1]), size_of(i), "S8" in i.modifiers or "S16" in i.modifiers
    registers = registers_of(i.operands[0], max(1, size // 4))

    def execute(active):
        those = _all(m, active)
        at = m.memory.places(address()[those], size, i.text)
        m.memory.read += size * len(at)
        if size < 4:
            value = m.memory.views[size][at // size]
            value = value.view(f"i{size}").astype(np.int32).view(U32) if has_sign else value.astype(U32)
            m.R[registers[0]][those] = value
        else:
            words, at = m.memory.views[4], at // 4
            for k, register in enumerate(registers):
                m.R[register][those] = words[at + k]

    return execute


@opcode("STG")
def _store(m, i):
    only(i, "E", *_BYTES)
    address, size = _global_address(m, i.operands[0]), size_of(i)
    registers = registers_of(i.operands[1], max(1, size // 4))

    def execute(active):
        those = _all(m, active)
        at = m.memory.places(address()[those], size, i.text)
        m.memory.written += size * len(at)
        for k, register in enumerate(registers):
            value = m.R[register][those]
            if size < 4:
                value = value.astype(f"u{size}")
            m.memory.views[min(size, 4)][at // min(size, 4) + k] = value

    return execute


# ---------------------------------------------------------------------- shared memory


@opcode("LDS")
def _load_shared(m, i):
    only(i, "64", "128")
    address, size = own_address(m, i.operands[1]), size_of(i)
    registers = registers_of(i.operands[0], size // 4)

    def execute(active):
        those = _all(m, active)
        at, blocks = address()[those] & 0xFFFFFF, m.block[those]
        m.shared.check(at, size, i.text)
        for k, register in enumerate(registers):
            m.R[register][those] = m.shared.load(blocks, at // 4 + k, m.warp[those], i.text)

    return execute


@opcode("STS")
def _store_shared(m, i):
    only(i, "64", "128")
    address, size = own_address(m, i.operands[0]), size_of(i)
    registers = registers_of(i.operands[1], size // 4)

    def execute(active):
        those = _all(m, active)
        at, blocks = address()[those] & 0xFFFFFF, m.block[those]
        m.shared.check(at, size, i.text)
        for k, register in enumerate(registers):
            m.shared.store(blocks, at // 4 + k, m.warp[those], m.R[register][those], i.text)

    return execute


@opcode("ST")
def _store_anywhere(m, i):
    """A store of which only the address tells that it goes to the shared memory of a block of the cluster."""
    only(i, "E", "64")
    address, size = _global_address(m, i.operands[0]), size_of(i)
    registers = registers_of(i.operands[1], size // 4)

    def execute(active):
        those = _all(m, active)
        value = address()[those]
        if (value >> 32 != SHARED_WINDOW).any():
            raise Fault(f"not into shared memory: {i.text}")
        rank, at = value >> 24 & 0xFF, value & 0xFFFFFF
        if (rank >= m.cluster).any():
            raise Fault(f"no such block in the cluster: {i.text}")
        m.shared.check(at, size, i.text)
        blocks = m.block[those] // m.cluster * m.cluster + rank
        for k, register in enumerate(registers):
            m.shared.store(blocks, at // 4 + k, m.warp[those], m.R[register][those], i.text)

    return execute


# ---------------------------------------------------------------------- a thread's own memory


@opcode("LDL")
def _load_own(m, i):
    only(i, "LU", "64", "128")
    address, size = own_address(m, i.operands[1]), size_of(i)
    registers, threads = registers_of(i.operands[0], size // 4), np.arange(m.count)

    def execute(active):
        those = _all(m, active)
        at = _own_words(m, address()[those], size, i.text)
        for k, register in enumerate(registers):
            m.R[register][those] = m.own[at + k, threads[those]]

    return execute


@opcode("STL")
def _store_own(m, i):
    only(i, "64", "128")
    address, size = own_address(m, i.operands[0]), size_of(i)
    registers, threads = registers_of(i.operands[1], size // 4), np.arange(m.count)

    def execute(active):
        those = _all(m, active)
        at = _own_words(m, address()[those], size, i.text)
        for k, register in enumerate(registers):
            m.own[at + k, threads[those]] = m.R[register][those]

    return execute


def _own_words(m, at, size, text):
    if (at % size).any() or (at + size > 4 * len(m.own)).any():
        raise Fault(f"outside of a thread's own memory: {text}")
    return at // 4
