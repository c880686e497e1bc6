/* The sum of b e^z for weights b of either sign, in float64 whatever the logits are; unit.h includes this once for each
 * ELEMENT, after vectors.h. What has weight 0 does not count, be it infinite or NaN. */
#include <math.h>

#include "blocks/blocks.h"
#include "math/exp.h"
#include "math/lane_total.h"
#include "math/split_weight.h"
#include "simd/simd.h"

static int NAME(weighted_max)(const void *in, const double *weights, ptrdiff_t n, top_term *top)
{
    const ELEMENT *x = in;
    const vec_f64 zero = v_set1_f64(0), lowest = v_set1_f64(-INFINITY), ln2 = v_set1_f64(LN2);
    vec_f64 z = lowest, e = zero;
    mask_f64 undefined = v_nan_f64(zero);
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec logits = NAME(at)(x, j, n, -INFINITY);
        const ptrdiff_t end = n - j < LANES ? n : j + LANES;
        for (int u = 0; u < WIDE; ++u) {
            const vec_f64 b = weights_at(weights, j + u * LANES_f64, end);
            const mask_f64 none = v_equal_f64(b, zero);
            const vec_f64 here = v_where_f64(none, lowest, v_widen(logits, u));
            vec_f64 power;
            (void)split_weight(b, &power);
            undefined = mask_or_f64(undefined, v_nan_f64(v_add_f64(here, v_sub_f64(b, b)))); /* inf - inf is NaN */
            const mask_f64 above = v_less_f64(v_mul_f64(v_sub_f64(e, power), ln2), v_sub_f64(here, z));
            z = v_where_f64(above, here, z);
            e = v_where_f64(above, power, e);
        }
    }
    double each_z[LANES_f64], each_e[LANES_f64];
    store_f64(each_z, z), store_f64(each_e, e);
    for (int i = 0; i < LANES_f64; ++i) {
        const top_term here = {each_z[i], each_e[i]};
        if (is_above(here, *top)) *top = here;
    }
    return !mask_count_f64(undefined);
}

/* e^(z - top) with the rounding of z - top put right, times m 2^(e - top's e). */
static void NAME(weighted_sum)(const void *in, const double *weights, ptrdiff_t n, top_term top, compensated *sum)
{
    const ELEMENT *x = in;
    const vec_f64 zero = v_set1_f64(0), from = v_set1_f64(top.z), over = v_set1_f64(top.e);
    lane_total_f64 total = {zero, zero};
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec logits = NAME(at)(x, j, n, -INFINITY);
        const ptrdiff_t end = n - j < LANES ? n : j + LANES;
        for (int u = 0; u < WIDE; ++u) {
            const vec_f64 b = weights_at(weights, j + u * LANES_f64, end);
            const mask_f64 none = v_equal_f64(b, zero);
            const vec_f64 z = v_where_f64(none, from, v_widen(logits, u));
            vec_f64 power;
            const vec_f64 m = split_weight(b, &power);
            const vec_f64 y = v_sub_f64(z, from), kept = v_sub_f64(z, y);
            const vec_f64 lost = v_add_f64(v_sub_f64(z, v_add_f64(y, kept)), v_sub_f64(kept, from));
            const vec_f64 off = v_zero_where_f64(v_less_f64(y, v_set1_f64(-0x1p14)), lost); /* NaN at -inf */
            const vec_f64 k = v_sub_f64(over, power);
            const pair e = exp_pair(y, k, frame_of_f64(zero, k)); /* of which e^0 is 1 */
            const vec_f64 term = v_mul_f64(m, e.high), rest = v_fma_f64(term, off, v_mul_f64(m, e.low));
            lane_total_add_f64(&total, v_zero_where_f64(none, term));
            lane_total_add_f64(&total, v_zero_where_f64(none, rest));
        }
    }
    compensated_join(sum, lane_total_exact_f64(total));
}
