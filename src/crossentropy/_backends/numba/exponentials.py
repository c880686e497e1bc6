"""e^z in LLVM: of one number, and of many in explicit vectors for the two loops in which a kernel spends its time.

Everything is for float32 and float64 alike. A loop over an array that calls `exp_at` becomes vectors by LLVM's own
doing. What would stop LLVM: a call (``math.exp`` without Intel's SVML), sums in a fixed order (hence `added`), or a
maximum that treats NaN as ``max`` does. Even so LLVM makes these two loops worse than `max_and_sum` and `exp_group`.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..exponential import FLOAT32, FLOAT64
from .memory import LINE, WORDS, bypassing, llvm_type, prefetching

GROUP = 4 * LINE  # bytes that `exp_group` works on: four vectors for each time that constants are loaded
AHEAD = 16384  # bytes from what `max_and_sum` reads to what it prefetches

_CONSTANTS = {types.float32: FLOAT32, types.float64: FLOAT64}
_MANTISSA = {types.float32: 23, types.float64: 52}  # bits, beside which the exponent's begin


def _reals(*given):
    """Their one type, where they are all float32 or all float64; None makes the call a TypingError for the user."""
    return given[0] if given[0] in _CONSTANTS and set(given) == {given[0]} else None


@intrinsic
def added(_, total, term):
    """total + term, for a sum that LLVM may take in any order, and so in as many vectors as it likes."""
    real = _reals(total, term)

    def code(context, builder, signature, args):
        return builder.fadd(*args, flags=["reassoc"])

    return real and (real(total, term), code)


# ---------------------------------------------------------------------- e^y of a number, or of each in a vector


def _splat(number, like):
    """A constant of a type, in every lane where that is a vector."""
    if isinstance(like, ir.VectorType):
        return ir.Constant(like, [ir.Constant(like.element, number)] * like.count)
    return ir.Constant(like, number)


def _fma(builder, a, b, c):
    """a b + c, rounded once: builder.fma for numbers, and for vectors, which that does not take."""
    one = a.type
    if not isinstance(one, ir.VectorType):
        return builder.fma(a, b, c)
    name = f"llvm.fma.v{one.count}{one.element.intrinsic_name}"
    kind = ir.FunctionType(one, [one] * 3)
    return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), (a, b, c))


def _exp_terms(builder, real, y, magic, lowest):
    """(2^n 2^-k, r, P), such that e^y 2^-k is 2^n 2^-k (1 + r + r^2 P), for numbers or for vectors of them."""
    one, word = y.type, WORDS[real]
    if isinstance(one, ir.VectorType):
        word = ir.VectorType(word, one.count)
    of = _CONSTANTS[real]
    log2e, high, low, *q = (_splat(float.fromhex(c), one) for c in (of.log2e, of.ln2_high, of.ln2_low, *of.terms))
    y = builder.select(builder.fcmp_ordered("<", y, lowest), lowest, y)
    t = _fma(builder, y, log2e, magic)
    n = builder.fneg(builder.fsub(t, magic))
    r = _fma(builder, n, low, _fma(builder, n, high, y))
    p = q[0]
    for term in q[1:]:
        p = _fma(builder, p, r, term)
    power = builder.shl(builder.bitcast(t, word), _splat(_MANTISSA[real], word))
    return builder.bitcast(power, one), r, p


def _exp_parts(builder, real, y, magic, lowest):
    """(2^n 2^-k, q), such that e^y 2^-k is 2^n 2^-k (1 + q), for numbers or for vectors of them."""
    power, r, p = _exp_terms(builder, real, y, magic, lowest)
    return power, _fma(builder, builder.fmul(r, r), p, r)


def _exp(builder, real, y, magic, lowest):
    """The code of `exp_at`, for numbers or for vectors of them."""
    power, q = _exp_parts(builder, real, y, magic, lowest)
    return _fma(builder, power, q, power)


@intrinsic
def exp_at(_, y, magic, lowest):
    """e^y 2^-k, where ``magic`` is the type's magic number plus its bias minus k; 0 where y is below ``lowest``.

    Lanes: float32 or float64. Valid for y < (k + bias) ln2; above that the result is arbitrary. NaN stays NaN.

    y = n ln2 + r with |r| <= ln2/2. The last bits of y log2 e + magic are n - k + bias: shifted to the exponent's place
    they make 2^(n-k), and 0 from ``lowest`` = (k - bias) ln2 down.
    """
    real = _reals(y, magic, lowest)
    return real and (real(y, magic, lowest), lambda context, builder, signature, args: _exp(builder, real, *args))


@intrinsic
def exp_terms(_, y, magic, lowest):
    """(2^n, r, r^2 P(r)) of one number, such that e^y is 2^n (1 + (r + r^2 P(r))): arguments as for `exp_at`.

    r is y itself where n is 0, and the last term at most r^2: so the sum of all three keeps more digits than a number.
    """
    real = _reals(y, magic, lowest)

    def code(context, builder, signature, args):
        power, r, p = _exp_terms(builder, real, *args)
        return context.make_tuple(builder, signature.return_type, [power, r, builder.fmul(builder.fmul(r, r), p)])

    return real and (types.UniTuple(real, 3)(y, magic, lowest), code)


@intrinsic
def fma(_, a, b, c):
    """a b + c, rounded once."""
    real = _reals(a, b, c)
    return real and (real(a, b, c), lambda context, builder, signature, args: builder.fma(*args))


# ---------------------------------------------------------------------- lines of memory as vectors


def _line_type(real):
    """The type of a LINE as a vector."""
    return ir.VectorType(llvm_type(real), LINE * 8 // real.bitwidth)


def _in_every_lane(builder, number, line):
    first = builder.insert_element(ir.Constant(line, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), line.count), None)
    return builder.shuffle_vector(first, ir.Constant(line, ir.Undefined), mask)


def _line_at(builder, address, i, line):
    """A pointer to line i from an address on."""
    return builder.inttoptr(builder.add(address, ir.Constant(ir.IntType(64), LINE * i)), line.as_pointer())


def _larger(builder, a, b):
    """The larger, or b where a is NaN: what a vector's maximum is on x86."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _wide(builder, value):
    """A number, or those of a vector, in float64."""
    wide = ir.DoubleType()
    if isinstance(value.type, ir.VectorType):
        wide = ir.VectorType(wide, value.type.count)
    return value if value.type == wide else builder.fpext(value, wide)


