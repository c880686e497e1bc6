/* The table of block functions that an ISA unit fills (unit.h), and that rows/ calls.
 *
 * Decisions
 *
 * A. A block function (rows.h) sees one contiguous block of a row in native byte order: the row itself where it lies
 *    so, else blocks of BLOCK classes (rows/cursor.h) that are copied; whatever else an array may be (strided,
 *    byte-swapped, misaligned, class axis not last) is a matter of copying one block (rows/logits.c). So no layout
 *    ever costs a copy of an array.
 * B. The maximum m of a row and its sum of exponentials come from one pass: the anchor (C) need only be near m, and
 *    is guessed from the row's first classes. Where m turns out to be far above the guess, or one class holds most
 *    of the sum (D), the row is done again in two passes, maximum first, while it lies in the L2 cache. Two passes
 *    for every row take almost twice as long where rows come from memory.
 * C. Nothing is rounded by subtracting m: e^z is computed as 2^(n-k) e^r with z = n ln2 + r and an integer k chosen
 *    from m (the anchor), so that z-m is never formed. z-m in float32 costs 16 ulp of p at z-m = -20. Only rows
 *    whose |m| passes anchor_limit subtract m, and there the subtraction is exact for every class that counts.
 * D. The classes at the maximum are left out of the sum and counted: with rest = (count - 1) + sum/e^m, the loss is
 *    (m - z_y) + log1p(rest), a sum of terms >= 0, in which no digit of a small loss can cancel. In the one pass the
 *    target is left out instead, which serves as well: only where it leads is rest small in a loss that is small.
 * E. Everything that is one number per row is float64: e^z, logarithms and divisions for a batch of rows in lanes
 *    (complete.h), the options in rows/losses.c, once for all ISAs and dtypes. Where rows are float64 themselves, a
 *    number that float64 rounds is a pair, itself and what it is short of, until it is that of a result.
 * F. With few classes, or rows that lie side by side, the lanes are rows (columns.h, rows/by_tiles.c): a vector of 10
 *    classes would be two thirds full and end in a horizontal sum, and a class axis that is not last would have every
 *    row copied. Row by row, either takes twice as long. Where targets are classes, everything between a tile's logits
 *    and its results stays in lanes (near.h), and where all its logits lie near 0 no row needs an anchor, with the same
 *    bits: its power of 2 moves exponents alone.
 * G. A sum of e^z is off by little beside the half ulp of a result. What costs e^z most is adding its two parts
 *    (math/exp.h). So where a sum may be that of a few classes, the parts go into it apart, the larger one without
 *    rounding (math/exp_sum.h): in tiles, in rows of a few hundred classes (FEW), and in rows done again. In longer rows
 *    e^z is added in lanes, and only the lanes in which much of the sum lies are added again, by its parts, or all where
 *    all hold the same numbers (rows.h, pass_rounded). Nor is lse rounded for log-softmax: it is subtracted from z in two
 *    steps, as a pair. */
#ifndef BLOCKS_H
#define BLOCKS_H

#include "blocks/batch.h"
#include "blocks/prefetch.h"
#include "math/anchor.h"
#include "math/compensated.h"
#include "math/transform_numbers.h"
#include "types.h"

/* What is subtracted from p in a gradient row: scale * w_c * (keep * q_c + floor). */
typedef struct {
    const void *q;    /* IN (n,) float32 for 16-bit and float32 logits, else float64; NULL: q = 0 */
    const void *w;    /* IN (n,) as q; NULL: w = 1 */
    double keep, floor, scale;
} subtrahend;

/* A row of a Hessian that is being written (hessians.h): of p = unit e^x at the anchor. */
typedef struct {
    const void *x;       /* IN (n,), or NULL where kept is not: */
    const void *kept;    /* IN (n,) the e^x at the anchor, times EXP_SCALE */
    anchor at;
    double unit, factor, second, at_top, least;
    double of_vector, mean;    /* of a product: the vector's number for the class at the maximum; the mean over it */
    void *out;                 /* OUT (n,) */
    int bypass;                /* the caches */
    ptrdiff_t n, done;
} hessian_row;

/* A row of the gradient that is being written: factor 2^power e^x - s, and one class with a value of its own. The
 * power is apart since AVX-512 has an instruction for it, and a product that is no normal number takes several times
 * as long as another. */
