# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Buffers to pointers, slices of rows without the GIL; no mathematics. what comes here is checked."""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_STRIDED, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef extern from *:
    """
    static int pending_error(void) { return PyErr_Occurred() ? -1 : 0; }
    """
    int pending_error() except -1                                          # raises what poll() left behind
    int raise_signals "PyErr_CheckSignals"() except -1
    int leave_signals "PyErr_CheckSignals"() noexcept                      # leaves the exception set


cdef extern from "rows/task.h" nogil:
    enum: STREAM_ROW_ELEMENTS "STREAM_ROW"
    ctypedef enum element:
        ELEMENT_F32, ELEMENT_F64
    Py_ssize_t element_size(element) noexcept
    ctypedef struct isa_table:
        pass
    ctypedef struct array:
        char *data
        element type
        int swapped
        Py_ssize_t class_stride
        Py_ssize_t *row_strides
    ctypedef struct index_targets:
        const void *data
        int size
        int has_ignored
        int64_t ignored
    ctypedef enum work:
        LOGSUMEXP, WEIGHTED_LOGSUMEXP, SOFTMAX, LOG_SOFTMAX, LOG_SOFTMAX_BACKWARD, FORWARD, BACKWARD, FORWARD_BACKWARD
        ROW_STATISTICS, LOG_PROBS_BACKWARD
        DISTILLATION
        STREAM_READ, STREAM_COPY, STREAM_COMBINE, STREAM_SCALE, PRODUCT, CONVERT, ELEMENTS, ADD_BIAS, SUM_BIAS
    ctypedef enum distillation_kind:
        FORWARD_KL, REVERSE_KL, JENSEN_SHANNON
    ctypedef enum hessian_kind:
        DIAGONAL_HESSIAN, UPPER_BOUND, HESSIAN_PRODUCT, XGBOOST_HESSIAN, LIGHTGBM_HESSIAN
    ctypedef struct distillation_task:
        distillation_kind kind
        double temperature, beta
    ctypedef struct row_options:
        int plain
        const double *class_weight
        const void *class_weight_real
        double class_weight_unit
        double class_weight_sum
        const double *sample_weight
        double label_smoothing
        double z_loss
        double logit_scale
        double softcap
        const double *class_prior
        double margin
        double focal
        Py_ssize_t all_classes
    int is_transformed(const row_options *)
    ctypedef struct row_statistics:
        pass
    ctypedef struct row_part:
        pass
    ctypedef struct c_row_numbers "row_numbers":
        double *logsumexp
        double *entropy
        double *log_prob
        double *max_prob
        double *squares
        int64_t *argmax
        int64_t *rank
    ctypedef struct schedule:
        pass
    ctypedef struct factor:
        const char *data
        element type
        Py_ssize_t across, along
    ctypedef struct product_unit:
        Py_ssize_t whole
    ctypedef void convert_function(const void *, void *, Py_ssize_t, int)
    ctypedef struct c_product "product":
        const product_unit *unit
        Py_ssize_t rows, columns, depth
        factor a, b
        float *out
        Py_ssize_t stride
        int add
        char *rounded
        convert_function *round
    enum: CONVERTED_AT_ONCE, SUMMED_AT_ONCE
    ctypedef struct c_biased "biased":
        char *logits
        element type
        Py_ssize_t rows, columns, stride
        const void *bias
        double *sums
    ctypedef struct binary_block:
        const void *weight
        const void *pos_weight
        const void *grad_output
        double weight_of_all, pos_weight_of_all, grad_output_of_all, alpha, gamma
        void *loss
        void *grad
    ctypedef struct c_elements "elements":
        element type
        const void *z
        const void *targets
        int integers
        Py_ssize_t weight_period, pos_weight_period
        binary_block block
        convert_function *widen
        convert_function *narrow
        Py_ssize_t count, at_once
    const product_unit *product_unit_named(const char *)
    convert_function *converter(const char *, element, element)
    int pairs_are_fast()
    Py_ssize_t plan_product(c_product *, int)
    void release_product(c_product *)
    ctypedef struct task:
        const isa_table *isa
        work work
        int tiled
        int (*poll)() noexcept nogil
        int long_rows
        int dims
        Py_ssize_t *shape
        Py_ssize_t rows, classes
        array x, q, out
        array hess, vector
        hessian_kind hessian
        int bypass
        index_targets targets
        row_options options
        const double *row_scale
        Py_ssize_t row_scale_step
        const double *entropy_scale
        Py_ssize_t entropy_scale_step
        double *loss
        double *sign
        c_row_numbers numbers
        distillation_task distilled
        row_statistics *statistics
        row_part *parts
        c_product *product
        const c_biased *biased
        const c_elements *elements
        convert_function *convert
    const isa_table *isa_select(const char *)
    int openmp_threads()
    void coalesce(task *)
    enum: LEAST_AT_ONCE, BYPASS_FROM
    enum: SERIAL_ELEMENTS "SERIAL_BELOW"
    Py_ssize_t rows_at_once(const task *, int)
    void begin(task *, schedule *, Py_ssize_t) noexcept
    void c_run "run"(const task *, int) noexcept
    void take_part(const task *) noexcept
    void c_stop "stop"(schedule *) noexcept
    int was_out_of_memory(schedule *) noexcept
    int suits_tiles(const task *)

