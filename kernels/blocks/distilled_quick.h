/* Two rows beside each other in lanes of float32, for a distillation (rows/distillation.c): a, by whose probabilities the
 * divergence is weighted, and b, both over T. unit.h includes this once for each ELEMENT of float32 lanes, where e^z has a table.
 *
 * With e = e^(a/T) at its anchor and d = (b - a)/T - base, in which most of what the rows differ by is gone, one pass adds
 * up e, e d and e (e^d - 1 - d), whose terms are all positive and need few digits each; where |d| < 1 by a series, elsewhere
 * from e^(b/T). What the gradient is made of, two numbers of each class, is kept: it is m F + e G with factors of the row.
 * Over a mixture a second pass makes them, in the caches, of e and e^(b/T). */
#include <math.h>

#include "blocks/blocks.h"
#include "blocks/prefetch.h"
#include "math/exp.h"
#include "math/lane_total.h"
#include "math/transform.h"
#include "simd/simd.h"

#ifndef DISTILLED_QUICK_H
#define DISTILLED_QUICK_H

/* Classes that lanes of two vectors add up half each, and read before as many of an earlier row are written: with twice as
 * many, or half, a pass takes a tenth longer. */
#define QUICK_CHUNK (8 * LANES)

typedef struct {
    vec inverse, inverse_low, base, base_low, ratio;
    scaled_frame of_a, of_b;
    kept_number keeps;
    int carefully, masked;
} quick_frame;

SIMD quick_frame quick_frame_of(const quick_pair *r)
{
    const REAL inverse = (REAL)r->inverse, base = (REAL)r->base;
    quick_frame f;
    f.inverse = v_set1(inverse), f.inverse_low = v_set1((REAL)(r->inverse - (double)inverse));
    f.base = v_set1(base), f.base_low = v_set1((REAL)(r->base - (double)base));
    f.ratio = v_set1((REAL)r->ratio);
    f.of_a = f.of_b = scaled_frame_at(r->of_a, r->numbers);
    f.of_b.f = frame_at(r->of_b), f.of_b.lowest = v_div(f.of_b.f.lowest, v_set1(r->numbers->a));
    f.keeps = r->keeps, f.carefully = r->carefully, f.masked = r->masked;
    return f;
}

/* e^(z / T). */
SIMD vec quick_exp(vec z, const scaled_frame *at, int scaled)
{
    return scaled ? v_exp_scaled_summed(z, at) : v_exp_summed(z, at->f);
}

/* d times T; carefully: with what b - a is rounded by. Else the base is 0, beside which that does not show. */
SIMD vec quick_gap(vec a, vec b, const quick_frame *f)
{
    const vec d = v_sub(b, a);
    if (!f->carefully) return d;
    const vec seen = v_sub(b, d), lost = v_add(v_sub(b, v_add(d, seen)), v_sub(seen, a));
    const vec near = v_sub(d, f->base), more = v_add(near, v_sub(lost, f->base_low));
    return v_where(v_nan(more), near, more); /* what an infinite difference has lost is NaN */
}

/* Where b alone masks a class, whose divergence is infinite, be its e 0 in float32: the row goes the long way, as its sums
 * are not finite. */
SIMD mask quick_lacks(vec gap) { return v_equal(gap, v_set1(-INFINITY)); }

/* d of such a one. */
SIMD vec quick_scaled(vec gap, const quick_frame *f, int scaled)
{
    return scaled ? v_fma(gap, f->inverse_low, v_mul(gap, f->inverse)) : gap;
}

/* (e^d - 1 - d) / d^2 for |d| <= 1. Error 0.3 2^-24; a Chebyshev fit. */
SIMD vec quick_series(vec d)
{
    static const REAL c[8] = {0x1.78a70ep-19f, 0x1.a971fcp-16f, 0x1.a009p-13f,  0x1.6bff52p-10f,
                              0x1.11111ep-7f,  0x1.55557ap-5f,  0x1.555556p-3f, 0x1p-1f};
    vec p = v_set1(c[0]);
    for (int i = 1; i < 8; ++i) p = v_fma(p, d, v_set1(c[i]));
    return p;
}

