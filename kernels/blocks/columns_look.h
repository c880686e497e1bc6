/* The work of numbers.h on a tile, where what is one number of a row is a lane. unit.h includes this once for each
 * REAL, after columns.h. */
#include <math.h>

#include "blocks/blocks.h"
#include "math/exp_sum.h"
#include "math/lane_total.h"
#include "simd/simd.h"

typedef struct {
    EXP_SUM sum;
    lane_total_f64 far[WIDE];
    vec_f64 squares[WIDE];
    vec below, first, above;
} NAME_R(column_looks);

/* From the last class to the first, so that the first at the maximum is the last that is met. */
SIMD void NAME_R(columns_look_as)(const REAL *x, ptrdiff_t classes, vec top, EXP_FRAME f, vec y, vec of_y,
                                  NAME_R(column_looks) * p, int shifts, double unit)
{
    const vec zero = v_set1(0), one = v_set1(1);
    /* as far_below */
    const vec ulp = v_mul(v_max(top, v_sub(zero, top)), v_set1(WIDE == 1 ? 0x1p-52 : 0x1p-23));
    const vec least = v_sub(top, v_max(ulp, v_set1(WIDE == 1 ? 1500 : 250)));
    p->sum = exp_sum_of_none();
    for (int u = 0; u < WIDE; ++u) p->far[u] = lane_total_of_none_f64(), p->squares[u] = v_set1_f64(0);
    p->below = p->first = p->above = zero;
    for (ptrdiff_t c = classes; c > 0;) {
        const ptrdiff_t end = c < CHUNK_VECTORS ? 0 : c - CHUNK_VECTORS;
        while (c > end) {
            --c;
            const vec given = v_load_real(x + c * LANES), z = v_max(least, given), number = v_set1((REAL)c);
            const mask is_below = v_unequal(given, top);
            vec q;
            const vec high = v_exp_parts(shifts ? v_sub(z, f.shift) : z, f, &q);
            for (int u = 0; u < WIDE; ++u) {
                const vec_f64 power = v_widen(high, u), more = v_widen(q, u);
                const vec_f64 term = v_mul_f64(power, v_sub_f64(v_widen(top, u), v_widen(z, u)));
                if (WIDE == 1) {
                    lane_total_add_f64(&p->far[u], term);
                    lane_total_add_f64(&p->far[u], v_mul_f64(term, more));
                } else p->far[u].sum = v_fma_f64(term, more, v_add_f64(p->far[u].sum, term));
            }
            const vec others = v_only_where(is_below, high);
            exp_sum_add(&p->sum, 0, others, q);
            for (int u = 0; unit != 0 && u < WIDE; ++u) {
                const vec_f64 power = v_widen(others, u), e = v_fma_f64(power, v_widen(q, u), power);
                p->squares[u] = v_fma_f64(v_mul_f64(e, v_set1_f64(unit)), e, p->squares[u]);
            }
            p->below = v_add_where(is_below, p->below, one);
            p->first = v_where(is_below, p->first, number);
            p->above = v_add_where(v_less(of_y, given), p->above, one);
            p->above = v_add(p->above, v_only_where(v_equal(given, of_y), v_only_where(v_less(number, y), one)));
        }
        exp_sum_end_chunk(&p->sum);
    }
}

/* As columns_sum, whose numbers of the batch these are, too; far is the sum of e^x (max - x) in units of the sum;
 * squares, unless NULL, that of 2^-headroom (e^x)^2 over what lies below the maximum;
 * largest the first class at the maximum; above how many classes lie above class y, whose logit is the batch's z: those
 * with a larger one, and with the same one before it. */
static void NAME_R(columns_look)(const void *tile, ptrdiff_t classes, double headroom, double limit, const double *y,
                                 batch *b, double *far, double *squares, double *largest, double *above)
{
    const vec zero = v_set1(0), magic = v_set1(2 * EXP_CONSTANTS.magic);
    vec top = NAME_R(lanes_of)(b->max);
    top = v_zero_where(v_nan(top), top);
    /* as anchor_at */
    const mask beyond = v_less(v_set1((REAL)limit), v_max(top, v_sub(zero, top)));
    const vec shift = v_where(beyond, top, zero);
    const vec exponent = v_sub(v_fma(v_sub(top, shift), v_set1(EXP_CONSTANTS.log2e), magic), magic);
    const vec k = v_sub(exponent, v_set1((REAL)headroom));
    const EXP_FRAME f = frame_of(shift, k);
    const vec ys = NAME_R(lanes_of)(y), of_y = NAME_R(lanes_of)(b->z);
    NAME_R(column_looks) p;
    if (squares) NAME_R(columns_look_as)(tile, classes, top, f, ys, of_y, &p, 1, WIDE == 1 ? 0x1p-512 : 0x1p-64);
    else if (mask_count(beyond)) NAME_R(columns_look_as)(tile, classes, top, f, ys, of_y, &p, 1, 0);
    else NAME_R(columns_look_as)(tile, classes, top, f, ys, of_y, &p, 0, 0);
    for (int u = 0; squares && u < WIDE; ++u)
        store_f64(squares + u * LANES_f64, v_mul_f64(p.squares[u], v_set1_f64(1 / (EXP_SCALE * EXP_SCALE))));
    exp_sum_store(&p.sum, b->sum, b->sum_error);
    for (int u = 0; u < WIDE; ++u) {
        const vec_f64 sum = WIDE == 1 ? lane_total_values_f64(p.far[u]) : p.far[u].sum;
        store_f64(far + u * LANES_f64, v_mul_f64(sum, v_set1_f64(1 / EXP_SCALE)));
    }
    NAME_R(store_lanes)(b->base, v_sub(v_sub(v_set1((REAL)classes), p.below), v_set1(1)));
    NAME_R(store_lanes)(b->own, zero);
    NAME_R(store_lanes)(b->shift, shift);
    NAME_R(store_lanes)(b->k, k);
    NAME_R(store_lanes)(largest, p.first);
    NAME_R(store_lanes)(above, p.above);
}