cdef extern from "rows/targets.h" nogil:
    ctypedef struct compensated:
        double sum, error
    ctypedef struct target_scan:
        Py_ssize_t first_bad
        compensated weights
    void c_scan_targets "scan_targets"(const isa_table *, const index_targets *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                                       const double *, const double *, target_scan *) noexcept

cdef extern from "rows/merging.h" nogil:
    ctypedef struct told_number:
        char *data
        int is_f64
    ctypedef struct told_rows:
        Py_ssize_t blocks, rows
        Py_ssize_t block, row
        told_number max, rest, target
    void c_tell_block "tell_block"(const row_part *, const told_rows *) noexcept
    void c_merge_losses "merge_losses"(const told_rows *, void *, int, double *) noexcept

cdef extern from "math/compensated.h" nogil:
    double compensated_value(compensated)
    double total_of(const double *, Py_ssize_t)

cdef enum:
    LARGEST_SLICE = 1 << 23    # of targets
    LONG_ROW = 1 << 22

cdef int THREADS_AT_IMPORT = openmp_threads()
OPENMP = THREADS_AT_IMPORT > 0
ISAS = ("avx512", "avx2", "neon", "base")    # best first
STREAM_ROW = STREAM_ROW_ELEMENTS
SERIAL_BELOW = SERIAL_ELEMENTS
STATISTICS = sizeof(row_statistics) // sizeof(double)    # fields of the record


def supported_isas():
    """The ISA units that this build has and this CPU runs, best first."""
    return tuple(name for name in ISAS if isa_select(name.encode()) != NULL)


def allowed_threads(int threads):
    """So many, or fewer where the OpenMP runtime has been told so since the import, for this thread's calls."""
    cdef int told = openmp_threads()
    return min(threads, told) if told < THREADS_AT_IMPORT else threads


cdef int check_signals() noexcept with gil:
    return leave_signals()


cdef int poll() noexcept nogil:
    return check_signals()


cdef dict WORKS = {
    "forward": FORWARD, "backward": BACKWARD, "forward_backward": FORWARD_BACKWARD,
    "logsumexp": LOGSUMEXP, "weighted_logsumexp": WEIGHTED_LOGSUMEXP, "softmax": SOFTMAX,
    "log_softmax": LOG_SOFTMAX, "log_softmax_backward": LOG_SOFTMAX_BACKWARD,
    "row_statistics": ROW_STATISTICS, "log_probs_backward": LOG_PROBS_BACKWARD,
    "distillation": DISTILLATION,
    "stream_read": STREAM_READ, "stream_copy": STREAM_COPY,
    "stream_combine": STREAM_COMBINE, "stream_scale": STREAM_SCALE,
}


cdef dict HESSIANS = {
    "diagonal": DIAGONAL_HESSIAN, "upper_bound": UPPER_BOUND, "gauss_newton_product": HESSIAN_PRODUCT,
    "xgboost": XGBOOST_HESSIAN, "lightgbm": LIGHTGBM_HESSIAN,
}
cdef dict KINDS = {"forward": FORWARD_KL, "reverse": REVERSE_KL, "js": JENSEN_SHANNON}    # of a distillation


