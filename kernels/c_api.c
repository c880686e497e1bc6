/* The functions of the C interface (crossentropy.h): checks, then a task, with nothing of Python's.
 *
 * They give the same bits as the Python functions of the native backend, whose checks and defaults these are in C. */
#include "c_api.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "math/compensated.h"
#include "rows/targets.h"
#include "rows/task.h"

enum { FEW = 1 << 8 };    /* rows, or classes, of which numbers are kept on the stack */

static const isa_table *isa;    /* of all calls */
static int threads_asked;       /* by the environment; 0: not */
static int forked;              /* OpenMP has none of its threads in a forked child, and would wait for them */

void c_api_begin(const char *isa_name, int threads)
{
    isa = isa_select(isa_name);
    threads_asked = threads;
}

void c_api_has_forked(void) { forked = 1; }

static const char *message(int error)
{
    switch (error) {
    case CROSSENTROPY_OK: return "no error";
    case CROSSENTROPY_NULL_POINTER: return "a pointer that must not be NULL is NULL";
    case CROSSENTROPY_BAD_DTYPE:
        return "dtype must be CROSSENTROPY_FLOAT16, _BFLOAT16, _FLOAT32 or _FLOAT64, and a result's that of the logits";
    case CROSSENTROPY_BAD_TARGET_DTYPE: return "target_dtype must be one of CROSSENTROPY_INT8 to CROSSENTROPY_UINT64";
    case CROSSENTROPY_BAD_SHAPE:
        return "rows and classes must not be negative, classes at least 1 where there are rows, and a result's those "
               "of "
               "the logits";
    case CROSSENTROPY_BAD_STRIDE: return "a result's strides must not be 0 over more than one element";
    case CROSSENTROPY_BAD_SIZE: return "size must be sizeof(crossentropy_options)";
    case CROSSENTROPY_UNKNOWN_OPTION: return "an option is set that this version of crossentropy does not know";
    case CROSSENTROPY_BAD_THREADS: return "threads must not be negative";
    case CROSSENTROPY_BAD_REDUCTION: return "reduction must be CROSSENTROPY_MEAN or CROSSENTROPY_SUM";
    case CROSSENTROPY_BAD_CLASS_WEIGHT: return "class_weight must be finite and not negative";
    case CROSSENTROPY_BAD_SAMPLE_WEIGHT: return "sample_weight must be finite and not negative";
    case CROSSENTROPY_BAD_CLASS_PRIOR: return "class_prior must be finite or -inf";
    case CROSSENTROPY_BAD_LABEL_SMOOTHING: return "label_smoothing must be in [0, 1]";
    case CROSSENTROPY_BAD_Z_LOSS: return "z_loss must be finite and not negative";
    case CROSSENTROPY_BAD_LOGIT_SCALE: return "logit_scale must be finite and positive, or 0 for none";
    case CROSSENTROPY_BAD_SOFTCAP: return "softcap must be finite and positive, or 0 for none";
    case CROSSENTROPY_BAD_MARGIN: return "margin must be finite";
    case CROSSENTROPY_BAD_FOCAL: return "focal must be finite and not negative";
    case CROSSENTROPY_BAD_NORMALIZER:
        return "normalizer must be finite and positive, or 0 for none, and goes with CROSSENTROPY_MEAN";
    case CROSSENTROPY_BAD_TARGET: return "a target is not in [0, classes), and not ignored";
    case CROSSENTROPY_NO_MEMORY: return "no room for a block of each array in every thread";
    default: return "no error of crossentropy's";
    }
}

/* ---------------------------------------------------------------------- checks */

static int is_finite_and_not_negative(double a) { return a >= 0 && a < INFINITY; }

static int are_weights(const double *w, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; w && i < n; ++i)
        if (!is_finite_and_not_negative(w[i])) return 0;
    return 1;
}

static int are_priors(const double *b, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; b && i < n; ++i)
        if (!(b[i] < INFINITY)) return 0;
    return 1;
}

