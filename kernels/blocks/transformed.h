/* The one pass over a row (rows.h) whose logits go through scale and softcap, and their e^z again; in float32 lanes, whose
 * logits are pairs then (math/transform.h). unit.h includes this once for each ELEMENT that has such lanes, after rows.h.
 * e^z is added by its parts throughout: it takes an eighth longer than in lanes, which would be added again here and there
 * by code of its own (rows.h, pass_rounded). */
#include "blocks/blocks.h"
#include "blocks/prefetch.h"
#include "math/exp_sum.h"
#include "math/transform.h"
#include "simd/simd.h"

/* What stays as it is over a row; the maximum so far. */
#define transformed NAME(transformed)
typedef struct {
    const ELEMENT *x;
    const transform_numbers *numbers;
    EXP_FRAME f;
    ptrdiff_t n, y;
    REAL *kept;
    vec max;
    EXP_SUM sum;
} transformed;

SIMD vec NAME(transformed_step)(const transformed *r, vec z, int caps, vec *q, vec *slope)
{
    vec low;
    const vec high = caps ? v_capped(z, r->numbers, &low, slope) : v_scaled(z, r->numbers, &low);
    return v_exp_pair_parts(high, low, r->f, q);
}

SIMD compensated NAME(transformed_sum_as)(transformed *r, int caps, gradient_queue *queue, double *max)
{
    r->max = v_set1(-INFINITY);
    r->sum = exp_sum_of_none();
    for (ptrdiff_t first = 0; first < r->n; first += CHUNK) {
        const ptrdiff_t end = r->n - first < CHUNK ? r->n : first + CHUNK;
        NAME(ask_ahead)(r->x + first, end - first);
        for (ptrdiff_t j = first; j < end; j += LANES) {
            const vec z = NAME(at)(r->x, j, end, -INFINITY);
            vec q, slope;
            vec e = NAME(transformed_step)(r, z, caps, &q, &slope);
            r->max = v_max(z, r->max);
            if (r->kept) v_store_real(r->kept + j, caps ? v_mul(v_fma(e, q, e), slope) : v_fma(e, q, e));
            const vec lanes = v_load_real(lane_numbers);
            if ((size_t)(r->y - j) < LANES) e = v_zero_where(v_equal(lanes, v_set1((REAL)(r->y - j))), e);
            if (caps && end - j < LANES) e = v_only_where(v_less(lanes, v_set1((REAL)(end - j))), e);
            exp_sum_add(&r->sum, 0, e, q);
        }
        exp_sum_end_chunk(&r->sum);
        if (queue->next < queue->end && end % STRIDE == 0) {
            NAME(gradient)(queue->next, STRIDE);
            queue->next += queue->next->done == queue->next->n;
        }
    }
    *max = (double)v_top(r->max);
    return exp_sum_total(lane_total_exact(r->sum.total));
}

static compensated NAME(transformed_sum)(const void *x, ptrdiff_t n, anchor at, const transform_numbers *numbers,
                                         ptrdiff_t y, void *kept, gradient_queue *queue, double *max)
{
    transformed r;
    r.x = x, r.numbers = numbers, r.f = frame_at(at), r.n = n, r.y = y, r.kept = kept;
    return numbers->c == 0 ? NAME(transformed_sum_as)(&r, 0, queue, max) : NAME(transformed_sum_as)(&r, 1, queue, max);
}

SIMD void NAME(transformed_exp_as)(const transformed *r, int caps)
{
    for (ptrdiff_t j = 0; j < r->n; j += LANES) {
        vec q, slope;
        const vec e = NAME(transformed_step)(r, NAME(at)(r->x, j, r->n, 0), caps, &q, &slope), whole = v_fma(e, q, e);
        v_store_real(r->kept + j, caps ? v_mul(whole, slope) : whole);
    }
}

static void NAME(transformed_exp)(const void *x, ptrdiff_t n, anchor at, const transform_numbers *numbers, void *to)
{
    transformed r;
    r.x = x, r.numbers = numbers, r.f = frame_at(at), r.n = n, r.kept = to;
    if (numbers->c == 0) NAME(transformed_exp_as)(&r, 0);
    else NAME(transformed_exp_as)(&r, 1);
}
