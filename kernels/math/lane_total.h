/* Sums that go on where lanes would round too much: float32 lanes in float64, float64 lanes with the error of each
 * sum. lane_total is that of REAL. */
#ifndef LANE_TOTAL_H
#define LANE_TOTAL_H

#include "math/compensated.h"
#include "simd/simd.h"

typedef struct {
    vec_f64 low, high;
} lane_total_f32;
typedef struct {
    vec_f64 sum, error;
} lane_total_f64;

SIMD lane_total_f32 lane_total_of_none_f32(void)
{
    const lane_total_f32 t = {v_set1_f64(0), v_set1_f64(0)};
    return t;
}
SIMD lane_total_f64 lane_total_of_none_f64(void)
{
    const lane_total_f64 t = {v_set1_f64(0), v_set1_f64(0)};
    return t;
}

SIMD void lane_total_add_f32(lane_total_f32 *t, vec_f32 a)
{
    t->low = v_add_f64(t->low, v_widen_low_f32(a));
    t->high = v_add_f64(t->high, v_widen_high_f32(a));
}

SIMD void lane_total_add_f64(lane_total_f64 *t, vec_f64 a)    /* as compensated_add */
{
    const vec_f64 sum = v_add_f64(t->sum, a), kept = v_sub_f64(sum, t->sum);
    const vec_f64 lost = v_add_f64(v_sub_f64(t->sum, v_sub_f64(sum, kept)), v_sub_f64(a, kept));
    t->error = v_add_f64(t->error, lost);
    t->sum = sum;
}

SIMD double lane_total_value_f32(lane_total_f32 t) { return v_sum_f64(v_add_f64(t.low, t.high)); }

SIMD compensated lane_total_exact_f32(lane_total_f32 t)
{
    const compensated c = {lane_total_value_f32(t), 0};
    return c;
}

SIMD compensated lane_total_exact_f64(lane_total_f64 t)
{
    f64 sums[LANES_f64], errors[LANES_f64];
    compensated c = {0, 0};
    store_f64(sums, t.sum);
    store_f64(errors, t.error);
    for (int i = 0; i < LANES_f64; ++i) compensated_add(&c, sums[i]);
    for (int i = 0; i < LANES_f64; ++i) c.error += errors[i];
    if (!isfinite(c.sum)) c.error = 0;    /* that of an infinite sum is NaN */
    return c;
}

/* Half a kilobyte, of which there is one copy for what ends a block. */
NOT_INLINED static double lane_total_value_f64(lane_total_f64 t) { return compensated_value(lane_total_exact_f64(t)); }

/* The sum of each lane apart; the error of an infinite sum is NaN. */
SIMD vec_f64 lane_total_values_f64(lane_total_f64 t)
{
    return v_add_f64(t.sum, v_zero_where_f64(v_nan_f64(t.error), t.error));
}
/* The sum of each lane, and apart from it what it is short of. */
SIMD void lane_total_store_f32(lane_total_f32 t, double *sums, double *errors)
{
    store_f64(sums, t.low);
    store_f64(sums + LANES_f64, t.high);
    store_f64(errors, v_set1_f64(0));
    store_f64(errors + LANES_f64, v_set1_f64(0));
}
SIMD void lane_total_store_f64(lane_total_f64 t, double *sums, double *errors)
{
    store_f64(sums, t.sum);
    store_f64(errors, v_zero_where_f64(v_nan_f64(t.error), t.error));
}

#define lane_total PASTE(lane_total, REAL)
#define lane_total_of_none PASTE(lane_total_of_none, REAL)
#define lane_total_add PASTE(lane_total_add, REAL)
#define lane_total_exact PASTE(lane_total_exact, REAL)
#define lane_total_value PASTE(lane_total_value, REAL)
#define lane_total_store PASTE(lane_total_store, REAL)

#endif
