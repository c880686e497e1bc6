/* Two rows beside each other in lanes of float32, for a distillation (rows/distillation.c): a, by whose probabilities the
 * divergence is weighted, and b, both over T. unit.h includes this once for each ELEMENT of float32 lanes, where e^z has a table.
 *
 * With e = e^(a/T) at its anchor and d = (b - a)/T - base, in which most of what the rows differ by is gone, one pass adds
 * up e, e d and e (e^d - 1 - d), whose terms are all positive and need few digits each; where |d| < 1 by a series, elsewhere
 * from e^(b/T). What the gradient is made of, two numbers of each class, is kept: it is m F + e G with factors of the row. */
#include <math.h>

#include "blocks/blocks.h"
#include "blocks/prefetch.h"
#include "math/exp.h"
#include "math/lane_total.h"
#include "math/transform.h"
#include "simd/simd.h"

#ifndef DISTILLED_QUICK_H
#define DISTILLED_QUICK_H

#define QUICK_CHUNK (4 * LANES) /* as many numbers are added up in a lane */

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
    vec gap = quick_gap(a, b, f);
    if (f->masked) gap = v_where(quick_lacks(gap), gap, v_zero_where(v_equal(e, v_set1(0)), gap)); /* 0 inf is NaN */
    s->e = v_add(s->e, e);
    s->moved = v_fma(e, gap, s->moved);
    s->phi = v_add(s->phi, g);
    if (f->keeps == KEEP_NOTHING) return;
    v_store_real(of_e + j, e);
    v_store_real(m + j, f->keeps == KEEP_TERM ? v_mul(e, gap) : g);
}

SIMD void quick_near_step(vec a, vec b, const quick_frame *f, ptrdiff_t j, REAL *m, REAL *of_e, quick_lanes *s,
                          int scaled)
{
    const vec e = quick_exp(a, &f->of_a, scaled);
    const vec gap = quick_gap(a, b, f), d = quick_scaled(gap, f, scaled), square = v_mul(d, d);
    const mask none = v_equal(e, v_set1(0)), near = v_less(square, v_set1(1));
    const vec series = v_mul(v_mul(e, square), quick_series(d));
    vec term = v_zero_where(none, v_mul(e, d)), phi = series, g = v_set1(0);
    vec moved = v_add(term, phi); /* e (e^d - 1) */
    if (f->keeps == KEEP_OTHER || mask_count(near) != LANES) {
        g = quick_exp(b, &f->of_b, scaled);
        term = v_where(quick_lacks(gap), gap, term);
        const vec far = v_lost(g, f->ratio, e);
        moved = v_where(near, moved, far);
        phi = v_where(near, phi, v_sub(far, term));
    }
    s->e = v_add(s->e, e);
    s->moved = v_add(s->moved, term);
    s->phi = v_add(s->phi, phi);
    if (f->keeps == KEEP_NOTHING) return;
    if (f->keeps == KEEP_OTHER) s->other = v_add(s->other, g);
    v_store_real(of_e + j, e);
    v_store_real(m + j, f->keeps == KEEP_MOVED ? moved : f->keeps == KEEP_TERM ? term : g);
}

SIMD void quick_step(vec a, vec b, const quick_frame *f, ptrdiff_t j, REAL *m, REAL *of_e, quick_lanes *s, vec *max,
                     int scaled, int far)
{
#if !SCALES_TO_ZERO
    max[0] = v_max(a, max[0]), max[1] = v_max(b, max[1]);
#else
    (void)max;
#endif
    if (far) quick_far_step(a, b, f, j, m, of_e, s, scaled);
    else quick_near_step(a, b, f, j, m, of_e, s, scaled);
}

/* log w for w = 1 + y > 0, of which either may have what the other lost to rounding. After log2's whole part, f - f^2/2 +
 * f^3 P(f) as in Cephes' logf. */