cdef class Buffers:
    """What the task of one call points to: buffers, released together, and memory of its own."""
    cdef Py_buffer held[20]
    cdef int count
    cdef double row_scale, entropy_scale
    cdef double *losses
    cdef schedule schedule

    cdef void *data(self, obj, int flags) except? NULL:
        if obj is None:
            return NULL
        cdef Py_buffer *b = &self.held[self.count]
        PyObject_GetBuffer(obj, b, flags)
        self.count += 1
        return b.buf

    cdef int rows_of(self, array *a, tuple description, int flags) except -1:
        """description: (view as unsigned integers or floats with the class axis last, element code, byte-swapped)."""
        if description is None:
            return 0
        view, code, swapped = description
        a.data = <char *>self.data(view, flags)
        a.type = <element><int>code
        a.swapped = swapped
        cdef Py_buffer *b = &self.held[self.count - 1]
        cdef int last = b.ndim - 1
        a.class_stride = b.strides[last]
        for d in range(last):
            a.row_strides[d] = b.strides[d]
        return 0

    def __dealloc__(self):
        free(self.losses)
        for i in range(self.count):
            PyBuffer_Release(&self.held[i])


cdef double number(value, int *plain, double unset=0) except *:
    """The value of a numeric option, which is plain where it is not set."""
    cdef double given = value
    if given != unset:
        plain[0] = False
    return given


cdef const void *numbers(Buffers buffers, values, int *plain) except? NULL:
    """The data of an option that is an array, which is plain where it is None."""
    if values is not None:
        plain[0] = False
    return buffers.data(values, PyBUF_SIMPLE)


cdef int options_of(row_options *o, Buffers buffers, options, class_weight_in_lanes, Py_ssize_t classes) except -1:
    """Fill in the options from their record (RowOptions), or None where none is set: here, and nowhere else.

    class_weight_in_lanes: (the class weights over their unit in the lanes' type, that unit, their sum), or None.
    """
    memset(o, 0, sizeof(row_options))
    o.plain = True
    o.class_weight_unit = 1
    o.class_weight_sum = <double>classes
    o.logit_scale = 1
    if options is None:
        return 0
    o.plain = not options.probabilities
    o.class_weight = <const double *>numbers(buffers, options.class_weight, &o.plain)
    if class_weight_in_lanes is not None:
        real, o.class_weight_unit, o.class_weight_sum = class_weight_in_lanes
        o.class_weight_real = buffers.data(real, PyBUF_SIMPLE)
    o.sample_weight = <const double *>numbers(buffers, options.sample_weight, &o.plain)
    o.label_smoothing = number(options.label_smoothing, &o.plain)
    o.z_loss = number(options.z_loss, &o.plain)
    o.logit_scale = number(options.logit_scale, &o.plain, 1)
    o.softcap = number(options.softcap, &o.plain)
    o.class_prior = <const double *>numbers(buffers, options.class_prior, &o.plain)
    o.margin = number(options.margin, &o.plain)
    o.focal = number(options.focal, &o.plain)
    o.all_classes = options.all_classes
    if o.all_classes:
        o.plain = False
    if is_transformed(o) and o.class_weight != NULL:    # the lanes are float64, whatever the logits are
        o.class_weight_real, o.class_weight_unit = o.class_weight, 1
    return 0


cdef int numbers_of(c_row_numbers *to, Buffers buffers, numbers) except -1:
    to.logsumexp = <double *>buffers.data(numbers.logsumexp, PyBUF_WRITABLE)
    to.entropy = <double *>buffers.data(numbers.entropy, PyBUF_WRITABLE)
    to.log_prob = <double *>buffers.data(numbers.log_prob, PyBUF_WRITABLE)
    to.max_prob = <double *>buffers.data(numbers.max_prob, PyBUF_WRITABLE)
    to.argmax = <int64_t *>buffers.data(numbers.argmax, PyBUF_WRITABLE)
    to.rank = <int64_t *>buffers.data(numbers.rank, PyBUF_WRITABLE)
    return 0


cdef int targets_of(index_targets *t, Buffers buffers, targets, int size, ignored) except -1:
    t.data = buffers.data(targets, PyBUF_SIMPLE)
    t.size = size
    t.has_ignored = ignored is not None
    t.ignored = <int64_t>ignored if t.has_ignored else 0
    return 0


