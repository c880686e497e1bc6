/* The block functions, written once; unit.h includes this file once for each ELEMENT, after vectors.h.
 *
 * float32 and 16-bit elements are worked on in float32 lanes, float64 in float64 lanes. A sum that lanes round runs
 * over a chunk in UNROLL vectors of lanes, four additions each, then goes on in a lane_total: all-equal logits, whose
 * rounding errors all point the same way, would cost 4 ulp of float32 in lanes that run over 1000 classes. Where even
 * these roundings could show, e^z is added by its parts (blocks.h, G).
 * The last, partial vector of a block goes through the same arithmetic as the others, filled up with what leaves each
 * result alone; so a row's bits do not depend on where it lies. */
#include <math.h>

#include "blocks/blocks.h"
#include "blocks/prefetch.h"
#include "math/exp_sum.h"
#include "math/lane_total.h"
#include "simd/simd.h"

#define CHUNK (CHUNK_VECTORS * LANES)
#define GROUP 2048    /* classes: as BLOCK of rows/cursor.h */
#define FEW (28 * CHUNK_VECTORS)    /* classes of a group of whose lanes many would hold a sixteenth */
/* Classes read before as many of an earlier row are written: more of a long row, since turning from one to the other takes
 * time, and few of a short one, of which the rest is written by itself. */
#define STRIDE (16 * LANES)
#define LONG_STRIDE (64 * LANES)
#define LONG_ROW 4096
#define OF_KEPT (2 * UNROLL) /* vectors of a step of gradient_of_kept */

#define gradient_of NAME(gradient_of)
#define passing NAME(passing)
#define passed NAME(passed)

static double NAME(max)(const void *in, ptrdiff_t n)
{
    const ELEMENT *x = in;
    vec m[4];
    mask nan = v_nan(v_set1(0));
    for (int u = 0; u < 4; ++u) m[u] = v_set1(-INFINITY);
    ptrdiff_t j = 0;
    for (; n - j >= 4 * LANES; j += 4 * LANES)
        for (int u = 0; u < 4; ++u) {
            const vec z = v_load(x + j + u * LANES);
            nan = mask_or(nan, v_nan(z));
            m[u] = v_max(z, m[u]);
        }
    for (; j < n; j += LANES) {
        const vec z = NAME(at)(x, j, n, -INFINITY);
        nan = mask_or(nan, v_nan(z));
        m[0] = v_max(z, m[0]);
    }
    return mask_count(nan) ? NAN : (double)v_top(v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
}

/* The classes at the maximum are counted, not added (blocks.h, D). */
SIMD void NAME(sum_step)(vec z, vec top, EXP_FRAME f, EXP_SUM *s, int u, ptrdiff_t *ties)
{
    const mask tie = v_equal(z, top);
    vec q;
    const vec high = v_exp_parts(v_sub(z, f.shift), f, &q);
    *ties += mask_count(tie);
    exp_sum_add(s, u, v_zero_where(tie, high), q);
}

static compensated NAME(sum)(const void *in, ptrdiff_t n, anchor at, double max, ptrdiff_t *ties)
{
    const ELEMENT *x = in;
    const EXP_FRAME f = frame_at(at);
    const vec top = v_set1((REAL)max);
    EXP_SUM s = exp_sum_of_none();
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < CHUNK ? n : j + CHUNK;
        for (; end - j >= UNROLL * LANES; j += UNROLL * LANES)
            for (int u = 0; u < UNROLL; ++u) NAME(sum_step)(v_load(x + j + u * LANES), top, f, &s, u, ties);
        for (; j < end; j += LANES) NAME(sum_step)(NAME(at)(x, j, end, -INFINITY), top, f, &s, 0, ties);
        exp_sum_end_chunk(&s);
    }
    return exp_sum_total(lane_total_exact(s.total));
}

/* ------------------------------------------------------------------ results */

typedef struct {
    EXP_FRAME f;
    vec factor, power, keep, floor;
    const ELEMENT *x;
    const REAL *kept, *q, *w;
    ptrdiff_t entry;
    double value;
    ELEMENT *out;
} gradient_of;

