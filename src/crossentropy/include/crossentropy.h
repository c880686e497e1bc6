/* The C interface of the Python package crossentropy: losses, gradients and softmaxes of rows, with no need of the GIL.
 *
 * Its functions are reached through one table, which crossentropy_import() finds (include <Python.h> first); nothing is
 * linked. Compile with the folder that `python -c "import crossentropy; print(crossentropy.get_include())"` prints. C11
 * and C++17, and `cimport crossentropy` in Cython.
 *
 * Functions return 0 or an error, of which `message` has the words; where they fail nothing was written. They may be
 * called by any thread, with or without the GIL. Losses are in nats.
 *
 * What stands here stays: fields and functions are only ever added at the ends of `crossentropy_options` and
 * `crossentropy_api`, which have their sizes with them; anything else would be another CROSSENTROPY_ABI. */
#ifndef CROSSENTROPY_H
#define CROSSENTROPY_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CROSSENTROPY_ABI 1
#define CROSSENTROPY_CAPSULE "crossentropy._native.c_api"

/* The types of a matrix's elements. */
enum { CROSSENTROPY_FLOAT16 = 0, CROSSENTROPY_BFLOAT16 = 1, CROSSENTROPY_FLOAT32 = 2, CROSSENTROPY_FLOAT64 = 3 };

/* The types of targets: their bytes, negative where they are signed. */
enum {
    CROSSENTROPY_INT8 = -1,
    CROSSENTROPY_INT16 = -2,
    CROSSENTROPY_INT32 = -4,
    CROSSENTROPY_INT64 = -8,
    CROSSENTROPY_UINT8 = 1,
    CROSSENTROPY_UINT16 = 2,
    CROSSENTROPY_UINT32 = 4,
    CROSSENTROPY_UINT64 = 8
};

/* From the rows' losses to one: their sum over the sum of their weights (v_n w_{y_n}), or their sum. */
enum { CROSSENTROPY_MEAN = 0, CROSSENTROPY_SUM = 1 };

/* What a function returns. */
enum {
    CROSSENTROPY_OK = 0,
    CROSSENTROPY_NULL_POINTER,
    CROSSENTROPY_BAD_DTYPE,
    CROSSENTROPY_BAD_TARGET_DTYPE,
    CROSSENTROPY_BAD_SHAPE,
    CROSSENTROPY_BAD_STRIDE,
    CROSSENTROPY_BAD_SIZE,
    CROSSENTROPY_UNKNOWN_OPTION,
    CROSSENTROPY_BAD_THREADS,
    CROSSENTROPY_BAD_REDUCTION,
    CROSSENTROPY_BAD_CLASS_WEIGHT,
    CROSSENTROPY_BAD_SAMPLE_WEIGHT,
    CROSSENTROPY_BAD_CLASS_PRIOR,
    CROSSENTROPY_BAD_LABEL_SMOOTHING,
    CROSSENTROPY_BAD_Z_LOSS,
    CROSSENTROPY_BAD_LOGIT_SCALE,
    CROSSENTROPY_BAD_SOFTCAP,
    CROSSENTROPY_BAD_MARGIN,
    CROSSENTROPY_BAD_FOCAL,
    CROSSENTROPY_BAD_NORMALIZER,
    CROSSENTROPY_BAD_TARGET,
    CROSSENTROPY_NO_MEMORY
};

/* A matrix of rows. Strides are in elements, of either sign; those of a result are not 0 over more than one element.
 * Results may lie where the logits do, element by element, and share no memory with anything else. */
typedef struct {
    void *data;
    int32_t dtype; /* CROSSENTROPY_FLOAT32, ... */
    ptrdiff_t rows, classes;
    ptrdiff_t row_stride, class_stride;
} crossentropy_matrix;

/* The options of a loss, as in Python: https://crossentropy.example.org/reference/losses.html. 0 and NULL are options that
 * are not set; `crossentropy_no_options()` sets none. A program that was compiled with an earlier header has a smaller
 * size, and these options unset; one with a later header is refused where it sets what is not known here. */
typedef struct {
    size_t size;     /* sizeof(crossentropy_options) */
    int32_t threads; /* at most so many; 0: CROSSENTROPY_NUM_THREADS, or what OpenMP takes. Small calls take one. */
    int32_t reduction;
    int32_t has_ignore_index; /* 1: rows whose target is ignore_index do not count */
    int32_t unused;           /* 0 */
    int64_t ignore_index;
    const double *class_weight;  /* (classes,), finite and not negative */
    const double *sample_weight; /* (rows,), the same; a row of weight 0 does not count, whatever it holds */
    const double *class_prior;   /* (classes,), finite or -inf: added to the logits */
    double label_smoothing;
    double z_loss;
    double logit_scale; /* 0 is 1 */
    double softcap;
    double margin;
    double focal;
    double normalizer; /* the divisor of CROSSENTROPY_MEAN, in place of the weights' sum; 0: none */
} crossentropy_options;

/* The table of functions. Where `options` is NULL none is set. `row_losses`: OUT (rows,), or NULL. Targets are contiguous,
 * (rows,), and classes. A mean over no row is NaN, and its gradient 0. */
