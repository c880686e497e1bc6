/* From what was added up over a row to what its loss and gradient are made of, for a vector of rows. */
#ifndef COMPLETE_H
#define COMPLETE_H

#include "blocks/batch.h"
#include "math/exp.h"
#include "math/log.h"
#include "math/short.h"
#include "simd/simd.h"

/* A number as the sum of two, the second far below the first's ulp. */
typedef struct {
    vec_f64 high, low;
} pair;

SIMD pair pair_sum(vec_f64 a, vec_f64 b)    /* of any two (Knuth's TwoSum) */
{
    const vec_f64 s = v_add_f64(a, b), kept = v_sub_f64(s, a);
    const pair p = {s, v_add_f64(v_sub_f64(a, v_sub_f64(s, kept)), v_sub_f64(b, kept))};
    return p;
}

/* 2^n for integers n; 0 where m holds. */
SIMD vec_f64 v_power_of_2(mask_f64 m, vec_f64 n)
{
#if SCALES_TO_ZERO
    return v_zero_where_f64(m, v_scale_f64(v_set1_f64(1), n));
#else
    return v_zero_where_f64(m, v_raise_f64(v_set1_f64(1), v_add_f64(n, v_set1_f64(exp_constants_f64.magic)), 52));
#endif
}

/* e^z at the anchor as a pair: by the method of exp.h without a table, where what is lost when r and q are rounded is
 * carried along. */
SIMD pair exp_pair(vec_f64 z, vec_f64 k, exp_frame_f64 f)
{
    const vec_f64 below = v_sub_f64(z, f.shift), one = v_set1_f64(1);
    const mask_f64 gone = v_less_f64(below, f.lowest);
    const vec_f64 y = v_zero_where_f64(gone, below);    /* -inf has no n */
    const vec_f64 magic = v_set1_f64(exp_constants_f64.magic);    /* without a table */
    const vec_f64 t = v_fma_f64(y, v_set1_f64(LOG2E), magic), n = v_sub_f64(t, magic);
    const vec_f64 near = v_fnma_f64(n, v_set1_f64(LN2_HI), y);
    const pair r = pair_sum(near, v_mul_f64(n, v_set1_f64(-LN2_LO)));
    vec_f64 p = exp_term_f64(0);
    for (int i = 1; i < exp_constants_f64.terms; ++i) p = v_fma_f64(p, r.high, exp_term_f64(i));
    const pair q = pair_sum(r.high, v_mul_f64(v_mul_f64(r.high, r.high), p));
    const vec_f64 more = v_fma_f64(r.low, v_add_f64(one, r.high), q.low);
    const pair e = pair_sum(one, q.high);
    const vec_f64 power = v_power_of_2(gone, v_sub_f64(n, k));
    const pair found = {v_mul_f64(power, e.high), v_mul_f64(power, v_add_f64(e.low, more))};
    return found;
}

/* a / b: the quotient of the high parts, and what that leaves over. */
SIMD pair pair_quotient(pair a, pair b)
{
    const vec_f64 q = v_div_f64(a.high, b.high), product = v_mul_f64(q, b.high);
    const vec_f64 over = v_sub_f64(v_sub_f64(a.high, product), v_lost_f64(q, b.high, product));
    const pair p = {q, v_div_f64(v_add_f64(over, v_fnma_f64(q, b.low, a.low)), b.high)};
    return p;
}

/* The logarithm; and what gradients are made of; and e^max at the anchor. */
typedef enum { NO_RESULTS, NEAR_RESULTS, ALL_RESULTS } wanted_results;

/* float32 results show none of what float64 rounds. float64 results would show all of it: there numbers are pairs up to
 * the logarithm, which takes one, and to the quotients, which are rounded last. */
