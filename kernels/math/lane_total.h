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

SIMD double lane_total_value_f64(lane_total_f64 t)
{
    const compensated c = {v_sum_f64(t.sum), v_sum_f64(t.error)};
    return compensated_value(c);
}

/* The sum of each lane apart. */
SIMD void lane_total_store_f32(lane_total_f32 t, double *to)
{
    store_f64(to, t.low);
    store_f64(to + LANES_f64, t.high);
}
SIMD void lane_total_store_f64(lane_total_f64 t, double *to)    /* the error of an infinite sum is NaN */
{
    store_f64(to, v_add_f64(t.sum, v_zero_where_f64(v_nan_f64(t.error), t.error)));
}

#define lane_total PASTE(lane_total, REAL)
#define lane_total_add PASTE(lane_total_add, REAL)
#define lane_total_value PASTE(lane_total_value, REAL)
#define lane_total_store PASTE(lane_total_store, REAL)

#endif
