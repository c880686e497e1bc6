"""Instructions on integers, bits and predicates."""

import re

import numpy as np
from opcodes import one_of, only, opcode
from program import Fault

U32, U64, I32, I64 = np.uint32, np.uint64, np.int32, np.int64
LOW = U64(0xFFFFFFFF)
_IS_PREDICATE = re.compile(r"!?U?P(\d|T)")
_COMPARE = {
    "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal, "EQ": np.equal, "NE": np.not_equal,
}  # fmt: skip
_COMBINE = {"AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor}
TYPES = ("U32", "S32", "U64", "S64")


def leading_predicates(m, operands):
    """(destinations for the predicates that stand first, the other operands)."""
    count = 0
    while _IS_PREDICATE.fullmatch(operands[count]):
        count += 1
    return [m.into_predicate(text) for text in operands[:count]], list(operands[count:])


def addend(m, text):
    """(a function for uint64, what is to be added besides): -x is ~x + 1, whose carry is that of 32 bits."""
    if text.startswith("-") and not text.startswith("-0x"):
        if text.endswith("RZ"):
            return (lambda: np.zeros(1, U64)), 0
        get = m.integer("~" + text[1:])
        return (lambda: get().astype(U64)), 1
    get = m.integer(text)
    return (lambda: get().astype(U64)), 0


@opcode("IADD3", "UIADD3", "IADD")
def _add(m, i):
    only(i, "X")
    to, rest = m.into(i.operands[0]), i.operands[1:]
    carries, rest = leading_predicates(m, rest)
    if not carries and not i.modifiers:
        gets = [m.integer(text) for text in rest]

        def plain(active):
            total = gets[0]()
            for get in gets[1:]:
                total = total + get()
            to(total, active)

        return plain
    terms = [addend(m, text) for text in rest[:3]]
    gets, more = [get for get, _ in terms], U64(sum(extra for _, extra in terms))
    taken = [m.predicate(text) for text in rest[3:]] if "X" in i.modifiers else []

    def execute(active):
        total = more + sum(get() for get in gets)
        for get in taken:
            total = total + get().astype(U64)
        high = total >> U64(32)
        to((total & LOW).astype(U32), active)
        for k, put in enumerate(carries):
            put(high > k, active)

    return execute


@opcode("VIADD")
def _add_two(m, i):
    only(i)
    to, a, b = m.into(i.operands[0]), m.integer(i.operands[1]), m.integer(i.operands[2])
    return lambda active: to(a() + b(), active)


def _extreme(m, i, combine):
    is_signed, is_least = "U32" not in i.modifiers, m.predicate(i.operands[-1])
    to = m.into(i.operands[0])

    def execute(active):
        a, b = combine()
        if is_signed:
            a, b = a.view(I32), b.view(I32)
        to(np.where(is_least(), np.minimum(a, b), np.maximum(a, b)).view(U32), active)

    return execute


@opcode("VIMNMX", "IMNMX")
def _minmax(m, i):
    only(i, "U32")
    a, b = m.integer(i.operands[1]), m.integer(i.operands[2])
    return _extreme(m, i, lambda: (a(), b()))


@opcode("VIADDMNMX")
def _add_minmax(m, i):
    only(i, "U32")
    a, b, c = (m.integer(text) for text in i.operands[1:4])
    return _extreme(m, i, lambda: (a() + b(), c()))


@opcode("IMAD", "UIMAD")
def _multiply_add(m, i):
    only(i, "WIDE", "U32", "HI", "X", "MOV", "SHL", "IADD", "LO")
    if "WIDE" in i.modifiers or "HI" in i.modifiers:
        return _multiply_wide(m, i)
    to, a, b, c = m.into(i.operands[0]), *(m.integer(text) for text in i.operands[1:4])
    if "X" in i.modifiers:
        carry = m.predicate(i.operands[4])
        return lambda active: to(a() * b() + c() + carry().astype(U32), active)
    if i.operands[1] == i.operands[2] == "RZ":
        return lambda active: to(c(), active)
    return lambda active: to(a() * b() + c(), active)


def _multiply_wide(m, i):
    is_high, unsigned, has_carry = "HI" in i.modifiers, "U32" in i.modifiers, "X" in i.modifiers
    to = m.into(i.operands[0]) if is_high else m.into_wide(i.operands[0])
    carries, rest = leading_predicates(m, i.operands[1:])
    a, b, c = m.integer(rest[0]), m.integer(rest[1]), m.wide(rest[2])
    carry = m.predicate(rest[3]) if has_carry else None

    def execute(active):
        if unsigned:
            product = a().astype(U64) * b().astype(U64)
        else:
            product = (a().view(I32).astype(I64) * b().view(I32).astype(I64)).view(U64)
        total = product + c()
        out = total < product
        if has_carry:
            more = total + carry().astype(U64)
            out, total = out | (more < total), more
        to((total >> U64(32)).astype(U32) if is_high else total, active)
        for put in carries:
            put(out, active)

    return execute


@opcode("LEA", "ULEA")
def _scaled_add(m, i):
    only(i, "HI", "X", "SX32")
    to = m.into(i.operands[0])
    carries, rest = leading_predicates(m, i.operands[1:])
    if "HI" not in i.modifiers:
        (get, less), (other, more), shift = _shifted(m, rest[0], int(rest[2], 16)), addend(m, rest[1]), None
        extra = less + more
        taken = m.predicate(rest[3]) if "X" in i.modifiers else None
    else:
        shift = U64(int(rest[2] if "SX32" in i.modifiers else rest[3], 16))
        low, (other, extra) = m.integer(rest[0]), addend(m, rest[1])
        high = None if "SX32" in i.modifiers else m.integer(rest[2])
        left = rest[3 if high is None else 4 :]
        taken = m.predicate(left[0]) if "X" in i.modifiers and left else None

        def get():
            if high is None:
                value = low().view(I32).astype(I64).view(U64)
            else:
                value = low().astype(U64) | high().astype(U64) << U64(32)
            return value << shift >> U64(32)

    def execute(active):
        total = get() + other() + U64(extra)
        if taken:
            total = total + taken().astype(U64)
        to((total & LOW).astype(U32), active)
        for put in carries:
            put((total >> U64(32)) > 0, active)

    return execute


def _shifted(m, text, by):
    sign = text[0] == "-" and not text.startswith("-0x")
    get = m.integer(text[1:] if sign else text)
    if sign:
        return (lambda: (~(get() << U32(by))).astype(U64)), 1
    return (lambda: (get() << U32(by)).astype(U64)), 0


def _table(lut: int, a, b, c, zero):
    """The bits of a table of eight, looked up by those of a, b and c."""
    found = zero
    for k in range(8):
        if lut >> k & 1:
            found = found | (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
    return found


@opcode("LOP3", "ULOP3")
def _logic(m, i):
    only(i, "LUT", "PAND")
    carries, rest = leading_predicates(m, i.operands)
    to, gets, lut = m.into(rest[0]), [m.integer(text) for text in rest[1:4]], int(rest[4], 16)
    beside = m.predicate(rest[5])

    def execute(active):
        found = _table(lut, *(get() for get in gets), np.zeros(1, U32))
        to(found, active)
        for put in carries:
            put((found != 0) | beside(), active)

    return execute


@opcode("PLOP3", "UPLOP3")
def _logic_of_predicates(m, i):
    only(i, "LUT")
    to, gets = [m.into_predicate(text) for text in i.operands[:2]], [m.predicate(text) for text in i.operands[2:5]]
    luts = [int(text, 16) for text in i.operands[5:7]]

    def execute(active):
        values = [get() for get in gets]
        for put, found in [(put, _table(lut, *values, np.zeros(1, bool))) for put, lut in zip(to, luts, strict=True)]:
            put(found, active)

    return execute


@opcode("SHF", "USHF")
def _funnel_shift(m, i):
    only(i, "L", "R", "W", "HI", *TYPES)
    to, low, by, high = m.into(i.operands[0]), *(m.integer(text) for text in i.operands[1:4])
    kind, right, wraps, upper = one_of(i, TYPES), "R" in i.modifiers, "W" in i.modifiers, "HI" in i.modifiers
    most = U64(63 if kind.endswith("64") else 32)

    def execute(active):
        steps = by().astype(U64)
        steps = steps & (U64(63) if kind.endswith("64") else U64(31)) if wraps else np.minimum(steps, most)
        both = low().astype(U64) | high().astype(U64) << U64(32)
        if right:
            found = (both.view(I64) >> steps.view(I64)).view(U64) if kind.startswith("S") else both >> steps
        elif not upper and kind.endswith("32"):
            found = np.where(steps >= 32, U64(0), low().astype(U64) << steps)
        else:
            found = both << steps
        to((found >> U64(32) if upper else found & LOW).astype(U32), active)

    return execute


@opcode("SEL", "USEL")
def _select(m, i):
    only(i)
    to, a, b, which = m.into(i.operands[0]), m.integer(i.operands[1]), m.integer(i.operands[2]), i.operands[3]
    choose = m.predicate(which)
    return lambda active: to(np.where(choose(), a(), b()), active)


@opcode("PRMT", "UPRMT")
def _permute(m, i):
    only(i)
    to, a, selector, b = m.into(i.operands[0]), *(m.integer(text) for text in i.operands[1:4])

    def execute(active):
        both, chosen = a().astype(U64) | b().astype(U64) << U64(32), selector().astype(U64)
        found = np.zeros(1, U64)
        for k in range(4):
            nibble = chosen >> U64(4 * k) & U64(15)
            byte = both >> ((nibble & U64(7)) * U64(8)) & U64(255)
            spread = np.where(byte & U64(128), U64(255), U64(0))  # its sign
            found = found | np.where(nibble & U64(8), spread, byte) << U64(8 * k)
        to(found.astype(U32), active)

    return execute


@opcode("ISETP", "UISETP")
def _compare(m, i):
    compare, combine = i.modifiers[0], _COMBINE[one_of(i, _COMBINE)]
    only(i, compare, "U32", "EX", *_COMBINE)
    to, opposite = m.into_predicate(i.operands[0]), m.into_predicate(i.operands[1])
    a, b, beside = m.integer(i.operands[2]), m.integer(i.operands[3]), m.predicate(i.operands[4])
    lower = m.predicate(i.operands[5]) if "EX" in i.modifiers else None
    unsigned = "U32" in i.modifiers
    if compare not in _COMPARE:
        raise Fault(f"unknown: {i.text}")
    by, strict = _COMPARE[compare], _COMPARE[compare[0] + "T"] if compare[0] in "LG" else None

    def execute(active):
        x, y = a(), b()
        if not unsigned:
            x, y = x.view(I32), y.view(I32)
        if lower is None:
            found = by(x, y)
        elif strict is not None:  # of 64 bits: where the upper halves are equal, what the lower ones have found
            found = strict(x, y) | (x == y) & lower()
        else:
            found = (x == y) & lower() if compare == "EQ" else (x != y) | lower()
        other = beside()
        both = combine(found, other), combine(~found, other)
        to(both[0], active)
        opposite(both[1], active)

    return execute
