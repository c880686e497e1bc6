# The C interface for Cython: `cimport crossentropy`, with the include path of `crossentropy.get_include()`. Names are
# those of crossentropy.h without the prefix; what they do stands there.

from libc.stdint cimport int32_t, int64_t

cdef extern from "crossentropy.h" nogil:
    enum:
        ABI "CROSSENTROPY_ABI"
    enum:
        FLOAT16 "CROSSENTROPY_FLOAT16"
        BFLOAT16 "CROSSENTROPY_BFLOAT16"
        FLOAT32 "CROSSENTROPY_FLOAT32"
        FLOAT64 "CROSSENTROPY_FLOAT64"
    enum:
        INT8 "CROSSENTROPY_INT8"
        INT16 "CROSSENTROPY_INT16"
        INT32 "CROSSENTROPY_INT32"
        INT64 "CROSSENTROPY_INT64"
        UINT8 "CROSSENTROPY_UINT8"
        UINT16 "CROSSENTROPY_UINT16"
        UINT32 "CROSSENTROPY_UINT32"
        UINT64 "CROSSENTROPY_UINT64"
    enum:
        MEAN "CROSSENTROPY_MEAN"
        SUM "CROSSENTROPY_SUM"

    ctypedef struct matrix "crossentropy_matrix":
        void *data
        int32_t dtype
        Py_ssize_t rows, classes
        Py_ssize_t row_stride, class_stride
    ctypedef struct options "crossentropy_options":
        size_t size
        int32_t threads
        int32_t reduction
        int32_t has_ignore_index
        int64_t ignore_index
        const double *class_weight
        const double *sample_weight
        const double *class_prior
        double label_smoothing
        double z_loss
        double logit_scale
        double softcap
        double margin
        double focal
        double normalizer
    ctypedef struct api "crossentropy_api":
        size_t size
        int32_t abi
        const char *(*message)(int) noexcept nogil
        int (*loss)(const matrix *, const void *, int32_t, const options *, double *, double *) noexcept nogil
        int (*loss_and_grad)(const matrix *, const void *, int32_t, const options *, double, const matrix *, double *,
                             double *) noexcept nogil
        int (*log_softmax)(const matrix *, const matrix *, int32_t) noexcept nogil
        int (*softmax)(const matrix *, const matrix *, int32_t) noexcept nogil
        int (*logsumexp)(const matrix *, double *, int32_t) noexcept nogil

    options no_options "crossentropy_no_options"() noexcept
    matrix contiguous "crossentropy_contiguous"(const void *, int32_t, Py_ssize_t, Py_ssize_t) noexcept
    double row_loss "crossentropy_row_loss"(const api *, const void *, int32_t, Py_ssize_t, int64_t) noexcept
    double row_loss_and_grad "crossentropy_row_loss_and_grad"(const api *, const void *, int32_t, Py_ssize_t, int64_t,
                                                              double, void *) noexcept
    double row_logsumexp "crossentropy_row_logsumexp"(const api *, const void *, int32_t, Py_ssize_t) noexcept
    int row_log_softmax "crossentropy_row_log_softmax"(const api *, const void *, int32_t, Py_ssize_t, void *) noexcept

cdef extern from "crossentropy.h":
    const api *import_api "crossentropy_import"() except NULL
    void raise_error "crossentropy_raise"(const api *, int) except *