SIMD gradient_of NAME(gradient_of_job)(const gradient_job *job, int keeps)
{
    const anchor none = {0, 0};
    const subtrahend s = job->s;
    const double of_exp = job->factor / EXP_SCALE;
    const double factor = SCALES_TO_ZERO ? of_exp : times_power_of_2(of_exp, job->power);
    const gradient_of g = {.f = keeps ? frame_at(none) : frame_at(job->at),
                           .factor = v_set1((REAL)factor),
                           .power = v_set1((REAL)job->power),
                           .keep = v_set1((REAL)(s.scale * s.keep)),
                           .floor = v_set1((REAL)(s.scale * s.floor)),
                           .x = job->x,
                           .kept = job->kept,
                           .q = s.q,
                           .w = s.w,
                           .entry = job->entry,
                           .value = job->value,
                           .out = job->out};
    return g;
}

SIMD vec NAME(times_factor)(const gradient_of *g, vec e)
{
    const vec grad = v_mul(e, g->factor);
#if SCALES_TO_ZERO
    return v_scale(v_zero_where(v_less(e, v_set1(EXP_CONSTANTS.smallest)), grad), g->power);
#else
    return grad;
#endif
}

/* Not through memory: a load from there would wait for all the stores before it that bypass the caches. */
SIMD vec NAME(with_entry)(const gradient_of *g, ptrdiff_t j, vec grad)
{
    return v_where(v_equal(v_load_real(lane_numbers), v_set1((REAL)(g->entry - j))), v_set1((REAL)g->value), grad);
}

/* The n <= LANES elements from j. */
SIMD void NAME(gradient_step)(const gradient_of *g, ptrdiff_t j, ptrdiff_t n, int bypass, int keeps, int subtracts,
                              int has_q, int has_w, int has_entry)
{
    const vec e = keeps ? NAME(real_at)(g->kept, j, j + n) : v_exp(NAME(at)(g->x, j, j + n, -INFINITY), g->f);
    vec grad = NAME(times_factor)(g, e);
    if (subtracts) {
        vec t = has_q ? v_fma(NAME(real_at)(g->q, j, j + n), g->keep, g->floor) : g->floor;
        if (has_w) t = v_mul(t, NAME(real_at)(g->w, j, j + n));
        grad = v_sub(grad, t);
    }
    if (has_entry && (size_t)(g->entry - j) < (size_t)n) grad = NAME(with_entry)(g, j, grad);
    NAME(put)(g->out + j, n, grad, bypass);
}

/* Whole vectors of what is kept, up to end as far as they reach, where a gradient is but that and a factor. Loads and
 * stores beside each other are made in pairs. */
SIMD ptrdiff_t NAME(gradient_of_kept)(const gradient_of *g, ptrdiff_t j, ptrdiff_t end, int bypass)
{
    const REAL *kept = g->kept + j;
    ELEMENT *out = g->out + j;
    const REAL *const whole = kept + (end - j) / (OF_KEPT * LANES) * (OF_KEPT * LANES);
    for (; kept < whole; j += OF_KEPT * LANES) {
        UNROLLED
        for (int u = 0; u < OF_KEPT; u += UNROLL) {
            vec e[UNROLL];
            UNROLLED
            for (int v = 0; v < UNROLL; ++v) e[v] = v_mul(v_load_real(kept + (u + v) * LANES), g->factor);
            UNROLLED
            for (int v = 0; v < UNROLL; ++v) NAME(put)(out + (u + v) * LANES, LANES, e[v], bypass);
        }
        kept += OF_KEPT * LANES, out += OF_KEPT * LANES;
    }
    return j;
}

