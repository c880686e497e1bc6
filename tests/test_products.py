"""The three products of a linear cross-entropy in every unit, against float64; conversions; biases."""

import functools

import ml_dtypes
import numpy as np
import pytest
import subprocesses

import crossentropy
from crossentropy._backends import native
from crossentropy.linear import own

KINDS = ("logits", "hidden", "weight")
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
UNITS = [(unit, dtype) for dtype in DTYPES for unit in own.units(dtype)]
OF_PAIRS = ("amx", "avx512_bf16")  # which round a float32 gradient to bfloat16

# (rows, V, H): each of them is the length of a sum in one product, and of a result's rows or columns in the others.
SIZES = [
    (1, 1, 1),
    (2, 3, 5),
    (5, 7, 9),  # one short of a panel of 6 rows, of 8 columns (base), and one past either
    (7, 15, 17),  # the same of 16 columns (AVX2), and of a vector of AVX-512
    (11, 31, 13),  # of 12 rows and 32 columns (AVX-512)
    (13, 33, 31),  # of a tile's 32 numbers of a sum, 32 rows and 32 columns (AMX)
    (32, 64, 32),  # whole panels of every unit
    (65, 129, 63),  # one past a share of packing, and a share of multiplying where they are narrow
    (33, 257, 513),  # one past a slice of the sum (float32, AVX512-BF16)
    (16, 1025, 40),  # of AMX
    (20, 4099, 6),  # shares of multiplying where they are wide, with a part of one
    (40, 11000, 50),  # a sum of more than a stage, in two parts
    (260, 8203, 270),  # of parts that are not alike, and more numbers than are added up at once
    (30, 17003, 37),  # in four parts
    (1100, 1150, 1200),  # more rows are kept than at once; six stages, so that panels are packed over others
]


@functools.cache
def operands(size, dtype):
    """x, weight, grad, all of both signs."""
    rng = np.random.default_rng(sum(size))
    rows, classes, width = size
    shapes = (rows, width), (classes, width), (rows, classes)
    x, w, grad = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return x.astype(DTYPES[dtype]), w.astype(DTYPES[dtype]), grad


def factors(kind, x, w, grad):
    """a and b of which the product is a b."""
    return {"logits": (x, w.T), "hidden": (grad, w), "weight": (grad.T, x)}[kind]


@functools.cache
def expected(kind, size, dtype, rounded):
    """The product of the operands, and of their absolute values, in float64."""
    x, w, grad = operands(size, dtype)
    if rounded:
        grad = grad.astype(ml_dtypes.bfloat16)
    a, b = (each.astype(np.float64) for each in factors(kind, x, w, grad))
    return a @ b, np.abs(a) @ np.abs(b), a.shape[1]


def product(kind, x, w, grad, out, unit=None, **add):
    if kind == "logits":
        own.logits(x, w, out, unit=unit)
    elif kind == "hidden":
        own.hidden(grad, w, out, unit=unit)
    else:
        own.weight(grad, x, out, unit=unit, **add)


def in_order(x, order):
    """The same numbers: C and F as NumPy has them, or with room between rows, or from the last row to the first."""
    if order in "CF":
        return np.asarray(x, order=order)
    if order == "apart":
        larger = np.zeros((x.shape[0], x.shape[1] + 3), x.dtype)
        larger[:, : x.shape[1]] = x
        return larger[:, : x.shape[1]]
    if order == "strided":
        larger = np.zeros((x.shape[0], 2 * x.shape[1]), x.dtype)
        larger[:, ::2] = x
        return larger[:, ::2]
    if order == "misaligned":
        raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        raw[...] = x
        return raw
    if order == "swapped":
        return x.astype(x.dtype.newbyteorder(">")) if x.dtype.kind == "f" else x
    return np.ascontiguousarray(x[::-1])[::-1]