SIMD vec quick_log(vec w, vec y)
{
    static const REAL c[9] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                              -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                              2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    const vec one = v_set1(1), zero = v_set1(0);
    vec n, scale = v_split(w, &n);
    const mask is_low = v_less(v_mul(w, scale), v_set1(0x1.6a09e6p+0f)); /* sqrt 2 */
    n = v_add(n, v_zero_where(is_low, one));
    scale = v_where(is_low, scale, v_mul(scale, v_set1(0.5f)));
    const vec f = v_where(v_equal(n, zero), y, v_sub(v_mul(w, scale), one));
    vec p = v_set1(c[0]);
    for (int i = 1; i < 9; ++i) p = v_fma(p, f, v_set1(c[i]));
    return v_fma(n, v_set1((REAL)LN2), v_fma(v_mul(f, f), v_fma(f, p, v_set1(-0.5f)), f));
}

/* A series of the row's, in even and odd powers. */
SIMD vec quick_row_series(vec d, const f32 *c)
{
    const vec square = v_mul(d, d);
    vec odd = v_set1(c[0]), even = v_set1(c[1]);
    for (int i = 2; i < QUICK_SHARES; i += 2) {
        odd = v_fma(odd, square, v_set1(c[i]));
        even = v_fma(even, square, v_set1(c[i + 1]));
    }
    return v_fma(odd, d, even);
}

#endif

