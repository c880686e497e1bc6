# Functions that XLA's programs call (jax.ffi), on its threads and without the GIL; crossentropy/jax.py registers them.
#
# Logits lie in C order, with their class axis counted from the end, so that any number of leading axes may be put before
# them (vmap). A target that is no class gives NaN. No signal is looked for: XLA's threads have no state of Python's.

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport NAN
from libc.string cimport memcpy, strlen, strncmp

cdef extern from "large_pages.h" nogil:
    void ask_for_large_pages(void *, size_t) noexcept

cdef extern from "xla_ffi.h" nogil:
    enum: XLA_METADATA, XLA_INVALID_ARGUMENT, XLA_RESOURCE_EXHAUSTED, XLA_IS_SCALAR
    enum: XLA_S8, XLA_S16, XLA_S32, XLA_S64, XLA_U8, XLA_U16, XLA_U32, XLA_U64, XLA_F16, XLA_F32, XLA_F64, XLA_BF16
    ctypedef struct xla_error:
        pass
    ctypedef struct xla_extension:
        int type
    ctypedef struct xla_version:
        size_t size
        xla_extension *extension
        int major, minor
    ctypedef struct xla_failure:
        size_t size
        xla_extension *extension
        const char *message
        int code
    ctypedef struct xla_api:
        xla_version version
        xla_error *(*create_error)(xla_failure *) noexcept nogil
    ctypedef struct xla_buffer:
        size_t size
        int type
        void *data
        int64_t dims
        int64_t *shape
    ctypedef struct xla_buffers:
        int64_t count
        void **at
    ctypedef struct xla_text:
        const char *text
        size_t length
    ctypedef struct xla_scalar:
        int type
        void *value
    ctypedef struct xla_attributes:
        int64_t count
        int *kinds
        xla_text **names
        void **at
    ctypedef struct xla_call:
        size_t size
        xla_extension *extension
        const xla_api *api
        xla_buffers arguments, results
        xla_attributes attributes
    ctypedef struct xla_metadata:
        xla_version version
        unsigned int traits
    ctypedef struct xla_metadata_query:
        xla_metadata *metadata


cdef enum:
    MOST_ISAS = 8

cdef const char *XLA_ISAS[MOST_ISAS]    # those of ISAS, and then its last
cdef tuple ISA_NAMES = tuple(ISAS[min(i, len(ISAS) - 1)].encode() for i in range(MOST_ISAS))    # keeps what these point to
for place in range(MOST_ISAS):
    XLA_ISAS[place] = <bytes>ISA_NAMES[place]


cdef xla_error *refused(xla_call *call, const char *message, int code=XLA_INVALID_ARGUMENT) noexcept nogil:
    cdef xla_failure failure
    memset(&failure, 0, sizeof(failure))
    failure.size = sizeof(failure)
    failure.message = message
    failure.code = code
    return call.api.create_error(&failure)


cdef bint is_question(xla_call *call) noexcept nogil:
    """Whether XLA only asks for the version of its interface that a handler was made for: it gets its own, if 0.x."""
    if call.extension == NULL or call.extension.type != XLA_METADATA:
        return False
    cdef xla_metadata *told = (<xla_metadata_query *>call.extension).metadata
    told.version.size = sizeof(xla_version)
    told.version.extension = NULL
    told.version.major = 0
    told.version.minor = call.api.version.minor if call.api != NULL else 1
    told.traits = 0
    return True


cdef xla_buffer *argument(xla_call *call, int64_t i) noexcept nogil:
    return <xla_buffer *>call.arguments.at[i] if i < call.arguments.count else NULL


cdef xla_buffer *result(xla_call *call, int64_t i) noexcept nogil:
    return <xla_buffer *>call.results.at[i] if i < call.results.count else NULL


cdef int64_t attribute(xla_call *call, const char *name, int64_t otherwise) noexcept nogil:
    cdef xla_attributes *all = &call.attributes
    cdef xla_scalar *scalar
    for i in range(all.count):
        if all.kinds[i] == XLA_IS_SCALAR and all.names[i].length == strlen(name):
            if strncmp(all.names[i].text, name, all.names[i].length) == 0:
                scalar = <xla_scalar *>all.at[i]
                if scalar.type == XLA_S64:
                    return (<int64_t *>scalar.value)[0]
    return otherwise


