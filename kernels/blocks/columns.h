/* The work of rows.h on a tile (tile.h), where what is one number of a row is a lane. unit.h includes this once for
 * each REAL. */
#include <math.h>

#include "blocks/blocks.h"
#include "math/exp_sum.h"
#include "math/lane_total.h"
#include "simd/simd.h"

#define NAME_R(function) PASTE(function, REAL)

SIMD vec NAME_R(lanes_of)(const double *a) { return v_narrow(load_f64(a), load_f64(a + (WIDE - 1) * LANES_f64)); }

SIMD void NAME_R(store_lanes)(double *to, vec a)
{
    for (int u = 0; u < WIDE; ++u) store_f64(to + u * LANES_f64, v_widen(a, u));
}

/* The maximum of each row; NaN where it holds a NaN or +inf, or nothing but -inf. */
static void NAME_R(columns_max)(const void *tile, ptrdiff_t classes, batch *b)
{
    const REAL *x = tile;
    vec m = v_set1(-INFINITY);
    mask undefined = v_nan(v_set1(0));
    for (ptrdiff_t c = 0; c < classes; ++c) {
        const vec z = v_load_real(x + c * LANES);
        undefined = mask_or(undefined, v_nan(z));
        m = v_max(z, m);
    }
    undefined = mask_or(undefined, v_equal(v_max(m, v_sub(v_set1(0), m)), v_set1(INFINITY)));
    NAME_R(store_lanes)(b->max, v_where(undefined, v_set1(NAN), m));
}

/* One class of the tile: to the sum goes what is below the maximum, to the ties what is at it. */
SIMD void NAME_R(column_step)(REAL *x, vec top, EXP_FRAME f, EXP_SUM *s, int u, int keeps, where_rows_lie lie,
                              vec *below)
{
    const vec z = v_load_real(x);
    const mask is_below = v_unequal(z, top);
    vec q;
    const vec high = lie == NEAR ? v_exp_near(z, f, &q) : v_exp_parts(lie == FAR ? v_sub(z, f.shift) : z, f, &q);
    if (keeps) v_store_real(x, v_fma(high, q, high));
    exp_sum_add(s, u, v_only_where(is_below, high), q);
    *below = v_add_where(is_below, *below, v_set1(1));
}

SIMD vec NAME_R(columns_add)(REAL *x, ptrdiff_t classes, vec top, EXP_FRAME f, EXP_SUM *s, int keeps,
                             where_rows_lie lie)
{
    vec below = v_set1(0);
    for (ptrdiff_t c = 0; c < classes;) {
        const ptrdiff_t end = classes - c < CHUNK_VECTORS ? classes : c + CHUNK_VECTORS;
        for (; c + UNROLL <= end; c += UNROLL)
            for (int u = 0; u < UNROLL; ++u) NAME_R(column_step)(x + (c + u) * LANES, top, f, s, u, keeps, lie, &below);
        for (; c < end; ++c) NAME_R(column_step)(x + c * LANES, top, f, s, 0, keeps, lie, &below);
        exp_sum_end_chunk(s);
    }
    return v_sub(v_set1((REAL)classes), below);
}

/* The anchor of each row, from its maximum; the sum of e^x over the classes below that, and how many are at it. With
 * keeps the tile holds e^x, times EXP_SCALE, then. */
static void NAME_R(columns_sum)(void *x, ptrdiff_t classes, double headroom, double limit, int keeps, batch *b)
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
    EXP_SUM s = exp_sum_of_none();
    vec ties;
    if (mask_count(beyond)) ties = NAME_R(columns_add)(x, classes, top, f, &s, keeps, FAR);
    else if (keeps) ties = NAME_R(columns_add)(x, classes, top, f, &s, 1, ANYWHERE);
    else ties = NAME_R(columns_add)(x, classes, top, f, &s, 0, ANYWHERE);
    exp_sum_store(&s, b->sum, b->sum_error);
    NAME_R(store_lanes)(b->base, v_sub(ties, v_set1(1)));
    NAME_R(store_lanes)(b->own, zero);
    NAME_R(store_lanes)(b->shift, shift);
    NAME_R(store_lanes)(b->k, k);
}