/* The caller's options as this version has them, whatever version the caller's are of. */
static int known_options(const crossentropy_options *given, crossentropy_options *known)
{
    memset(known, 0, sizeof *known);
    if (!given) return CROSSENTROPY_OK;
    if (given->size < offsetof(crossentropy_options, threads) || given->size > 1 << 16) return CROSSENTROPY_BAD_SIZE;
    memcpy(known, given, given->size < sizeof *known ? given->size : sizeof *known);
    for (size_t i = sizeof *known; i < given->size; ++i)
        if (((const char *)given)[i]) return CROSSENTROPY_UNKNOWN_OPTION;
    return known->unused ? CROSSENTROPY_UNKNOWN_OPTION : CROSSENTROPY_OK;
}

static int bad_option(const crossentropy_options *o, ptrdiff_t rows, ptrdiff_t classes)
{
    if (o->threads < 0) return CROSSENTROPY_BAD_THREADS;
    if (o->reduction != CROSSENTROPY_MEAN && o->reduction != CROSSENTROPY_SUM) return CROSSENTROPY_BAD_REDUCTION;
    if (!(o->label_smoothing >= 0 && o->label_smoothing <= 1)) return CROSSENTROPY_BAD_LABEL_SMOOTHING;
    if (!is_finite_and_not_negative(o->z_loss)) return CROSSENTROPY_BAD_Z_LOSS;
    if (!is_finite_and_not_negative(o->logit_scale)) return CROSSENTROPY_BAD_LOGIT_SCALE;
    if (!is_finite_and_not_negative(o->softcap)) return CROSSENTROPY_BAD_SOFTCAP;
    if (!isfinite(o->margin)) return CROSSENTROPY_BAD_MARGIN;
    if (!is_finite_and_not_negative(o->focal)) return CROSSENTROPY_BAD_FOCAL;
    if (!is_finite_and_not_negative(o->normalizer)) return CROSSENTROPY_BAD_NORMALIZER;
    if (o->normalizer != 0 && o->reduction != CROSSENTROPY_MEAN) return CROSSENTROPY_BAD_NORMALIZER;
    if (!are_weights(o->class_weight, classes)) return CROSSENTROPY_BAD_CLASS_WEIGHT;
    if (!are_weights(o->sample_weight, rows)) return CROSSENTROPY_BAD_SAMPLE_WEIGHT;
    if (!are_priors(o->class_prior, classes)) return CROSSENTROPY_BAD_CLASS_PRIOR;
    return CROSSENTROPY_OK;
}

static int is_target_type(int32_t size)
{
    const int bytes = size < 0 ? -size : size;
    return size != INT32_MIN && (bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8);
}

static void describe(array *a, const crossentropy_matrix *m)
{
    a->data = m->data;
    a->type = (element)m->dtype;
    a->class_stride = m->class_stride * element_size(a->type);
    a->row_strides[0] = m->row_stride * element_size(a->type);
}

/* A task of the rows of x, whose results go to out unless that is NULL. */
static int begin_task(task *t, work work, const crossentropy_matrix *x, const crossentropy_matrix *out)
{
    memset(t, 0, sizeof *t);
    if (!x) return CROSSENTROPY_NULL_POINTER;
    if (x->dtype < CROSSENTROPY_FLOAT16 || x->dtype > CROSSENTROPY_FLOAT64) return CROSSENTROPY_BAD_DTYPE;
    if (x->rows < 0 || x->classes < 0) return CROSSENTROPY_BAD_SHAPE;
    if (x->rows && x->classes && !x->data) return CROSSENTROPY_NULL_POINTER;
    t->isa = isa;
    t->work = work;
    t->dims = 1;
    t->rows = t->shape[0] = x->rows;
    t->classes = x->classes;
    t->options.plain = 1;
    t->options.class_weight_unit = 1;
    t->options.class_weight_sum = (double)x->classes;
    t->options.logit_scale = 1;
    describe(&t->x, x);
    if (!out) return CROSSENTROPY_OK;
    if (out->dtype != x->dtype) return CROSSENTROPY_BAD_DTYPE;
    if (out->rows != x->rows || out->classes != x->classes) return CROSSENTROPY_BAD_SHAPE;
    if (x->rows && x->classes && !out->data) return CROSSENTROPY_NULL_POINTER;
    const int is_stuck = (x->rows > 1 && !out->row_stride) || (x->classes > 1 && !out->class_stride);
    if (is_stuck && x->rows && x->classes) return CROSSENTROPY_BAD_STRIDE;
    describe(&t->out, out);
    t->bypass = out->data != x->data && t->rows * t->classes * element_size(t->out.type) >= BYPASS_FROM;
    return CROSSENTROPY_OK;
}