typedef struct {
    const void *x;       /* IN (n,), or NULL where kept is not: */
    const void *kept;    /* IN (n,) the e^x at the anchor, times EXP_SCALE */
    anchor at;
    double factor, power;
    subtrahend s;
    ptrdiff_t entry;     /* that class, or -1 */
    double value;
    void *out;           /* OUT (n,) */
    int bypass;          /* the caches */
    ptrdiff_t n, done;
    hessian_row *beside; /* what is written as far as this is, or NULL */
} gradient_job;

/* Rows whose gradient is written while others are read: a core that does both at once loses the time of neither. */
typedef struct {
    gradient_job *next, *end;
} gradient_queue;

/* The largest term of a weighted sum, about: weight m 2^e with 1 <= |m| < 2, times e^z. Two numbers, since at z = 1e300
 * one would have lost e. */
typedef struct {
    double z, e;
} top_term;

static inline int is_above(top_term a, top_term b) { return a.z - b.z > (b.e - a.e) * LN2; }

/* NEAR: every logit of a tile lies where e^z needs no anchor. FAR: some row of it has a shift. NOWHERE: some row is
 * undefined, with an infinite maximum. */
typedef enum { NEAR, ANYWHERE, FAR, NOWHERE } where_rows_lie;

/* What diagonals of Hessians are made of in each lane's row (rows/hessians.c). */
typedef struct {
    double unit[BATCH], of_e[BATCH], second[BATCH], at_top[BATCH], least[BATCH];    /* of_e: unit times factor */
} tile_hessians;

/* The rows of a tile, every lane of it, whose targets are classes with at most a weight, or that have none (near.h). */
typedef struct {
    int results;                 /* gradients or a softmax, */
    int in_tile;                 /* made of e^z that the tile keeps */
    int suited;                  /* the lanes have room for its gradients, and a logsumexp is finite */
    const int64_t *y;            /* IN the classes, or NULL */
    int has_ignored;
    double ignored;
    const double *own, *v;       /* IN the weight of the target's class, and of the row; NULL: 1 */
    const double *scale;         /* IN of the gradient */
    double *factor, *value;      /* OUT what e^z is multiplied by, the gradient at y */
    double *loss;                /* OUT, or NULL */
    tile_hessians *hess;         /* OUT, or NULL */
    double hess_by;              /* a diagonal's factor over the gradient's; of an upper bound, which has none, 0: */
    double bound_by;             /* that of the bound */
    const double *least;         /* IN no entry of a diagonal is below, where its row counts */
} usual_rows;

/* Of each element of rows in a run, as many as there are lanes: its row and its class, of the lanes' type or as wide. */
typedef struct {
    const void *rows, *class_numbers;
} run_pattern;

/* What has arrived at the log-softmax of a row: the sum of g, but of the class that leads (where x = top) alone. Without
 * x no class leads. */
typedef struct {
    compensated others;
    double leader, size;    /* size: the sum of |g| of the others, unless they were added up exactly */
} arrived;

/* What the backward of a log-softmax makes of a row: g - factor e^x, but at the classes where x = top: there g - at_top,
 * or for the one that leads at_top alone. */
typedef struct {
    anchor at;
    double factor, top, at_top;
    int leads;
} moved;

/* What the numbers of a row take from a block (numbers.h). */
typedef struct {
    compensated sum;      /* of e^x, but for the class at the maximum */
    double far;           /* of e^x (max - x) */
    double squares;       /* of unit (e^x)^2, but for that class; with a unit of 0 there are none */
    ptrdiff_t counted;    /* how many are above the target */
    double top;           /* the maximum of this block, where that is above the one that was given, */
    ptrdiff_t leader;     /* and where it is then */
} block_look;

/* Whether a maximum that a block has raised has no shift, and is not so far above the last one that e^x has no room at its
 * anchor, or that what the sums were about is most of e^x (max - x). */
static inline int is_usual_raise(const block_look *b, double max)
{
    const double raise = b->top - max;
    return !(raise > 0) || (raise < 20 && b->top <= anchor_limit(0) && b->far >= raise * b->sum.sum / 2);
}

typedef enum { NOT_COUNTED, ABOVE, NOT_BELOW } counted_above;

/* So far below the maximum that e^x is 0, and max - x finite; and never the maximum, whose ulp may be larger than that. */
static inline double far_below(double max, int is_f64)
{
    const double least = is_f64 ? 1500 : 250, ulp = fabs(max) * (is_f64 ? 0x1p-52 : 0x1p-23);
    return max - (least < ulp ? ulp : least);
}