SIMD vec quick_size(vec d) { return v_max(d, v_sub(v_set1(0), d)); }

typedef struct {
    vec e, moved, phi, other; /* of rows far from each other: moved times T, and in the place of phi e^(b/T) */
} quick_lanes;

/* Of rows far from each other: the three sums, and e^(b/T) in the place of e (e^d - 1). NaN where both are
 * -inf, unless that is looked for. */
SIMD void quick_far_step(vec a, vec b, const quick_frame *f, ptrdiff_t j, REAL *m, REAL *of_e, quick_lanes *s,
                         int scaled)
{
    const vec e = quick_exp(a, &f->of_a, scaled), g = quick_exp(b, &f->of_b, scaled);
    if (f->keeps == KEEP_OTHER) { /* d is taken again over the mixture */
        s->e = v_add(s->e, e);
        s->phi = v_add(s->phi, g);
        v_store_real(of_e + j, e);
        v_store_real(m + j, g);
        return;
    }
    vec gap = quick_gap(a, b, f);
    if (f->masked) gap = v_where(quick_lacks(gap), gap, v_zero_where(v_equal(e, v_set1(0)), gap)); /* 0 inf is NaN */
    s->e = v_add(s->e, e);
    s->moved = v_fma(e, gap, s->moved);
    s->phi = v_add(s->phi, g);
    if (f->keeps == KEEP_NOTHING) return;
    v_store_real(of_e + j, e);
    v_store_real(m + j, f->keeps == KEEP_TERM ? v_mul(e, gap) : g);
}

/* Vectors of a chunk with lanes that are not near, from which on e^(b/T) is taken of every vector of the next one: whether
 * one has such lanes is then a guess, and a wrong one costs more. What comes out is the same. */
#define APART_OFTEN 2

typedef struct {
    int count, always; /* in this chunk; whether there were so many in the one before */
} quick_apart;

SIMD void quick_near_step(vec a, vec b, const quick_frame *f, ptrdiff_t j, REAL *m, REAL *of_e, quick_lanes *s,
                          quick_apart *apart, int scaled)
{
    const vec e = quick_exp(a, &f->of_a, scaled);
    const vec gap = quick_gap(a, b, f), d = quick_scaled(gap, f, scaled), square = v_mul(d, d);
    const mask none = v_equal(e, v_set1(0)), near = v_less(square, v_set1(1));
    const vec series = v_mul(v_mul(e, square), quick_series(d));
    vec term = v_zero_where(none, v_mul(e, d)), phi = series;
    vec moved = v_add(term, phi), other = v_add(e, moved); /* e (e^d - 1), e e^d */
    const int has_far = mask_count(near) != LANES;
    apart->count += has_far;
    if (has_far || apart->always) { /* by "|" GCC makes a slower loop */
        const vec g = quick_exp(b, &f->of_b, scaled);
        term = v_where(quick_lacks(gap), gap, term);
        const vec far = v_lost(g, f->ratio, e);
        moved = v_where(near, moved, far);
        phi = v_where(near, phi, v_sub(far, term));
        other = v_where(near, other, v_mul(g, f->ratio));
    }
    s->e = v_add(s->e, e);
    s->moved = v_add(s->moved, term);
    s->phi = v_add(s->phi, phi);
    if (f->keeps == KEEP_NOTHING) return;
    if (f->keeps == KEEP_OTHER) s->other = v_add(s->other, other);
    v_store_real(of_e + j, e);
    v_store_real(m + j, f->keeps == KEEP_MOVED ? moved : f->keeps == KEEP_TERM ? term : other);
}