def scan_targets(str isa, targets, int size, ignored, Py_ssize_t rows, Py_ssize_t classes, class_weight, sample_weight):
    """The first bad target or -1, and the sum of sample weight times class weight over the others."""
    cdef Buffers buffers = Buffers()
    cdef index_targets t
    cdef target_scan scan
    scan.first_bad = -1
    scan.weights.sum = scan.weights.error = 0
    targets_of(&t, buffers, targets, size, ignored)
    cdef const double *w = <const double *>buffers.data(class_weight, PyBUF_SIMPLE)
    cdef const double *v = <const double *>buffers.data(sample_weight, PyBUF_SIMPLE)
    cdef Py_ssize_t first = 0, last
    cdef const isa_table *table = isa_select(isa.encode())
    while first < rows:
        last = min(rows, first + LARGEST_SLICE)
        with nogil:
            c_scan_targets(table, &t, first, last, classes, w, v, &scan)
        first = last
        raise_signals()
    return scan.first_bad, compensated_value(scan.weights)


cdef object share = None    # workers.py's


def share_by(function):
    """Where there is no OpenMP, rows are shared out by that function: (work, others, stop, lead)."""
    global share
    share = function


cdef class Shared:
    """A call that has begun, for threads of Python's that take part in it; it keeps all that they need."""
    cdef Buffers buffers
    cdef task t

    def work(self):
        """Take rows until there are none."""
        cdef task own = self.t
        own.poll = NULL
        with nogil:
            take_part(&own)

    def lead(self):
        """The same in the calling thread, which alone looks for signals."""
        with nogil:
            take_part(&self.t)
        pending_error()

    def stop(self):
        """No thread takes any more rows."""
        c_stop(&self.buffers.schedule)


cdef int work_through(Buffers buffers, task *t, int threads) except -1:
    """Do the work of a task, whose memory is that of the buffers."""
    cdef Py_ssize_t rows = rows_at_once(t, threads)
    cdef Shared shared
    begin(t, &buffers.schedule, rows)
    if threads > 1 and rows < t.rows and share is not None:
        shared = Shared()
        shared.buffers = buffers
        shared.t = t[0]
        share(shared.work, threads - 1, shared.stop, shared.lead)
    else:
        with nogil:
            c_run(t, threads)
        pending_error()
    if was_out_of_memory(&buffers.schedule):
        raise MemoryError("no room for a block of each array in every thread")
    return 0


cdef int fill_in(task *t, Buffers buffers, work work, str isa, tuple x) except -1:
    """Begin to fill in a task, by what is done and the logits."""
    memset(t, 0, sizeof(task))
    t.isa = isa_select(isa.encode())
    t.work = work
    buffers.rows_of(&t.x, x, PyBUF_STRIDES)
    cdef Py_buffer *b = &buffers.held[0]
    t.dims = b.ndim - 1
    t.classes = b.shape[b.ndim - 1]
    t.rows = 1
    for d in range(t.dims):
        t.shape[d] = b.shape[d]
        t.rows *= b.shape[d]
    return 0


cdef int do_all(task *t, Buffers buffers, int threads) except -1:
    """Do a task that is filled in."""
    coalesce(t)
    t.poll = poll
    t.long_rows = t.classes > LONG_ROW
    t.tiled = suits_tiles(t)
    work_through(buffers, t, 1 if t.long_rows else threads)
    return raise_signals()