cdef int element_of(const xla_buffer *b) noexcept nogil:
    """The element of a buffer, or -1."""
    return 0 if b.type == XLA_F16 else 1 if b.type == XLA_BF16 else 2 if b.type == XLA_F32 else 3 if b.type == XLA_F64 else -1


cdef int target_size(const xla_buffer *b) noexcept nogil:
    """The bytes of an index target, negative where it is signed; 0 for what is none."""
    if XLA_S8 <= b.type <= XLA_S64:
        return -(1 << (b.type - XLA_S8))
    return 1 << (b.type - XLA_U8) if XLA_U8 <= b.type <= XLA_U64 else 0


cdef Py_ssize_t numbers_in(const xla_buffer *b) noexcept nogil:
    cdef Py_ssize_t n = 1
    for d in range(b.dims):
        n *= b.shape[d]
    return n


cdef double number_at(const xla_buffer *b, Py_ssize_t i) noexcept nogil:
    """Of a buffer of float32 or float64."""
    return (<double *>b.data)[i] if b.type == XLA_F64 else (<float *>b.data)[i]


cdef struct xla_work:
    task t
    schedule s
    Py_ssize_t *shape
    double *losses           # that are to be rounded to what XLA wants, or NULL
    double *row_scale        # of each row, or NULL
    double one_scale         # of all rows


cdef const char *place_rows(array *a, const xla_buffer *b, const xla_buffer *x, Py_ssize_t axis) noexcept nogil:
    """An array of rows that lies as x does; the message of what is wrong with it, or NULL."""
    cdef Py_ssize_t step
    cdef int d, row
    if element_of(b) < 0:
        return "arrays of rows must be float16, bfloat16, float32 or float64"
    if b.dims != x.dims:
        return "arrays of rows must have the shape of the logits"
    a.data = <char *>b.data
    a.type = <element>element_of(b)
    a.swapped = 0
    step = 8 if b.type == XLA_F64 else 4 if b.type == XLA_F32 else 2
    row = <int>x.dims - 2
    for d in range(<int>x.dims - 1, -1, -1):
        if b.shape[d] != x.shape[d]:
            return "arrays of rows must have the shape of the logits"
        if d == axis:
            a.class_stride = step
        else:
            a.row_strides[row] = step
            row -= 1
        step *= x.shape[d]
    return NULL


cdef const char *describe(xla_work *w, xla_call *call, work kind, const xla_buffer *x, const xla_buffer *out) noexcept nogil:
    """Fill in a task over the rows of x, without targets; the message of what is wrong, or NULL."""
    cdef task *t = &w.t
    cdef Py_ssize_t axis = attribute(call, "axis", -1) + x.dims, bytes
    cdef const char *wrong
    cdef int d, row = 0
    memset(w, 0, sizeof(xla_work))
    if x.dims < 1 or x.dims > 64 or not 0 <= axis < x.dims:
        return "logits must have their class axis, and no more than 64 axes"
    t.isa = isa_select(XLA_ISAS[attribute(call, "isa", MOST_ISAS - 1) & (MOST_ISAS - 1)])
    d = 0
    while t.isa == NULL:    # compiled on another machine, and kept
        t.isa = isa_select(XLA_ISAS[d])
        d += 1
    t.work = kind
    t.classes = x.shape[axis]
    t.rows = 1
    t.dims = <int>x.dims - 1
    for d in range(<int>x.dims):
        if d != axis:
            t.shape[row] = x.shape[d]
            t.rows *= x.shape[d]
            row += 1
    wrong = place_rows(&t.x, x, x, axis)
    if wrong == NULL and out != NULL:
        wrong = place_rows(&t.out, out, x, axis)
        bytes = numbers_in(out) * element_size(t.out.type)
        t.bypass = t.out.data != t.x.data and bytes >= BYPASS_FROM
        ask_for_large_pages(out.data, bytes)
    t.options.plain = True
    t.options.class_weight_unit = 1
    t.options.class_weight_sum = <double>t.classes
    t.options.logit_scale = 1
    w.one_scale = 1
    t.row_scale = &w.one_scale
    return wrong