def assert_right(got, kind, size, dtype, unit, before=0.0):
    """Each sum of n products within (n + 2) 2^-24 of the sum of their absolute values: so often it is rounded."""
    right, scale, n = expected(kind, size, dtype, unit in OF_PAIRS)
    bound = (n + 2) * 2.0**-24 * (scale + np.abs(before)) + n * 2.0**-126
    worst = np.max(np.abs(got - (right + before)) / bound)
    assert worst <= 1, worst


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("unit", "dtype"), UNITS)
@pytest.mark.parametrize("kind", KINDS)
def test_products(kind, unit, dtype, size):
    x, w, grad = operands(size, dtype)
    shape = expected(kind, size, dtype, False)[0].shape
    around = np.full((shape[0] + 2, shape[1] + 2), np.float32(7))
    out = around[1:-1, 1:-1]
    product(kind, x, w, grad, out, unit)
    assert_right(out, kind, size, dtype, unit)
    assert all((edge == 7).all() for edge in (around[0], around[-1], around[:, 0], around[:, -1]))


@pytest.mark.parametrize("orders", ["CCC", "CCF", "CFC", "CFF", "FCC", "FCF", "FFC", "FFF"])
@pytest.mark.parametrize(("unit", "dtype"), UNITS)
@pytest.mark.parametrize("kind", KINDS)
def test_orders_of_strides(kind, unit, dtype, orders):
    size = (45, 70, 55)
    x, w, grad = (in_order(each, orders[i % 2]) for i, each in enumerate(operands(size, dtype)))
    out = np.zeros(expected(kind, size, dtype, False)[0].shape, np.float32, order=orders[2])
    product(kind, x, w, grad, out, unit)
    assert_right(out, kind, size, dtype, unit)


