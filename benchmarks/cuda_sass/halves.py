"""Instructions on numbers of 16 bits, of which a word has two."""

import numpy as np
from opcodes import only, opcode
from operands import immediate
from program import Fault
from reals import COMPARE, extreme
from rounding import F32, U32, bfloat16_bits, float16_bits

LOW, HIGH = U32(0xFFFF), U32(0xFFFF0000)


def _is_bfloat16(i):
    return any(name.startswith("BF16") for name in i.modifiers)


def _numbers(word, bfloat16):
    """The two numbers of a word, the lower first."""
    if bfloat16:
        return (word << U32(16)).view(F32), (word & HIGH).view(F32)
    return tuple((part & LOW).astype(np.uint16).view(np.float16).astype(F32) for part in (word, word >> U32(16)))


def _bits(value, bfloat16):
    return (bfloat16_bits if bfloat16 else float16_bits)(np.ascontiguousarray(value, F32))


@opcode("F2FP")
def _pack(m, i):
    only(i, "BF16", "F16", "F32", "PACK_AB")
    if "PACK_AB" not in i.modifiers:
        raise Fault("unknown")
    to, high, low, bits = m.into(i.operands[0]), m.real(i.operands[1]), m.real(i.operands[2]), _is_bfloat16(i)
    return lambda active: to(_bits(high(), bits) << U32(16) | _bits(low(), bits), active)


@opcode("HADD2")
def _widen(m, i):
    """float16 as float32: -0 + x."""
    only(i, "F32")
    if "F32" not in i.modifiers or i.operands[1] != "-RZ":
        raise Fault("unknown")
    text = i.operands[2]
    negative, get = text.startswith("-"), m.words(text.lstrip("-"))
    to = m.into(i.operands[0])

    def execute(active):
        value = _numbers(get(), False)[0]
        to(-value if negative else value, active)

    return execute


@opcode("HFMA2")
def _constant(m, i):
    """0 times 0 and two constants, which is how they get into a register."""
    only(i, "MMA")
    if i.operands[1:3] != ("-RZ", "RZ"):
        raise Fault("unknown")
    high, low = (float16_bits(immediate(text, F32))[0] for text in i.operands[3:5])
    to, value = m.into(i.operands[0]), np.array([high << U32(16) | low], U32)
    return lambda active: to(value, active)


def _sources(m, i, texts, bfloat16):
    """Functions for words; two operands that are numbers are one word, the upper first."""
    gets, texts = [], list(texts)
    while texts:
        text = texts.pop(0)
        if text.lstrip("-").startswith(("R", "UR")):
            gets.append(m.words(text))
        else:
            high, low = (_bits(immediate(part, F32), bfloat16) for part in (text, texts.pop(0)))
            gets.append(_always(high << U32(16) | low))
    return gets


def _always(word):
    return lambda: word


@opcode("HMNMX2")
def _extremes(m, i):
    bfloat16, keeps_nan = _is_bfloat16(i), "NAN" in i.modifiers
    to, is_least = m.into(i.operands[0]), m.predicate(i.operands[-1])
    a, b = _sources(m, i, i.operands[1:-1], bfloat16)

    def execute(active):
        least = is_least()
        pairs = zip(_numbers(a(), bfloat16), _numbers(b(), bfloat16), strict=True)
        low, high = (_bits(extreme(x, y, least, keeps_nan), bfloat16) for x, y in pairs)
        to(low | high << U32(16), active)

    return execute


@opcode("VHMNMX")
def _extremes_of_three(m, i):
    """What the assembler makes of two that follow each other: of the first two, then of that and the third."""
    only(i, "BF16_V2", "F16_V2", "NAN")
    bfloat16, keeps_nan = _is_bfloat16(i), "NAN" in i.modifiers
    to, is_least = m.into(i.operands[0]), m.predicate(i.operands[-1])
    a, b, c = _sources(m, i, i.operands[1:-1], bfloat16)

    def execute(active):
        least = is_least()
        low, high = (
            _bits(extreme(extreme(x, y, least, keeps_nan), z, least, keeps_nan), bfloat16)
            for x, y, z in zip(*(_numbers(word(), bfloat16) for word in (a, b, c)), strict=True)
        )
        to(low | high << U32(16), active)

    return execute


@opcode("HSETP2")
def _compare(m, i):
    bfloat16, by = _is_bfloat16(i), COMPARE[next(name for name in i.modifiers if name in COMPARE)]
    to, beside = [m.into_predicate(text) for text in i.operands[:2]], m.predicate(i.operands[-1])
    a, b = _sources(m, i, i.operands[2:-1], bfloat16)
    if "AND" not in i.modifiers:
        raise Fault("unknown")

    def execute(active):
        pairs = zip(_numbers(a(), bfloat16), _numbers(b(), bfloat16), strict=True)
        other = beside()
        for put, found in zip(to, [by(x, y) & other for x, y in pairs], strict=True):
            put(found, active)

    return execute
