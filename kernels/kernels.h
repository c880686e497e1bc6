/* The one C interface: the table of block functions that an ISA unit fills, and the task that the drivers run.
 *
 * Decisions, with what was tried
 *
 * A. A block function (rows.h) sees one contiguous block of a row in native byte order: the row itself where it lies
 *    so, else blocks of BLOCK classes that are copied; whatever else an array may be (strided, byte-swapped,
 *    misaligned, class axis not last) is a matter of copying one block (layout.c). So no layout ever costs a copy of
 *    an array.
 * B. The maximum m of a row and its sum of exponentials come from one pass: the anchor (C) need only be near m, and
 *    is guessed from the row's first classes. Where m turns out to be far above the guess, or one class holds most
 *    of the sum (D), the row is done again in two passes, maximum first, while it lies in the L2 cache. Two passes
 *    for every row took twice as long: at 4096 x 32000 19 ms and not 11, on two threads.
 * C. Nothing is rounded by subtracting m: e^z is computed as 2^(n-k) e^r with z = n ln2 + r and an integer k chosen
 *    from m (the anchor), so that z-m is never formed. z-m in float32 costs 16 ulp of p at z-m = -20. Only rows
 *    whose |m| passes anchor_limit subtract m, and there the subtraction is exact for every class that counts.
 * D. The classes at the maximum are left out of the sum and counted: with rest = (count - 1) + sum/e^m, the loss is
 *    (m - z_y) + log1p(rest), a sum of terms >= 0, in which no digit of a small loss can cancel. In the one pass the
 *    target is left out instead, which serves as well: only where it leads is rest small in a loss that is small.
 * E. Everything that is one number per row is float64: e^z, logarithms and divisions for a batch of rows in lanes
 *    (finish.h), the options in batch.c, once for all ISAs and dtypes.
 * F. With few classes, or rows that lie side by side, the lanes are rows (columns.h, tiles.c): a vector of 10
 *    classes would be two thirds full and end in a horizontal sum. The loss at 1048576 x 10 took twice as long row
 *    by row, and so did that of (8, 21, 512, 512) with class axis 1, where every row was copied. */
#ifndef KERNELS_H
#define KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "compensated.h"

typedef float f32;
typedef double f64;
typedef struct { uint16_t bits; } f16;
typedef struct { uint16_t bits; } bf16;

typedef enum { ELEMENT_F16, ELEMENT_BF16, ELEMENT_F32, ELEMENT_F64 } element;

#define BLOCK 2048     /* classes; one such block of float32 and its result stay in L1 */
#define MAX_DIMS 64    /* NumPy's own limit */
#define STREAM_ROW 16384    /* elements: what streams are split between threads by */

/* e^z is held as e^(z - shift) 2^(-k). */
typedef struct {
    double shift;    /* 0, or the row's maximum where that passes anchor_limit */
    double k;        /* an integer */
} anchor;

/* What is subtracted from p in a gradient row: scale * w_c * (keep * q_c + floor). */
typedef struct {
    const void *q;    /* IN (n,) float32 for 16-bit and float32 logits, else float64; NULL: q = 0 */
    const void *w;    /* IN (n,) as q; NULL: w = 1 */
    double keep, floor, scale;
} subtrahend;

/* Rows whose few numbers are worked on together, in float64 lanes: a row alone would spend 100 ns in exp, log and
 * divisions, and 1000 classes are read in 170. */
#define BATCH 16

typedef struct {
    double max[BATCH];               /* NaN: the row holds a NaN or +inf, or nothing but -inf */
    double shift[BATCH], k[BATCH];   /* its anchor */
    double z[BATCH];                 /* the logit at an index target, or -inf */
    double sum[BATCH], base[BATCH], own[BATCH];    /* rest = base + (sum + own e^z) / e^max */
    /* from here on by finish; p where there are targets */
    double top[BATCH];        /* e^max at the anchor */
    double rest[BATCH];       /* the sum of e^(z - max) over every class but one at the maximum */
    double log_sum[BATCH];    /* log1p(rest) = lse - max */
    double share[BATCH];      /* 1 / (1 + rest): the probability at the maximum */
    double unit[BATCH];       /* share / top: what e^z at the anchor is a probability times */
    double p[BATCH];          /* the probability of the target, */
    double below_1[BATCH];    /* and p - 1 */
} batch;

