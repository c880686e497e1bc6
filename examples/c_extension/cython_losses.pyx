# cython: boundscheck=False, wraparound=False
"""The same in Cython, whole batches and row by row."""

cimport crossentropy
from libc.stdint cimport int64_t

cdef const crossentropy.api *ce = crossentropy.import_api()


cdef crossentropy.matrix as_matrix(const float[:, :] a) noexcept nogil:
    cdef crossentropy.matrix m
    m.data = <void *>&a[0, 0]
    m.dtype = crossentropy.FLOAT32
    m.rows, m.classes = a.shape[0], a.shape[1]
    m.row_stride, m.class_stride = a.strides[0] // 4, a.strides[1] // 4
    return m


def loss_and_grad(const float[:, :] logits, const int64_t[::1] targets, float[:, :] grad, double label_smoothing=0):
    """The mean loss; its gradient is written to grad."""
    if logits.size == 0 or grad.shape[0] != logits.shape[0] or targets.shape[0] != logits.shape[0]:
        raise ValueError("logits, targets and grad must have the same rows, and at least one")
    cdef crossentropy.options options = crossentropy.no_options()
    cdef crossentropy.matrix x = as_matrix(logits), out = as_matrix(grad)
    cdef double loss = 0
    cdef int error
    options.label_smoothing = label_smoothing
    with nogil:
        error = ce.loss_and_grad(&x, &targets[0], crossentropy.INT64, &options, 1.0, &out, NULL, &loss)
    if error:
        crossentropy.raise_error(ce, error)
    return loss


def log_softmax(const float[:, :] x, float[:, :] out):
    """The log-softmax of each row."""
    cdef crossentropy.matrix source = as_matrix(x), to = as_matrix(out)
    cdef int error = ce.log_softmax(&source, &to, 0)
    if error:
        crossentropy.raise_error(ce, error)


def losses(const float[:, ::1] logits, const int64_t[::1] targets, double[::1] out):
    """The loss of each row, one at a time, as a loop of one's own would have them."""
    if targets.shape[0] != logits.shape[0] or out.shape[0] != logits.shape[0]:
        raise ValueError("logits, targets and out must have the same rows")
    cdef Py_ssize_t n
    with nogil:
        for n in range(logits.shape[0]):
            out[n] = crossentropy.row_loss(ce, &logits[n, 0], crossentropy.FLOAT32, logits.shape[1], targets[n])
