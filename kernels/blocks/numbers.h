/* What the numbers of a row (rows/row_statistics.c) take from a block, beside its sum: how far below the maximum its
 * classes lie, weighted by e^x, where the largest is, and how many lie above a target; and the gradient of what has one.
 * unit.h includes this once for each ELEMENT, after rows.h.
 *
 * The maximum is known before the sum, and the block in the L1 cache then: a pass over memory guesses it (pass in
 * rows.h), but sum e^x (max - x) about a guess is a difference that cancels where few classes hold the sum. The class
 * at the maximum is left out of the sum (blocks.h, D), and adds nothing to that other one. */
#include <math.h>

#include "blocks/blocks.h"
#include "blocks/prefetch.h"
#include "math/exp_sum.h"
#include "math/lane_total.h"
#include "simd/simd.h"

#define looking NAME(looking)
#define looks NAME(looks)
#define look_sums NAME(look_sums)

/* The largest element that is a number; -inf where there is none. */
static double NAME(top)(const void *in, ptrdiff_t n)
{
    const ELEMENT *x = in;
    vec m[4];
    for (int u = 0; u < 4; ++u) m[u] = v_set1(-INFINITY);
    ptrdiff_t j = 0;
    for (; n - j >= 4 * LANES; j += 4 * LANES)
        for (int u = 0; u < 4; ++u) m[u] = v_max(v_load(x + j + u * LANES), m[u]);
    for (; j < n; j += LANES) m[0] = v_max(NAME(at)(x, j, n, -INFINITY), m[0]);
    return (double)v_top(v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
}

/* The first element that is that number, or n. */
static ptrdiff_t NAME(place)(const void *in, ptrdiff_t n, double value)
{
    const ELEMENT *x = in;
    const vec wanted = v_set1((REAL)value);
    ptrdiff_t j = 0;
    for (; n - j >= 4 * LANES; j += 4 * LANES) {
        mask found = v_equal(v_load(x + j), wanted);
        for (int u = 1; u < 4; ++u) found = mask_or(found, v_equal(v_load(x + j + u * LANES), wanted));
        if (mask_count(found)) break;
    }
    for (; j < n; j += LANES) {
        REAL lanes[LANES];
        const vec z = NAME(at)(x, j, n, NAN);
        if (!mask_count(v_equal(z, wanted))) continue;
        v_store_real(lanes, z);
        for (int i = 0; i < LANES; ++i)
            if (lanes[i] == (REAL)value) return j + i;
    }
    return n;
}

/* How many elements are above a number; with ties, how many are not below it. */
static ptrdiff_t NAME(above)(const void *in, ptrdiff_t n, double value, int ties)
{
    const ELEMENT *x = in;
    const vec than = v_set1((REAL)value), one = v_set1(1);
    vec count[4];
    for (int u = 0; u < 4; ++u) count[u] = v_set1(0);
    ptrdiff_t j = 0;
    if (ties) {
        for (; n - j >= 4 * LANES; j += 4 * LANES)
            for (int u = 0; u < 4; ++u) count[u] = v_add_where(v_less(v_load(x + j + u * LANES), than), count[u], one);
        for (; j < n; j += LANES) count[0] = v_add_where(v_less(NAME(at)(x, j, n, INFINITY), than), count[0], one);
    } else {
        for (; n - j >= 4 * LANES; j += 4 * LANES)
            for (int u = 0; u < 4; ++u) count[u] = v_add_where(v_less(than, v_load(x + j + u * LANES)), count[u], one);
        for (; j < n; j += LANES) count[0] = v_add_where(v_less(than, NAME(at)(x, j, n, -INFINITY)), count[0], one);
    }
    const ptrdiff_t found = (ptrdiff_t)v_sum(v_add(v_add(count[0], count[1]), v_add(count[2], count[3])));
    return ties ? n - found : found;
}

/* What stays as it is over a block: max is the row's, or the largest up to here; leave is the class at it, or -1. */
typedef struct {
    const ELEMENT *x;
    EXP_FRAME f;
    vec max, least, lowest;    /* what lies below least is as far, and its e^x that of lowest, less the shift: 0 */
    vec target, unit;
    ptrdiff_t n, leave;
    two_aheads ahead;
} looking;

typedef struct {
    vec sum[UNROLL], far[UNROLL], squares[UNROLL], top, count;
} looks;

SIMD looks NAME(looks_of_none)(void)
{
    looks p;
    UNROLLED
    for (int u = 0; u < UNROLL; ++u) p.sum[u] = p.far[u] = p.squares[u] = v_set1(0);
    p.top = v_set1(-INFINITY), p.count = v_set1(0);
    return p;
}

/* As taken in math/exp_sum_of.h, without a loop that would keep the vectors in memory. */
SIMD vec NAME(taken_at_once)(vec *s)
{
    const vec sum = UNROLL == 4   ? v_add(v_add(s[0], s[1]), v_add(s[UNROLL / 2], s[UNROLL - 1]))
                    : UNROLL == 2 ? v_add(s[0], s[UNROLL - 1])
                                  : s[0];
    s[0] = v_set1(0);
    s[UNROLL > 1] = v_set1(0);
    s[UNROLL / 2] = v_set1(0);
    s[UNROLL - 1] = v_set1(0);
    return sum;
}

/* guards: for a row with a shift or with logits so low that e^x (max - x) is 0 times inf. */
SIMD void NAME(look_step)(const looking *r, ptrdiff_t j, vec x, looks *p, int u, int leaves_out, int guards, int counts,
                          vec to_count, int squares)
{
    if (!guards) p->top = v_max(to_count, p->top);
    const vec z = guards ? v_max(r->least, x) : x;    /* NaN stays one */
    vec e = v_exp_summed(guards ? v_max(r->lowest, v_sub(z, r->f.shift)) : z, r->f);
    p->far[u] = v_fma(e, v_sub(r->max, z), p->far[u]);
    if (leaves_out) e = v_zero_where(v_equal(v_load_real(lane_numbers), v_set1((REAL)(r->leave - j))), e);
    p->sum[u] = v_add(p->sum[u], e);
    if (squares) p->squares[u] = v_fma(v_mul(e, r->unit), e, p->squares[u]);
    if (counts) p->count = v_add_where(v_less(r->target, to_count), p->count, v_set1(1));
}

/* What is past the end is far below, and counts for nothing. */
SIMD void NAME(look_chunk)(const looking *r, ptrdiff_t j, looks *p, int leaves_out, int guards, int counts, int squares)
{
    const ptrdiff_t end = r->n - j < CHUNK ? r->n : j + CHUNK;
    for (; end - j >= UNROLL * LANES; j += UNROLL * LANES) {
        NAME(ask_ahead)(r->x, j, UNROLL * LANES, &r->ahead);
        for (int u = 0; u < UNROLL; ++u) {
            const vec x = v_load(r->x + j + u * LANES);
            NAME(look_step)(r, j + u * LANES, x, p, u, leaves_out, guards, counts, x, squares);
        }
    }
    if (j < end) NAME(ask_ahead)(r->x, j, end - j, &r->ahead);
    for (; j < end; j += LANES) {
        const vec x = NAME(at)(r->x, j, end, -INFINITY);
        const vec z = end - j >= LANES ? x : v_max(r->least, x);
        NAME(look_step)(r, j, z, p, 0, leaves_out, guards, counts, x, squares);
    }
}

/* The same of a vector by the parts of e^x, without rounding what a result could show. */
typedef struct {
    EXP_SUM sum;
    lane_total_f64 far[WIDE];
    vec_f64 squares[WIDE];
} look_sums;

SIMD look_sums NAME(exactly_of_none)(void)
{
    look_sums p;
    p.sum = exp_sum_of_none();
    for (int u = 0; u < WIDE; ++u) p.far[u] = lane_total_of_none_f64(), p.squares[u] = v_set1_f64(0);
    return p;
}

SIMD void NAME(look_exactly)(const looking *r, vec x, mask left_out, look_sums *p, int u, int squares)
{
    const vec z = v_max(r->least, x);
    vec q;
    const vec high = v_exp_parts(v_sub(z, r->f.shift), r->f, &q);
    for (int part = 0; part < WIDE; ++part) {
        const vec_f64 power = v_widen(high, part), more = v_widen(q, part);
        const vec_f64 below = v_sub_f64(v_widen(r->max, part), v_widen(z, part)), term = v_mul_f64(power, below);
        if (WIDE == 1) {
            lane_total_add_f64(&p->far[part], term);
            lane_total_add_f64(&p->far[part], v_mul_f64(term, more));
        } else p->far[part].sum = v_fma_f64(term, more, v_add_f64(p->far[part].sum, term));
    }
    const vec others = v_zero_where(left_out, high);
    exp_sum_add(&p->sum, u, others, q);
    for (int part = 0; squares && part < WIDE; ++part) {
        const vec_f64 power = v_widen(others, part), e = v_fma_f64(power, v_widen(q, part), power);
        p->squares[part] = v_fma_f64(v_mul_f64(e, v_widen(r->unit, part)), e, p->squares[part]);
    }
}

SIMD double NAME(far_of)(const look_sums *p)
{
    if (WIDE == 1) return lane_total_value_f64(p->far[0]);
    return v_sum_f64(v_add_f64(p->far[0].sum, p->far[WIDE - 1].sum));
}

/* One lane of the chunk from j again, as lost_in_lane in rows.h: its sums, exactly. */
static compensated NAME(look_at_lane)(const looking *r, ptrdiff_t j, int lane, double *far)
{
    ELEMENT column[CHUNK_VECTORS];
    int rows = 0, leader = -1;
    for (int i = 0; i < CHUNK_VECTORS; ++i) {
        const ptrdiff_t at = j + i * LANES + lane;
        if (at == r->leave) leader = rows;
        if (at < r->n) column[rows++] = r->x[at];
    }
    look_sums p = NAME(exactly_of_none)();
    for (int i = 0; i < rows; i += LANES) {
        const mask left_out = v_equal(v_load_real(lane_numbers), v_set1((REAL)(leader - i)));
        NAME(look_exactly)(r, NAME(at)(column, i, rows, -INFINITY), left_out, &p, 0, 0);
    }
    exp_sum_end_chunk(&p.sum);
    *far = NAME(far_of)(&p);
    return lane_total_exact(p.sum.total);
}

/* Any chunk by itself, in one copy for all that few chunks need. */
NOT_INLINED static void NAME(look_any_chunk)(const looking *r, ptrdiff_t j, looks *p, int counts)
{
    *p = NAME(looks_of_none)();
    NAME(look_chunk)(r, j, p, 1, 1, counts, 1);
}

SIMD lane_total NAME(look_chunks)(const looking *r, looks *p, REAL *sums, REAL *fars, int guards, int counts,
                                  int squares)
{
    lane_total of_squares = lane_total_of_none();
    for (ptrdiff_t j = 0; j < r->n; j += CHUNK) {
        if (guards || (r->leave >= j && r->leave < j + CHUNK)) {
            looks any;    /* so that the others' stay in registers */
            NAME(look_any_chunk)(r, j, &any, counts);
            UNROLLED
            for (int u = 0; u < UNROLL; ++u)
                p->sum[u] = any.sum[u], p->far[u] = any.far[u], p->squares[u] = any.squares[u];
            if (counts) p->count = v_add(p->count, any.count);
        } else NAME(look_chunk)(r, j, p, 0, 0, counts, squares);
        v_store_real(sums + j / CHUNK_VECTORS, NAME(taken_at_once)(p->sum));
        v_store_real(fars + j / CHUNK_VECTORS, NAME(taken_at_once)(p->far));
        if (squares) lane_total_add(&of_squares, NAME(taken_at_once)(p->squares));
    }
    return of_squares;
}

/* As is_small of rows.h; it is the maximum that is left out. */
static int NAME(look_is_small)(const looking *r, double sum)
{
    REAL e[LANES];
    vec q;
    if (r->leave < 0) return 0;
    v_store_real(e, v_exp_parts(v_sub(r->max, r->f.shift), r->f, &q));
    return !(sum > 4 * (double)e[0]);
}

/* A block looked at about what turns out not to be its maximum: e^x (max - x) is what it was, and as many e^x as the
 * maximum is higher; the chunk that has it is looked at again, without it. */
SIMD void NAME(look_raised)(looking *r, double max, double top, REAL *sums, REAL *fars)
{
    const REAL by = (REAL)(top - max);
    const vec high = v_set1(by), low = v_set1((REAL)((top - max) - (double)by));
    for (ptrdiff_t i = 0; i * CHUNK_VECTORS < r->n; i += LANES) {
        const vec s = v_load_real(sums + i);
        v_store_real(fars + i, v_fma(high, s, v_fma(low, s, v_load_real(fars + i))));
    }
    r->max = v_set1((REAL)top), r->least = v_set1((REAL)far_below(top, WIDE == 1)), r->lowest = r->least;
    r->leave = NAME(place)(r->x, r->n, top);
    const ptrdiff_t j = r->leave / CHUNK * CHUNK;
    looks p;
    NAME(look_any_chunk)(r, j, &p, 0);
    v_store_real(sums + j / CHUNK_VECTORS, NAME(taken_at_once)(p.sum));
    v_store_real(fars + j / CHUNK_VECTORS, NAME(taken_at_once)(p.far));
}

/* What lanes have added up, of which those with more than a sixteenth of either sum are added again, or all (rows.h,
 * pass_rounded). */
NOT_INLINED static void NAME(look_total)(looking *r, double max, REAL *sums, REAL *fars, block_look *found)
{
    const int lanes = (int)((r->n + CHUNK - 1) / CHUNK) * LANES;
    if (found->top > max) NAME(look_raised)(r, max, found->top, sums, fars);
    found->leader = r->leave;
    vec top_sum = v_set1(0), top_far = top_sum;
    lane_total sum_total = lane_total_of_none(), far_total = sum_total;
    for (int i = 0; i < lanes; i += LANES) {
        const vec s = v_load_real(sums + i), f = v_load_real(fars + i);
        top_sum = v_max(s, top_sum), top_far = v_max(f, top_far);
        lane_total_add(&sum_total, s);
        lane_total_add(&far_total, f);
    }
    found->sum = lane_total_exact(sum_total);
    found->far = lane_total_value(far_total);
    const int again = (are_alike(sums) || are_alike(fars)) && NAME(look_is_small)(r, found->sum.sum);
    const double most = again ? 0 : found->sum.sum / 16, furthest = again ? 0 : found->far / 16;
    const mask large = mask_or(v_less(v_set1((REAL)most), top_sum), v_less(v_set1((REAL)furthest), top_far));
    if (!mask_count(large)) return;
    for (int i = 0; (i = next_large(sums, most, fars, furthest, i, lanes)) < lanes; ++i) {
        double far_of_lane;
        const compensated s = NAME(look_at_lane)(r, i / LANES * CHUNK, i % LANES, &far_of_lane);
        compensated_add(&found->sum, (s.sum - (double)sums[i]) + s.error);
        found->far += far_of_lane - (double)fars[i];
    }
}

SIMD void NAME(look_rounded)(looking *r, double max, block_look *found, int guards, int counts, int squares)
{
    REAL sums[GROUP / CHUNK_VECTORS], fars[GROUP / CHUNK_VECTORS];
    looks p = NAME(looks_of_none)();
    const lane_total of_squares = NAME(look_chunks)(r, &p, sums, fars, guards, counts, squares);
    found->squares = squares ? lane_total_value(of_squares) : 0;
    if (counts) found->counted = (ptrdiff_t)v_sum(p.count);
    if (!guards && !squares && WIDE == 2) {
        found->top = (double)v_top(p.top);
    }
    NAME(look_total)(r, max, sums, fars, found);
}

/* Of few elements, by the parts of e^x. */
SIMD void NAME(look_few)(const looking *r, block_look *found, int squares)
{
    look_sums p = NAME(exactly_of_none)();
    for (ptrdiff_t j = 0; j < r->n;) {
        const ptrdiff_t end = r->n - j < CHUNK ? r->n : j + CHUNK;
        for (; j < end; j += LANES) {
            const mask left_out = v_equal(v_load_real(lane_numbers), v_set1((REAL)(r->leave - j)));
            NAME(look_exactly)(r, NAME(at)(r->x, j, end, -INFINITY), left_out, &p, 0, squares);
        }
        exp_sum_end_chunk(&p.sum);
    }
    found->sum = lane_total_exact(p.sum.total);
    found->far = NAME(far_of)(&p);
    found->squares = v_sum_f64(WIDE == 1 ? p.squares[0] : v_add_f64(p.squares[0], p.squares[WIDE - 1]));
}

/* What is above this is counted; for NOT_BELOW the number next to the target. Past the end of a block lies -inf. */
static REAL NAME(below)(double target, counted_above counts)
{
    if (counts == NOT_COUNTED) return INFINITY;
    if (counts == ABOVE) return (REAL)target;
    return WIDE == 2 ? (REAL)nextafterf((f32)target, -INFINITY) : (REAL)nextafter(target, -INFINITY);
}

/* Of at most GROUP elements: the sum of e^x but for class leave, that of e^x (max - x), and how many are above a target,
 * or not below it; and unless the unit is 0 the sum of unit (e^x)^2. The sum is NaN where an element is.
 *
 * Where max is that of the blocks before this one alone, found->top is the two's, which the sums are about, and the class
 * there the one that is left out. 0 where it must be known first: e^x (max - x) about the other lacks digits, or something
 * is not finite, or the block is one that no lanes add up. */
static int NAME(look)(const void *x, ptrdiff_t n, anchor at, double max, int is_known, ptrdiff_t leave, double target,
                      counted_above counts, double unit, int *guards, lie_of_rows lie, block_look *found)
{
    const int shifts = at.shift != 0;
    if (!is_known && (n <= FEW || *guards || shifts || unit != 0 || WIDE == 1)) return 0;
    looking r = {x,
                 frame_at(at),
                 v_set1((REAL)max),
                 v_set1((REAL)far_below(max, WIDE == 1)),
                 v_set1((REAL)far_below(max - at.shift, WIDE == 1)),
                 v_set1(NAME(below)(target, counts)),
                 v_set1((REAL)unit),
                 n,
                 leave,
                 aheads_of(lie, is_known ? GROUP * sizeof(ELEMENT) : PREFETCH_NEAR)};    /* read for its maximum */
    found->counted = 0, found->top = max, found->leader = leave;
    if (n <= FEW) {
        NAME(look_few)(&r, found, unit != 0);
        if (counts) found->counted = NAME(above)(x, n, target, counts == NOT_BELOW);
    } else {
        if (!*guards && !shifts) {
            if (unit != 0) NAME(look_rounded)(&r, max, found, 0, 1, 1);
            else if (counts) NAME(look_rounded)(&r, max, found, 0, 1, 0);
            else NAME(look_rounded)(&r, max, found, 0, 0, 0);
            const int is_finite = isfinite(found->sum.sum) && isfinite(found->far);
            if (!is_known && !(is_finite && is_usual_raise(found, max))) return 0;
            *guards = !is_finite;
        }
        if (*guards || shifts) NAME(look_rounded)(&r, max, found, 1, 1, 1);
        if (counts == NOT_BELOW && target == -INFINITY) found->counted = n;
    }
    found->sum = exp_sum_total(found->sum);
    found->far /= EXP_SCALE;
    found->squares /= EXP_SCALE * EXP_SCALE;
    return 1;
}

/* ------------------------------------------------------------------ the gradient */

/* factor e^x (slope (max - x) + level), but at_max at the maximum, and value at one class. */
static void NAME(log_probs_gradient)(const void *in, ptrdiff_t n, const log_probs_job *job, ptrdiff_t entry, void *to,
                                     int bypass)
{
    const ELEMENT *x = in;
    ELEMENT *out = to;
    const EXP_FRAME f = frame_at(job->at);
    const vec max = v_set1((REAL)job->max), least = v_set1((REAL)far_below(job->max, WIDE == 1));
    const vec slope = v_set1((REAL)job->slope), level = v_set1((REAL)job->level);
    const vec times = v_set1((REAL)(job->factor / EXP_SCALE)), value = v_set1((REAL)job->value);
    const vec at_max = v_set1((REAL)job->at_max);
    for (ptrdiff_t j = 0, here; j < n; j += here) {
        const ptrdiff_t before = j ? 0 : NAME(before_vectors)(out, n, bypass);
        here = before ? before : n - j < LANES ? n - j : LANES;
        const vec z = v_max(least, NAME(at)(x, j, j + here, -INFINITY));
        vec grad = v_mul(v_mul(v_exp(z, f), times), v_fma(slope, v_sub(max, z), level));
        grad = v_where(v_equal(z, max), at_max, grad);
        if ((size_t)(entry - j) < (size_t)here)
            grad = v_where(v_equal(v_load_real(lane_numbers), v_set1((REAL)(entry - j))), value, grad);
        NAME(put)(out + j, here, grad, bypass);
    }
}