typedef struct {
    size_t size; /* bytes of this table in the package that is installed */
    int32_t abi;
    int32_t unused;
    const char *(*message)(int error);

    /* The loss of each row, and of all in `loss`, or NULL. */
    int (*loss)(const crossentropy_matrix *logits, const void *targets, int32_t target_dtype,
                const crossentropy_options *options, double *row_losses, double *loss);

    /* The same, and the gradient of `loss` on the logits times grad_output, in a matrix of their shape and dtype. */
    int (*loss_and_grad)(const crossentropy_matrix *logits, const void *targets, int32_t target_dtype,
                         const crossentropy_options *options, double grad_output, const crossentropy_matrix *grad,
                         double *row_losses, double *loss);

    /* Of each row; `threads` as in the options. */
    int (*log_softmax)(const crossentropy_matrix *x, const crossentropy_matrix *out, int32_t threads);
    int (*softmax)(const crossentropy_matrix *x, const crossentropy_matrix *out, int32_t threads);
    int (*logsumexp)(const crossentropy_matrix *x, double *out, int32_t threads); /* OUT (rows,) */
} crossentropy_api;

/* Options of which none is set. */
static inline crossentropy_options crossentropy_no_options(void)
{
    crossentropy_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    return options;
}

/* A matrix whose rows lie one after the other. */
static inline crossentropy_matrix crossentropy_contiguous(const void *data, int32_t dtype, ptrdiff_t rows,
                                                          ptrdiff_t classes)
{
    crossentropy_matrix matrix;
    memset(&matrix, 0, sizeof matrix);
    memcpy(&matrix.data, &data, sizeof data);
    matrix.dtype = dtype;
    matrix.rows = rows;
    matrix.classes = classes;
    matrix.row_stride = classes;
    matrix.class_stride = 1;
    return matrix;
}

/* The loss of one contiguous row, -log p_y; NaN where y is no class, or the row undefined. */
static inline double crossentropy_row_loss(const crossentropy_api *api, const void *row, int32_t dtype,
                                           ptrdiff_t classes, int64_t y)
{
    const crossentropy_matrix logits = crossentropy_contiguous(row, dtype, 1, classes);
    double loss = NAN;
    return api->loss(&logits, &y, CROSSENTROPY_INT64, NULL, &loss, NULL) ? NAN : loss;
}

/* The same, and its gradient times a factor, in a row that may be that one; nothing is written there where y is no
 * class. */
static inline double crossentropy_row_loss_and_grad(const crossentropy_api *api, const void *row, int32_t dtype,
                                                    ptrdiff_t classes, int64_t y, double factor, void *grad)
{
    const crossentropy_matrix logits = crossentropy_contiguous(row, dtype, 1, classes);
    const crossentropy_matrix to = crossentropy_contiguous(grad, dtype, 1, classes);
    double loss = NAN;
    return api->loss_and_grad(&logits, &y, CROSSENTROPY_INT64, NULL, factor, &to, &loss, NULL) ? NAN : loss;
}

/* The logsumexp of one contiguous row. */
static inline double crossentropy_row_logsumexp(const crossentropy_api *api, const void *row, int32_t dtype,
                                                ptrdiff_t classes)
{
    const crossentropy_matrix x = crossentropy_contiguous(row, dtype, 1, classes);
    double result = NAN;
    return api->logsumexp(&x, &result, 1) ? NAN : result;
}

/* The log-softmax of one contiguous row, in a row that may be that one. */
static inline int crossentropy_row_log_softmax(const crossentropy_api *api, const void *row, int32_t dtype,
                                               ptrdiff_t classes, void *out)
{
    const crossentropy_matrix x = crossentropy_contiguous(row, dtype, 1, classes);
    const crossentropy_matrix to = crossentropy_contiguous(out, dtype, 1, classes);
    return api->log_softmax(&x, &to, 1);
}

#ifdef Py_PYTHON_H
/* The table, or NULL with an ImportError set. Needs the GIL, once: the table lasts as long as the process. */
static inline const crossentropy_api *crossentropy_import(void)
{
    const crossentropy_api *api = NULL;
    PyObject *module = PyImport_ImportModule("crossentropy._native");
    PyObject *capsule = module ? PyObject_GetAttrString(module, "c_api") : NULL;
    if (capsule) api = (const crossentropy_api *)PyCapsule_GetPointer(capsule, CROSSENTROPY_CAPSULE);
    Py_XDECREF(capsule);
    Py_XDECREF(module);
    if (api && api->abi != CROSSENTROPY_ABI) {
        PyErr_Format(PyExc_ImportError, "crossentropy has version %d of its C interface, and this was compiled for %d",
                     (int)api->abi, CROSSENTROPY_ABI);
        return NULL;
    }
    if (api && api->size < sizeof *api) {
        PyErr_SetString(PyExc_ImportError, "crossentropy is older than the header that this was compiled with");
        return NULL;
    }
    return api;
}

/* A ValueError of that error's words (a MemoryError where memory is short). Needs the GIL. */
static inline void crossentropy_raise(const crossentropy_api *api, int error)
{
    PyErr_SetString(error == CROSSENTROPY_NO_MEMORY ? PyExc_MemoryError : PyExc_ValueError, api->message(error));
}
#endif

#ifdef __cplusplus
}
#endif

#endif
