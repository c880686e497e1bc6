/* From what was added up over a row to what its loss and gradient are made of, for a vector of rows. */
#ifndef COMPLETE_H
#define COMPLETE_H

#include "blocks/batch.h"
#include "math/exp.h"
#include "math/log.h"
#include "simd/simd.h"

SIMD void complete_as(batch *b, ptrdiff_t rows, int targets)
{
    const vec_f64 one = v_set1_f64(1);
    for (ptrdiff_t i = 0; i < rows; i += LANES_f64) {
        const exp_frame_f64 f = frame_of_f64(load_f64(b->shift + i), load_f64(b->k + i));
        const vec_f64 top = v_exp_f64(load_f64(b->max + i), f), inverse = v_div_f64(one, top);
        vec_f64 above = load_f64(b->sum + i), target = one;
        if (targets) {
            target = v_exp_f64(load_f64(b->z + i), f);
            above = v_fma_f64(load_f64(b->own + i), target, above);
        }
        const vec_f64 rest = v_add_f64(load_f64(b->base + i), v_mul_f64(above, inverse));
        const vec_f64 share = v_div_f64(one, v_add_f64(one, rest)), unit = v_mul_f64(share, inverse);
        store_f64(b->top + i, top);
        store_f64(b->rest + i, rest);
        store_f64(b->log_sum + i, v_log1p_f64(rest));
        store_f64(b->share + i, share);
        store_f64(b->unit + i, unit);
        if (!targets) continue;
        /* Where p > 1/2 the target leads, and 1 - p = rest / (1 + rest): there p - 1 would lose the digits of a
         * small 1 - p. */
        const vec_f64 p = v_mul_f64(target, unit);
        const mask_f64 leads = v_less_f64(v_set1_f64(0.5), p);
        const vec_f64 below_1 = v_where_f64(leads, v_sub_f64(v_set1_f64(0), v_mul_f64(rest, share)), v_sub_f64(p, one));
        store_f64(b->p + i, p);
        store_f64(b->below_1 + i, below_1);
    }
}

static void complete(batch *b, ptrdiff_t rows, int targets)
{
    if (targets) complete_as(b, rows, 1);
    else complete_as(b, rows, 0);
}

#endif