def _lanes(builder, vector):
    return [builder.extract_element(vector, ir.Constant(ir.IntType(32), i)) for i in range(vector.type.count)]


def _pairwise(builder, values, operation):
    while len(values) > 1:
        half = len(values) // 2
        values = [operation(builder, a, b) for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]


def _folded(builder, vectors, operation):
    """One number of all lanes of some vectors."""
    return _pairwise(builder, _lanes(builder, _pairwise(builder, vectors, operation)), operation)


def _two_sum(builder, a, b):
    """(a + b, what that was rounded by), of any two (Knuth)."""
    total = builder.fadd(a, b)
    kept = builder.fsub(total, a)
    return total, builder.fadd(builder.fsub(a, builder.fsub(total, kept)), builder.fsub(b, kept))


def _added_pairs(builder, a, b):
    total, lost = _two_sum(builder, a[0], b[0])
    return total, builder.fadd(lost, builder.fadd(a[1], b[1]))


def _folded_pairs(builder, pairs):
    """(sum, error) of all lanes of some pairs of vectors of float64."""
    total, error = _pairwise(builder, pairs, _added_pairs)
    return _pairwise(builder, list(zip(_lanes(builder, total), _lanes(builder, error), strict=True)), _added_pairs)


def _difference(builder, one, other, by):
    """The most that a lane of the first of two vectors, which follow each other, differs by from so many lanes on."""
    lanes = [ir.Constant(ir.IntType(32), by + i) for i in range(one.type.count)]
    moved = builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))
    apart = _larger(builder, builder.fsub(one, moved), builder.fsub(moved, one))
    return _wide(builder, _folded(builder, [apart], _larger))