def run(str work_name, str isa, int threads, tuple x, tuple q, tuple out, tuple targets=None, options=None,
        class_weight_in_lanes=None, row_scale=None, loss=None, statistics=None, parts=None, sign=None, numbers=None,
        squares=None, entropy_scale=None, tuple divergence=None, str hessian=None, tuple hess=None, tuple vector=None):
    """Do the work of that name over all rows of x.

    x, q, out: see Buffers.rows_of. targets: (index targets, bytes of each and negative where signed, the ignored one or
    None). options, class_weight_in_lanes: see options_of. row_scale, entropy_scale: a number, or float64 (rows,).
    numbers: RowNumbers, of which an array may be None; squares: float64 (rows,), beside these. divergence: the kind, temperature and beta of a distillation.
    hessian: the name of what goes to hess, beside the gradient.
    """
    cdef Buffers buffers = Buffers()
    cdef task t
    fill_in(&t, buffers, <work><int>WORKS[work_name], isa, x)
    buffers.rows_of(&t.q, q, PyBUF_STRIDES)
    buffers.rows_of(&t.out, out, PyBUF_STRIDED)
    # Bypassing the caches spares the read of each line before its write, and takes the result from them: past half of
    # a large one.
    t.bypass = t.out.data != NULL and t.out.data != t.x.data and t.rows * t.classes * out[0].itemsize >= BYPASS_FROM
    if targets is not None:
        targets_of(&t.targets, buffers, targets[0], targets[1], targets[2])
    options_of(&t.options, buffers, options, class_weight_in_lanes, t.classes)
    if isinstance(row_scale, float):
        buffers.row_scale = row_scale
        t.row_scale = &buffers.row_scale
    else:
        t.row_scale = <const double *>buffers.data(row_scale, PyBUF_SIMPLE)
        t.row_scale_step = 1
    if isinstance(entropy_scale, float):
        buffers.entropy_scale = entropy_scale
        t.entropy_scale = &buffers.entropy_scale
    elif entropy_scale is not None:
        t.entropy_scale = <const double *>buffers.data(entropy_scale, PyBUF_SIMPLE)
        t.entropy_scale_step = 1
    if numbers is not None:
        numbers_of(&t.numbers, buffers, numbers)
        t.numbers.squares = <double *>buffers.data(squares, PyBUF_WRITABLE)
    t.loss = <double *>buffers.data(loss, PyBUF_WRITABLE)
    t.parts = <row_part *>buffers.data(parts, PyBUF_WRITABLE)
    t.sign = <double *>buffers.data(sign, PyBUF_WRITABLE)
    cdef int reads = t.work == BACKWARD or t.work == LOG_SOFTMAX_BACKWARD or t.work == LOG_PROBS_BACKWARD
    t.statistics = <row_statistics *>buffers.data(statistics, PyBUF_SIMPLE if reads else PyBUF_WRITABLE)
    if hessian is not None:
        t.hessian = <hessian_kind><int>HESSIANS[hessian]
        buffers.rows_of(&t.hess, hess, PyBUF_STRIDED)
        buffers.rows_of(&t.vector, vector, PyBUF_STRIDES)
    if divergence is not None:
        t.distilled.kind = <distillation_kind><int>KINDS[divergence[0]]
        t.distilled.temperature = divergence[1]
        t.distilled.beta = divergence[2]
    do_all(&t, buffers, threads)


cdef int element_named(const char *format) noexcept:
    """The element of a buffer in native byte order; -1 for any but float32 and float64."""
    if format == NULL or format[0] == 0 or format[1] != 0:
        return -1
    return 2 if format[0] == b"f" else 3 if format[0] == b"d" else -1


cdef bint are_int64(const char *format, Py_ssize_t size) noexcept:
    return format != NULL and (format[0] == b"l" or format[0] == b"q") and format[1] == 0 and size == 8


cdef bint overlap(Py_buffer *a, Py_buffer *b) noexcept:
    return <char *>a.buf < <char *>b.buf + b.len and <char *>b.buf < <char *>a.buf + a.len


