# Losses of one logit each: what comes here is checked, contiguous, and in native byte order (_backends/native.py).

cdef class ElementBuffers(Buffers):
    cdef c_elements e

    cdef const void *weights(self, values, double *of_all, Py_ssize_t *period) except? NULL:
        """A number for all, or (numbers in the lanes' type, their period or 0)."""
        if not isinstance(values, tuple):
            of_all[0] = values
            return NULL
        period[0] = values[1]
        return self.data(values[0], PyBUF_SIMPLE)


def elements(str isa, int threads, int code, z, targets, int integers, weight, pos_weight, grad_output,
             double alpha, double gamma, Py_ssize_t at_once, sums, loss, grad):
    """Binary cross-entropies or focal losses, and the gradient.

    z, targets, grad: views as unsigned integers or floats, of the element of that code; integers: 0, or the bytes of each
    target. weight, pos_weight, grad_output: see ElementBuffers.weights. at_once: numbers of a block, of whose losses
    sums, float64, gets the sum. loss: float32, or float64 where z is; it and grad may be None.
    """
    cdef ElementBuffers buffers = ElementBuffers()
    cdef c_elements *e = &buffers.e
    cdef task t
    cdef Py_ssize_t none = 0
    memset(&t, 0, sizeof(task))
    e.type = <element>code
    e.z = buffers.data(z, PyBUF_SIMPLE)
    e.count = buffers.held[0].len // buffers.held[0].itemsize
    e.targets = buffers.data(targets, PyBUF_SIMPLE)
    e.integers = integers
    e.block.weight = buffers.weights(weight, &e.block.weight_of_all, &e.weight_period)
    e.block.pos_weight = buffers.weights(pos_weight, &e.block.pos_weight_of_all, &e.pos_weight_period)
    e.block.grad_output = buffers.weights(grad_output, &e.block.grad_output_of_all, &none)
    e.block.alpha, e.block.gamma = alpha, gamma
    e.block.loss = buffers.data(loss, PyBUF_WRITABLE)
    e.block.grad = buffers.data(grad, PyBUF_WRITABLE)
    e.at_once = at_once
    if code < 2:    # 16 bits
        e.widen, e.narrow = converter(isa.encode(), e.type, <element>2), converter(isa.encode(), <element>2, e.type)
    t.isa = isa_select(isa.encode())
    t.work = ELEMENTS
    t.poll = poll
    t.elements = e
    t.bypass = e.count * (4 if code < 3 else 8) >= BYPASS_FROM and e.block.grad != e.z
    t.rows = (e.count + at_once - 1) // at_once
    t.loss = <double *>buffers.data(sums, PyBUF_WRITABLE)
    work_through(buffers, &t, threads)
    raise_signals()
