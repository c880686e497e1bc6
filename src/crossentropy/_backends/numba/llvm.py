"""What Numba's own operations lack, as LLVM instructions; and e^z of one number, made to be vectorised in a loop.

Everything is for float32 and float64 alike. In a loop over an array LLVM turns all of it into vectors: what would
stop that is a call (``math.exp`` without Intel's SVML), an order of additions (`added`), or a maximum that takes sides
on NaN (``max``: 2.4 GB/s in place of 20). The two loops that matter most are written in vectors.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

_WORDS = {types.float32: ir.IntType(32), types.float64: ir.IntType(64), types.uint16: ir.IntType(16)}


def _llvm(kind):
    """The LLVM type of a number."""
    return ir.FloatType() if kind == types.float32 else ir.DoubleType() if kind == types.float64 else _WORDS[kind]


def _reals(*given):
    """Their one type, where they are all float32 or all float64; what is refused here is a TypingError for the user."""
    return given[0] if given[0] in (types.float32, types.float64) and set(given) == {given[0]} else None


def _is_row(a):
    return isinstance(a, types.Array) and a.ndim == 1 and a.dtype in (types.float32, types.float64)


@intrinsic
def require_row(_, a):
    """Nothing, but a TypingError for what is no row of logits."""
    if not _is_row(a):
        raise TypingError(f"a row must be a one-dimensional array of float32 or float64, got {a}")
    return types.void(a), lambda context, builder, signature, args: context.get_dummy_value()


@intrinsic
def require_same_kind(_, a, b):
    """Nothing, but a TypingError for a result of another dtype."""
    if a.dtype != b.dtype:
        raise TypingError(f"the result must have the dtype of the row, {a.dtype}, got {b.dtype}")
    return types.void(a, b), lambda context, builder, signature, args: context.get_dummy_value()


@intrinsic
def added(_, total, term):
    """Their sum, where the order of such sums is free: in as many vectors as LLVM likes."""
    real = _reals(total, term)

    def code(context, builder, signature, args):
        return builder.fadd(*args, flags=["reassoc"])

    return real and (real(total, term), code)


# From kernels/fit.py, as in kernels/exp.h: log2 e; ln2 as a high part, whose products with n are exact, and the rest;
# the terms of Q, highest first, with e^r = 1 + r (1 + r Q(r)).
_EXP = {
    types.float32: (
        "0x1.715476p+0 0x1.62e4p-1 0x1.7f7d1cp-20",
        "0x1.6d117cp-10 0x1.120be2p-7 0x1.555518p-5 0x1.5554dcp-3 0x1p-1",
    ),
    types.float64: (
        "0x1.71547652b82fep+0 0x1.62e42fefa4000p-1 -0x1.8432a1b0e2634p-43",
        "0x1.af390ba7e6f47p-26 0x1.2891d4ffbb0f9p-22 0x1.71de0d85293b8p-19 0x1.a019b8ca26fcfp-16 0x1.a01a01a7cebcdp-13 "
        "0x1.6c16c1789d1d7p-10 0x1.11111111109a6p-7 0x1.5555555553d37p-5 0x1.5555555555556p-3 0x1.0000000000001p-1",
    ),
}
# A number that is added to the first is rounded to an integer, whose last bits are those of the sum.
MAGIC_32, BIAS_32 = 1.5 * 2.0**23, 127
MAGIC_64, BIAS_64 = 1.5 * 2.0**52, 1023


def _nontemporal(builder, store):
    """Make it a store past the caches."""
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))


def _splat(number, like):
    """A constant of a type, in every lane where that is a vector."""
    if isinstance(like, ir.VectorType):
        return ir.Constant(like, [ir.Constant(like.element, number)] * like.count)
    return ir.Constant(like, number)


def _fma(builder, a, b, c):
    """As builder.fma, which takes no vectors."""
    one = a.type
    if not isinstance(one, ir.VectorType):
        return builder.fma(a, b, c)
    name = f"llvm.fma.v{one.count}{one.element.intrinsic_name}"
    kind = ir.FunctionType(one, [one] * 3)
    return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), (a, b, c))


def _exp(builder, real, y, magic, lowest):
    """The code of `exp_at`, for numbers or for vectors of them."""
    one, word = y.type, _WORDS[real]
    if isinstance(one, ir.VectorType):
        word = ir.VectorType(word, one.count)
    (log2e, high, low), q = ([_splat(float.fromhex(c), one) for c in text.split()] for text in _EXP[real])
    y = builder.select(builder.fcmp_ordered("<", y, lowest), lowest, y)
    t = _fma(builder, y, log2e, magic)
    n = builder.fneg(builder.fsub(t, magic))
    r = _fma(builder, n, low, _fma(builder, n, high, y))
    p = q[0]
    for term in (*q[1:], _splat(1.0, one), _splat(1.0, one)):
        p = _fma(builder, p, r, term)
    power = builder.shl(builder.bitcast(t, word), _splat(23 if real == types.float32 else 52, word))
    return builder.fmul(p, builder.bitcast(power, one))


@intrinsic
def exp_at(_, y, magic, lowest):
    """e^y 2^-k, with ``magic`` lessened by the integer k; 0 where y is below ``lowest``. NaN stays NaN.

    y = n ln2 + r with |r| <= ln2/2. The last bits of y log2 e + magic are n - k and the bias of an exponent: shifted
    to their place they are 2^(n-k), and 0 from ``lowest`` = (k - bias) ln2 down. Above 2^bias they are anything.
    """
    real = _reals(y, magic, lowest)
    return real and (real(y, magic, lowest), lambda context, builder, signature, args: _exp(builder, real, *args))


GROUP = 256  # bytes: four lines, so that constants are loaded once for four vectors
AHEAD = 16384  # bytes


def _lines(real):
    """The type of a line of 64 bytes in lanes."""
    return ir.VectorType(_llvm(real), 16 if real == types.float32 else 8)


def _in_every_lane(builder, number, line):
    first = builder.insert_element(ir.Constant(line, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), line.count), None)
    return builder.shuffle_vector(first, ir.Constant(line, ir.Undefined), mask)


def _line_at(builder, address, i, line):
    """A pointer to line i from an address on."""
    return builder.inttoptr(builder.add(address, ir.Constant(ir.IntType(64), 64 * i)), line.as_pointer())


def _larger(builder, a, b):
    """The larger, or b where a is NaN: what a vector's maximum is on x86."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _wide(builder, value):
    """A number, or those of a vector, in float64."""
    wide = ir.DoubleType()
    if isinstance(value.type, ir.VectorType):
        wide = ir.VectorType(wide, value.type.count)
    return value if value.type == wide else builder.fpext(value, wide)


