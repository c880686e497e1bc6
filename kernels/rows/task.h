/* The interface to Python: what a call asks for. _native.pyx describes it as a task, and run() does it. */
#ifndef TASK_H
#define TASK_H

#include "blocks/blocks.h"
#include "products/product.h"
#include "atomic.h"
#include "types.h"

typedef enum {
    LOGSUMEXP,
    WEIGHTED_LOGSUMEXP,
    SOFTMAX,
    LOG_SOFTMAX,
    LOG_SOFTMAX_BACKWARD,
    DISTILLATION,
    FORWARD,
    BACKWARD,
    FORWARD_BACKWARD,
    ROW_STATISTICS,
    LOG_PROBS_BACKWARD,
    STREAM_READ,
    STREAM_COPY,
    STREAM_COMBINE,
    STREAM_SCALE,    /* by_streams.c */
    PRODUCT,
    CONVERT,    /* by_products.c */
    ELEMENTS,    /* by_elements.c */
    ADD_BIAS,
    SUM_BIAS    /* by_biases.c */
} work;

/* The logits of a linear layer and its bias, a number for each column; or the gradients on both. */
typedef struct {
    char *logits;    /* (rows, columns) of float32 or float64 */
    element type;
    ptrdiff_t rows, columns, stride;    /* of rows, in elements */
    const void *bias;                   /* IN (columns,) of the same type */
    double *sums;                       /* IN OUT (columns,): a column's sum is added */
} biased;

/* Losses of one logit each: the block function's arguments for all of them, in the lanes' type but for the gradient. */
typedef struct {
    element type;    /* of z, the targets and the gradient, which are contiguous */
    const void *z, *targets;
    int integers; /* 0, or the bytes of each target: 1 (unsigned) or 8 (signed) */
    ptrdiff_t weight_period, pos_weight_period; /* at_once; 0: a number for each */
    binary_block block; /* z and t are not set */
    convert_function *widen, *narrow; /* NULL but for 16 bits */
    ptrdiff_t count, at_once; /* numbers; those of a block */
} elements;

/* The options of a loss, filled in by one function (options_of in _native.pyx). 0 or NULL is an option that is not set. */
typedef struct {
    int plain;    /* targets are classes, and no option is set but ignore_index, which belongs to the targets */
    const double *class_weight;       /* IN (classes,) or NULL */
    const void *class_weight_real;    /* IN (classes,) the same over the unit, in the lanes' type */
    double class_weight_unit;         /* the largest weight: 1e-50 and 1e50 have no float32 */
    double class_weight_sum;          /* W; classes where there are no weights */
    const double *sample_weight;      /* IN (rows,) or NULL */
    double label_smoothing, z_loss;
    double logit_scale;           /* 1 is not set */
    double softcap;
    const double *class_prior;    /* IN (classes,) or NULL */
    double margin, focal;
    ptrdiff_t all_classes;    /* C of rows of which x has a block, without every target; 0: x has them whole */
} row_options;

/* The logits that the loss is of are not those that were given: c tanh(a z / c) + b_c, less m at the target. */
static inline int is_transformed(const row_options *o)
{
    return o->logit_scale != 1 || o->softcap != 0 || o->class_prior || o->margin != 0;
}

/* What forward keeps of a row for backward, and a log-softmax, whose mass is 0, for its own. */
typedef struct {
    double max;     /* m, the largest logit; NaN where the loss is */
    double rest;    /* the sum of e^(z - m) over every class but one at the maximum */
    double mass;    /* the sum of the target's weights over the classes, as the gradient needs it */
} row_statistics;

/* What forward finds of a row of a block of classes, where that is wanted: what blocks are merged by. */
typedef struct {
    double max;         /* -inf of a block of nothing but that, NaN of one that is undefined */
    double rest;        /* as above */
    double target;      /* the logit of a target that lies in the block; -inf where it does not */
    double mass;        /* sum of t_c over the block, but for what an index target itself weighs */
    double distance;    /* sum of those t_c (max - z_c) */
} row_part;

