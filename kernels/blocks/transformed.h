/* The one pass over a row (rows.h) whose logits go through scale and softcap, in float32 lanes (math/transform.h). unit.h
 * includes this once for each ELEMENT that has such lanes, after rows.h. Without a table (exp.h)
 * e^z is added by its parts throughout. */
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
    scaled_frame scaled;
    ptrdiff_t n, y;
    REAL *kept;
    two_aheads ahead;
    vec max;
    EXP_SUM sum;
} transformed;

SIMD vec NAME(transformed_step)(const transformed *r, vec z, int caps, vec *q, vec *slope)
{
    if (!caps) return v_exp_scaled_parts(z, &r->scaled, q);
    vec low;
    const vec high = v_capped(z, r->numbers, &low, slope);
    return v_exp_pair_parts(high, low, r->f, q);
}

/* Rows whose next stretch has just been read are a good time to write an earlier one's. */
SIMD void NAME(write_between)(const transformed *r, ptrdiff_t end, gradient_queue *queue)
{
    const ptrdiff_t stride = r->n < LONG_ROW ? STRIDE : LONG_STRIDE;
    if (queue->next >= queue->end || end > r->n || end % stride != 0) return;
    NAME(gradient)(queue->next, stride);
    queue->next += queue->next->done == queue->next->n;
}

/* The classes from `from` to `to`, by their parts. */
SIMD compensated NAME(transformed_parts)(transformed *r, ptrdiff_t from, ptrdiff_t to, int caps, gradient_queue *queue)
{
    r->sum = exp_sum_of_none();
    for (ptrdiff_t first = from; first < to; first += CHUNK) {
        const ptrdiff_t end = to - first < CHUNK ? to : first + CHUNK;
        NAME(ask_ahead)(r->x, first, end - first, &r->ahead);
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
        NAME(write_between)(r, end, queue);
    }
    return lane_total_exact(r->sum.total);
}

#if EXP_TABLE_f32
/* As pass_rounded of rows.h, of logits that are scaled alone. */
SIMD void NAME(scaled_step)(const transformed *r, ptrdiff_t j, vec z, passing *p, int u, int leaves_out)
{
    p->max[u] = v_max(z, p->max[u]);
    vec e = v_exp_scaled_summed(z, &r->scaled);
    if (r->kept) v_store_real(r->kept + j, e);
    if (leaves_out) e = v_zero_where(v_equal(v_load_real(lane_numbers), v_set1((REAL)(r->y - j))), e);
    p->sum[u] = v_add(p->sum[u], e);
}

SIMD void NAME(scaled_chunk)(const transformed *r, ptrdiff_t j, passing *p, int leaves_out)
{
    const ptrdiff_t end = r->n - j < CHUNK ? r->n : j + CHUNK;
    for (; end - j >= UNROLL * LANES; j += UNROLL * LANES) {
        NAME(ask_ahead)(r->x, j, UNROLL * LANES, &r->ahead);
        for (int u = 0; u < UNROLL; ++u)
            NAME(scaled_step)(r, j + u * LANES, v_load(r->x + j + u * LANES), p, u, leaves_out);
    }
    if (j < end) NAME(ask_ahead)(r->x, j, end - j, &r->ahead);
    for (; j < end; j += LANES) NAME(scaled_step)(r, j, NAME(at)(r->x, j, end, -INFINITY), p, 0, leaves_out);
}

/* Of capped logits, whose step is long: four after the other to each sum, and one copy of it. */
SIMD void NAME(capped_chunk)(const transformed *r, ptrdiff_t j, passing *p)
{
    const ptrdiff_t end = r->n - j < CHUNK ? r->n : j + CHUNK;
    const vec lanes = v_load_real(lane_numbers);
    NAME(ask_ahead)(r->x, j, end - j, &r->ahead);
    for (int u = 0; u < UNROLL; ++u) {
        vec sum = v_set1(0);
        for (int i = 0; i < CHUNK_VECTORS / UNROLL && j < end; ++i, j += LANES) {
            const vec z = NAME(at)(r->x, j, end, -INFINITY);
            vec low, slope;
            const vec high = v_capped(z, r->numbers, &low, &slope);
            vec e = v_exp_pair_summed(high, low, r->f);
            p->max[0] = v_max(z, p->max[0]);
            if (r->kept) v_store_real(r->kept + j, v_mul(e, slope));
            if ((size_t)(r->y - j) < LANES) e = v_zero_where(v_equal(lanes, v_set1((REAL)(r->y - j))), e);
            if (end - j < LANES) e = v_only_where(v_less(lanes, v_set1((REAL)(end - j))), e);
            sum = v_add(sum, e);
        }
        p->sum[u] = sum;
    }
}

