"""What numba.cuda lacks, as LLVM and PTX: the only file that has either.

Addresses are int64. A vector is 16 bytes, four 32-bit words: what a thread loads or stores at once (LDG.128, STG.128).
"""

import itertools

from llvmlite import ir
from numba.core.errors import RequireLiteralValue
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

_LLVM = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.uint8: ir.IntType(8),
    types.int8: ir.IntType(8),
    types.uint16: ir.IntType(16),
    types.int16: ir.IntType(16),
    types.uint32: ir.IntType(32),
    types.int32: ir.IntType(32),
    types.uint64: ir.IntType(64),
    types.int64: ir.IntType(64),
    types.void: ir.VoidType(),
}
_GLOBAL = 1  # the address space of device memory: what tells LLVM to load from there (LDG), not from anywhere (LD)
_WORD = ir.IntType(32)
_VECTOR = types.UniTuple(types.uint32, 4)


def _pointer(builder, address, to):
    return builder.inttoptr(address, ir.PointerType(to, addrspace=_GLOBAL))


def _index(i):
    return ir.Constant(_WORD, i)


def _asm(builder, text, returns, constraints, args, side_effect=False, convergent=False):
    """A call of inline assembly; ``convergent``: not to be moved into a branch, where other threads would not come."""
    kind = ir.FunctionType(_LLVM[returns], [arg.type for arg in args])
    attributes = ("convergent",) if convergent else ()
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=side_effect), args, attrs=attributes)


# ---------------------------------------------------------------------- memory


@intrinsic
def load_vector(_, address):
    """Four words from a multiple of 16."""

    def code(context, builder, signature, args):
        vector = ir.VectorType(_WORD, 4)
        words = builder.load(_pointer(builder, args[0], vector), align=16)
        return context.make_tuple(builder, _VECTOR, [builder.extract_element(words, _index(i)) for i in range(4)])

    return _VECTOR(types.int64), code


@intrinsic
def shifted(_, low, high, address):
    """The four words from an address on, a multiple of 2, of the two vectors that they lie in.

    Eight words are shifted down by whole words, one bit of their number at a time, and then by half a word.
    """

    def code(context, builder, signature, args):
        words = [builder.extract_value(vector, i) for vector in args[:2] for i in range(4)]
        past = builder.trunc(args[2], _WORD)
        for step in (2, 1):
            here = builder.icmp_unsigned("!=", builder.and_(past, _index(4 * step)), _index(0))
            words = [builder.select(here, words[i + step], words[i]) for i in range(len(words) - step)]
        bits, found = builder.shl(builder.and_(past, _index(2)), _index(3)), []
        for low, high in itertools.pairwise(words):
            found.append(_asm(builder, "shf.r.wrap.b32 $0, $1, $2, $3;", types.uint32, "=r,r,r,r", [low, high, bits]))
        return context.make_tuple(builder, _VECTOR, found[:4])

    return _VECTOR(_VECTOR, _VECTOR, types.int64), code


@intrinsic
def funnel(_, low, high, bits):
    """The word that begins so many bits after the first of two, fewer than 32."""

    def code(context, builder, signature, args):
        return _asm(builder, "shf.r.wrap.b32 $0, $1, $2, $3;", types.uint32, "=r,r,r,r", args)

    return types.uint32(types.uint32, types.uint32, types.uint32), code


@intrinsic
def store_vector(_, address, words):
    """Four words to a multiple of 16."""

    def code(context, builder, signature, args):
        vector = ir.Constant(ir.VectorType(_WORD, 4), ir.Undefined)
        for i in range(4):
            vector = builder.insert_element(vector, builder.extract_value(args[1], i), _index(i))
        builder.store(vector, _pointer(builder, args[0], vector.type), align=16)
        return context.get_dummy_value()

    return types.void(types.int64, _VECTOR), code


def _stored_if(count):
    """Code that stores so many words where a bit is set, by a predicate: a branch would be four instructions more."""

    def code(builder, whether, address, past, words):
        places = ", ".join(f"${i + 2}" for i in range(count))
        there = f"[$1+{past.literal_value}], {{{places}}}"
        text = f"{{ .reg .pred p; setp.ne.u32 p, $0, 0; @p st.global.v{count}.b32 {there}; }}"
        given = [builder.zext(whether, _WORD), address, *words]
        _asm(builder, text, types.void, ",".join(["r", "l", *["r"] * count, "~{memory}"]), given, side_effect=True)

    return code