cdef const char *take_targets(xla_work *w, const xla_buffer *targets, const xla_buffer *x, Py_ssize_t axis) noexcept nogil:
    w.t.targets.size = target_size(targets)
    if w.t.targets.size:
        w.t.targets.data = targets.data
        if numbers_in(targets) != w.t.rows:
            return "there must be a target for each row"
        return NULL
    w.t.options.plain = False
    return place_rows(&w.t.q, targets, x, axis)


cdef bint take_scale(xla_work *w, const xla_buffer *scale) noexcept nogil:
    """What arrives at the losses: a number for each row, or for each of so many leading parts of them; no room: False."""
    cdef Py_ssize_t given = numbers_in(scale), each, i
    if given <= 1:
        w.one_scale = number_at(scale, 0) if given else 1
        return True
    w.row_scale = <double *>malloc(w.t.rows * sizeof(double))
    if w.row_scale == NULL:
        return False
    each = w.t.rows // given
    for i in range(w.t.rows):
        w.row_scale[i] = number_at(scale, i // each)
    w.t.row_scale = w.row_scale
    w.t.row_scale_step = 1
    return True


cdef bint take_losses(xla_work *w, xla_buffer *losses) noexcept nogil:
    """Where the losses go: to XLA's own memory if they are float64; no room: False."""
    if losses != NULL and losses.type == XLA_F64:
        w.t.loss = <double *>losses.data
        return True
    w.losses = <double *>malloc((w.t.rows + 1) * sizeof(double))
    w.t.loss = w.losses
    return w.losses != NULL


cdef void round_losses(const xla_work *w, xla_buffer *losses) noexcept nogil:
    cdef Py_ssize_t i
    if w.losses != NULL and losses != NULL:
        for i in range(w.t.rows):
            (<float *>losses.data)[i] = <float>w.losses[i]


cdef xla_error *done(xla_work *w, xla_call *call, xla_buffer *losses) noexcept nogil:
    """Do the work, and let go of what was taken for it."""
    cdef task *t = &w.t
    cdef int threads = <int>attribute(call, "threads", 1), out_of_memory = 0
    cdef Py_ssize_t i
    if t.rows and t.classes:
        if t.rows * t.classes < attribute(call, "serial_below", 0):
            threads = 1
        coalesce(t)
        t.tiled = suits_tiles(t)
        begin(t, &w.s, rows_at_once(t, threads))
        c_run(t, threads)
        out_of_memory = was_out_of_memory(&w.s)
    elif t.loss != NULL:    # a row without a class has no loss
        for i in range(t.rows):
            t.loss[i] = NAN
    round_losses(w, losses)
    free(w.losses)
    free(w.row_scale)
    if out_of_memory:
        return refused(call, "no room for a block of each array in every thread", XLA_RESOURCE_EXHAUSTED)
    return NULL


cdef xla_error *no_room(xla_work *w, xla_call *call) noexcept nogil:
    free(w.losses)
    free(w.row_scale)
    return refused(call, "no room for a number for each row", XLA_RESOURCE_EXHAUSTED)


cdef xla_error *xla_losses(xla_call *call) noexcept nogil:
    """(logits, targets[, scale]) to (losses[, gradient])."""
    cdef xla_work w
    cdef xla_buffer *x
    cdef xla_buffer *targets
    cdef xla_buffer *grad
    cdef const char *wrong
    if is_question(call):
        return NULL
    x, targets, grad = argument(call, 0), argument(call, 1), result(call, 1)
    if x == NULL or targets == NULL or result(call, 0) == NULL or (grad != NULL and argument(call, 2) == NULL):
        return refused(call, "expected logits, targets and, for a gradient, its scale")
    wrong = describe(&w, call, FORWARD if grad == NULL else FORWARD_BACKWARD, x, grad)
    if wrong == NULL:
        wrong = take_targets(&w, targets, x, attribute(call, "axis", -1) + x.dims)
    if wrong != NULL:
        return refused(call, wrong)
    if (grad != NULL and not take_scale(&w, argument(call, 2))) or not take_losses(&w, result(call, 0)):
        return no_room(&w, call)
    return done(&w, call, result(call, 0))


cdef bint arrived(const xla_buffer *scale, const xla_buffer *g) noexcept nogil:
    """Whether what arrives at the losses is what a gradient was made with."""
    cdef Py_ssize_t rows = numbers_in(g), given = numbers_in(scale), i, each
    if rows == 0 or given == 0:
        return True
    each = rows // given
    for i in range(rows):
        if number_at(g, i) != number_at(scale, i // each):
            return False
    return True


cdef xla_error *xla_gradient(xla_call *call) noexcept nogil:
    """(gradient for a scale, logits, targets, scale, g) to the gradient for g: the same, or once more from the logits."""
    cdef xla_work w
    cdef xla_buffer *before
    cdef xla_buffer *x
    cdef xla_buffer *grad
    cdef const char *wrong
    if is_question(call):
        return NULL
    before, x, grad = argument(call, 0), argument(call, 1), result(call, 0)
    if call.arguments.count < 5 or grad == NULL:
        return refused(call, "expected a gradient, logits, targets, its scale and what arrives")
    wrong = describe(&w, call, FORWARD_BACKWARD, x, grad)
    if wrong == NULL:
        wrong = take_targets(&w, argument(call, 2), x, attribute(call, "axis", -1) + x.dims)
    if wrong != NULL:
        return refused(call, wrong)
    if arrived(argument(call, 3), argument(call, 4)):
        if before.data != grad.data:
            memcpy(grad.data, before.data, numbers_in(grad) * element_size(w.t.out.type))
        return NULL
    if not take_scale(&w, argument(call, 4)) or not take_losses(&w, NULL):
        return no_room(&w, call)
    return done(&w, call, NULL)


cdef xla_error *xla_log_softmax(xla_call *call) noexcept nogil:
    """x to its log-softmax[, and the statistics of each row, in bytes]."""
    cdef xla_work w
    cdef xla_buffer *x
    cdef const char *wrong
    if is_question(call):
        return NULL
    x = argument(call, 0)
    if x == NULL or result(call, 0) == NULL:
        return refused(call, "expected logits")
    wrong = describe(&w, call, LOG_SOFTMAX, x, result(call, 0))
    if wrong != NULL:
        return refused(call, wrong)
    if result(call, 1) != NULL:
        w.t.statistics = <row_statistics *>result(call, 1).data
    return done(&w, call, NULL)


cdef xla_error *xla_log_softmax_gradient(xla_call *call) noexcept nogil:
    """(g, x, statistics) to the gradient on x."""
    cdef xla_work w
    cdef xla_buffer *x
    cdef const char *wrong
    if is_question(call):
        return NULL
    x = argument(call, 1)
    if call.arguments.count < 3 or result(call, 0) == NULL:
        return refused(call, "expected what arrives, logits and their statistics")
    wrong = describe(&w, call, LOG_SOFTMAX_BACKWARD, x, result(call, 0))
    if wrong == NULL:
        wrong = place_rows(&w.t.q, argument(call, 0), x, attribute(call, "axis", -1) + x.dims)
    if wrong != NULL:
        return refused(call, wrong)
    w.t.statistics = <row_statistics *>argument(call, 2).data
    return done(&w, call, NULL)


def xla_handlers():
    """The handlers by name, as capsules."""
    return {
        "losses": PyCapsule_New(<void *>xla_losses, NULL, NULL),
        "gradient": PyCapsule_New(<void *>xla_gradient, NULL, NULL),
        "log_softmax": PyCapsule_New(<void *>xla_log_softmax, NULL, NULL),
        "log_softmax_gradient": PyCapsule_New(<void *>xla_log_softmax_gradient, NULL, NULL),
    }
