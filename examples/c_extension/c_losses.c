/* An extension in C that computes losses with crossentropy, while other threads have the GIL. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <crossentropy.h>

static const crossentropy_api *ce;

/* float32 or float64 of two dimensions, with any strides; 0, or -1 with an exception. */
static int as_matrix(Py_buffer *buffer, crossentropy_matrix *matrix)
{
    const char format = buffer->format ? buffer->format[0] : 0;
    if (buffer->ndim != 2 || (format != 'f' && format != 'd')) {
        PyErr_SetString(PyExc_TypeError, "logits and grad must be float32 or float64 of two dimensions");
        return -1;
    }
    matrix->data = buffer->buf;
    matrix->dtype = format == 'f' ? CROSSENTROPY_FLOAT32 : CROSSENTROPY_FLOAT64;
    matrix->rows = buffer->shape[0];
    matrix->classes = buffer->shape[1];
    matrix->row_stride = buffer->strides[0] / buffer->itemsize;
    matrix->class_stride = buffer->strides[1] / buffer->itemsize;
    return 0;
}

/* loss_and_grad(logits, targets, grad, label_smoothing=0): the mean loss; its gradient is written to grad. */
static PyObject *loss_and_grad(PyObject *self, PyObject *arguments)
{
    PyObject *of_logits, *of_grad;
    Py_buffer logits_buffer, targets, grad_buffer;
    crossentropy_matrix logits, grad;
    crossentropy_options options = crossentropy_no_options();
    double loss = 0;
    int error = -1;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "Oy*O|d", &of_logits, &targets, &of_grad, &options.label_smoothing)) return NULL;
    if (PyObject_GetBuffer(of_logits, &logits_buffer, PyBUF_FORMAT | PyBUF_STRIDES)) goto without_logits;
    if (PyObject_GetBuffer(of_grad, &grad_buffer, PyBUF_FORMAT | PyBUF_STRIDES | PyBUF_WRITABLE)) goto without_grad;
    if (as_matrix(&logits_buffer, &logits) || as_matrix(&grad_buffer, &grad)) goto done;
    if (targets.len != logits.rows * (Py_ssize_t)sizeof(int64_t)) {
        PyErr_SetString(PyExc_ValueError, "targets must be int64, one for each row");
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    error = ce->loss_and_grad(&logits, targets.buf, CROSSENTROPY_INT64, &options, 1.0, &grad, NULL, &loss);
    Py_END_ALLOW_THREADS
    if (error) crossentropy_raise(ce, error);
done:
    PyBuffer_Release(&grad_buffer);
without_grad:
    PyBuffer_Release(&logits_buffer);
without_logits:
    PyBuffer_Release(&targets);
    return error ? NULL : PyFloat_FromDouble(loss);
}

static PyMethodDef methods[] = {
    {"loss_and_grad", loss_and_grad, METH_VARARGS, "The mean loss; its gradient is written to the third argument."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "c_losses", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_c_losses(void)
{
    ce = crossentropy_import();
    return ce ? PyModule_Create(&module) : NULL;
}