/* The gradient of a row's log-probability and entropy: factor e^x (slope (max - x) + level), but at_max at the maximum,
 * where level may be far below slope, and value at the target. */
typedef struct {
    anchor at;
    double max, factor, slope, level, at_max, value;
} log_probs_job;

/* What a distillation is of: KL(p_t || p_s), KL(p_s || p_t), or the two over their mixture (rows/distillation.c). */
typedef enum { FORWARD_KL, REVERSE_KL, JENSEN_SHANNON } distillation_kind;

/* A row of logits x and its teacher's q, both over T (distilled.h). */
typedef struct {
    distillation_kind kind;
    double inverse, beta;              /* 1 / T */
    double max_x, max_q, k;            /* what is taken off the logits first; e^((z - max)/T) is held 2^(-k) times */
    double base, base_error;           /* x - q of one class, exactly */
    double ratio;                      /* e^x as it is held times this is e^q as that is times e^gap */
    double shift;                      /* d_c is (x_c - q_c - base) / T - shift */
    double unit_x, unit_q;             /* what e^x and e^q as they are held are a probability times */
    double loss, scale;                /* what the gradient takes off, and is multiplied by */
} distilled;

typedef struct {
    compensated of_x, of_q, shift;
} distilled_totals;

/* What is kept of each class beside e (distilled_quick.h): nothing; e (e^d - 1), e d, or e^(b/T). */
typedef enum { KEEP_NOTHING, KEEP_MOVED, KEEP_TERM, KEEP_OTHER } kept_number;

/* Two rows in float32 lanes: d = (b - a - base) / T. */
typedef struct {
    double inverse, base;    /* 1 / T */
    double ratio;            /* e^(b/T) at its anchor times this is e^(a/T) at its own times e^d */
    const transform_numbers *numbers; /* of 1 / T */
    anchor of_a, of_b;
    kept_number keeps;
    int far; /* the sums are those of e d T, and of e^(b/T), not of phi; and so is what is kept of them */
    int coarsely; /* over the mixture (quick_shares) */
    int carefully; /* with what b - a is rounded by; else the base is 0 */
    int masked;    /* rows far from each other may be -inf in one class */
} quick_pair;

/* A row of such a gradient, m of_m + e of_e, which is written while another is read. */
typedef struct {
    const f32 *m, *e; /* IN (n,) */
    void *out; /* OUT (n,) */
    double of_m, of_e;
    ptrdiff_t n, done;
    int bypass; /* the caches */
} quick_job;

typedef struct {
    double e, moved, phi; /* the sums of e, e d, e (e^d - 1 - d), or of e^(b/T) */
    double other;         /* of e^(b/T), where that is kept */
    double max_a, max_b; /* -inf where too large ones make a sum infinite */
} quick_totals;

/* Terms of a series in D^2 that is off by 2^-25 of its value at most up to there. Beyond, less than two digits of a binary
 * number are lost. */
#define QUICK_TERMS 6
#define MIXTURE_NEAR 1.5

/* Of a mixture: d - shift is D = log p_b - log p_a, and the number kept times of_b is to beta p_b as e is to
 * (1 - beta) p_a. */
typedef struct {
    double shift, of_b, beta;
    int coarsely; /* no row that is near the other one */
    /* For |D| <= MIXTURE_NEAR, even and odd powers of D, the lowest first: K / D^2 with K = beta D e^D / w - log w and
     * w = 1 - beta + beta e^D; and (log w) / D. */
    f32 both[QUICK_TERMS], both_odd[QUICK_TERMS], own[QUICK_TERMS], own_odd[QUICK_TERMS];
} quick_shares;

typedef struct {
    double both, own;
} quick_mixed;

/* The functions of one ISA for one element type; x and out are contiguous blocks of n elements. kept and tiles are
 * of the lanes' type (float32 for 16-bit elements). */