def _smaller(builder, a, b):
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@intrinsic
def max_and_sum(_, source, size, shift, magic, lowest):
    """(max z, sum of e^(z - shift) 2^-k, largest sum of a lane, what lanes differ by), as float64, of some bytes of z.

    The last is the most that a lane differs by from one of the next four: as little as roundings do where there are one
    to four numbers in turn, whose e^z and sums are all rounded the same way.

    ``size`` is a multiple of GROUP. A NaN makes the sum NaN, but may be missed by the maximum. The vectors are explicit
    because LLVM would make a vector maximum of a loop only if told that there is no NaN, which would let it break rows
    that have one.
    """
    real = _reals(shift, magic, lowest)

    def code(context, builder, signature, args):
        source, size, *numbers = args
        line, rows = _line_type(real), range(GROUP // LINE)
        shift, magic, lowest = (_in_every_lane(builder, number, line) for number in numbers)
        maxima = [cgutils.alloca_once_value(builder, _splat(float("-inf"), line)) for _ in rows]
        sums = [cgutils.alloca_once_value(builder, _splat(0.0, line)) for _ in rows]
        with cgutils.for_range(builder, builder.udiv(size, ir.Constant(size.type, GROUP))) as loop:
            at = builder.add(source, builder.mul(loop.index, ir.Constant(size.type, GROUP)))
            for i in rows:
                prefetching(builder, builder.add(at, ir.Constant(at.type, AHEAD + LINE * i)))
                z = builder.load(_line_at(builder, at, i, line), align=real.bitwidth // 8)
                e = _exp(builder, real, builder.fsub(z, shift), magic, lowest)
                builder.store(builder.fadd(builder.load(sums[i]), e), sums[i])
                builder.store(_larger(builder, z, builder.load(maxima[i])), maxima[i])
        firsts = [builder.load(s) for s in sums[:2]]
        # The lanes' sums are added in float64, or a float32 loss between two maxima would be off by 2 ulp, not 0.8.
        results = [
            _wide(builder, _folded(builder, [builder.load(m) for m in maxima], _larger)),
            _folded(builder, [_wide(builder, builder.load(s)) for s in sums], type(builder).fadd),
            _wide(builder, _folded(builder, [builder.load(s) for s in sums], _larger)),
            _pairwise(builder, [_difference(builder, *firsts, by) for by in (1, 2, 3, 4)], _smaller),
        ]
        return context.make_tuple(builder, signature.return_type, results)

    return real and (types.UniTuple(types.float64, 4)(types.int64, types.int64, real, real, real), code)


@intrinsic
def sum_exactly_of_exp(_, source, size, shift, magic, lowest):
    """(sum of e^(z - shift) 2^-k, what that is rounded by), as float64, of the z in ``size`` bytes at an address.

    What of e^z is a power of 2 and what is left of it are added apart, in float64 with the error of each addition:
    where one class holds most of a sum, an ulp of its e^z may be two ulps of the loss.
    """
    real = _reals(shift, magic, lowest)

    def code(context, builder, signature, args):
        source, size, *numbers = args
        line = _line_type(real)
        wide = ir.VectorType(ir.DoubleType(), line.count)
        shift, magic, lowest = (_in_every_lane(builder, number, line) for number in numbers)
        total, error = (cgutils.alloca_once_value(builder, _splat(0.0, wide)) for _ in range(2))
        with cgutils.for_range(builder, builder.udiv(size, ir.Constant(size.type, LINE))) as loop:
            at = builder.add(source, builder.mul(loop.index, ir.Constant(size.type, LINE)))
            z = builder.load(_line_at(builder, at, 0, line), align=real.bitwidth // 8)
            power, q = _exp_parts(builder, real, builder.fsub(z, shift), magic, lowest)
            for term in power, builder.fmul(power, q):
                summed, lost = _two_sum(builder, builder.load(total), _wide(builder, term))
                builder.store(summed, total)
                builder.store(builder.fadd(builder.load(error), lost), error)
        results = _folded_pairs(builder, [(builder.load(total), builder.load(error))])
        return context.make_tuple(builder, signature.return_type, results)

    return real and (types.UniTuple(types.float64, 2)(types.int64, types.int64, real, real, real), code)


@intrinsic
def exp_group(_, to, source, shift, magic, lowest, factor, factor_rest, bypasses):
    """Write (factor + factor_rest) e^(z - shift) 2^-k of the GROUP of z at ``source`` to ``to``.

    Where the stores are to bypass the caches, ``to`` is a multiple of LINE. factor_rest is what the factor lost when it
    was rounded: it would add an ulp to the 3 that a gradient may be off. The vectors are explicit because LLVM made a
    loop of one vector at a time, which loaded its constants again for each.
    """
    real = _reals(shift, magic, lowest, factor, factor_rest)

    def code(context, builder, signature, args):
        to, source, *numbers, bypasses = args
        line, aligned = _line_type(real), real.bitwidth // 8
        numbers = (_in_every_lane(builder, number, line) for number in numbers)
        shift, magic, lowest, factor, factor_rest = numbers
        lines = [builder.load(_line_at(builder, source, i, line), align=aligned) for i in range(GROUP // LINE)]
        powers = [_exp(builder, real, builder.fsub(z, shift), magic, lowest) for z in lines]
        results = [_fma(builder, e, factor, builder.fmul(e, factor_rest)) for e in powers]
        with builder.if_else(bypasses) as (past, through):
            with past:
                for i, result in enumerate(results):
                    bypassing(builder, builder.store(result, _line_at(builder, to, i, line), align=LINE))
            with through:
                for i, result in enumerate(results):
                    builder.store(result, _line_at(builder, to, i, line), align=aligned)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, real, real, real, real, real, types.boolean), code