/* A row of the gradient that is being written: factor 2^power e^x - s, and one class with a value of its own. The
 * power is apart since AVX-512 has an instruction for it, and a product that is no normal number takes several times
 * as long as another: with logits from U(-80, 80) loss + gradient took 18.6 ms where normals took 13.1, and 15.1 so. */
typedef struct {
    const void *x;       /* IN (n,), or NULL where kept is not: */
    const void *kept;    /* IN (n,) the e^x at the anchor */
    anchor at;
    double factor, power;
    subtrahend s;
    ptrdiff_t entry;     /* that class, or -1 */
    double value;
    void *out;           /* OUT (n,) */
    int stream;          /* past the caches */
    ptrdiff_t n, done;
} gradient_job;

/* Rows whose gradient is written while others are read: a core that does both at once loses the time of neither.
 * Loss + gradient took 32 ms at 4096 x 32000 on one thread row after row, and 23 so; the non-temporal copy of as
 * much takes 20. */
typedef struct { gradient_job *next, *end; } gradient_queue;

/* The functions of one ISA for one element type; x and out are contiguous blocks of n elements. kept and tiles are
 * of the lanes' type (float32 for 16-bit elements). */
typedef struct {
    int lanes;
    /* rows.h */
    double (*max)(const void *x, ptrdiff_t n);                                       /* NaN where any is NaN */
    double (*sum)(const void *x, ptrdiff_t n, anchor at, double max, ptrdiff_t *ties);    /* of e^x, x < max */
    double (*pass)(const void *x, ptrdiff_t n, anchor at, ptrdiff_t y, void *kept, gradient_queue *queue,
                   double *max);                                                     /* of e^x but class y */
    double (*total)(const void *x, ptrdiff_t n);                                     /* of x itself */
    void (*spread)(const void *x, ptrdiff_t n, double from, subtrahend s, double *mass, double *distance);
    void (*gradient)(gradient_job *job, ptrdiff_t n);                                /* the next n elements, about */
    /* stream: write past the caches */
    void (*log_softmax)(const void *x, ptrdiff_t n, double max, double log_sum, void *out, int stream);
    void (*log_softmax_backward)(const void *log_p, const void *grad_output, ptrdiff_t n, anchor at, double factor,
                                 void *out, int stream);
    /* tile.h */
    void (*tile_rows)(char *const *from, ptrdiff_t rows, ptrdiff_t classes, void *tile);
    void (*tile_columns)(const void *from, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t classes, void *tile);
    void (*untile_rows)(const void *tile, ptrdiff_t rows, ptrdiff_t classes, char *const *to);
    void (*untile_columns)(const void *tile, ptrdiff_t rows, ptrdiff_t classes, void *to, ptrdiff_t stride, int stream);
    /* columns.h */
    void (*columns_max)(const void *tile, ptrdiff_t classes, batch *b);
    void (*columns_sum)(void *tile, ptrdiff_t classes, double headroom, double limit, int keeps, batch *b);
    void (*columns_spread)(const void *tile, const void *q_tile, ptrdiff_t classes, const double *w, double keep,
                           double floor, const batch *b, double *mass, double *distance);
    void (*columns_gradient)(void *tile, const void *q_tile, ptrdiff_t classes, const double *factor,
                             const double *scale, const double *y, const double *value, const void *weights,
                             double keep, double floor);
    void (*columns_log_softmax)(void *tile, ptrdiff_t classes, const batch *b);
} block_functions;

/* What the machine's memory is measured with (streams.h), over n elements of float32, n a multiple of STREAM_ROW. */
typedef struct {
    double (*read)(const f32 *x, ptrdiff_t n);                                         /* the sum */
    void (*copy)(const f32 *x, ptrdiff_t n, f32 *out, int stream);                     /* out = x */
    void (*combine)(const f32 *x, const f32 *q, ptrdiff_t n, f32 *out, int stream);    /* out = x + q */
    void (*scale)(f32 *x, ptrdiff_t n, double by);    /* x *= by, which a compiler must not know to be 1 */
} stream_functions;