typedef struct {
    int lanes;
    double tile_scale; /* columns_sum leaves e^x times this in a tile (EXP_SCALE) */
    void (*fill)(void *out, ptrdiff_t n, double value, int bypass); /* vectors.h */
    /* rows.h */
    double (*max)(const void *x, ptrdiff_t n); /* NaN where any is NaN */
    compensated (*sum)(const void *x, ptrdiff_t n, anchor at, double max, ptrdiff_t *ties); /* of e^x, x < max */
    compensated (*pass)(const void *x, ptrdiff_t n, anchor at, ptrdiff_t y, void *kept, gradient_queue *queue,
                        const lie_of_rows *lie, double *max); /* of e^x but class y */
    void (*arriving)(const void *g, const void *x, ptrdiff_t n, double top, int exactly, arrived *sums);
    void (*spread)(const void *x, ptrdiff_t n, double from, subtrahend s, double *mass, double *distance);
    void (*gradient)(gradient_job *job, ptrdiff_t n); /* the next n elements, about */
    /* bypass: write by stores that bypass the caches */
    void (*log_softmax)(const void *x, ptrdiff_t n, double max, double log_sum, double off, void *out, int bypass);
    void (*log_softmax_backward)(const void *x, const void *g, ptrdiff_t n, const moved *m, void *out, int bypass);
    /* numbers.h */
    double (*top)(const void *x, ptrdiff_t n); /* of what is a number */
    ptrdiff_t (*place)(const void *x, ptrdiff_t n, double value); /* of the first that is value, or n */
    ptrdiff_t (*above)(const void *x, ptrdiff_t n, double value, int ties); /* how many; with ties, at it too */
    int (*look)(const void *x, ptrdiff_t n, anchor at, double max, int is_known, ptrdiff_t leave, double target,
                counted_above counts, double unit, int *guards, lie_of_rows lie,
                block_look *found); /* of at most BLOCK */
    void (*log_probs_gradient)(const void *x, ptrdiff_t n, const log_probs_job *job, ptrdiff_t entry, void *out,
                               int bypass);
    /* weighted.h: raises top to what the block has, 0 where a term is NaN or a weight infinite; adds the terms over top */
    int (*weighted_max)(const void *x, const double *weights, ptrdiff_t n, top_term *top);
    void (*weighted_sum)(const void *x, const double *weights, ptrdiff_t n, top_term top, compensated *sum);
    /* hessians.h, hessian_columns.h */
    void (*hessian)(hessian_row *r, ptrdiff_t end); /* up to there, about; all where that is n */
    void (*vector_at_top)(const void *x, const void *vector, ptrdiff_t n, double top, double *sum, ptrdiff_t *count);
    void (*vector_sum)(const hessian_row *r, const void *vector, ptrdiff_t n, compensated *sum);
    void (*hessian_product)(const hessian_row *r, const void *vector, ptrdiff_t n, void *out, int bypass);
    void (*columns_hessian)(const void *tile, ptrdiff_t classes, const tile_hessians *h, void *to);
    /* distilled.h */
    void (*distilled_sums)(const void *x, const void *q, ptrdiff_t n, const distilled *r, distilled_totals *totals);
    void (*distilled_terms)(const void *x, const void *q, ptrdiff_t n, const distilled *r, compensated *sums);
    void (*distilled_gradient)(const void *x, const void *q, ptrdiff_t n, const distilled *r, void *out, int bypass);
    /* distilled_quick.h; NULL where rows are float64, or e^z has no table. m and e: OUT (n,), or NULL */
    void (*quick_sums)(const void *a, const void *b, ptrdiff_t n, const quick_pair *r, quick_totals *totals, void *m,
                       void *e, quick_job *job);
    void (*quick_mixture)(const void *a, const void *b, ptrdiff_t n, const quick_pair *pair, const quick_shares *of,
                          void *m, const void *e, quick_mixed *totals);
    void (*quick_gradient)(quick_job *job, ptrdiff_t n);
    /* transformed.h: as pass, of logits that are scaled and capped; what is kept is times their slope over the scale, the
     * maximum is that of the logits as they are. NULL for float64. */
    compensated (*transformed_sum)(const void *x, ptrdiff_t n, anchor at, const transform_numbers *numbers, ptrdiff_t y,
                                   void *kept, gradient_queue *queue, lie_of_rows lie, double *max);
    /* tile.h */
    void (*tile_rows)(char *const *from, ptrdiff_t rows, ptrdiff_t classes, void *tile);
    void (*tile_columns)(const void *from, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t classes, void *tile);
    void (*untile_rows)(const void *tile, ptrdiff_t rows, ptrdiff_t classes, char *const *to);
    void (*untile_columns)(const void *tile, ptrdiff_t rows, ptrdiff_t classes, void *to, ptrdiff_t stride, int bypass);
    /* columns.h */
    void (*columns_max)(const void *tile, ptrdiff_t classes, batch *b);
    void (*columns_sum)(void *tile, ptrdiff_t classes, double headroom, double limit, int keeps, batch *b);
    void (*columns_spread)(const void *tile, const void *q_tile, ptrdiff_t classes, const double *w, double keep,
                           double floor, const batch *b, double *mass, double *distance);
    void (*columns_gradient)(void *tile, const void *q_tile, ptrdiff_t classes, const double *factor,
                             const double *scale, const double *y, const double *value, const void *weights,
                             double keep, double floor);
    void (*columns_log_softmax)(void *tile, ptrdiff_t classes, const batch *b);
    /* as columns_sum, and far, the sum of e^x (max - x); that of 2^-headroom (e^x)^2 below the maximum, or squares is NULL;
     * the first class at the maximum; how many lie above class y, whose logits are the batch's z */
    void (*columns_look)(const void *tile, ptrdiff_t classes, double headroom, double limit, const double *y, batch *b,
                         double *far, double *squares, double *largest, double *above);
    /* near.h */
    where_rows_lie (*near_sums)(void *tile, ptrdiff_t classes, const usual_rows *u, batch *b);
    void (*near_numbers)(usual_rows *u, batch *b, ptrdiff_t tiles);
    void (*near_gradient)(void *tile, ptrdiff_t classes, const usual_rows *u);
    /* runs.h; near_gradient_run is NULL where e^z once more takes longer than the way out of a tile: without a table */
    void (*tile_run)(const void *from, ptrdiff_t classes, void *tile);
    void (*untile_run)(const void *tile, ptrdiff_t classes, void *to);
    void (*pattern_of)(ptrdiff_t classes, void *rows, void *class_numbers);
    void (*near_gradient_run)(const void *x, ptrdiff_t classes, const usual_rows *u, run_pattern of, void *out,
                              void *hess, int bypass); /* hess: OUT, or NULL */
    void (*near_log_softmax_run)(const void *x, ptrdiff_t classes, const batch *b, run_pattern of, void *out,
                                 int bypass);
} block_functions;

