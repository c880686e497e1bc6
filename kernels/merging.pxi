# Rows whose classes lie in several blocks, without options: what comes here is checked, and records have three numbers.

cdef extern from "stdint.h" nogil:
    int64_t OF_NO_BLOCK "INT64_MIN"

cdef int told_of(told_rows *to, Buffers buffers, records, tuple places, int flags) except -1:
    """records: (blocks, rows), or (rows,) of one block. places: of max, rest and target in them, (byte, whether float64)."""
    cdef char *data = <char *>buffers.data(records, flags)
    cdef Py_buffer *b = &buffers.held[buffers.count - 1]
    to.blocks = b.shape[0] if b.ndim == 2 else 1
    to.block = b.strides[0] if b.ndim == 2 else 0
    to.rows, to.row = b.shape[b.ndim - 1], b.strides[b.ndim - 1]
    (m, to.max.is_f64), (rest, to.rest.is_f64), (target, to.target.is_f64) = places
    to.max.data, to.rest.data, to.target.data = data + <Py_ssize_t>m, data + <Py_ssize_t>rest, data + <Py_ssize_t>target
    return 0


def tell_block(str isa, int threads, tuple x, targets, Py_ssize_t start, Py_ssize_t classes, ignored, records,
               tuple places):
    """The records of a block of classes, which begins at start; the first row with a bad target, or -1.

    targets: int64 (rows,), of so many classes of all blocks. With a bad one nothing is written.
    """
    cdef Buffers buffers = Buffers()
    cdef task t
    cdef told_rows to
    cdef target_scan scan
    fill_in(&t, buffers, FORWARD, isa, x)
    targets_of(&t.targets, buffers, targets, -8, ignored)
    told_of(&to, buffers, records, places, PyBUF_STRIDES | PyBUF_WRITABLE)
    scan.first_bad = -1
    scan.weights.sum = scan.weights.error = 0
    with nogil:
        c_scan_targets(t.isa, &t.targets, 0, t.rows, classes, NULL, NULL, &scan)
    if scan.first_bad >= 0:
        return scan.first_bad
    buffers.losses = <double *>malloc(t.rows * (sizeof(row_part) + sizeof(int64_t)))
    if buffers.losses == NULL:
        raise MemoryError("no room for the numbers of each row")
    t.parts = <row_part *>buffers.losses
    cdef int64_t *local = <int64_t *>(t.parts + t.rows)
    cdef const int64_t *y = <const int64_t *>t.targets.data
    cdef Py_ssize_t i
    with nogil:
        for i in range(t.rows):
            local[i] = OF_NO_BLOCK if t.targets.has_ignored and y[i] == t.targets.ignored else y[i] - start
    t.targets.data = local
    t.targets.ignored = OF_NO_BLOCK
    options_of(&t.options, buffers, None, None, t.classes)
    t.options.plain = False
    t.options.all_classes = classes
    do_all(&t, buffers, threads)
    with nogil:
        c_tell_block(t.parts, &to)
    return -1


def merge_losses(records, tuple places, losses, whole):
    """The losses of rows from the records of all their blocks; into whole, where that is not None, the merged numbers.

    losses: float32 or float64 (rows,). whole: float64 (3, rows).
    """
    cdef Buffers buffers = Buffers()
    cdef told_rows of
    told_of(&of, buffers, records, places, PyBUF_STRIDES)
    cdef void *to = buffers.data(losses, PyBUF_WRITABLE)
    cdef int are_f64 = buffers.held[1].itemsize == 8
    cdef double *numbers = <double *>buffers.data(whole, PyBUF_WRITABLE)
    with nogil:
        c_merge_losses(&of, to, are_f64, numbers)