/* The numbers of each row beside its loss; NULL where they have no meaning. */
typedef struct {
    double *logsumexp, *entropy, *log_prob, *max_prob;    /* OUT (rows,) */
    double *squares;                                      /* OUT (rows,) the sum of p_c^2 but of one at the maximum */
    int64_t *argmax, *rank;                               /* OUT (rows,) */
} row_numbers;

/* Of forward_backward: what is written beside the gradient (rows/hessians.c). */
typedef enum {
    NO_HESSIAN,
    DIAGONAL_HESSIAN,
    UPPER_BOUND,
    HESSIAN_PRODUCT,
    XGBOOST_HESSIAN,
    LIGHTGBM_HESSIAN
} hessian_kind;

typedef struct {
    distillation_kind kind;
    double temperature, beta;
} distillation_task;

/* How far a call has come: what its threads share. parallel.c alone knows it. */
typedef struct {
    ptrdiff_t next, at_once;    /* rows */
    flag stopped, out_of_memory;
    double last_poll;    /* of the one thread that polls */
} schedule;

typedef struct {
    const isa_table *isa;
    work work;
    int tiled;                /* done by by_tiles.c */
    int (*poll)(void);        /* called now and then by the thread that called, and NULL for others; nonzero stops */
    int long_rows;            /* within a row too, on one thread then */

    int dims;                       /* of the rows, after coalescing */
    ptrdiff_t shape[MAX_DIMS];
    ptrdiff_t rows, classes;

    array x;        /* IN  logits */
    array
        q; /* IN  probability targets, the grad_output of log_softmax_backward, a teacher's logits, or the weights of a logsumexp */
    array out; /* OUT gradient, softmax or log-softmax */
    array hess, vector; /* OUT beside the gradient, what stands for the Hessian; IN what that is multiplied by */
    hessian_kind hessian;
    int bypass; /* the caches, in storing out: it is large, and not x itself */
    index_targets targets;
    row_options options;

    const double *row_scale; /* IN (rows,), or one number where row_scale_step is 0 */
    ptrdiff_t row_scale_step;

    const double *entropy_scale; /* IN as row_scale, of what arrives at entropies; row_scale at log-probabilities */
    ptrdiff_t entropy_scale_step;

    product *product; /* whose shares are the rows */
    const biased *biased; /* likewise */
    const elements *elements; /* whose blocks are the rows */
    convert_function *convert; /* x to out, CONVERTED_AT_ONCE of their numbers (classes) at a time */

    schedule *schedule;
    double *loss; /* OUT (rows,) or NULL */
    distillation_task distilled;
    double *sign; /* OUT of a weighted logsumexp (rows,) */
    row_numbers numbers;
    row_part *parts; /* OUT of forward (rows,) or NULL; then there are no losses */
    row_statistics *statistics; /* OUT of forward and log_softmax, IN of their backwards: (rows,) or NULL */
} task;

/* Elements below which one thread is faster than two: waking the second takes longer than its share of the work
 * (docs/performance.md). Bytes of a result from which it bypasses the caches. Elements that a thread takes at least. */
enum { SERIAL_BELOW = 1 << 15, BYPASS_FROM = 1 << 24, LEAST_AT_ONCE = 1 << 14 };

enum { CONVERTED_AT_ONCE = 1 << 16, SUMMED_AT_ONCE = 1 << 10 };

/* layout.c: merges the row dimensions that every array lets merge. */
void coalesce(task *t);

/* by_tiles.c: whether it takes the task; else by_rows.c does. */
int suits_tiles(const task *t);

/* parallel.c: a call begins, with a schedule that must last as long; then run() does all the work, on at most so many
 * threads of OpenMP's, or threads of the caller's own each take part until nothing is left to do. */
ptrdiff_t rows_at_once(const task *t, int threads);
void begin(task *t, schedule *s, ptrdiff_t rows_at_once);
void run(const task *t, int threads); /* on the calling thread where there is no OpenMP */
void take_part(const task *t);
void stop(schedule *s); /* by any thread */
int was_out_of_memory(schedule *s); /* a thread had no room for its buffers */
int openmp_threads(void); /* that the runtime would take for a call of this thread; 0 without OpenMP */

#endif