def total(values):
    """The sum of float64 values."""
    cdef Buffers buffers = Buffers()
    cdef const double *data = <const double *>buffers.data(values, PyBUF_SIMPLE)
    return total_of(data, buffers.held[0].len // 8)


cdef enum:
    LIGHT_ROWS = 1 << 10    # whose losses are kept on the stack


def light(str isa, int threads, x, targets, grad):
    """The mean loss, and its gradient in grad, of arrays as simple as can be, too small to be interrupted.

    None, with nothing written, for anything else: run() takes all of it, and takes longer to describe it.
    """
    cdef Buffers buffers = Buffers()
    cdef task t
    try:
        buffers.data(x, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        buffers.data(targets, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
        if grad is not None:
            buffers.data(grad, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
    except (BufferError, TypeError, ValueError):
        return None
    cdef Py_buffer *logits = &buffers.held[0]
    cdef Py_buffer *y = &buffers.held[1]
    cdef Py_buffer *out = &buffers.held[2]
    cdef int code = element_named(logits.format)
    if code < 0 or logits.ndim != 2 or y.ndim != 1 or not are_int64(y.format, y.itemsize):
        return None
    if y.shape[0] != logits.shape[0] or logits.len == 0:
        return None
    if <size_t>logits.buf % <size_t>logits.itemsize or <size_t>y.buf % 8:
        return None
    if grad is not None:
        if out.ndim != 2 or element_named(out.format) != code or <size_t>out.buf % <size_t>out.itemsize:
            return None
        if out.shape[0] != logits.shape[0] or out.shape[1] != logits.shape[1]:
            return None
        if overlap(out, y) or (overlap(out, logits) and out.buf != logits.buf):
            return None
    memset(&t, 0, sizeof(task))
    t.isa = isa_select(isa.encode())
    t.work = FORWARD if grad is None else FORWARD_BACKWARD
    t.poll = poll
    t.dims = 1
    t.rows = t.shape[0] = logits.shape[0]
    t.classes = logits.shape[1]
    t.x.data = <char *>logits.buf
    t.x.type = <element>code
    t.x.class_stride = logits.itemsize
    t.x.row_strides[0] = logits.strides[0] if logits.strides != NULL else logits.itemsize * t.classes
    if grad is not None:
        t.out = t.x
        t.out.data = <char *>out.buf
    t.targets.data = y.buf
    t.targets.size = -8
    return light_loss(&t, threads)


def light_at(str isa, int threads, Py_ssize_t rows, Py_ssize_t classes, size_t size, size_t x, size_t targets,
             size_t grad, size_t loss):
    """The same of contiguous memory by its addresses, none of which overlap; the loss goes to one too, and is returned.

    Logits, gradient (0: none is wanted) and loss are floats of so many bytes, 4 or 8; targets are int64.
    """
    cdef task t
    if not (x and targets and loss and rows > 0 and classes > 0):
        return None
    if x % size or targets % 8 or grad % size or loss % size:
        return None
    memset(&t, 0, sizeof(task))
    t.isa = isa_select(isa.encode())
    t.work = FORWARD_BACKWARD if grad else FORWARD
    t.poll = poll
    t.dims = 1
    t.rows = t.shape[0] = rows
    t.classes = classes
    t.x.data = <char *>x
    t.x.type = ELEMENT_F32 if size == 4 else ELEMENT_F64
    t.x.class_stride = size
    t.x.row_strides[0] = size * classes
    if grad:
        t.out = t.x
        t.out.data = <char *>grad
    t.targets.data = <void *>targets
    t.targets.size = -8
    found = light_loss(&t, threads)
    if found is not None:
        if size == 4:
            (<float *>loss)[0] = <float><double>found
        else:
            (<double *>loss)[0] = <double>found
    return found


cdef object light_loss(task *t, int threads):
    """The mean loss of such a task, once its arrays are in it; None where a target is no class."""
    cdef target_scan scan
    cdef double[LIGHT_ROWS] on_stack
    cdef schedule own
    cdef double row_scale = 1.0 / t.rows
    cdef bint is_small = threads == 1 and t.rows * t.classes < LEAST_AT_ONCE
    cdef Buffers buffers = None
    options_of(&t.options, None, None, None, t.classes)
    scan.first_bad = -1
    scan.weights.sum = scan.weights.error = 0
    c_scan_targets(t.isa, &t.targets, 0, t.rows, t.classes, NULL, NULL, &scan)
    if scan.first_bad >= 0:
        return None
    t.tiled = suits_tiles(t)
    t.row_scale = &row_scale
    t.loss = on_stack
    if t.rows > LIGHT_ROWS or not is_small:    # another thread may be at work a little longer than this function
        buffers = Buffers()
        buffers.row_scale = row_scale
        buffers.losses = <double *>malloc(t.rows * sizeof(double))
        if buffers.losses == NULL:
            return None
        t.row_scale = &buffers.row_scale
        t.loss = buffers.losses
    if is_small:
        begin(t, &own, t.rows)
        take_part(t)
        if was_out_of_memory(&own):
            return None
    else:
        work_through(buffers, t, threads)
    return total_of(t.loss, t.rows) / t.rows


include "merging.pxi"
include "products.pxi"
include "elements.pxi"
include "c_api.pxi"
include "xla.pxi"