SIMD void quick_step(vec a, vec b, const quick_frame *f, ptrdiff_t j, REAL *m, REAL *of_e, quick_lanes *s,
                     quick_apart *apart, vec *max, int scaled, int far)
{
#if !SCALES_TO_ZERO
    max[0] = v_max(a, max[0]), max[1] = v_max(b, max[1]);
#else
    (void)max;
#endif
    if (far) quick_far_step(a, b, f, j, m, of_e, s, scaled);
    else quick_near_step(a, b, f, j, m, of_e, s, apart, scaled);
}

/* log((big + small) / big) = 2 atanh(u) for 0 <= small <= big. Error of the series 0.14 2^-24 of it; a minimax fit. */
SIMD vec quick_log_sum(vec small, vec big)
{
    static const REAL c[5] = {0x1.208bd0p-2f, 0x1.1e510ap-2f, 0x1.99dae6p-2f, 0x1.5554e0p-1f, 0x1p+1f};
    const vec sum = v_max(v_add(v_add(big, big), small), v_set1(0x1p-126f)); /* not 0 */
    const vec u = v_div(small, sum), square = v_mul(u, u);
    vec p = v_set1(c[0]);
    for (int i = 1; i < 5; ++i) p = v_fma(p, square, v_set1(c[i]));
    return v_mul(u, p);
}

SIMD vec quick_powers(vec square, const f32 *c)
{
    vec p = v_set1(c[QUICK_TERMS - 1]);
    for (int i = QUICK_TERMS - 2; i >= 0; --i) p = v_fma(p, square, v_set1(c[i]));
    return p;
}

/* ------------------------------------------------------------------ over the mixture */

/* With P = (1 - beta) p_a, Q = beta p_b, m = P + Q and D = d - shift = log p_b - log p_a, the sums of both divergences'
 * terms m K, and of what takes the place of the number kept, p_a G, where G = log(m / p_a) and m K = Q D - m G. P, Q and m
 * are held over 1 - beta, so that P is e. The exponentials are weights alone: D is of the logits, and has all its digits
 * however near each other the two rows are, and what the shift is off by is in K and G - mean(G) at second order.
 *
 * Where |D| < MIXTURE_NEAR, K / D^2 and G / D are power series. Elsewhere
 *
 *     Q <= P    G = log(m / P) + log(1 - beta)        m K = Q D - m G
 *     Q > P     G = log(m / Q) + log(beta) + D        m K = -P D - m (G - D)
 *
 * of which no two terms take each other away. Coarsely: G by these everywhere, as its error is p_a's there: without a look
 * at whether all lanes are near, which is a guess where half of the vectors are. */
typedef struct {
    quick_frame pair;
    vec of_b, log_a, log_b, back;
    const quick_shares *of;
    int finely, scaled;
} mixture_frame;

SIMD mixture_frame mixture_frame_of(const quick_pair *pair, const quick_shares *of)
{
    mixture_frame f = {.pair = quick_frame_of(pair), .of = of, .finely = !of->coarsely, .scaled = pair->inverse != 1};
    f.of_b = v_set1((REAL)of->of_b), f.log_a = v_set1((REAL)log1p(-of->beta)), f.log_b = v_set1((REAL)log(of->beta));
    f.back = v_set1((REAL)-of->shift);
    return f;
}