/* ---------------------------------------------------------------------- calls */

static int work_through(task *t, int32_t threads)
{
    schedule s;
    int asked = threads ? threads : threads_asked ? threads_asked : INT_MAX;
    const int most = openmp_threads();    /* 0 where the pool is one of Python's, which has no part in this */
    if (asked > most) asked = most;
    if (forked || asked < 1 || t->rows * t->classes < SERIAL_BELOW) asked = 1;
    coalesce(t);
    t->tiled = suits_tiles(t);
    begin(t, &s, rows_at_once(t, asked));
    run(t, asked);
    return was_out_of_memory(&s) ? CROSSENTROPY_NO_MEMORY : CROSSENTROPY_OK;
}

/* Like the Python functions: numbers of rows that have no class are those of a sum over nothing. */
static int of_rows(work work, const crossentropy_matrix *x, const crossentropy_matrix *out, double *numbers,
                   int32_t threads)
{
    task t;
    const int error = begin_task(&t, work, x, out);
    if (error) return error;
    if (threads < 0) return CROSSENTROPY_BAD_THREADS;
    if (!x->rows) return CROSSENTROPY_OK;
    if (!out && !numbers) return CROSSENTROPY_NULL_POINTER;
    if (!x->classes) {
        for (ptrdiff_t n = 0; !out && n < x->rows; ++n) numbers[n] = -INFINITY;
        return CROSSENTROPY_OK;
    }
    t.loss = numbers;
    return work_through(&t, threads);
}

static int c_logsumexp(const crossentropy_matrix *x, double *out, int32_t threads)
{
    return of_rows(LOGSUMEXP, x, NULL, out, threads);
}

static int c_softmax(const crossentropy_matrix *x, const crossentropy_matrix *out, int32_t threads)
{
    return out ? of_rows(SOFTMAX, x, out, NULL, threads) : CROSSENTROPY_NULL_POINTER;
}

static int c_log_softmax(const crossentropy_matrix *x, const crossentropy_matrix *out, int32_t threads)
{
    return out ? of_rows(LOG_SOFTMAX, x, out, NULL, threads) : CROSSENTROPY_NULL_POINTER;
}

/* The options as kernels take them; `lanes` has room for the class weights, which go there over the largest of them. */
static void take_options(task *t, const crossentropy_options *o, void *lanes)
{
    row_options *to = &t->options;
    to->class_weight = o->class_weight;
    to->sample_weight = o->sample_weight;
    to->class_prior = o->class_prior;
    to->label_smoothing = o->label_smoothing;
    to->z_loss = o->z_loss;
    to->logit_scale = o->logit_scale != 0 ? o->logit_scale : 1;
    to->softcap = o->softcap;
    to->margin = o->margin;
    to->focal = o->focal;
    to->plain = !o->class_weight && !o->sample_weight && !o->class_prior && o->label_smoothing == 0 && o->z_loss == 0 &&
                to->logit_scale == 1 && o->softcap == 0 && o->margin == 0 && o->focal == 0;
    if (!o->class_weight) return;
    double largest = 0;
    for (ptrdiff_t c = 0; c < t->classes; ++c)
        if (o->class_weight[c] > largest) largest = o->class_weight[c];
    to->class_weight_sum = total_of(o->class_weight, t->classes);
    if (is_transformed(to)) {    /* the lanes are float64, whatever the logits are */
        to->class_weight_real = o->class_weight;
        return;
    }
    to->class_weight_unit = largest > 0 ? largest : 1;
    to->class_weight_real = lanes;
    for (ptrdiff_t c = 0; c < t->classes; ++c) {
        const double w = o->class_weight[c] / to->class_weight_unit;
        if (t->x.type == ELEMENT_F64) ((double *)lanes)[c] = w;
        else ((float *)lanes)[c] = (float)w;
    }
}