typedef struct {
    const char *name;
    void (*fence)(void);      /* after a thread's last streamed store */
    void (*finish)(batch *b, ptrdiff_t rows, int targets);    /* targets: own and p count */
    const block_functions *of[4];    /* by element */
    const stream_functions *streams;
} isa_table;

extern const isa_table isa_base, isa_avx2, isa_avx512;

/* dispatch.c: the table by name, NULL where this CPU or this build lacks it. */
const isa_table *isa_select(const char *name);

/* One array of rows; the class axis has its own stride, the others are the task's. Strides are in bytes. */
typedef struct {
    char *data;    /* NULL: absent */
    element type;
    int swapped;                           /* the other byte order */
    ptrdiff_t class_stride;
    ptrdiff_t row_strides[MAX_DIMS];
} array;

/* Index targets of any integer type, one per row, contiguous. */
typedef struct {
    const void *data;    /* NULL: the targets are probabilities */
    int size;            /* 1, 2, 4, 8 bytes; negative where signed */
    int has_ignored;
    int64_t ignored;     /* its 64 bits */
} index_targets;

typedef enum {
    LOGSUMEXP, SOFTMAX, LOG_SOFTMAX, LOG_SOFTMAX_BACKWARD, FORWARD, BACKWARD, FORWARD_BACKWARD,
    STREAM_READ, STREAM_COPY, STREAM_COMBINE, STREAM_SCALE    /* streams.c */
} work;

typedef struct {
    const isa_table *isa;
    work work;
    int tiled;                /* done by tiles.c */
    int (*poll)(void);        /* called now and then by the thread that called; nonzero stops */
    int long_rows;            /* within a row too, on one thread then */

    int dims;                       /* of the rows, after coalescing */
    ptrdiff_t shape[MAX_DIMS];
    ptrdiff_t rows, classes;

    array x;        /* IN  logits, or log-probabilities for log_softmax_backward */
    array q;        /* IN  probability targets, or the grad_output of log_softmax_backward */
    array out;      /* OUT gradient, softmax or log-softmax */
    int stream;     /* out is large, and not x itself */
    index_targets targets;

    const double *class_weight;       /* IN (classes,) or NULL */
    const void *class_weight_real;    /* IN (classes,) the same over the unit, in the lanes' type */
    double class_weight_unit;         /* the largest weight: 1e-50 and 1e50 have no float32 */
    double class_weight_sum;          /* W; classes where there are no weights */
    const double *sample_weight;      /* IN (rows,) or NULL */
    const double *row_scale;          /* IN (rows,), or one number where row_scale_step is 0 */
    ptrdiff_t row_scale_step;
    double label_smoothing, z_loss;

    struct schedule *schedule;    /* of parallel.c */
    int *out_of_memory;    /* OUT 1 where a thread found no room for its buffers */
    double *loss;     /* OUT (rows,) or NULL */
    double *saved;    /* OUT of forward, IN of backward: (rows, 3) max, rest, mass; or NULL */
} task;

void by_rows(const task *t);     /* drivers.c */
void by_tiles(const task *t);    /* tiles.c: the same work for many rows at once */
void by_streams(const task *t);  /* streams.c: the roofs that a kernel's time is held against; they compute nothing */
int suits_tiles(const task *t);

/* targets.c: looks at the targets of a range of rows; rows that are ignored or of sample weight 0 don't count. */
typedef struct {
    ptrdiff_t first_bad;      /* the first target that is no class, or -1 */
    compensated weights;      /* the sum of sample weight times class weight over the others */
} target_scan;

void scan_targets(const index_targets *t, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes,
                  const double *class_weight, const double *sample_weight, target_scan *scan);

/* layout.c: merges the row dimensions that every array lets merge. */
void coalesce(task *t);

/* batch.c: the sum of n numbers. */
double total_of(const double *a, ptrdiff_t n);

/* parallel.c: all the work, on so many threads; nonzero where poll stopped it. The row functions take their rows
 * from it until there are none. */
int has_openmp(void);
int run(const task *t, int threads, ptrdiff_t rows_at_once);
int take_rows(const task *t, ptrdiff_t *first, ptrdiff_t *last);
void ran_out_of_memory(const task *t);

#endif