def _folded(builder, vectors, operation):
    """One number of all lanes of some vectors."""
    while len(vectors) > 1:
        vectors = [operation(builder, a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    lanes = [builder.extract_element(vectors[0], ir.Constant(ir.IntType(32), i)) for i in range(vectors[0].type.count)]
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [operation(builder, a, b) for a, b in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


@intrinsic
def max_and_sum(_, source, size, shift, magic, lowest):
    """(max z, sum of e^(z - shift) 2^-k), as float64, of the z in so many bytes at an address, a multiple of GROUP.

    A NaN is in the sum, and in the maximum or not. In explicit vectors: LLVM makes a maximum of a loop only where told
    that there is no NaN, which would let it break rows that have one; integers in the order of the numbers took four
    operations in place of one.
    """
    real = _reals(shift, magic, lowest)

    def code(context, builder, signature, args):
        source, size, *numbers = args
        line, rows = _lines(real), range(GROUP // 64)
        shift, magic, lowest = (_in_every_lane(builder, number, line) for number in numbers)
        maxima = [cgutils.alloca_once_value(builder, _splat(float("-inf"), line)) for _ in rows]
        sums = [cgutils.alloca_once_value(builder, _splat(0.0, line)) for _ in rows]
        with cgutils.for_range(builder, builder.udiv(size, ir.Constant(size.type, GROUP))) as loop:
            at = builder.add(source, builder.mul(loop.index, ir.Constant(size.type, GROUP)))
            for i in rows:
                _prefetch(builder, builder.add(at, ir.Constant(at.type, AHEAD + 64 * i)))
                z = builder.load(_line_at(builder, at, i, line), align=real.bitwidth // 8)
                power = _exp(builder, real, builder.fsub(z, shift), magic, lowest)
                builder.store(builder.fadd(builder.load(sums[i]), power), sums[i])
                builder.store(_larger(builder, z, builder.load(maxima[i])), maxima[i])
        # The lanes' sums are added as float64: 2.0 ulp of a loss between two maxima were 0.8 then, for 3 % of the time.
        results = [
            _wide(builder, _folded(builder, [builder.load(m) for m in maxima], _larger)),
            _folded(builder, [_wide(builder, builder.load(s)) for s in sums], type(builder).fadd),
        ]
        return context.make_tuple(builder, signature.return_type, results)

    return real and (types.UniTuple(types.float64, 2)(types.int64, types.int64, real, real, real), code)


@intrinsic
def exp_group(_, to, source, shift, magic, lowest, factor, factor_rest, streams):
    """(factor + factor_rest) e^(z - shift) 2^-k for the GROUP of z at an address, to another; streamed, to a line.

    The rest is what the factor lost when it was rounded: it would add an ulp to the 3 that a gradient may be off. In
    explicit vectors: LLVM made a loop of one vector at a time, which loaded its constants each time (2.1 ns, and 1.4).
    """
    real = _reals(shift, magic, lowest, factor, factor_rest)

    def code(context, builder, signature, args):
        to, source, *numbers, streams = args
        line, aligned = _lines(real), real.bitwidth // 8
        numbers = (_in_every_lane(builder, number, line) for number in numbers)
        shift, magic, lowest, factor, factor_rest = numbers
        lines = [builder.load(_line_at(builder, source, i, line), align=aligned) for i in range(GROUP // 64)]
        powers = [_exp(builder, real, builder.fsub(z, shift), magic, lowest) for z in lines]
        results = [_fma(builder, e, factor, builder.fmul(e, factor_rest)) for e in powers]
        with builder.if_else(streams) as (past, through):
            with past:
                for i, result in enumerate(results):
                    _nontemporal(builder, builder.store(result, _line_at(builder, to, i, line), align=64))
            with through:
                for i, result in enumerate(results):
                    builder.store(result, _line_at(builder, to, i, line), align=aligned)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, real, real, real, real, real, types.boolean), code


# ---------------------------------------------------------------------- memory


def _kind(of):
    """The type of number that an argument like ``np.uint16`` or ``array.dtype`` stands for."""
    return of.dtype if isinstance(of, (types.NumberClass, types.DType)) else None


@intrinsic
def view(_, address, n, like):
    """n numbers at an address, as an array that owns nothing: references to one that does took 300 ns a row.

    They are of the dtype of ``like``, an array or a dtype. (``numba.carray`` is this in three functions to compile.)
    """
    kind = types.Array(like.dtype, 1, "C")

    def code(context, builder, signature, args):
        array = context.make_array(kind)(context, builder)
        data = builder.inttoptr(args[0], array.data.type)
        size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        populate_array(array, data=data, shape=[args[1]], strides=[size], itemsize=size, meminfo=None)
        return array._getvalue()

    return kind(types.int64, types.int64, like), code


@intrinsic
def address(_, array):
    """The address of an array's memory. (As Numba gives it, it is unsigned, and with an int64 makes a float64.)"""

    def code(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), code


@intrinsic
def load(_, address, kind):
    """The number at any address, aligned or not."""
    number = _kind(kind)

    def code(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], context.get_value_type(types.CPointer(number)))
        return builder.load(pointer, align=1)

    return number(types.int64, kind), code


@intrinsic
def store(_, address, value):
    """Put the number at any address, aligned or not."""

    def code(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], context.get_value_type(types.CPointer(value)))
        builder.store(args[1], pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, value), code


@intrinsic
def swapped(_, value):
    """The number whose bytes are those in the other order."""

    def code(context, builder, signature, args):
        word, own = _WORDS[value], _llvm(value)
        function = builder.module.declare_intrinsic("llvm.bswap", [word])
        bits = builder.bitcast(args[0], word) if word != own else args[0]
        bits = builder.call(function, [bits])
        return builder.bitcast(bits, own) if word != own else bits

    return value(value), code


@intrinsic
def bits_of(_, value):
    """The bits of a float32."""
    return types.uint32(types.float32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(32)
    )


@intrinsic
def of_bits(_, bits):
    """The float32 of these bits."""
    return types.float32(types.uint32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType()
    )


def _prefetch(builder, address):
    byte, int32 = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    read, keep, data = (ir.Constant(int32, value) for value in (0, 3, 1))
    builder.call(function, [builder.inttoptr(address, byte), read, keep, data])


@intrinsic
def prefetch(_, address):
    """Have the line at an address on its way; any address will do."""

    def code(context, builder, signature, args):
        _prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def stream_line(_, to, source):
    """Copy 64 bytes past the caches, to a multiple of 64; `fence` comes after the last."""

    def code(context, builder, signature, args):
        line = ir.VectorType(ir.IntType(64), 8).as_pointer()
        to, source = (builder.inttoptr(address, line) for address in args)
        _nontemporal(builder, builder.store(builder.load(source, align=2), to, align=64))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def fence(_):
    """What was streamed is seen by all before what comes next."""

    def code(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def flag_at(_, address):
    """The int64 at an address, which another thread may change."""

    def code(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "monotonic", 8)

    return types.int64(types.int64), code
