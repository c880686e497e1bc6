"""Instructions on float32 and float64, and between them and integers."""

import re

import numpy as np
from integers import TYPES
from opcodes import one_of, only, opcode
from rounding import F32, F64, U32, U64, approximated, directed, flushed, fma, of_integer

ROUNDINGS = ("RM", "RP", "RZ")
_COMBINE = {"AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor}
COMPARE = {
    "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal, "EQ": np.equal,
    "NE": lambda a, b: (a < b) | (a > b), "NEU": np.not_equal, "LTU": lambda a, b: ~(a >= b),
    "LEU": lambda a, b: ~(a > b), "GTU": lambda a, b: ~(a <= b), "GEU": lambda a, b: ~(a < b),
    "EQU": lambda a, b: ~((a < b) | (a > b)), "NAN": lambda a, b: (a != a) | (b != b),
    "NUM": lambda a, b: (a == a) & (b == b),
}  # fmt: skip
MUFU = {"EX2": 2.0**-22.5, "RCP": 2.0**-23, "RSQ": 2.0**-22.9, "LG2": 2.0**-22}  # PTX's bounds of their errors


def _arithmetic(m, i, compute):
    """``compute`` of float32 operands, with denormal numbers as 0 where the instruction says so."""
    only(i, "FTZ", *ROUNDINGS)
    to, gets, ftz = m.into(i.operands[0]), [m.real(text) for text in i.operands[1:]], "FTZ" in i.modifiers
    if not ftz:
        return lambda active: to(compute(*(get() for get in gets)), active)
    return lambda active: to(flushed(compute(*(flushed(get()) for get in gets))).astype(F32), active)


def _towards(i):
    return one_of(i, ROUNDINGS) if any(name in i.modifiers for name in ROUNDINGS) else ""


@opcode("FADD", "UFADD")
def _add(m, i):
    one, towards = F32(1), _towards(i)
    return _arithmetic(m, i, (lambda a, b: directed(a, one, b, towards)) if towards else np.add)


@opcode("FMUL", "UFMUL")
def _multiply(m, i):
    zero, towards = F32(0), _towards(i)
    return _arithmetic(m, i, (lambda a, b: directed(a, b, zero, towards)) if towards else np.multiply)


@opcode("FFMA", "UFFMA")
def _multiply_add(m, i):
    towards = _towards(i)
    return _arithmetic(m, i, (lambda a, b, c: directed(a, b, c, towards)) if towards else fma)


@opcode("FMNMX", "FMNMX3", "UFMNMX")
def _extreme(m, i):
    only(i, "NAN", "FTZ")
    to, gets, is_least = m.into(i.operands[0]), [m.real(t) for t in i.operands[1:-1]], m.predicate(i.operands[-1])
    keeps_nan = "NAN" in i.modifiers

    def execute(active):
        found, least = gets[0](), is_least()
        for get in gets[1:]:
            found = extreme(found, get(), least, keeps_nan)
        to(found, active)

    return execute


def extreme(a, b, least, keeps_nan):
    """The smaller where ``least``, else the larger, of float32; -0 is less than 0."""
    if least.all():
        found = np.minimum(a, b) if keeps_nan else np.fmin(a, b)
        zero = a.view(U32) | b.view(U32)
    elif not least.any():
        found = np.maximum(a, b) if keeps_nan else np.fmax(a, b)
        zero = a.view(U32) & b.view(U32)
    else:
        return np.where(least, extreme(a, b, ~(least & ~least), keeps_nan), extreme(a, b, least & ~least, keeps_nan))
    both_zero = (a == 0) & (b == 0)
    return np.where(both_zero, zero.view(F32), found) if both_zero.any() else found


def _comparison(m, i, source, view):
    """FSETP and DSETP: (what is found) combined with another predicate, and the same of its opposite."""
    compare = i.modifiers[0]
    only(i, compare, "FTZ", *_COMBINE)
    to, opposite = m.into_predicate(i.operands[0]), m.into_predicate(i.operands[1])
    a, b, beside = source(i.operands[2]), source(i.operands[3]), m.predicate(i.operands[4])
    combine, by = _COMBINE[one_of(i, _COMBINE)], COMPARE[compare]

    def execute(active):
        x, y = view(a()), view(b())
        found, other = by(x, y), beside()
        both = combine(found, other), combine(~found, other)
        to(both[0], active)
        opposite(both[1], active)

    return execute


@opcode("FSETP", "UFSETP")
def _compare(m, i):
    return _comparison(m, i, m.real, flushed if "FTZ" in i.modifiers else lambda x: x)


@opcode("DSETP")
def _compare_doubles(m, i):
    if i.modifiers[0] in ("MIN", "MAX"):  # whether it is the first; whether both are NaN
        to, is_nan = m.into_predicate(i.operands[0]), m.into_predicate(i.operands[1])
        a, b = m.double(i.operands[2]), m.double(i.operands[3])
        least = i.modifiers[0] == "MIN"

        def execute(active):
            x, y = a(), b()
            first, nan = (x < y if least else x > y) | (y != y), (x != x) & (y != y)
            to(first, active)
            is_nan(nan, active)

        return execute
    return _comparison(m, i, m.double, lambda x: x)


@opcode("FSEL", "UFSEL")
def _select(m, i):
    only(i, "FTZ")
    to, a, b, choose = m.into(i.operands[0]), m.real(i.operands[1]), m.real(i.operands[2]), m.predicate(i.operands[3])
    return lambda active: to(np.where(choose(), a().view(U32), b().view(U32)), active)


@opcode("DADD", "DMUL", "DFMA")
def _doubles(m, i):
    only(i, *ROUNDINGS)
    to, gets = m.into_wide(i.operands[0]), [m.double(text) for text in i.operands[1:]]
    compute, towards = {"DADD": np.add, "DMUL": np.multiply, "DFMA": fma}[i.name], _towards(i)

    def execute(active):
        values = np.broadcast_arrays(*(get() for get in gets))
        found = np.asarray(compute(*values))
        if towards:  # in a division, of which the caller takes one ulp more or less
            exact = compute(*(x.astype(np.longdouble) for x in values)) if i.name != "DFMA" else found
            low = found < exact
            found = np.where(low, np.nextafter(found, np.inf), found) if towards == "RP" else found
        to(np.ascontiguousarray(found), active)

    return execute


# ---------------------------------------------------------------------- functions of the multiprocessor


@opcode("MUFU")
def _function(m, i):
    kind = i.modifiers[0]
    only(i, kind)
    to = m.into(i.operands[0])
    if kind in ("RCP64H", "RSQ64H"):  # from the upper half of a float64 to the upper half of what is near its inverse
        high = m.words(i.operands[1])

        def of_double(active):
            x = (high().astype(U64) << U64(32)).view(F64)
            y = 1 / x if kind == "RCP64H" else 1 / np.sqrt(x)
            to((y.view(U64) >> U64(32)).astype(U32), active)

        return of_double
    get, compute = m.real(i.operands[1]), {
        "EX2": np.exp2, "RCP": lambda x: 1 / x, "RSQ": lambda x: 1 / np.sqrt(x), "LG2": np.log2
    }[kind]  # fmt: skip
    bound = MUFU[kind]

    def execute(active):
        x = flushed(get())
        to(flushed(approximated(x, compute(x.astype(F64)), bound)).astype(F32), active)

    return execute


@opcode("FCHK")
def _check_division(m, i):
    """Whether a / b needs the slow way: where a quotient of exponents may leave the range of normal numbers."""
    only(i, "DIVIDE")
    to, a, b = m.into_predicate(i.operands[0]), m.real(i.operands[1]), m.real(i.operands[2])

    def execute(active):
        of_a, of_b = ((x.view(U32) >> U32(23) & U32(255)).astype(int) for x in (a(), b()))
        slow = (of_b <= 1) | (of_b >= 253) | (of_a == 255) | (of_a - of_b >= 126) | (of_a - of_b <= -125) | (of_a <= 24)
        to(slow, active)

    return execute


# ---------------------------------------------------------------------- to and from other types


@opcode("I2F", "I2FP")
def _from_integer(m, i):
    only(i, "F64", "F32", "RP", *TYPES, "U16", "S16", "U8", "S8")
    kinds = [name for name in i.modifiers if name in TYPES]
    kind, towards = kinds[0] if kinds else "S32", _towards(i)
    is_double = "F64" in i.modifiers
    to, get = (m.into_wide if is_double else m.into)(i.operands[0]), (m.wide if kind.endswith("64") else m.integer)
    get = get(i.operands[1])
    dtype = np.dtype(f"{'i' if kind[0] == 'S' else 'u'}{int(kind[1:]) // 8}")

    def execute(active):
        to(of_integer(get().view(dtype), F64 if is_double else F32, towards), active)

    return execute


@opcode("F2I")
def _to_integer(m, i):
    only(i, "FTZ", "TRUNC", "NTZ", "F64", *TYPES)
    kinds = [name for name in i.modifiers if name in TYPES]
    kind = kinds[0] if kinds else "S32"
    get = (m.double if "F64" in i.modifiers else m.real)(i.operands[1])
    to = (m.into_wide if kind.endswith("64") else m.into)(i.operands[0])
    dtype = np.dtype(f"{'i' if kind[0] == 'S' else 'u'}{int(kind[1:]) // 8}")
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max

    def execute(active):
        value = np.trunc(np.nan_to_num(get().astype(np.longdouble)))
        to(np.clip(value, low, high).astype(dtype), active)

    return execute


@opcode("F2F")
def _between_reals(m, i):
    pair = i.modifiers[-2:]
    if pair == ("F64", "F32"):
        to, get = m.into_wide(i.operands[0]), m.real(i.operands[1])
        return lambda active: to(get().astype(F64), active)
    if pair == ("F32", "F64"):
        to, get = m.into(i.operands[0]), m.double(i.operands[1])
        return lambda active: to(get().astype(F32), active)
    raise ValueError(pair)


# ---------------------------------------------------------------------- two float32 at once (sm_100)


def _halves(m, text):
    """Functions for the two float32 of an operand."""
    if found := re.fullmatch(r"(-?U?R)(\d+|Z)\.F32x2\.HI_LO", text):
        if found[2] == "Z":
            return [m.real(f"{found[1]}Z")] * 2
        return [m.real(f"{found[1]}{int(found[2]) + k}") for k in (0, 1)]
    return [m.real(text.removesuffix(".F32"))] * 2


@opcode("FADD2", "FMUL2", "FFMA2")
def _two_at_once(m, i):
    only(i)
    to = m.into_many(i.operands[0], 2)
    gets = [_halves(m, text) for text in i.operands[1:]]
    compute = {"FADD2": np.add, "FMUL2": np.multiply, "FFMA2": fma}[i.name]

    def execute(active):
        found = [compute(*(get[k]() for get in gets)) for k in (0, 1)]
        for put, value in zip(to, found, strict=True):
            put(value, active)

    return execute
