"""Memory at an address, in LLVM instructions that Numba has no operation for: load, store, prefetch, bypass the caches.

Addresses are int64. Numbers are float32, float64 and uint16, the bits of the 16-bit types; what is loaded may also be
any integer.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

LINE = 64  # bytes of a cache line

WORDS = {types.float32: ir.IntType(32), types.float64: ir.IntType(64), types.uint16: ir.IntType(16)}  # of equal size


def llvm_type(number):
    """The LLVM type of a number."""
    return {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}.get(number) or WORDS[number]


def _number_type(of):
    """The type of number that an argument like ``np.uint16`` or ``array.dtype`` stands for."""
    return of.dtype if isinstance(of, (types.NumberClass, types.DType)) else None


# ---------------------------------------------------------------------- for the code of other intrinsics


def prefetching(builder, address):
    """Have the cache line at an address on its way."""
    byte, int32 = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    read, keep, data = (ir.Constant(int32, value) for value in (0, 3, 1))
    builder.call(function, [builder.inttoptr(address, byte), read, keep, data])


def bypassing(builder, store):
    """Make a store one that bypasses the caches."""
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))


# ---------------------------------------------------------------------- arrays and their addresses


@intrinsic
def view(_, address, n, like):
    """n numbers at an address, as an array that owns nothing, because counting references to an owner costs each row.

    They are of the dtype of ``like``, an array or a dtype. ``numba.carray`` does the same by three more functions, all
    to be compiled.
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
    """The address of an array's memory, as int64: Numba's own is uint64, whose sum with an int64 would be a float64."""

    def code(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), code


# ---------------------------------------------------------------------- numbers


@intrinsic
def load(_, address, kind):
    """The number at any address, aligned or not."""
    number = _number_type(kind)

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
    """The number whose bytes are those of ``value`` in the other order."""

    def code(context, builder, signature, args):
        word, own = WORDS[value], llvm_type(value)
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


# ---------------------------------------------------------------------- caches and other threads


@intrinsic
def prefetch(_, address):
    """Have the cache line at an address on its way; any address will do."""

    def code(context, builder, signature, args):
        prefetching(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def bypass_line(_, to, source):
    """Copy a LINE to a multiple of LINE by stores that bypass the caches; a `fence` must follow the last of them."""

    def code(context, builder, signature, args):
        line = ir.VectorType(ir.IntType(64), LINE // 8).as_pointer()
        to, source = (builder.inttoptr(address, line) for address in args)
        bypassing(builder, builder.store(builder.load(source, align=2), to, align=LINE))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def fence(_):
    """Other threads see what bypassed the caches before they see any later store."""

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