/* Up to here all of a row's |(x - q - base) / T| must be for the sum of distilled_sums' shift. */
#define DISTILLED_NEAR 0.5

#define STREAM_ROW 16384 /* elements: what streams are split between threads by */

/* What the machine's memory is measured with (streams.h), over n elements of float32, n a multiple of STREAM_ROW. */
typedef struct {
    double (*read)(const f32 *x, ptrdiff_t n); /* the sum */
    void (*copy)(const f32 *x, ptrdiff_t n, f32 *out, int bypass); /* out = x */
    void (*combine)(const f32 *x, const f32 *q, ptrdiff_t n, f32 *out, int bypass); /* out = x + q */
    void (*scale)(f32 *x, ptrdiff_t n, double by); /* x *= by, which a compiler must not know to be 1 */
} stream_functions;

#define BINARY_MULTIPLE 16 /* of what losses of one logit are worked on at a time */

/* Losses of one logit each (binary.h), over n contiguous numbers of float32 or float64, n a multiple of that. */
typedef struct {
    const void *z, *t; /* IN (n,) logits, targets */
    const void *weight, *pos_weight, *grad_output; /* IN (n,), or NULL: the same for all */
    double weight_of_all, pos_weight_of_all, grad_output_of_all;
    double alpha, gamma; /* below 0, and 0: none */
    void *loss, *grad; /* OUT (n,) or NULL */
    int bypass; /* the caches: both are aligned */
} binary_block;

typedef struct {
    double (*f32)(const binary_block *b, ptrdiff_t n); /* the sum of the losses */
    double (*f64)(const binary_block *b, ptrdiff_t n);
} binary_functions;

typedef struct {
    const char *name;
    void (*fence)(void); /* after a thread's last store that bypasses the caches */
    /* scan.h */
    ptrdiff_t (*scan)(const void *targets, int size, ptrdiff_t n, int64_t classes, int has_ignored, int64_t ignored);
    ptrdiff_t (*tally)(const void *targets, int size, ptrdiff_t n, int8_t y);
    void (*complete)(batch *b, ptrdiff_t rows, int targets, int is_f64); /* targets: own and p count */
    /* transform_f64.h: z becomes c tanh(a z / c), or a z where c is 0; slope, or NULL: 1 - tanh^2 */
    void (*transform)(f64 *z, ptrdiff_t n, double a, double c, f64 *slope);
    const block_functions *of[4]; /* by element */
    const stream_functions *streams;
    const binary_functions *binary;
} isa_table;

extern const isa_table isa_base, isa_avx2, isa_avx512, isa_neon;

/* dispatch.c: the table by name, NULL where this CPU or this build lacks it. */
const isa_table *isa_select(const char *name);

#endif