/* The flags are constants where this is inlined. */
SIMD void NAME(gradient_as)(gradient_job *job, ptrdiff_t n, int bypass, int keeps, int subtracts, int has_q, int has_w)
{
    const gradient_of g = NAME(gradient_of_job)(job, keeps);
    ptrdiff_t j = job->done;
    const ptrdiff_t end = job->n - j < n ? job->n : j + n;
    if (j == 0 && (j = NAME(before_vectors)(g.out, job->n, bypass)) > 0)
        NAME(gradient_step)(&g, 0, j, 0, keeps, subtracts, has_q, has_w, 1);
    /* Up to the vector with the entry, that one, and those behind it: most have none to look for. */
    const int is_ahead = g.entry >= j && g.entry < end;
    const ptrdiff_t whole = end - (end - j) % LANES, own = is_ahead ? g.entry - (g.entry - j) % LANES : whole;
    if (TOGETHER > 1 && keeps && !subtracts) j = NAME(gradient_of_kept)(&g, j, own, bypass);
    IN_FOURS
    for (; j < own; j += LANES) NAME(gradient_step)(&g, j, LANES, bypass, keeps, subtracts, has_q, has_w, 0);
    if (j < whole) {
        NAME(gradient_step)(&g, j, LANES, bypass, keeps, subtracts, has_q, has_w, 1);
        j += LANES;
    }
    if (TOGETHER > 1 && keeps && !subtracts) j = NAME(gradient_of_kept)(&g, j, whole, bypass);
    IN_FOURS
    for (; j < whole; j += LANES) NAME(gradient_step)(&g, j, LANES, bypass, keeps, subtracts, has_q, has_w, 0);
    if (j < end && end == job->n) {
        NAME(gradient_step)(&g, j, end - j, 0, keeps, subtracts, has_q, has_w, 1);
        j = end;
    }
    job->done = j;
}

/* Of a gradient that is but e^x and a factor, and a diagonal beside it: what is whole steps, up to there. Each e^x is
 * loaded once, and the stores, which bypass the caches, go to both in turn. */
SIMD void NAME(gradient_and_diagonal)(gradient_job *job, ptrdiff_t end)
{
    hessian_row *r = job->beside;
    if (!job->kept || job->s.scale != 0 || r->second != 0 || !job->bypass || !r->bypass || r->done != job->done) return;
    const gradient_of g = NAME(gradient_of_job)(job, 1);
    const PASTE(diagonals, REAL) d = PASTE(diagonals_of_row, REAL)(r);
    ELEMENT *hess = r->out;
    ptrdiff_t j = job->done;
    for (; j <= end - UNROLL * LANES; j += UNROLL * LANES) {
        const int has_entry = (size_t)(g.entry - j) < UNROLL * LANES;
        UNROLLED
        for (int u = 0; u < UNROLL; ++u) {
            const vec e = v_load_real(g.kept + j + u * LANES);
            vec grad = NAME(times_factor)(&g, e);
            if (has_entry) grad = NAME(with_entry)(&g, j + u * LANES, grad);
            NAME(put)(g.out + j + u * LANES, LANES, grad, 1);
            NAME(put)(hess + j + u * LANES, LANES, PASTE(diagonal, REAL)(e, d, 0), 1);
        }
    }
    job->done = r->done = j;
}

static void NAME(gradient)(gradient_job *job, ptrdiff_t n)
{
    const subtrahend s = job->s;
    const int keeps = job->kept != NULL;
    if (job->beside && job->done) {
        const ptrdiff_t end = job->n - job->done < n ? job->n : job->done + n;
        NAME(gradient_and_diagonal)(job, end);
        n = end - job->done;
        if (n == 0) return;
    }
    if (keeps && s.scale == 0 && job->bypass) NAME(gradient_as)(job, n, 1, 1, 0, 0, 0);
    else if (keeps && s.scale == 0) NAME(gradient_as)(job, n, 0, 1, 0, 0, 0);
    else if (keeps && s.q && !s.w) NAME(gradient_as)(job, n, job->bypass, 1, 1, 1, 0);
    else if (s.scale == 0) NAME(gradient_as)(job, n, job->bypass, 0, 0, 0, 0);
    else NAME(gradient_as)(job, n, job->bypass, keeps, 1, s.q != NULL, s.w != NULL);
    if (job->beside) NAME(hessian)(job->beside, job->done);
}