@intrinsic
def store_vector_if(_, whether, address, past, words):
    """`store_vector`, so many bytes past an address, or nothing; ``past`` is a constant."""
    if not isinstance(past, types.IntegerLiteral):
        raise RequireLiteralValue("past")

    def code(context, builder, signature, args):
        _stored_if(4)(builder, args[0], args[1], past, [builder.extract_value(args[3], i) for i in range(4)])
        return context.get_dummy_value()

    return types.void(types.boolean, types.int64, past, _VECTOR), code


@intrinsic
def store_half_if(_, whether, address, past, low, high):
    """Two words to a multiple of 8, or nothing, as `store_vector_if`."""
    if not isinstance(past, types.IntegerLiteral):
        raise RequireLiteralValue("past")

    def code(context, builder, signature, args):
        _stored_if(2)(builder, args[0], args[1], past, args[3:])
        return context.get_dummy_value()

    return types.void(types.boolean, types.int64, past, types.uint32, types.uint32), code


@intrinsic
def load(_, address, kind):
    """The number of a kind (``np.uint16``) at a multiple of its size."""
    number = kind.dtype

    def code(context, builder, signature, args):
        return builder.load(_pointer(builder, args[0], _LLVM[number]), align=number.bitwidth // 8)

    return number(types.int64, kind), code


@intrinsic
def store(_, address, value):
    """Put a number at a multiple of its size."""

    def code(context, builder, signature, args):
        builder.store(args[1], _pointer(builder, args[0], args[1].type), align=value.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(types.int64, value), code


# ---------------------------------------------------------------------- the lanes of a warp together


def _of_lanes(instruction, what):
    """A function of a word that each lane of a warp has, to which all of them must come."""

    def together(_, word):
        def code(context, builder, signature, args):
            text = f"redux.sync.{instruction}.u32 $0, $1, 0xffffffff;"
            return _asm(builder, text, types.uint32, "=r,r", args, side_effect=True, convergent=True)

        return types.uint32(types.uint32), code

    together.__doc__ = f"The {what} of the words of a warp's lanes, which all of them get."
    return intrinsic(together)


warp_sum = _of_lanes("add", "sum, modulo 2^32,")
warp_max = _of_lanes("max", "largest")


# ---------------------------------------------------------------------- clusters: blocks that work on a row (sm_90 on)


@intrinsic
def clustered(_, blocks):
    """Make the kernel that this stands in one whose blocks come in clusters of so many; ``blocks`` is a constant."""
    if not isinstance(blocks, types.IntegerLiteral):
        raise RequireLiteralValue("blocks")

    def code(context, builder, signature, args):
        module, sizes = builder.module, (blocks.literal_value, 1, 1)
        annotations = cgutils.get_or_insert_named_metadata(module, "nvvm.annotations")
        for axis, size in zip("xyz", sizes, strict=True):
            entry = builder.function, ir.MetaDataString(module, f"cluster_dim_{axis}"), _index(size)
            annotations.add(module.add_metadata(entry))
        return context.get_dummy_value()

    return types.void(blocks), code


def _special_register(name, what):
    """A function that reads one of PTX's registers."""

    def read(_):
        return types.int32(), lambda context, builder, signature, args: _asm(
            builder, f"mov.u32 $0, %{name};", types.int32, "=r", []
        )

    read.__doc__ = what
    return intrinsic(read)


cluster_rank = _special_register("cluster_ctarank", "Which block of its cluster this is.")
cluster_index = _special_register("clusterid.x", "Which cluster of the grid this is.")
cluster_count = _special_register("nclusterid.x", "How many clusters the grid has.")


@intrinsic
def barriers(_):
    """The address in shared memory of a block's two barriers, of eight bytes each: the same for all who ask."""

    def code(context, builder, signature, args):
        module, name, kind = builder.module, "crossentropy_barriers", ir.ArrayType(ir.IntType(64), 2)
        if name not in module.globals:
            made = ir.GlobalVariable(module, kind, name, addrspace=3)
            made.linkage, made.align, made.initializer = "linkonce_odr", 8, ir.Constant(kind, ir.Undefined)
        return builder.ptrtoint(module.globals[name], _WORD)

    return types.int32(), code


@intrinsic
def cluster_begin(_):
    """All blocks of the cluster have begun, and begun their barriers, before any thread goes on."""

    def code(context, builder, signature, args):
        # Not .release: that would wait until all stores are seen by the whole device (MEMBAR.ALL.GPU).
        text = "fence.mbarrier_init.release.cluster;\nbarrier.cluster.arrive.relaxed;\nbarrier.cluster.wait.acquire;"
        _asm(builder, text, types.void, "~{memory}", [], side_effect=True, convergent=True)
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def barrier_begin(_, barrier):
    """Make a barrier of one arrival, and of bytes, of the eight bytes at an address of shared memory; by one thread."""

    def code(context, builder, signature, args):
        text = "mbarrier.init.shared::cta.b64 [$0], 1;"
        _asm(builder, text, types.void, "r,~{memory}", args, side_effect=True)
        return context.get_dummy_value()

    return types.void(types.int32), code


@intrinsic
def barrier_expect(_, barrier, size):
    """The arrival, by one thread, and how many bytes a barrier waits for; some may have come already."""

    def code(context, builder, signature, args):
        text = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;"
        _asm(builder, text, types.void, "r,r,~{memory}", args, side_effect=True)
        return context.get_dummy_value()

    return types.void(types.int32, types.int32), code


@intrinsic
def barrier_wait(_, barrier, parity):
    """Wait for the bytes of a barrier's next turn; ``parity`` is 0 and 1 by turns. What they are can then be read."""

    def code(context, builder, signature, args):
        text = (
            "{ .reg .pred all;\nagain: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 all, [$0], $1;\n"
            "@!all bra again; }"
        )
        _asm(builder, text, types.void, "r,r,~{memory}", args, side_effect=True)
        return context.get_dummy_value()

    return types.void(types.int32, types.int32), code


@intrinsic
def cluster_store(_, array, index, rank, value, barrier):
    """array[index] = value in the block of that rank, where the barrier counts its bytes; ``array`` is a shared one.

    Nothing waits for the store, nor does it for stores before it.
    """

    def code(context, builder, signature, args):
        shared, index, rank, value, counted = args
        place = builder.gep(context.make_array(signature.args[0])(context, builder, shared).data, [index])
        place = builder.addrspacecast(place, ir.PointerType(place.type.pointee, addrspace=3))
        suffix, letter = ("f64", "d") if value.type == ir.DoubleType() else ("f32", "f")
        text = (
            "{ .reg .b32 there, counted;\n"
            "mapa.shared::cluster.u32 there, $0, $2;\nmapa.shared::cluster.u32 counted, $1, $2;\n"
            f"st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.{suffix} [there], $3, [counted]; }}"
        )
        given = [builder.ptrtoint(place, _WORD), counted, rank, value]
        _asm(builder, text, types.void, f"r,r,r,{letter},~{{memory}}", given, side_effect=True)
        return context.get_dummy_value()

    return types.void(array, types.int32, types.int32, value, types.int32), code


@intrinsic
def has_come(_, value):
    """Nothing that follows is done before this number, which was loaded, is there.

    A thread waits for a load where it first uses it. This uses it for nothing: it sleeps for no time where it is NaN.
    """

    def code(context, builder, signature, args):
        suffix, letter = ("f64", "d") if value == types.float64 else ("f32", "f")
        text = f"{{ .reg .pred p; setp.nan.{suffix} p, $0, $0; @p nanosleep.u32 0; }}"
        _asm(builder, text, types.void, f"{letter},~{{memory}}", args, side_effect=True)
        return context.get_dummy_value()

    return types.void(value), code


# ---------------------------------------------------------------------- bits


@intrinsic
def float_of(_, word):
    """The float32 of these bits."""
    return types.float32(types.uint32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType()
    )


@intrinsic
def word_of(_, value):
    """The bits of a float32."""
    return types.uint32(types.float32), lambda context, builder, signature, args: builder.bitcast(args[0], _WORD)


@intrinsic
def double_of(_, low, high):
    """The float64 of two words."""

    def code(context, builder, signature, args):
        wide = ir.IntType(64)
        low, high = (builder.zext(word, wide) for word in args)
        return builder.bitcast(builder.or_(low, builder.shl(high, ir.Constant(wide, 32))), ir.DoubleType())

    return types.float64(types.uint32, types.uint32), code


@intrinsic
def words_of(_, value):
    """The two words of a float64."""
    pair = types.UniTuple(types.uint32, 2)

    def code(context, builder, signature, args):
        wide = ir.IntType(64)
        bits = builder.bitcast(args[0], wide)
        high = builder.lshr(bits, ir.Constant(wide, 32))
        return context.make_tuple(builder, pair, [builder.trunc(bits, _WORD), builder.trunc(high, _WORD)])

    return pair(types.float64), code


@intrinsic
def half_of(_, bits):
    """The float32 that a float16 is."""

    def code(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), code


@intrinsic
def two_bfloat16(_, low, high):
    """Two float32 rounded to bfloat16, in a word."""

    def code(context, builder, signature, args):
        return _asm(builder, "cvt.rn.bf16x2.f32 $0, $2, $1;", types.uint32, "=r,f,f", args)

    return types.uint32(types.float32, types.float32), code


@intrinsic
def two_float16(_, low, high):
    """Two float32 rounded to float16, in a word."""

    def code(context, builder, signature, args):
        return _asm(builder, "cvt.rn.f16x2.f32 $0, $2, $1;", types.uint32, "=r,f,f", args)

    return types.uint32(types.float32, types.float32), code


# ---------------------------------------------------------------------- arithmetic


@intrinsic
def fma(_, a, b, c):
    """a b + c, rounded once."""
    return a(a, a, a), lambda context, builder, signature, args: builder.fma(*args)


@intrinsic
def larger(_, a, b):
    """The larger; NaN where either is. (``max`` would give the other, and a row with a NaN must be NaN.)"""

    def code(context, builder, signature, args):
        if a == types.float32:
            return _asm(builder, "max.NaN.f32 $0, $1, $2;", a, "=f,f,f", args)
        keep = builder.or_(builder.fcmp_ordered(">", *args), builder.fcmp_unordered("uno", args[0], args[0]))
        return builder.select(keep, *args)

    return a(a, a), code


@intrinsic
def smaller(_, a, b):
    """The smaller; NaN where either is."""

    def code(context, builder, signature, args):
        if a == types.float32:
            return _asm(builder, "min.NaN.f32 $0, $1, $2;", a, "=f,f,f", args)
        keep = builder.or_(builder.fcmp_ordered("<", *args), builder.fcmp_unordered("uno", args[0], args[0]))
        return builder.select(keep, *args)

    return a(a, a), code


def _of_halves(instruction, what):
    """A function of two words, on the numbers of 16 bits that each half has."""

    def extreme(_, a, b):
        def code(context, builder, signature, args):
            return _asm(builder, f"{instruction} $0, $1, $2;", types.uint32, "=r,r,r", args)

        return types.uint32(types.uint32, types.uint32), code

    extreme.__doc__ = f"The {what} of each half of two words; NaN where either is."
    return intrinsic(extreme)


larger_two_bfloat16 = _of_halves("max.NaN.bf16x2", "larger")
smaller_two_bfloat16 = _of_halves("min.NaN.bf16x2", "smaller")
larger_two_float16 = _of_halves("max.NaN.f16x2", "larger")
smaller_two_float16 = _of_halves("min.NaN.f16x2", "smaller")


@intrinsic
def exp2(_, y):
    """2^y of a float32 not far from 0, off by 2^-22.5 of it at most."""

    def code(context, builder, signature, args):
        return _asm(builder, "ex2.approx.ftz.f32 $0, $1;", types.float32, "=f,f", args)

    return types.float32(types.float32), code


@intrinsic
def near_reciprocal(_, y):
    """1 / y of a float32 that is no subnormal and not beyond 2^126, off by an ulp at most; of a float64 as it is."""

    def code(context, builder, signature, args):
        if y == types.float64:
            return builder.fdiv(ir.Constant(ir.DoubleType(), 1.0), args[0])
        return _asm(builder, "rcp.approx.ftz.f32 $0, $1;", y, "=f,f", args)

    return y(y), code


@intrinsic
def power(_, t):
    """The power of two whose exponent, with its bias, is in the last bits of t."""
    word, bits = (_WORD, 23) if t == types.float32 else (ir.IntType(64), 52)

    def code(context, builder, signature, args):
        shifted = builder.shl(builder.bitcast(args[0], word), ir.Constant(word, bits))
        return builder.bitcast(shifted, args[0].type)

    return t(t), code


@intrinsic
def raised(_, value, t):
    """The value, no subnormal, times two to the power of the integer in the last bits of t."""
    word, bits = (_WORD, 23) if t == types.float32 else (ir.IntType(64), 52)

    def code(context, builder, signature, args):
        number, exponent = (builder.bitcast(arg, word) for arg in args)
        sum_ = builder.add(number, builder.shl(exponent, ir.Constant(word, bits)))
        return builder.bitcast(sum_, args[0].type)

    return t(t, t), code