@pytest.mark.parametrize("order", ["apart", "strided", "misaligned", "swapped", "backwards"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_other_layouts(kind, dtype, order):
    size = (9, 33, 21)
    x, w, grad = (in_order(each, order) for each in operands(size, dtype))
    out = np.zeros(expected(kind, size, dtype, False)[0].shape, np.float32)
    product(kind, x, w, grad, out)
    assert_right(out, kind, size, dtype, own.units(dtype)[0])


@pytest.mark.parametrize(("unit", "dtype"), UNITS)
@pytest.mark.parametrize("order", "CF")
def test_add(unit, dtype, order):
    for size in ((45, 70, 55), (300, 64, 96), (1100, 64, 96)):
        x, _, grad = operands(size, dtype)
        before = np.random.default_rng(1).standard_normal(size[1:], np.float32)
        out = np.array(before, order=order)
        own.weight(grad, x, out, True, unit=unit)
        assert_right(out, "weight", size, dtype, unit, before)


@pytest.mark.parametrize("size", [*SIZES[:10], (300, 9000, 520), (7, 4200, 1031)], ids=str)
@pytest.mark.parametrize(("unit", "dtype"), [(unit, dtype) for unit, dtype in UNITS if dtype != "float32"])
def test_a_rounded_weight_gradient(unit, dtype, size):
    """The bits of a float32 one that is rounded afterwards: by tiles with edges, past the caches, rows misaligned."""
    x, _, grad = operands(size, dtype)
    sums = np.empty(size[1:], np.float32)
    own.weight(grad, x, sums, unit=unit)
    right = np.empty(size[1:], x.dtype)
    own.convert(sums, right)
    for offset in (0, 1):
        around = np.full(right.size + 40, 7, np.uint16)
        start = -around.ctypes.data // 2 % 32 + offset
        out = around[start : start + right.size].view(x.dtype).reshape(right.shape)
        assert own.rounds(len(x), x, unit=unit)
        own.rounded_weight(grad, x, out, unit=unit)
        assert (out.view(np.uint16) == right.view(np.uint16)).all()
        assert (around[:start] == 7).all()
        assert (around[start + right.size :] == 7).all()


def test_a_rounded_weight_gradient_of_what_does_not_fit():
    x, grad = np.zeros((4, 3), np.float16), np.zeros((4, 5), np.float32)
    out = np.zeros((5, 3), np.float16)
    for arguments in ((grad, x, out[:4]), (grad[:3], x, out), (grad[0], x, out), (grad[:0], x[:0], out)):
        with pytest.raises(ValueError, match="must be matrices that fit"):
            own.rounded_weight(*arguments)
    for bad in (out.astype(np.float32), out.T.copy().T, np.zeros((5, 3), np.uint16), np.broadcast_to(out[:1], (5, 3))):
        with pytest.raises(TypeError, match="out must be contiguous"):
            own.rounded_weight(grad, x, bad)
    many = 5000
    assert not own.rounds(many, x)
    with pytest.raises(ValueError, match="does not add up 5000 rows"):
        own.rounded_weight(np.zeros((many, 5), np.float32), np.zeros((many, 3), np.float16), out)


@pytest.mark.parametrize(("unit", "dtype"), UNITS)
@pytest.mark.parametrize("kind", KINDS)
def test_large_results(kind, unit, dtype):
    """Those that bypass the caches, where lines can be written whole and where not."""
    size = {"logits": (512, 4128, 40), "hidden": (2080, 40, 1040), "weight": (40, 4128, 520)}[kind]
    x, w, grad = operands(size, dtype)
    right = expected(kind, size, dtype, False)[0]
    assert right.nbytes // 2 >= 2**23
    for offset in (0, 4):
        raw = np.zeros(right.size + 16, np.float32)
        start = -raw.ctypes.data // 4 % 16 + offset
        out = raw[start : start + right.size].reshape(right.shape)
        product(kind, x, w, grad, out, unit)
        assert_right(out, kind, size, dtype, unit)


@pytest.mark.parametrize(("unit", "dtype"), UNITS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_on_any_number_of_threads(kind, unit, dtype, monkeypatch):
    # a sum in four parts; what is streamed in two, the second of which is narrower; six stages
    sizes = ((200, 4200, 64), (20, 17003, 64), (20, 8301, 70), (1100, 1150, 1200))
    for size in sizes if unit != "base" else sizes[:3]:
        x, w, grad = operands(size, dtype)
        got = []
        for threads in (1, 2, 3, 7):
            monkeypatch.setattr(native, "current_threads", lambda threads=threads: threads)
            out = np.full(expected(kind, size, dtype, False)[0].shape, np.nan, np.float32)
            product(kind, x, w, grad, out, unit)
            got.append(out)
        assert all(np.array_equal(got[0], each) for each in got)


@pytest.mark.parametrize(("unit", "dtype"), UNITS)
@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_inf_stay_where_arithmetic_has_them(kind, unit, dtype):
    """Panels are padded with zeros, and 0 times inf is NaN: none of that may reach a result."""
    size = (13, 35, 19)
    x, w, grad = (each.copy() for each in operands(size, dtype))
    x[-1, -1], w[-1, 3], grad[-1, -1] = np.inf, -np.inf, np.inf
    x[2, 5], w[4, 5], grad[3, 7] = np.nan, np.inf, np.nan
    with np.errstate(invalid="ignore"):
        a, b = (each.astype(np.float64) for each in factors(kind, x, w, grad))
        right = a @ b
    out = np.zeros(right.shape, np.float32)
    product(kind, x, w, grad, out, unit)
    assert np.array_equal(np.isnan(out), np.isnan(right))
    assert np.array_equal(np.isposinf(out), np.isposinf(right))
    assert np.array_equal(np.isneginf(out), np.isneginf(right))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_sum(kind):
    shapes = {"logits": (3, 4, 0), "hidden": (3, 0, 5), "weight": (0, 4, 5)}
    size = shapes[kind]
    x, w, grad = operands(size, "float32")
    out = np.ones(expected(kind, size, "float32", False)[0].shape, np.float32)
    product(kind, x, w, grad, out)
    assert (out == 0).all()
    if kind == "weight":
        out[...] = 1
        own.weight(grad, x, out, True)
        assert (out == 1).all()
    product(kind, *operands((0, 0, 0), "float32"), np.empty((0, 0), np.float32))


def test_one_column_with_room_between_rows():
    """No stride is that of an element, and none need be."""
    x, w = np.arange(12, dtype=np.float32).reshape(4, 3), np.ones((1, 3), np.float32)
    out = np.zeros((4, 16), np.float32)
    own.logits(x, w, out[:, :1])
    np.testing.assert_array_equal(out[:, 0], x.sum(1))
    assert not out[:, 1:].any()
    own.weight(x, out[:, :1], np.zeros((3, 1), np.float32))
    own.hidden(out[:, :1], w, x)
    np.testing.assert_array_equal(x, out[:, :1] * w)


def test_units_and_the_isa_in_force():
    for isa in native.SUPPORTED_ISAS:
        with crossentropy.config(isa=isa):
            assert isa in own.units()
            assert set(own.units("bfloat16")) - set(own.units()) <= set(OF_PAIRS)
            if isa != "avx512":
                assert own.units("bfloat16") == own.units("float16") == own.units() == (isa,)
    with crossentropy.config(isa="base"), pytest.raises(ValueError, match="unit must be one of 'base'"):
        product("logits", *operands((2, 3, 5), "float32"), np.zeros((2, 3), np.float32), "avx512")
    with pytest.raises(ValueError, match="for float32 operands on this machine, got 'amx'"):
        product("logits", *operands((2, 3, 5), "float32"), np.zeros((2, 3), np.float32), "amx")


def test_operands_of_two_dtypes_are_not_rounded():
    size = (13, 33, 31)
    x, _, _ = operands(size, "float32")
    _, w, _ = operands(size, "bfloat16")
    out = np.zeros((13, 33), np.float32)
    own.logits(x, w, out)
    right = x.astype(np.float64) @ w.astype(np.float64).T
    assert np.abs(out - right).max() < 1e-5


def test_gradients_of_16_bits():
    for dtype in ("float16", "bfloat16"):
        x, w, grad = operands((13, 33, 31), dtype)
        grad = grad.astype(DTYPES[dtype])
        for kind in ("hidden", "weight"):
            a, b = (each.astype(np.float64) for each in factors(kind, x, w, grad))
            out = np.zeros((a @ b).shape, np.float32)
            product(kind, x, w, grad, out)
            assert np.abs(out - a @ b).max() <= 40 * 2.0**-24 * (np.abs(a) @ np.abs(b)).max()


def test_errors():
    x, w, grad = operands((2, 3, 5), "float32")
    out = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"x, weight and out must be matrices that fit, got shapes \(2, 5\), \(2, 3\)"):
        own.logits(x, grad, out)
    with pytest.raises(ValueError, match="must be matrices that fit"):
        own.logits(x[0], w, out)
    with pytest.raises(ValueError, match="must be matrices that fit"):
        own.weight(grad, x, out)
    with pytest.raises(TypeError, match="out must be float32 and writeable, got float64"):
        own.logits(x, w, out.astype(float))
    with pytest.raises(TypeError, match="x must be float32, float16 or bfloat16, got float64"):
        own.logits(x.astype(float), w, out)
    with pytest.raises(ValueError, match="out must have one stride of 4 bytes"):
        own.logits(x, w, np.zeros((4, 6), np.float32)[::2, ::2])
    with pytest.raises(TypeError, match="x and out must be float32 and 16 bits"):
        own.convert(x, x.copy())
    with pytest.raises(ValueError, match=r"out must have the shape of x, \(2, 5\), got \(2,\)"):
        own.convert(x, np.zeros(2, np.float16))


def test_forked_children():
    """A child has none of its parent's threads; the tiles that its parent was given, it has too."""
    subprocesses.run(
        """
        import os
        import ml_dtypes, numpy as np
        from crossentropy.linear import own
        for dtype in (np.float32, ml_dtypes.bfloat16):
            x = np.ones((300, 64), dtype)
            w = np.ones((4200, 64), dtype)
            out = np.zeros((300, 4200), np.float32)
            own.logits(x, w, out)
            child = os.fork()
            if not child:
                out[...] = 0
                own.logits(x, w, out)
                os._exit(0 if (out == 64).all() else 1)
            assert os.waitpid(child, 0)[1] == 0 and (out == 64).all()
        """,
        options=("-W", "ignore"),  # that a process with threads forks
    )


SIXTEEN = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def same_numbers(a, b):
    """The same bits, but for NaN, of which any will do."""
    bits = f"u{a.itemsize}"
    with np.errstate(invalid="ignore"):
        return ((a.view(bits) == b.view(bits)) | (np.isnan(a) & np.isnan(b))).all()


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("isa", native.SUPPORTED_ISAS)
def test_convert_from_16_bits(isa, dtype):
    x = np.arange(2**16, dtype=np.uint16).view(SIXTEEN[dtype])
    out = np.zeros(x.shape, np.float32)
    with crossentropy.config(isa=isa):
        own.convert(x, out)
    with np.errstate(invalid="ignore"):
        assert same_numbers(out, x.astype(np.float32))


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("isa", native.SUPPORTED_ISAS)
def test_convert_to_16_bits(isa, dtype):
    """Every number of 16 bits, what lies half-way to the next, one bit to either side of that; and any bits at all."""
    exact = np.arange(2**16, dtype=np.uint16).view(SIXTEEN[dtype]).astype(np.float32).view(np.uint32)
    half = 2**15 if dtype == "bfloat16" else 2**12
    anything = np.random.default_rng(0).integers(0, 2**32, 2**18 + 3, dtype=np.uint32)
    near = [exact + np.uint32(each) for each in (half - 1, half, half + 1)]
    small = np.arange(0x33000000, 0x38800000, 1023, dtype=np.uint32)  # below the normal numbers of float16
    x = np.concatenate([exact, *near, anything, small, small + 0x80000000]).astype(np.uint32).view(np.float32)
    out = np.zeros(x.shape, SIXTEEN[dtype])
    with crossentropy.config(isa=isa):
        own.convert(x, out)
    with np.errstate(all="ignore"):
        assert same_numbers(out, x.astype(SIXTEEN[dtype]))


@pytest.mark.parametrize("isa", native.SUPPORTED_ISAS)
def test_convert_large_arrays(isa):
    """Those that bypass the caches, from every place in a line."""
    n = 2**23 + 5
    x = np.tile(np.random.default_rng(0).standard_normal(2**16 + 1, np.float32), 129)[:n]
    for offset in (0, 1, 7, 8, 31):
        half, back = np.zeros(n + 32, ml_dtypes.bfloat16), np.zeros(n + 32, np.float32)
        with crossentropy.config(isa=isa):
            own.convert(x, half[offset : offset + n])
            own.convert(half[offset : offset + n], back[offset : offset + n])
        assert np.array_equal(back[offset : offset + n], x.astype(ml_dtypes.bfloat16).astype(np.float32))
        for each in (half, back):
            assert not each[:offset].any()
            assert not each[offset + n :].any()


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 2**16 - 1, 2**16 + 1, 2**18 + 5])
def test_convert_any_number_and_layout(n):
    x = np.random.default_rng(n).standard_normal(n, np.float32)
    out = np.zeros(n + 1, np.float16)
    own.convert(x, out[:n])
    assert np.array_equal(out[:n], x.astype(np.float16))
    assert out[n] == 0
    apart = np.zeros((n, 2), ml_dtypes.bfloat16)
    own.convert(x, apart[:, 1])
    assert np.array_equal(apart[:, 1], x.astype(ml_dtypes.bfloat16))


# ---------------------------------------------------------------------- biases


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1023), (5, 1025), (70, 2049), (0, 4), (4, 0)])  # 1024 are summed at once
def test_biases(shape, dtype, threads):
    rng = np.random.default_rng(1)
    wide = rng.standard_normal((shape[0], shape[1] + 3)).astype(dtype)
    logits, bias = wide[:, : shape[1]], rng.standard_normal(shape[1]).astype(dtype)
    added, beside = logits + bias, wide[:, shape[1] :].copy()
    sums = rng.standard_normal(shape[1])
    exact = sums.copy()
    for row in added.astype(np.float64):
        exact += row
    with crossentropy.config(threads=threads):
        own.add_bias(logits, bias)
        own.sum_bias(logits, sums)
    np.testing.assert_array_equal(logits, added)
    np.testing.assert_array_equal(wide[:, shape[1] :], beside)
    np.testing.assert_array_equal(sums, exact)