/* ------------------------------------------------------------------ reading and writing at once */

/* The one pass over a row: the sum of e^x but for class y, and the maximum with it, at an anchor that was guessed
 * and has no shift; the caller checks that the maximum suits it, and that the sum is finite. Where kept is not NULL
 * the e^x go there, times EXP_SCALE, up to LANES - 1 elements more than n. */
typedef struct {
    vec max[UNROLL], sum[UNROLL]; /* sum: of a chunk's e^x, rounded */
    EXP_SUM exact; /* or of their parts */
} passing;

/* What stays as it is over a row. */
typedef struct {
    const ELEMENT *x;
    EXP_FRAME f;
    ptrdiff_t n, y;
    REAL *kept;
    const two_aheads *apart; /* NULL where rows follow each other */
} passed;

/* Adds e^z, and returns what is kept of it. */
SIMD vec NAME(pass_step)(const passed *r, EXP_FRAME f, ptrdiff_t j, vec z, passing *p, int u, int leaves_out,
                         int exactly)
{
    p->max[u] = v_max(z, p->max[u]);
    vec q = v_set1(0), e = exactly ? v_exp_parts(z, f, &q) : v_exp_summed(z, f);
    const vec whole = exactly ? v_fma(e, q, e) : e;
    if (leaves_out) e = v_zero_where(v_equal(v_load_real(lane_numbers), v_set1((REAL)(r->y - j))), e);
    if (exactly) exp_sum_add(&p->exact, u, e, q);
    else p->sum[u] = v_add(p->sum[u], e);
    return whole;
}

/* What lies so far ahead of n elements, as far as they reach. */
SIMD void NAME(ask_by)(const ELEMENT *x, ptrdiff_t n, two_distances by)
{
    const char *at = (const char *)x;
    for (ptrdiff_t i = 0; i < n * (ptrdiff_t)sizeof *x; i += LINE) {
        prefetch_to_l2(at + by.far + i);
        prefetch(at + by.near + i);
    }
}

/* What lies ahead of n elements from j. */
SIMD void NAME(ask_ahead)(const ELEMENT *x, ptrdiff_t j, ptrdiff_t n, const two_aheads *ahead)
{
    NAME(ask_by)(x + j, n, aheads_from(ahead, j * (ptrdiff_t)sizeof *x));
}

/* The chunk from j. */
SIMD void NAME(pass_chunk)(const passed *r, ptrdiff_t j, passing *p, int keeps, int leaves_out, int exactly)
{
    const EXP_FRAME f = read_again(&r->f);
    const ptrdiff_t end = r->n - j < CHUNK ? r->n : j + CHUNK;
    const ELEMENT *x = r->x + j;
    /* Of the chunk's first byte. Two constants cost a small row less than six numbers that are read again. */
    two_distances by = {PREFETCH_FAR, PREFETCH_NEAR};
    if (r->apart) by = aheads_from(r->apart, j * (ptrdiff_t)sizeof *x);
    REAL *kept = keeps ? r->kept + j : NULL;
    const ELEMENT *const whole = x + (end - j) / (UNROLL * LANES) * (UNROLL * LANES);
    for (; x < whole; j += UNROLL * LANES) {
        NAME(ask_by)(x, UNROLL * LANES, by);
        UNROLLED
        for (int u = 0; u < UNROLL; u += TOGETHER) {
            vec of[TOGETHER];
            for (int v = 0; v < TOGETHER; ++v) of[v] = v_load(x + (u + v) * LANES);
            for (int v = 0; v < TOGETHER; ++v)
                of[v] = NAME(pass_step)(r, f, j + (u + v) * LANES, of[v], p, u + v, leaves_out, exactly);
            for (int v = 0; keeps && v < TOGETHER; ++v) v_store_real(kept + (u + v) * LANES, of[v]);
        }
        x += UNROLL * LANES;
        if (keeps) kept += UNROLL * LANES;
    }
    if (j < end) NAME(ask_by)(x, end - j, by);
    for (; j < end; j += LANES) {
        const vec e = NAME(pass_step)(r, f, j, NAME(at)(r->x, j, end, -INFINITY), p, 0, leaves_out, exactly);
        if (keeps) v_store_real(r->kept + j, e);
    }
    if (exactly) exp_sum_end_chunk(&p->exact);
}