/* A gradient of 0, where no row counts. */
static void clear(const task *t)
{
    const ptrdiff_t size = element_size(t->out.type);
    for (ptrdiff_t n = 0; n < t->rows; ++n)
        for (ptrdiff_t c = 0; c < t->classes; ++c)
            memset(t->out.data + n * t->out.row_strides[0] + c * t->out.class_stride, 0, (size_t)size);
}

static int of_losses(task *t, const crossentropy_options *o, double grad_output, double *rows, double *loss)
{
    target_scan scan = {-1, {0, 0}};
    scan_targets(isa, &t->targets, 0, t->rows, t->classes, o->class_weight, o->sample_weight, &scan);
    if (scan.first_bad >= 0) return CROSSENTROPY_BAD_TARGET;
    const int is_mean = o->reduction == CROSSENTROPY_MEAN;
    const double by = !is_mean ? 1 : o->normalizer != 0 ? o->normalizer : compensated_value(scan.weights);
    if (by == 0 && t->work == FORWARD_BACKWARD) {
        clear(t);
        t->work = FORWARD;
        t->out.data = NULL;
    }
    double scale = by == 0 ? 0 : is_mean ? grad_output / by : grad_output;
    t->row_scale = &scale;
    t->loss = rows;
    if (t->rows) {
        const int error = work_through(t, o->threads);
        if (error) return error;
    }
    if (loss) *loss = by == 0 ? NAN : is_mean ? total_of(rows, t->rows) / by : total_of(rows, t->rows);
    return CROSSENTROPY_OK;
}

static int losses(work work, const crossentropy_matrix *logits, const void *targets, int32_t target_dtype,
                  const crossentropy_options *options, double grad_output, const crossentropy_matrix *grad,
                  double *rows, double *loss)
{
    task t;
    crossentropy_options o;
    double few_rows[FEW], few_classes[FEW], *own_rows = NULL, *own_classes = NULL;
    int error = begin_task(&t, work, logits, grad);
    if (!error) error = known_options(options, &o);
    if (error) return error;
    if (t.rows && !t.classes) return CROSSENTROPY_BAD_SHAPE;
    if (t.rows && !targets) return CROSSENTROPY_NULL_POINTER;
    if (!is_target_type(target_dtype)) return CROSSENTROPY_BAD_TARGET_DTYPE;
    error = bad_option(&o, t.rows, t.classes);
    if (error) return error;
    t.targets.data = targets;
    t.targets.size = target_dtype;
    t.targets.has_ignored = o.has_ignore_index != 0;
    t.targets.ignored = o.ignore_index;
    if (!rows) rows = t.rows <= FEW ? few_rows : (own_rows = malloc((size_t)t.rows * sizeof *rows));
    void *lanes = few_classes;
    if (o.class_weight && t.classes > FEW) lanes = own_classes = malloc((size_t)t.classes * sizeof *own_classes);
    error = CROSSENTROPY_NO_MEMORY;
    if (rows && lanes) {
        take_options(&t, &o, lanes);
        error = of_losses(&t, &o, grad_output, rows, loss);
    }
    free(own_rows);
    free(own_classes);
    return error;
}

static int c_loss(const crossentropy_matrix *logits, const void *targets, int32_t target_dtype,
                  const crossentropy_options *options, double *row_losses, double *loss)
{
    return losses(FORWARD, logits, targets, target_dtype, options, 1, NULL, row_losses, loss);
}

static int c_loss_and_grad(const crossentropy_matrix *logits, const void *targets, int32_t target_dtype,
                           const crossentropy_options *options, double grad_output, const crossentropy_matrix *grad,
                           double *row_losses, double *loss)
{
    if (!grad) return CROSSENTROPY_NULL_POINTER;
    return losses(FORWARD_BACKWARD, logits, targets, target_dtype, options, grad_output, grad, row_losses, loss);
}

const crossentropy_api c_api = {
    sizeof(crossentropy_api), CROSSENTROPY_ABI, 0,         message,     c_loss,
    c_loss_and_grad,          c_log_softmax,    c_softmax, c_logsumexp,
};
