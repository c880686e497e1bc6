/* What drivers.c (rows in blocks) and tiles.c (rows side by side) share: the few numbers of a row that carry every option. */
#ifndef DRIVERS_H
#define DRIVERS_H

#include "anchor.h"
#include "kernels.h"

static inline double times(double weight, double a) { return weight == 0 ? 0 : weight * a; }    /* 0 times inf is 0 */

typedef struct {
    double max;
    double rest;       /* the sum of e^(z - max) over every class but one at the maximum */
    double log_sum;    /* log1p(rest) = lse - max */
} statistics;

/* Headroom for the sum: e^max at 2^64 (float32) leaves normal numbers down to e^max 2^-190 and sums of 2^60 classes in
 * range; 2^512 does so for float64. What lies below counts as 0: no float32 result shows it, unless it is then multiplied
 * by a grad_output past 2^40. */
static inline double sum_headroom(int is_f64) { return is_f64 ? 512 : 64; }

typedef struct {
    double v;        /* row weight */
    int64_t y;       /* index target */
    int skipped;     /* ignored, or v = 0: never read */
    int bad;         /* a target that is no class, let through by check=False or changed since the scan */
} row_target;

row_target target_of(const task *t, ptrdiff_t row);

/* The loss of a row; z is its logit at an index target, mass and distance those of what smoothing or probabilities add. */
double loss_from(const task *t, row_target r, statistics s, double z, double mass, double distance);

/* grad_c = factor e^(z_c - max) - scale t_c, but value at an index target. */
typedef struct { double factor, scale, value; } row_gradient;

row_gradient gradient_from(const task *t, ptrdiff_t row, row_target r, statistics s, double z, double mass);

/* factor e^(z - max) as the block functions take it. The factor's exponent moves into the anchor, where it rounds nothing:
 * a factor of 2^-140 (a small grad_output) would be subnormal in float32, and e^(z-max) below 2^-126 would be lost before
 * a large one. */
typedef struct { anchor at; double factor; } anchored_factor;

anchored_factor anchor_factor(int is_f64, double factor, double max);

/* What a grad_output or a class weight takes out of the lanes' range, where they would find inf - inf or 0 inf instead of
 * the sign of the infinity, or lose digits to subnormals. */
int is_beyond(int is_f64, double max, double factor, double scale);

#endif
