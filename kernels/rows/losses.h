/* What by_rows.c (rows in blocks) and by_tiles.c (rows side by side) share: the numbers of a row, with every option in
 * them. With lse = log sum e^z, p = e^(z - lse), a row weight v and a scale g:
 *
 *   index target y              loss = v [(1-eps) w_y (lse - z_y) + eps/C sum w_c (lse - z_c) + lambda lse^2]
 *                               grad = g v [a p_c - b delta_cy - d w_c],  a = (1-eps) w_y + eps/C W + 2 lambda lse,
 *                                                                         b = (1-eps) w_y,  d = eps/C,  W = sum w_c
 *   probability target q        q' = (1-eps) q + eps/C
 *                               loss = v [sum w_c q'_c (lse - z_c) + lambda lse^2]
 *                               grad = g v [a p_c - w_c q'_c],            a = sum w_c q'_c + 2 lambda lse
 *
 * The logits are those that the options make of what was given (logits.c); g is times the slope of that, of which
 * logit_scale is in the gradients here. focal multiplies all but the z-loss by f = (1 - p_y)^gamma, and with D the sum of
 * t_c (lse - z_c) and h = gamma (1 - p_y)^(gamma-1) p_y D
 *                               grad = g v [a p_c - f t_c - h delta_cy],  a = f sum t_c + h + 2 lambda lse
 *
 * Everything is taken relative to the maximum m: lse = m + log_sum, and sum t_c (lse - z_c) = mass log_sum +
 * distance with distance = sum t_c (m - z_c) >= 0, so that large logits cancel nowhere. */
#ifndef LOSSES_H
#define LOSSES_H

#include <math.h>

#include "blocks/blocks.h"
#include "math/anchor.h"
#include "rows/task.h"

static inline double times(double weight, double a) { return weight == 0 ? 0 : weight * a; }    /* 0 times inf is 0 */

/* A gradient on a logit that was transformed, from that on what it became: 0 where an infinite one stays what it is. */
static inline double sloped(double slope, double grad) { return slope == 0 && isinf(grad) ? 0 : slope * grad; }

/* Headroom for the sum: e^max at 2^64 (float32; guessed anchors put it at 2^43 to 2^122) leaves normal numbers down
 * to e^max 2^-190 (2^-169) and sums of 2^60 classes in range; 2^512 (2^367 to 2^945) does so for float64. What lies
 * below counts as 0: no float32 result shows it, unless it is then multiplied by more than 2^20, or raised to a power
 * (lacks_rest). */
static inline double sum_headroom(int is_f64) { return is_f64 ? 512 : 64; }

/* What e^z is multiplied by before it is squared, so that this has the room that the sum has: 2^-headroom. */
static inline double square_unit(int is_f64) { return is_f64 ? 0x1p-512 : 0x1p-64; }

/* The targets of a batch. In arrays by field: structures of a row each, copied as a whole, wait for the stores of
 * their parts. */
typedef struct {
    double v[BATCH]; /* row weight */
    int64_t y[BATCH]; /* index target, or -1, also where it lies in another block of classes */
    int skipped[BATCH]; /* ignored, or v = 0: never read */
    int bad[BATCH]; /* a target that is no class, let through by check=False or changed since the scan */
    int any_unread; /* one is skipped or bad */
} row_targets;

/* Rows that are worked on together, from their targets to their losses and gradients. */
typedef struct {
    ptrdiff_t row, rows; /* the first one, and how many */
    batch b;
    row_targets r;
    double mass[BATCH], distance[BATCH]; /* sum of t_c, sum of t_c (max - z_c) */
} row_batch;

/* The targets of the rows. */
void find_targets(const task *t, row_batch *n);

/* Smoothing and probability targets sum over the classes once more: mass and distance. */
static inline int has_spread(const task *t)
{
    const int wanted = t->work == FORWARD || t->work == FORWARD_BACKWARD ||
                       (t->work == BACKWARD && t->options.focal != 0);
    return wanted && (!t->targets.data || t->options.label_smoothing > 0);
}

/* Whether a row's rest lacks digits that float32 lanes counted as 0 (sum_headroom), and that (1 - p_y)^gamma shows: where y
 * leads, and all else lies far below. It may be a block of a row whose options come once the blocks are merged. */
static inline int lacks_rest(const task *t, const row_batch *n, ptrdiff_t i)
{
    return (t->options.focal != 0 || t->parts) && t->work != BACKWARD && t->classes > 1 && !n->r.skipped[i] &&
           n->b.z[i] == n->b.max[i] && n->b.rest[i] < (double)t->classes * 0x1p-138;
}

/* That row's numbers with a rest found elsewhere, from which all others come again (complete). */
static inline void set_rest(batch *b, ptrdiff_t i, double rest)
{
    b->base[i] = rest;
    b->sum[i] = b->sum_error[i] = b->own[i] = 0;
}

/* A row that is not read: nothing in it may be NaN but what it is told to be. */
void set_unread(batch *b, ptrdiff_t i, double max);

/* What backward starts from, out of the statistics of row i of these; not the anchor. */
void restore(const task *t, row_batch *n, ptrdiff_t i);

/* One number of each row into the task's: the logsumexp, or the loss, and with it the statistics that backward needs;
 * mass becomes that of the gradient. */
void find_losses(const task *t, row_batch *n);

/* The statistics of the rows, into the task's; and what they are made of in a block of classes. */
void keep_statistics(const task *t, const row_batch *n);
void keep_parts(const task *t, const row_batch *n);

/* eps / C. */
static inline double floor_of(const task *t)
{
    const row_options *o = &t->options;
    return o->label_smoothing / (double)(o->all_classes ? o->all_classes : t->classes);
}

/* grad_c = factor p_c - scale t_c, but value at an index target. All 0 for a row that is not read, or NaN; returns
 * whether there is such a row. */
typedef struct {
    double factor[BATCH], scale[BATCH], value[BATCH];
} row_gradients;

int find_gradients(const task *t, const row_batch *n, row_gradients *g);

/* t_c = w_c (keep q_c + floor): probability targets as they come are smoothed here; for index targets this is eps/C
 * alone. */
subtrahend subtrahend_of(const task *t, double scale);

/* The e^z of the sum can be multiplied by factor * unit as they are: that is a normal number of the lanes, and what
 * the sum counted as 0 (below 2^-126 or 2^-1022, where e^max is at 2^43 or 2^367 or more) shows in no result. */
static inline int suits_kept(int is_f64, double factor, double unit)
{
    return (factor == 0) | ((fabs(factor) <= 0x1p20) & (fabs(factor * unit) >= (is_f64 ? 0x1p-1022 : 0x1p-126)));
}

/* What a grad_output or a class weight takes out of the lanes' range, where they would find inf - inf or 0 inf
 * instead of the sign of the infinity, or lose digits to subnormals. Up to here float32 results are right down to
 * the subnormals: 88 + 32 bits stay below 2^120, and where m was subtracted, e^(m/2 - m) 2^35 stays below the
 * smallest number. Loss scaling in half precision goes to 2^24. */
static inline int is_beyond(int is_f64, double max, double factor, double scale)
{
    if (is_f64) return isinf(factor);
    return fabs(factor) > (fabs(max) > anchor_limit(is_f64) ? 0x1p35 : 0x1p88) || fabs(scale) > 0x1p100 ||
           (scale != 0 && fabs(scale) < 0x1p-100);
}

#endif