static double NAME(lost_in_changed_lane)(const transformed *r, ptrdiff_t j, int lane, REAL s, int caps)
{
    ELEMENT column[CHUNK_VECTORS];
    int rows = 0;
    for (int i = 0; i < CHUNK_VECTORS; ++i) {
        const ptrdiff_t at = j + i * LANES + lane;
        if (at < r->n && at != r->y) column[rows++] = r->x[at];
    }
    EXP_SUM sum = exp_sum_of_none();
    for (int i = 0; i < rows; i += LANES) {
        vec q, slope;
        const vec high = NAME(transformed_step)(r, NAME(at)(column, i, rows, -INFINITY), caps, &q, &slope);
        exp_sum_add(&sum, 0, v_only_where(v_less(v_load_real(lane_numbers), v_set1((REAL)(rows - i))), high), q);
    }
    exp_sum_end_chunk(&sum);
    const compensated exact = lane_total_exact(sum.total);
    return (exact.sum - (double)s) + exact.error;
}

/* As is_small of rows.h. */
static int NAME(changed_is_small)(const transformed *r, double sum, int caps)
{
    REAL e[LANES];
    vec q, slope;
    if (r->y < 0 || r->y >= r->n) return 0;
    v_store_real(e, NAME(transformed_step)(r, NAME(at)(r->x, r->y, r->y + 1, -INFINITY), caps, &q, &slope));
    return !(sum > 4 * (double)e[0]);
}

SIMD compensated NAME(changed_rounded)(const transformed *r, ptrdiff_t first, ptrdiff_t end, passing *p, int caps,
                                       gradient_queue *queue)
{
    REAL sums[GROUP / CHUNK_VECTORS];
    const int lanes = (int)((end - first + CHUNK - 1) / CHUNK) * LANES;
    for (ptrdiff_t j = first; j < end; j += CHUNK) {
        if (caps) NAME(capped_chunk)(r, j, p);
        else if (r->y >= j && r->y < j + CHUNK) NAME(scaled_chunk)(r, j, p, 1);
        else NAME(scaled_chunk)(r, j, p, 0);
        v_store_real(sums + (j - first) / CHUNK_VECTORS, taken(p->sum));
        NAME(write_between)(r, j + CHUNK, queue);
    }
    compensated sum = sum_of_lanes(sums, lanes);
    const double limit = are_alike(sums) && NAME(changed_is_small)(r, sum.sum, caps) ? 0 : sum.sum / 16;
    for (int i = 0; (i = next_large(sums, limit, sums, limit, i, lanes)) < lanes; ++i)
        compensated_add(&sum, NAME(lost_in_changed_lane)(r, first + i / LANES * CHUNK, i % LANES, sums[i], caps));
    return sum;
}
#endif

SIMD compensated NAME(changed_sum)(transformed *r, int caps, gradient_queue *queue)
{
    compensated sum = {0, 0};
#if EXP_TABLE_f32
    passing p;
    for (int u = 0; u < UNROLL; ++u) p.max[u] = v_set1(-INFINITY), p.sum[u] = v_set1(0);
    ptrdiff_t first = 0;
    const int in_lanes = !caps ||
                         !r->numbers->scales; /* scaled logits lie far apart: many lanes would be added again */
    for (; in_lanes && r->n - first > FEW; first += GROUP) {
        const ptrdiff_t end = r->n - first < GROUP ? r->n : first + GROUP;
        compensated_join(&sum, NAME(changed_rounded)(r, first, end, &p, caps, queue));
    }
    for (int u = 0; u < UNROLL; ++u) r->max = v_max(r->max, p.max[u]);
    if (first < r->n) compensated_join(&sum, NAME(transformed_parts)(r, first, r->n, caps, queue));
#else
    sum = NAME(transformed_parts)(r, 0, r->n, caps, queue);
#endif
    return sum;
}

static compensated NAME(transformed_sum)(const void *x, ptrdiff_t n, anchor at, const transform_numbers *numbers,
                                         ptrdiff_t y, void *kept, gradient_queue *queue, lie_of_rows lie, double *max)
{
    transformed r;
    r.x = x, r.numbers = numbers, r.f = frame_at(at), r.scaled = scaled_frame_at(at, numbers);
    r.n = n, r.y = y, r.kept = kept, r.ahead = aheads_of(lie, PREFETCH_NEAR), r.max = v_set1(-INFINITY);
    const compensated sum = numbers->c == 0 ? NAME(changed_sum)(&r, 0, queue) : NAME(changed_sum)(&r, 1, queue);
    *max = (double)v_top(r.max);
    return exp_sum_total(sum);
}