SIMD void mixture_step(vec a, vec b, vec p, REAL *to, vec m, const mixture_frame *f, int evenly, vec *both, vec *own)
{
    const vec zero = v_set1(0), q = v_mul(m, f->of_b), mixed = v_add(p, q);
    const vec gap = quick_gap(a, b, &f->pair), most = v_set1(1e4f);
    vec d = v_add(gap, f->back);
    if (f->scaled) d = v_fma(gap, f->pair.inverse, v_fma(gap, f->pair.inverse_low, f->back));
    const vec square = v_mul(d, d);
    const mask near = v_less(square, v_set1((REAL)(MIXTURE_NEAR * MIXTURE_NEAR)));
    vec series = quick_powers(square, f->of->both), beside = zero, of_own = zero;
    if (!evenly) series = v_fma(d, quick_powers(square, f->of->both_odd), series);
    series = v_mul(series, square);
    if (f->finely) {
        const vec even = evenly ? v_set1(0.5f) : quick_powers(square, f->of->own);
        of_own = v_mul(v_fma(d, quick_powers(square, f->of->own_odd), even), d);
    }
    if (!f->finely || mask_count(near) != LANES) {
        const mask other = v_less(p, q);
        d = v_min(v_max(d, v_sub(zero, most)), most); /* finite: of a class that a row masks it is not */
        const vec log_less = v_add(quick_log_sum(v_min(p, q), v_max(p, q)), v_where(other, f->log_b, f->log_a));
        beside = v_zero_where(near, v_mul(v_where(other, v_sub(zero, p), q), d));
        series = v_where(near, series, v_sub(zero, log_less));
        const vec far = v_add_where(other, log_less, d);
        of_own = f->finely ? v_where(near, of_own, far) : far;
    }
    of_own = v_mul(of_own, p);
    *both = v_add(*both, v_fma(mixed, series, beside));
    *own = v_add(*own, of_own);
    v_store_real(to, of_own);
}

#endif

/* n elements of the gradient that is at hand, or as many fewer as fill no vector. */
static void NAME(quick_gradient)(quick_job *g, ptrdiff_t n)
{
    const REAL *m = g->m, *e = g->e;
    ELEMENT *out = g->out;
    const vec of_m = v_set1((REAL)g->of_m), of_e = v_set1((REAL)g->of_e);
    if (n <= 0) return;
    ptrdiff_t j = g->done, here = j ? 0 : NAME(before_vectors)(out, g->n, g->bypass);
    const ptrdiff_t end = g->n - j < n ? g->n : j + n;
    if (here) {
        const vec grad = v_fma(NAME(real_at)(m, 0, here), of_m, v_mul(NAME(real_at)(e, 0, here), of_e));
        NAME(put)(out, here, grad, 0);
        j = here;
    }
    IN_FOURS
    for (; end - j >= LANES; j += LANES)
        NAME(put)(out + j, LANES, v_fma(v_load_real(m + j), of_m, v_mul(v_load_real(e + j), of_e)), g->bypass);
    if (j < end && end == g->n) {
        here = end - j;
        NAME(put)(out + j, here, v_fma(NAME(real_at)(m, j, end), of_m, v_mul(NAME(real_at)(e, j, end), of_e)), 0);
        j = end;
    }
    g->done = j;
}

SIMD void NAME(quick_sums_as)(const ELEMENT *a, const ELEMENT *b, ptrdiff_t n, const quick_pair *r,
                              quick_totals *totals, REAL *m, REAL *of_e, quick_job *job, int scaled, int far)
{
    const quick_frame f = quick_frame_of(r);
    const vec zero = v_set1(0), none = v_set1(-INFINITY);
    const vec beyond = v_set1((REAL)fmax(-1e4 / r->inverse, -1e38)); /* whose e^x is 0 at any temperature */
    const quick_lanes start = {zero, zero, zero, zero};
    quick_apart apart = {0, 0};
    lane_total sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = lane_total_of_none();
    vec max[2] = {none, none};
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < QUICK_CHUNK ? n : j + QUICK_CHUNK;
        quick_lanes s[2] = {start, start};
        apart.always = apart.count >= APART_OFTEN;
        apart.count = 0;
        if (job->done < job->n) NAME(quick_gradient)(job, m + end + LANES - (job->m + job->done));
        for (; end - j >= 2 * LANES; j += 2 * LANES) {
            NAME(ask_ahead)(a, j, 2 * LANES, &straight_on);
            NAME(ask_ahead)(b, j, 2 * LANES, &straight_on);
            for (int u = 0; u < 2; ++u) {
                const ptrdiff_t at = j + u * LANES;
                quick_step(v_load(a + at), v_load(b + at), &f, at, m, of_e, &s[u], &apart, max, scaled, far);
            }
        }
        for (; j < end; j += LANES) { /* past the end lie two -inf */
            vec x = NAME(at)(a, j, end, -INFINITY), q = NAME(at)(b, j, end, -INFINITY);
            if (far && end - j < LANES) {
                const mask inside = v_less(v_load_real(lane_numbers), v_set1((REAL)(end - j)));
                x = v_where(inside, x, beyond), q = v_where(inside, q, beyond);
            }
            quick_step(x, q, &f, j, m, of_e, &s[0], &apart, max, scaled, far);
        }
        lane_total_add(&sums[0], v_add(s[0].e, s[1].e));
        lane_total_add(&sums[1], v_add(s[0].moved, s[1].moved));
        lane_total_add(&sums[2], v_add(s[0].phi, s[1].phi));
        if (!far && f.keeps == KEEP_OTHER) lane_total_add(&sums[3], v_add(s[0].other, s[1].other));
    }
    totals->e += lane_total_value(sums[0]);
    totals->moved += lane_total_value(sums[1]);
    totals->phi += lane_total_value(sums[2]);
    totals->other += lane_total_value(sums[3]);