/* As spread in rows.h, from the maximum; q is a tile too. */
static void NAME_R(columns_spread)(const void *tile, const void *q_tile, ptrdiff_t classes, const double *w,
                                   double keep, double floor, const batch *b, double *mass, double *distance)
{
    const REAL *x = tile, *q = q_tile;
    const vec_f64 zero = v_set1_f64(0);
    lane_total_f64 masses[WIDE], distances[WIDE];
    for (int u = 0; u < WIDE; ++u) masses[u].sum = masses[u].error = distances[u].sum = distances[u].error = zero;
    for (ptrdiff_t c = 0; c < classes; ++c) {
        const vec z = v_load_real(x + c * LANES), ql = q ? v_load_real(q + c * LANES) : v_set1(0);
        for (int u = 0; u < WIDE; ++u) {
            const vec_f64 target = v_fma_f64(v_widen(ql, u), v_set1_f64(keep), v_set1_f64(floor));
            const vec_f64 t = v_mul_f64(target, v_set1_f64(w ? w[c] : 1));
            const vec_f64 term = v_mul_f64(t, v_sub_f64(load_f64(b->max + u * LANES_f64), v_widen(z, u)));
            lane_total_add_f64(&masses[u], t);
            lane_total_add_f64(&distances[u], v_zero_where_f64(v_equal_f64(t, zero), term));
        }
    }
    for (int u = 0; u < WIDE; ++u) {
        store_f64(mass + u * LANES_f64, lane_total_values_f64(masses[u]));
        store_f64(distance + u * LANES_f64, lane_total_values_f64(distances[u]));
    }
}

/* factor e - scale w (keep q + floor), in place of the e that columns_sum kept; but value in class y. As e is e^x times
 * EXP_SCALE, whoever calls this divides factor by that (tile_scale). */
static void NAME_R(columns_gradient)(void *tile, const void *q_tile, ptrdiff_t classes, const double *factor,
                                     const double *scale, const double *y, const double *value, const void *weights,
                                     double keep, double floor)
{
    const vec ys = NAME_R(lanes_of)(y), values = NAME_R(lanes_of)(value);
    REAL *x = tile;
    const REAL *q = q_tile, *w = weights;
    const vec times = NAME_R(lanes_of)(factor), scales = NAME_R(lanes_of)(scale);
    const vec keeps = v_mul(scales, v_set1((REAL)keep)), floors = v_mul(scales, v_set1((REAL)floor));
    const int subtracts = q || floor != 0;
    for (ptrdiff_t c = 0; c < classes; ++c) {
        vec grad = v_mul(v_load_real(x + c * LANES), times);
        if (subtracts) {
            vec t = q ? v_fma(v_load_real(q + c * LANES), keeps, floors) : floors;
            if (w) t = v_mul(t, v_set1(w[c]));
            grad = v_sub(grad, t);
        }
        v_store_real(x + c * LANES, v_where(v_equal(ys, v_set1((REAL)c)), values, grad));
    }
}

/* lse rounded to REAL, and the rest of it. */
SIMD vec NAME_R(lse_of)(const batch *b, vec *rest)
{
    vec_f64 sums[WIDE], lows[WIDE];
    for (int u = 0; u < WIDE; ++u)
        sums[u] = v_add_f64(load_f64(b->max + u * LANES_f64), load_f64(b->log_sum + u * LANES_f64));
    const vec m = v_narrow(sums[0], sums[WIDE - 1]);
    for (int u = 0; u < WIDE; ++u) {
        const vec_f64 above = v_sub_f64(load_f64(b->max + u * LANES_f64), v_widen(m, u));
        const vec_f64 low = v_add_f64(above, load_f64(b->log_sum + u * LANES_f64));
        lows[u] = v_add_f64(low, load_f64(b->log_sum_off + u * LANES_f64));
    }
    *rest = v_narrow(lows[0], lows[WIDE - 1]);
    return m;
}

/* As log_softmax in rows.h: z - lse, in two steps. */
static void NAME_R(columns_log_softmax)(void *tile, ptrdiff_t classes, const batch *b)
{
    REAL *x = tile;
    vec l;
    const vec m = NAME_R(lse_of)(b, &l);
    for (ptrdiff_t c = 0; c < classes; ++c) v_store_real(x + c * LANES, v_sub(v_sub(v_load_real(x + c * LANES), m), l));
}
