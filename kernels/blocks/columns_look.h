/* The work of numbers.h on a tile, where what is one number of a row is a lane. unit.h includes this once for each
 * REAL, after columns.h. */
#include <math.h>

#include "blocks/blocks.h"
#include "math/exp_sum.h"
#include "math/lane_total.h"
#include "simd/simd.h"

/* As columns_sum, whose numbers of the batch these are, too; far is the sum of e^x (max - x) in units of the sum;
 * largest the first class at the maximum; above how many classes lie above class y, whose logit is the batch's z: those
 * with a larger one, and with the same one before it. */
static void NAME_R(columns_look)(const void *tile, ptrdiff_t classes, double headroom, double limit, const double *y,
                                 batch *b, double *far, double *largest, double *above)
{
    const REAL *x = tile;
    const vec zero = v_set1(0), one = v_set1(1), magic = v_set1(2 * EXP_CONSTANTS.magic);
    vec top = NAME_R(lanes_of)(b->max);
    top = v_zero_where(v_nan(top), top);
    /* as anchor_at */
    const mask beyond = v_less(v_set1((REAL)limit), v_max(top, v_sub(zero, top)));
    const vec shift = v_where(beyond, top, zero);
    const vec exponent = v_sub(v_fma(v_sub(top, shift), v_set1(EXP_CONSTANTS.log2e), magic), magic);
    const vec k = v_sub(exponent, v_set1((REAL)headroom));
    const EXP_FRAME f = frame_of(shift, k);
    const vec least = v_sub(top, v_set1(WIDE == 1 ? 1500 : 250));
    const vec ys = NAME_R(lanes_of)(y), of_y = NAME_R(lanes_of)(b->z);
    EXP_SUM s = exp_sum_of_none();
    lane_total_f64 total[WIDE];
    for (int u = 0; u < WIDE; ++u) total[u] = lane_total_of_none_f64();
    vec below = zero, first = v_set1((REAL)classes), count = zero;
    for (ptrdiff_t c = 0; c < classes;) {
        const ptrdiff_t end = classes - c < CHUNK_VECTORS ? classes : c + CHUNK_VECTORS;
        for (; c < end; ++c) {
            const vec given = v_load_real(x + c * LANES), z = v_max(least, given), number = v_set1((REAL)c);
            const mask is_below = v_unequal(given, top);
            vec q;
            const vec high = v_exp_parts(v_sub(z, f.shift), f, &q);
            for (int u = 0; u < WIDE; ++u) {
                const vec_f64 power = v_widen(high, u), more = v_widen(q, u);
                const vec_f64 term = v_mul_f64(power, v_sub_f64(v_widen(top, u), v_widen(z, u)));
                if (WIDE == 1) {
                    lane_total_add_f64(&total[u], term);
                    lane_total_add_f64(&total[u], v_mul_f64(term, more));
                } else total[u].sum = v_fma_f64(term, more, v_add_f64(total[u].sum, term));
            }
            exp_sum_add(&s, 0, v_only_where(is_below, high), q);
            below = v_add_where(is_below, below, one);
            first = v_min(first, v_where(is_below, v_set1((REAL)classes), number));
            count = v_add_where(v_less(of_y, given), count, one);
            count = v_add(count, v_only_where(v_equal(given, of_y), v_only_where(v_less(number, ys), one)));
        }
        exp_sum_end_chunk(&s);
    }
    exp_sum_store(&s, b->sum, b->sum_error);
    for (int u = 0; u < WIDE; ++u) {
        const vec_f64 sum = WIDE == 1 ? lane_total_values_f64(total[u]) : total[u].sum;
        store_f64(far + u * LANES_f64, v_mul_f64(sum, v_set1_f64(1 / EXP_SCALE)));
    }
    NAME_R(store_lanes)(b->base, v_sub(v_sub(v_set1((REAL)classes), below), one));
    NAME_R(store_lanes)(b->own, zero);
    NAME_R(store_lanes)(b->shift, shift);
    NAME_R(store_lanes)(b->k, k);
    NAME_R(store_lanes)(largest, first);
    NAME_R(store_lanes)(above, count);
}
