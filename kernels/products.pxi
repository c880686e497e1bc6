# Products of matrices, conversions and biases: what comes here is checked, as everywhere (linear/own.py).

cdef int factor_of(factor *f, Buffers buffers, view, int code) except -1:
    """From a view (rows, numbers of the sum), one stride of which is that of an element."""
    f.data = <const char *>buffers.data(view, PyBUF_STRIDES)
    f.type = <element>code
    cdef Py_buffer *b = &buffers.held[buffers.count - 1]
    f.across = b.strides[0] // b.itemsize if b.shape[0] > 1 else 1
    f.along = b.strides[1] // b.itemsize if b.shape[1] > 1 else 1
    return 0


cdef class ProductBuffers(Buffers):
    """With what the product keeps, which must last as long as any thread is at work on it."""
    cdef c_product p

    def __dealloc__(self):
        release_product(&self.p)


PRODUCT_UNITS = ("amx", "avx512_bf16", "avx512", "avx2", "neon", "base")


def supported_product_units():
    """The units that this build has and this machine runs, best first."""
    names = [name for name in PRODUCT_UNITS if product_unit_named(name.encode()) != NULL]
    if "avx512_bf16" in names and not pairs_are_fast():
        names.remove("avx512_bf16")
        names.insert(names.index("avx512") + 1, "avx512_bf16")
    return tuple(names)


def numbers_at_once(str unit):
    """The numbers of a sum that a unit adds up before it writes anything."""
    return product_unit_named(unit.encode()).whole


def product(str unit, int threads, tuple a, tuple b, out, bint add, tuple rounded=None, str isa=None):
    """out[m, n] (+)= the sum over k of a[m, k] b[n, k].

    a, b: (view as unsigned integers or floats, element code), (m, k) and (n, k). out: float32, one stride of which is
    that of an element. Or None, and rounded: (contiguous view of 16 bits, element code), to which an ISA rounds; k is
    at most `numbers_at_once` then, and nothing is added.
    """
    cdef ProductBuffers buffers = ProductBuffers()
    cdef c_product *p = &buffers.p
    cdef task t
    p.unit = product_unit_named(unit.encode())
    p.add = add
    p.out = <float *>buffers.data(out, PyBUF_STRIDED)
    memset(&t, 0, sizeof(task))
    if rounded is not None:
        t.isa = isa_select(isa.encode())
        p.rounded = <char *>buffers.data(rounded[0], PyBUF_STRIDED)
        p.round = converter(isa.encode(), <element>2, <element><int>rounded[1])
    cdef Py_buffer *result = &buffers.held[0]
    cdef int turned = result.shape[1] > 1 and result.strides[1] != result.itemsize    # then out.T is computed
    p.rows, p.columns = result.shape[turned], result.shape[not turned]
    p.stride = result.strides[turned] // result.itemsize if p.rows > 1 else p.columns
    p.depth = a[0].shape[1]
    factor_of(&p.b if turned else &p.a, buffers, a[0], a[1])
    factor_of(&p.a if turned else &p.b, buffers, b[0], b[1])
    t.work = PRODUCT
    t.poll = poll
    t.product = p
    t.rows = plan_product(p, threads)
    if t.rows < 0:
        raise MemoryError("no room for the panels of a product")
    work_through(buffers, &t, threads)
    raise_signals()


def convert(str isa, int threads, tuple x, tuple out):
    """Contiguous numbers to another type: (view, element code) of each."""
    cdef Buffers buffers = Buffers()
    cdef task t
    memset(&t, 0, sizeof(task))
    t.work = CONVERT
    t.poll = poll
    t.x.data = <char *>buffers.data(x[0], PyBUF_SIMPLE)
    t.out.data = <char *>buffers.data(out[0], PyBUF_WRITABLE)
    t.x.type = <element><int>x[1]
    t.out.type = <element><int>out[1]
    t.classes = buffers.held[0].len // buffers.held[0].itemsize
    t.bypass = buffers.held[1].len >= BYPASS_FROM
    t.rows = (t.classes + CONVERTED_AT_ONCE - 1) // CONVERTED_AT_ONCE
    t.convert = converter(isa.encode(), t.x.type, t.out.type)
    work_through(buffers, &t, threads)
    raise_signals()


cdef class BiasBuffers(Buffers):
    cdef c_biased b


cdef int work_on_bias(work what, int threads, logits, row) except -1:
    cdef BiasBuffers buffers = BiasBuffers()
    cdef c_biased *b = &buffers.b
    cdef task t
    memset(&t, 0, sizeof(task))
    b.logits = <char *>buffers.data(logits, PyBUF_STRIDED if what == ADD_BIAS else PyBUF_STRIDES)
    if what == ADD_BIAS:
        b.bias = buffers.data(row, PyBUF_SIMPLE)
    else:
        b.sums = <double *>buffers.data(row, PyBUF_WRITABLE)
    cdef Py_buffer *matrix = &buffers.held[0]
    b.type = <element>(2 if matrix.itemsize == 4 else 3)
    b.rows, b.columns = matrix.shape[0], matrix.shape[1]
    b.stride = matrix.strides[0] // matrix.itemsize
    t.work = what
    t.poll = poll
    t.biased = b
    t.rows = b.rows if what == ADD_BIAS else (b.columns + SUMMED_AT_ONCE - 1) // SUMMED_AT_ONCE
    work_through(buffers, &t, threads)
    raise_signals()
    return 0


def add_bias(int threads, logits, bias):
    """logits += bias. logits: float32 or float64, (rows, V), its columns next to each other; bias: (V,), of that type."""
    work_on_bias(ADD_BIAS, threads, logits, bias)


def sum_bias(int threads, grad, sums):
    """sums += grad.sum(axis=0). grad: as logits; sums: float64, (V,)."""
    work_on_bias(SUM_BIAS, threads, grad, sums)