/* The chunks from first up to end; with a place for the sum of each, rounded, else exactly. */
SIMD void NAME(pass_group)(const passed *r, ptrdiff_t first, ptrdiff_t end, passing *p, int keeps,
                           gradient_queue *queue, REAL *sums, int exactly)
{
    const ptrdiff_t stride = r->n < LONG_ROW ? STRIDE : LONG_STRIDE;
    for (ptrdiff_t j = first; j < end; j += CHUNK) {
        if (r->y >= j && r->y < j + CHUNK) NAME(pass_chunk)(r, j, p, keeps, 1, exactly);
        else NAME(pass_chunk)(r, j, p, keeps, 0, exactly);
        if (!exactly) v_store_real(sums + (j - first) / CHUNK_VECTORS, taken(p->sum));
        if (keeps && j + CHUNK <= r->n && (j + CHUNK) % stride == 0 && queue->next < queue->end) {
            NAME(gradient)(queue->next, stride);
            queue->next += queue->next->done == queue->next->n;
        }
    }
}

/* What s is short of, the rounded sum of one lane of the chunk from j: its classes are copied beside each other and
 * added by their parts. */
static double NAME(lost_in_lane)(const passed *r, ptrdiff_t j, int lane, REAL s)
{
    ELEMENT column[CHUNK_VECTORS];
    int rows = 0;
    for (int i = 0; i < CHUNK_VECTORS; ++i) {
        const ptrdiff_t at = j + i * LANES + lane;
        if (at < r->n && at != r->y) column[rows++] = r->x[at];
    }
    EXP_SUM sum = exp_sum_of_none();
    for (int i = 0; i < rows; i += LANES) {
        vec q;
        const vec high = v_exp_parts(NAME(at)(column, i, rows, -INFINITY), r->f, &q);
        exp_sum_add(&sum, 0, high, q);
    }
    exp_sum_end_chunk(&sum);
    const compensated exact = lane_total_exact(sum.total);
    return (exact.sum - (double)s) + exact.error;
}

/* Whether so small a sum beside the class that is left out makes a loss in which its last digit shows. */
static int NAME(is_small)(const passed *r, double sum)
{
    REAL e[LANES];
    if (r->y < 0 || r->y >= r->n) return 0;
    v_store_real(e, v_exp_summed(NAME(at)(r->x, r->y, r->y + 1, -INFINITY), r->f));
    return !(sum > 4 * (double)e[0]);
}

NOT_INLINED static compensated NAME(added_by_parts)(const passed *r, ptrdiff_t first, ptrdiff_t end)
{
    passing p;
    UNROLLED
    for (int u = 0; u < UNROLL; ++u) p.max[u] = v_set1(-INFINITY), p.sum[u] = v_set1(0);
    p.exact = exp_sum_of_none();
    NAME(pass_group)(r, first, end, &p, 0, NULL, NULL, 1);
    return lane_total_exact(p.exact.total);
}

/* A group of chunks, each added in lanes, of which every one is rounded a few times. The errors of many lanes nearly
 * cancel, but that of a lane with more than a sixteenth of the sum could show: such lanes are added again, and the group
 * where all are rounded the same way and that could show. */