/* n elements of the gradient that is at hand. */
static void NAME(quick_gradient)(quick_job *g, ptrdiff_t n)
{
    const REAL *m = g->m, *e = g->e;
    ELEMENT *out = g->out;
    const vec of_m = v_set1((REAL)g->of_m), of_e = v_set1((REAL)g->of_e);
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
    lane_total sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = lane_total_of_none();
    vec max[2] = {none, none};
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < STRIDE ? n : j + STRIDE;
        quick_lanes s[2] = {start, start};
        for (; end - j >= 2 * LANES; j += 2 * LANES) {
            NAME(ask_ahead)(a, j, 2 * LANES, &straight_on);
            NAME(ask_ahead)(b, j, 2 * LANES, &straight_on);
            for (int u = 0; u < 2; ++u) {
                const ptrdiff_t at = j + u * LANES;
                quick_step(v_load(a + at), v_load(b + at), &f, at, m, of_e, &s[u], max, scaled, far);
            }
        }
        for (; j < end; j += LANES) { /* past the end lie two -inf */
            vec x = NAME(at)(a, j, end, -INFINITY), q = NAME(at)(b, j, end, -INFINITY);
            if (far && end - j < LANES) {
                const mask inside = v_less(v_load_real(lane_numbers), v_set1((REAL)(end - j)));
                x = v_where(inside, x, beyond), q = v_where(inside, q, beyond);
            }
            quick_step(x, q, &f, j, m, of_e, &s[0], max, scaled, far);
        }
        lane_total_add(&sums[0], v_add(s[0].e, s[1].e));
        lane_total_add(&sums[1], v_add(s[0].moved, s[1].moved));
        lane_total_add(&sums[2], v_add(s[0].phi, s[1].phi));
        if (!far && f.keeps == KEEP_OTHER) lane_total_add(&sums[3], v_add(s[0].other, s[1].other));
        if (job->done < job->n && j % STRIDE == 0) NAME(quick_gradient)(job, STRIDE);
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

/* ------------------------------------------------------------------ over the mixture */

/* Of D = d - shift = log p_b - log p_a the sum of e (beta D e^D - w log w), w = 1 - beta + beta e^D, which is both divergences
 * over the mixture: D^2 times a series of the row's where |D| < 1, and elsewhere by r = p_b / p_a, with a and b in each other's
 * place where b has more than half of the mixture, or of this class of it where |D| > 4: so no digits are lost. Up to there
 * r - 1 is taken off both terms, which are near each other; beyond, one of them is next to nothing beside r - 1 where beta is
 * near 0 or 1. And the sum of e log w, log w = log(m / p_a), which takes the place of e^(b/T) in m: a series, too, where all
 * lanes are near each other.
 * Coarsely: with no series, for a divergence that is not small. */
SIMD void NAME(quick_mixture_as)(const ELEMENT *a, const ELEMENT *b, ptrdiff_t n, const quick_pair *pair,
                                 const quick_shares *of, REAL *m, const REAL *e, quick_mixed *totals, int coarsely)
{
    const quick_frame f = quick_frame_of(pair);
    const vec shift = v_set1((REAL)of->shift), shift_low = v_set1((REAL)(of->shift - (double)(REAL)of->shift));
    const vec zero = v_set1(0), one = v_set1(1), up = v_set1((REAL)of->of_b);
    const vec of_a_share = v_set1((REAL)(1 - of->beta)), of_b_share = v_set1((REAL)of->beta);
    const vec rarer = v_set1(of->beta > 0.5 ? 1 : -1);
    lane_total both = lane_total_of_none(), own = both;
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < QUICK_CHUNK ? n : j + QUICK_CHUNK;
        vec s = zero, t = zero;
        for (; j < end; j += LANES) {
            const vec p = NAME(real_at)(e, j, n), q = v_mul(NAME(real_at)(m, j, n), up);
            const vec x = NAME(at)(a, j, n, -INFINITY), z = NAME(at)(b, j, n, -INFINITY);
            const vec given = quick_scaled(quick_gap(x, z, &f), &f, 1);
            const vec d = v_sub(v_sub(given, shift), shift_low), square = v_mul(d, d);
            const mask near = v_less(square, one), middle = v_less(square, v_set1(16));
            vec of_near = zero, of_log;
            if (!coarsely) of_near = v_mul(square, quick_row_series(d, of->both));
            if (!coarsely && mask_count(near) == LANES) {
                of_log = v_mul(p, v_mul(d, quick_row_series(d, of->own)));
                s = v_fma(p, of_near, s);
            } else {
                vec than = v_where(middle, rarer, v_mul(of_b_share, q));
                if (!coarsely) than = v_where(near, zero, than);
                const mask other = v_less(v_where(middle, zero, v_mul(of_a_share, p)), than);
                const vec way = v_max(v_set1(-87), v_where(other, v_sub(zero, d), d));
                const vec weight = v_where(other, q, p), r = v_div(v_where(other, p, q), weight);
                vec moved = v_sub(r, one);
                if (!coarsely) moved = v_where(near, v_fma(v_mul(way, way), quick_series(way), way), moved);
                const vec share = v_where(other, of_a_share, of_b_share), y = v_mul(share, moved);
                const vec w = v_fma(share, r, v_where(other, of_b_share, of_a_share)), l = quick_log(w, y);
                const vec beside = v_where(middle, moved, zero), wl = v_where(middle, v_fma(y, l, l), v_mul(w, l));
                vec of_both = v_sub(v_mul(share, v_sub(v_mul(way, r), beside)), v_sub(wl, v_mul(share, beside)));
                if (!coarsely) of_both = v_where(near, of_near, of_both);
                const mask none = v_equal(weight, zero);
                of_log = v_zero_where(none, v_mul(p, v_where(other, v_sub(l, way), l)));
                s = v_add(s, v_zero_where(none, v_mul(weight, of_both)));
            }
            t = v_add(t, of_log);
            v_store_real(m + j, of_log);
        }
        lane_total_add(&both, s);
        lane_total_add(&own, t);
    }
    totals->both += lane_total_value(both);
    totals->own += lane_total_value(own);
}

static void NAME(quick_mixture)(const void *a, const void *b, ptrdiff_t n, const quick_pair *pair,
                                const quick_shares *of, void *m, const void *e, quick_mixed *totals)
{
    if (of->coarsely) NAME(quick_mixture_as)(a, b, n, pair, of, m, e, totals, 1);
    else NAME(quick_mixture_as)(a, b, n, pair, of, m, e, totals, 0);
}