#if !SCALES_TO_ZERO
    const double max_a = v_top(max[0]), max_b = v_top(max[1]);
    if (max_a > totals->max_a) totals->max_a = max_a;
    if (max_b > totals->max_b) totals->max_b = max_b;
#endif
}

static void NAME(quick_sums)(const void *a, const void *b, ptrdiff_t n, const quick_pair *r, quick_totals *totals,
                             void *m, void *e, quick_job *job)
{
    if (r->inverse == 1 && r->far) NAME(quick_sums_as)(a, b, n, r, totals, m, e, job, 0, 1);
    else if (r->far) NAME(quick_sums_as)(a, b, n, r, totals, m, e, job, 1, 1);
    else if (r->inverse == 1) NAME(quick_sums_as)(a, b, n, r, totals, m, e, job, 0, 0);
    else NAME(quick_sums_as)(a, b, n, r, totals, m, e, job, 1, 0);
}

SIMD void NAME(quick_mixture_as)(const ELEMENT *a, const ELEMENT *b, ptrdiff_t n, const quick_pair *pair,
                                 const quick_shares *of, REAL *m, const REAL *e, quick_mixed *totals, int evenly)
{
    const mixture_frame f = mixture_frame_of(pair, of);
    lane_total both = lane_total_of_none(), own = both;
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < QUICK_CHUNK ? n : j + QUICK_CHUNK;
        vec s[2] = {v_set1(0), v_set1(0)}, t[2] = {v_set1(0), v_set1(0)};
        for (; end - j >= 2 * LANES; j += 2 * LANES)
            for (int u = 0; u < 2; ++u) {
                const ptrdiff_t at = j + u * LANES;
                mixture_step(v_load(a + at), v_load(b + at), v_load_real(e + at), m + at, v_load_real(m + at), &f,
                             evenly, &s[u], &t[u]);
            }
        for (; j < end; j += LANES)
            mixture_step(NAME(at)(a, j, n, -INFINITY), NAME(at)(b, j, n, -INFINITY), NAME(real_at)(e, j, n), m + j,
                         NAME(real_at)(m, j, n), &f, evenly, &s[0], &t[0]);
        lane_total_add(&both, v_add(s[0], s[1]));
        lane_total_add(&own, v_add(t[0], t[1]));
    }
    totals->both += (1 - of->beta) * lane_total_value(both);
    totals->own += lane_total_value(own);
}

static void NAME(quick_mixture)(const void *a, const void *b, ptrdiff_t n, const quick_pair *pair,
                                const quick_shares *of, void *m, const void *e, quick_mixed *totals)
{
    if (of->beta == 0.5) NAME(quick_mixture_as)(a, b, n, pair, of, m, e, totals, 1);
    else NAME(quick_mixture_as)(a, b, n, pair, of, m, e, totals, 0);
}