SIMD compensated NAME(pass_rounded)(const passed *r, ptrdiff_t first, ptrdiff_t end, passing *p, int keeps,
                                    gradient_queue *queue)
{
    REAL sums[GROUP / CHUNK_VECTORS];
    const int lanes = (int)((end - first + CHUNK - 1) / CHUNK) * LANES;
    NAME(pass_group)(r, first, end, p, keeps, queue, sums, 0);
    compensated sum = sum_of_lanes(sums, lanes);
    const double limit = sum.sum / 16;
    if (are_alike(sums) && NAME(is_small)(r, sum.sum)) return NAME(added_by_parts)(r, first, end);
    for (int i = 0; (i = next_large(sums, limit, sums, limit, i, lanes)) < lanes; ++i)
        compensated_add(&sum, NAME(lost_in_lane)(r, first + i / LANES * CHUNK, i % LANES, sums[i]));
    return sum;
}

/* A group ends where a block of a copied row may (BLOCK), because a sum must not depend on how its row lies. In one of
 * few classes many lanes would have to be added again, which takes several times as long: it is added by parts at once. */
SIMD compensated NAME(pass_as)(const passed *r, int keeps, gradient_queue *queue, double *max)
{
    passing p;
    UNROLLED
    for (int u = 0; u < UNROLL; ++u) p.max[u] = v_set1(-INFINITY), p.sum[u] = v_set1(0);
    compensated sum = {0, 0};
    for (ptrdiff_t first = 0; first < r->n; first += GROUP) {
        const ptrdiff_t end = r->n - first < GROUP ? r->n : first + GROUP;
        compensated of_group;
        if (end - first > FEW) of_group = NAME(pass_rounded)(r, first, end, &p, keeps, queue);
        else {
            p.exact = exp_sum_of_none();
            NAME(pass_group)(r, first, end, &p, keeps, queue, NULL, 1);
            of_group = lane_total_exact(p.exact.total);
        }
        if (first == 0) sum = of_group;
        else compensated_join(&sum, of_group);
    }
    UNROLLED
    for (int u = 1; u < UNROLL; ++u) p.max[0] = v_max(p.max[0], p.max[u]);
    *max = (double)v_top(p.max[0]);
    return exp_sum_total(sum);
}

static compensated NAME(pass)(const void *x, ptrdiff_t n, anchor at, ptrdiff_t y, void *kept, gradient_queue *queue,
                              const lie_of_rows *lie, double *max)
{
    two_aheads apart;
    if (lie->between) apart = aheads_of(*lie, PREFETCH_NEAR);
    const passed r = {x, frame_at(at), n, y, kept, lie->between ? &apart : NULL};
    return kept ? NAME(pass_as)(&r, 1, queue, max) : NAME(pass_as)(&r, 0, NULL, max);
}

/* z - lse, where lse = max + log_sum + off is taken as a pair: high, which is lse rounded to REAL, and what that is
 * short of. z - high is exact where z is near lse, so that the result is rounded once there, and at most twice
 * elsewhere. */
static void NAME(log_softmax)(const void *in, ptrdiff_t n, double max, double log_sum, double off, void *to, int bypass)
{
    const ELEMENT *x = in;
    ELEMENT *out = to;
    const REAL high = (REAL)(max + log_sum);
    const vec m = v_set1(high), l = v_set1((REAL)(((max - (double)high) + log_sum) + off));
    ptrdiff_t j = NAME(before_vectors)(out, n, bypass);
    if (j) NAME(put)(out, j, v_sub(v_sub(NAME(at)(x, 0, j, 0), m), l), 0);
    for (; TOGETHER > 1 && j <= n - UNROLL * LANES; j += UNROLL * LANES) {
        vec z[UNROLL];
        UNROLLED
        for (int u = 0; u < UNROLL; ++u) z[u] = v_sub(v_sub(v_load(x + j + u * LANES), m), l);
        UNROLLED
        for (int u = 0; u < UNROLL; ++u) NAME(put)(out + j + u * LANES, LANES, z[u], bypass);
    }
    IN_FOURS
    for (; n - j >= LANES; j += LANES) NAME(put)(out + j, LANES, v_sub(v_sub(v_load(x + j), m), l), bypass);
    if (j < n) NAME(put)(out + j, n - j, v_sub(v_sub(NAME(at)(x, j, n, 0), m), l), 0);
}