SIMD void complete_as(batch *b, ptrdiff_t rows, int targets, int is_f64, wanted_results results)
{
    const vec_f64 one = v_set1_f64(1), zero = v_set1_f64(0);
    for (ptrdiff_t i = 0; i < rows; i += LANES_f64) {
        const vec_f64 k = load_f64(b->k + i), to_exp = v_set1_f64(1 / EXP_SCALE_f64);
        const exp_frame_f64 f = frame_of_f64(load_f64(b->shift + i), k);
        const vec_f64 own = load_f64(b->own + i), base = load_f64(b->base + i);
        const vec_f64 max = load_f64(b->max + i);
        pair top = {zero, zero}, target = {one, zero};
        pair above = {load_f64(b->sum + i), zero}, rest = {zero, zero};
        vec_f64 share = zero, unit = zero;
        if (is_f64) {
            top = exp_pair(max, k, f);
            above.low = load_f64(b->sum_error + i);
            if (targets) {
                target = exp_pair(load_f64(b->z + i), k, f);
                const pair sum = pair_sum(v_mul_f64(own, target.high), above.high);
                above.low = v_add_f64(v_fma_f64(own, target.low, above.low), sum.low);
                above.high = sum.high;
            }
            const pair over_top = pair_quotient(above, top);
            rest = pair_sum(base, over_top.high);
            rest.low = v_add_f64(rest.low, over_top.low);
            rest = pair_sum(rest.high, rest.low);
            if (results) {
                /* Of rest as it is kept for a backward, which finds the same bits then. */
                const pair all = pair_sum(one, rest.high), first = {one, zero}, inverse = pair_quotient(first, all);
                share = v_add_f64(inverse.high, inverse.low);
                const pair over = pair_quotient(inverse, top);
                unit = v_add_f64(over.high, over.low);
            }
        } else {
            /* e^-max by another exponential: a division takes longer. */
            const exp_frame_f64 opposite = frame_of_f64(v_sub_f64(zero, load_f64(b->shift + i)), v_sub_f64(zero, k));
            const vec_f64 inverse = v_exp_short_f64(v_sub_f64(zero, max), opposite);
            if (results == ALL_RESULTS) top.high = v_exp_short_f64(max, f);
            if (targets) {
                target.high = v_mul_f64(v_exp_f64(load_f64(b->z + i), f), to_exp);    /* which may be 0 */
                above.high = v_fma_f64(own, target.high, above.high);
            }
            rest.high = v_add_f64(base, v_mul_f64(above.high, inverse));
            if (results) {
                share = v_div_f64(one, v_add_f64(one, rest.high));
                unit = v_mul_f64(share, inverse);
            }
        }
        if (results == ALL_RESULTS) store_f64(b->top + i, top.high);
        store_f64(b->rest + i, rest.high);
        vec_f64 off = zero;
        store_f64(b->log_sum + i, is_f64 ? v_log1p_f64(rest.high, rest.low, &off) : v_log1p_short_f64(rest.high));
        store_f64(b->log_sum_off + i, off);
        if (!results) continue;
        store_f64(b->share + i, share);
        store_f64(b->unit + i, unit);
        if (!targets) continue;
        /* Where p > 1/2 the target leads, and 1 - p = rest / (1 + rest): there p - 1 would lose the digits of a
         * small 1 - p. */
        const vec_f64 p = v_mul_f64(target.high, unit);
        const mask_f64 leads = v_less_f64(v_set1_f64(0.5), p);
        const vec_f64 below_1 = v_where_f64(leads, v_sub_f64(zero, v_mul_f64(rest.high, share)), v_sub_f64(p, one));
        store_f64(b->p + i, p);
        store_f64(b->below_1 + i, below_1);
    }
}

static void complete(batch *b, ptrdiff_t rows, int targets, int is_f64)
{
    if (is_f64) {
        if (targets) complete_as(b, rows, 1, 1, ALL_RESULTS);
        else complete_as(b, rows, 0, 1, ALL_RESULTS);
    } else if (targets) complete_as(b, rows, 1, 0, ALL_RESULTS);
    else complete_as(b, rows, 0, 0, ALL_RESULTS);
}

#endif
