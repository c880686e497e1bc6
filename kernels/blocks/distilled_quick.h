/* The same as distilled.h in lanes of float32, for rows of float32 and of 16 bits: forward and reverse. unit.h includes
 * this once for each ELEMENT whose lanes are of float32, after distilled.h, where their e^z has a table.
 *
 * Terms that are positive need few digits each. What they are made of, d, has an error of a few ulp of itself, since the
 * logits' differences are taken with their rounding errors, less what most of them have in common. */
#include <math.h>

#include "blocks/blocks.h"
#include "blocks/prefetch.h"
#include "math/exp.h"
#include "math/lane_total.h"
#include "simd/simd.h"

/* Below, e^d - 1 - d is a series. */
#define QUICK_NEAR 1

#define quick_frame NAME(quick_frame)

typedef struct {
    vec inverse, inverse_low, base, base_low;
    EXP_FRAME of_x, of_q;
} quick_frame;

SIMD quick_frame NAME(quick_frame_of)(const distilled *r, double base)
{
    const REAL inverse = (REAL)r->inverse, high = (REAL)base;
    const quick_frame f = {v_set1(inverse),   v_set1((REAL)(r->inverse - (double)inverse)),
                           v_set1(high),      v_set1((REAL)(base - (double)high)),
                           frame_at(r->of_x), frame_at(r->of_q)};
    return f;
}

/* e^(z / T), of which a rounded z / T would lose digits: what it is short of joins r. */
SIMD vec NAME(quick_exp)(vec z, const quick_frame *f, EXP_FRAME at, int scaled)
{
    if (!scaled) return v_exp_summed(z, at);
    const vec y = v_mul(z, f->inverse), above = v_fnma(z, f->inverse, y);
    const vec t = v_fma(y, v_set1(EXP_CONSTANTS.log2e), at.magic), n = v_sub(t, at.magic);
    vec r = v_fnma(n, v_set1(EXP_CONSTANTS.ln2_lo), v_fnma(n, v_set1(EXP_CONSTANTS.ln2_hi), y));
    r = v_fma(z, f->inverse_low, v_sub(r, above));
    vec p = v_set1(exp_table_q[0]);
    for (size_t i = 1; i < sizeof exp_table_q / sizeof *exp_table_q; ++i) p = v_fma(p, r, v_set1(exp_table_q[i]));
    const vec power = v_lookup(exp_table, t), q = v_fma(v_mul(r, r), p, r);
#if SCALES_TO_ZERO
    return v_scale(v_fma(power, q, power), v_sub(t, at.bias));
#else
    const vec raised = v_raise(power, t, EXP_SHIFT), e = v_fma(raised, q, raised);
    return v_zero_where(v_less(y, at.lowest), e);
#endif
}

/* (x - q - base) / T; carefully: with what x - q is rounded by, and 0 where that is NaN. */
SIMD vec NAME(quick_gap)(vec x, vec q, const quick_frame *f, int scaled, int carefully)
{
    if (!carefully) {
        const vec gap = v_sub(v_sub(x, q), f->base);
        return scaled ? v_mul(gap, f->inverse) : gap;
    }
    const vec d = v_sub(x, q), seen = v_sub(x, d), lost = v_add(v_sub(x, v_add(d, seen)), v_sub(seen, q));
    const vec near = v_sub(d, f->base), more = v_add(near, v_sub(lost, f->base_low));
    const vec above = v_where(v_nan(more), near, more); /* what an infinite difference has lost is NaN */
    return scaled ? v_fma(above, f->inverse_low, v_mul(above, f->inverse)) : above;
}

SIMD vec NAME(quick_expm1_less)(vec d)
{
    static const REAL c[11] = {(REAL)(1.0 / 479001600), (REAL)(1.0 / 39916800), (REAL)(1.0 / 3628800),
                               (REAL)(1.0 / 362880),    (REAL)(1.0 / 40320),    (REAL)(1.0 / 5040),
                               (REAL)(1.0 / 720),       (REAL)(1.0 / 120),      (REAL)(1.0 / 24),
                               (REAL)(1.0 / 6),         (REAL)(1.0 / 2)};
    vec p = v_set1(c[0]);
    for (int i = 1; i < 11; ++i) p = v_fma(p, d, v_set1(c[i]));
    return v_mul(v_mul(d, d), p);
}

/* Sums of e^x, of e^q, and of gap times e^q, or e^x for REVERSE_KL, and the maxima; with room for them the first two are
 * kept, times EXP_SCALE. The next rows are asked for, so many bytes on. Not carefully, the sum of gaps may be NaN where a
 * class is masked. */
typedef struct {
    vec sum[3], max[2];
} NAME(quick_lane_sums);

SIMD void NAME(quick_sums_step)(const ELEMENT *x, const ELEMENT *q, ptrdiff_t j, ptrdiff_t n, const quick_frame *f,
                                REAL *of_x, REAL *of_q, NAME(quick_lane_sums) * s, int scaled, int carefully,
                                int reverse)
{
    const vec z = NAME(at)(x, j, n, -INFINITY), t = NAME(at)(q, j, n, -INFINITY);
    const vec e = NAME(quick_exp)(z, f, f->of_x, scaled), g = NAME(quick_exp)(t, f, f->of_q, scaled);
    const vec p = reverse ? e : g, zero = v_set1(0);
    if (of_x) {
        v_store_real(of_x + j, e);
        v_store_real(of_q + j, g);
    }
    s->max[0] = v_max(z, s->max[0]), s->max[1] = v_max(t, s->max[1]);
    s->sum[0] = v_add(s->sum[0], e);
    s->sum[1] = v_add(s->sum[1], g);
    const vec gap = NAME(quick_gap)(z, t, f, scaled, carefully);
    if (!carefully) s->sum[2] = v_fma(p, gap, s->sum[2]);
    else s->sum[2] = v_add(s->sum[2], v_zero_where(v_equal(p, zero), v_mul(p, gap)));
}

SIMD void NAME(quick_sums_as)(const ELEMENT *x, const ELEMENT *q, ptrdiff_t n, const distilled *r, quick_totals *totals,
                              REAL *of_x, REAL *of_q, ptrdiff_t ahead, int carefully, int scaled, int reverse)
{
    const quick_frame f = NAME(quick_frame_of)(r, r->base);
    const vec none = v_set1(-INFINITY);
    lane_total sums[3] = {lane_total_of_none(), lane_total_of_none(), lane_total_of_none()};
    NAME(quick_lane_sums) s[2];
    for (int u = 0; u < 2; ++u) s[u].max[0] = s[u].max[1] = none;
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < 8 * LANES ? n : j + 8 * LANES;
        for (int u = 0; u < 2; ++u)
            for (int i = 0; i < 3; ++i) s[u].sum[i] = v_set1(0);
        for (; end - j >= 2 * LANES; j += 2 * LANES) {
            for (ptrdiff_t i = 0; i < 2 * LANES * (ptrdiff_t)sizeof *x; i += LINE) {
                prefetch_to_l2((const char *)(x + j) + ahead + i);
                prefetch_to_l2((const char *)(q + j) + ahead + i);
            }
            for (int u = 0; u < 2; ++u)
                NAME(quick_sums_step)(x, q, j + u * LANES, n, &f, of_x, of_q, &s[u], scaled, carefully, reverse);
        }
        for (; j < end; j += LANES) NAME(quick_sums_step)(x, q, j, n, &f, of_x, of_q, &s[0], scaled, 1, reverse);
        for (int i = 0; i < 3; ++i) lane_total_add(&sums[i], v_add(s[0].sum[i], s[1].sum[i]));
    }
    totals->of_x += lane_total_value(sums[0]);
    totals->of_q += lane_total_value(sums[1]);
    totals->moved += lane_total_value(sums[2]);
    const double max_x = v_top(v_max(s[0].max[0], s[1].max[0])), max_q = v_top(v_max(s[0].max[1], s[1].max[1]));
    if (max_x > totals->max_x) totals->max_x = max_x;
    if (max_q > totals->max_q) totals->max_q = max_q;
}

#define QUICK_CASES(function, ...)                                             \
    do {                                                                       \
        const int reverse_ = r->kind == REVERSE_KL, scaled_ = r->inverse != 1; \
        if (reverse_ && scaled_) NAME(function)(__VA_ARGS__, 1, 1);            \
        else if (reverse_) NAME(function)(__VA_ARGS__, 0, 1);                  \
        else if (scaled_) NAME(function)(__VA_ARGS__, 1, 0);                   \
        else NAME(function)(__VA_ARGS__, 0, 0);                                \
    } while (0)

static void NAME(quick_sums)(const void *x, const void *q, ptrdiff_t n, const distilled *r, quick_totals *totals,
                             void *of_x, void *of_q, ptrdiff_t ahead, int carefully)
{
    if (carefully) QUICK_CASES(quick_sums_as, x, q, n, r, totals, of_x, of_q, ahead, 1);
    else QUICK_CASES(quick_sums_as, x, q, n, r, totals, of_x, of_q, ahead, 0);
}

/* The exponentials and the gap of a vector, with p of the one row and other of the other. */
SIMD void NAME(quick_lanes)(const ELEMENT *x, const ELEMENT *q, ptrdiff_t j, ptrdiff_t n, const quick_frame *f,
                            const REAL *of_x, const REAL *of_q, int scaled, vec *e, vec *g, vec *d)
{
    const vec z = NAME(at)(x, j, n, -INFINITY), t = NAME(at)(q, j, n, -INFINITY);
    *e = of_x ? NAME(real_at)(of_x, j, n) : NAME(quick_exp)(z, f, f->of_x, scaled);
    *g = of_x ? NAME(real_at)(of_q, j, n) : NAME(quick_exp)(t, f, f->of_q, scaled);
    *d = NAME(quick_gap)(z, t, f, scaled, 1);
}

/* p (e^d - 1 - d), as divergence_term. */
SIMD void NAME(quick_terms_as)(const ELEMENT *x, const ELEMENT *q, ptrdiff_t n, const distilled *r, const REAL *of_x,
                               const REAL *of_q, double *sum, int scaled, int reverse)
{
    const quick_frame f = NAME(quick_frame_of)(r, r->base + r->shift / r->inverse);
    const vec zero = v_set1(0), near = v_set1(QUICK_NEAR);
    const vec by_x = v_set1((REAL)(r->unit_x / EXP_SCALE)), by_q = v_set1((REAL)(r->unit_q / EXP_SCALE));
    lane_total total = lane_total_of_none();
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < 4 * LANES ? n : j + 4 * LANES;
        vec s = zero;
        for (; j < end; j += LANES) {
            vec e, g, d;
            NAME(quick_lanes)(x, q, j, n, &f, of_x, of_q, scaled, &e, &g, &d);
            e = v_mul(e, by_x), g = v_mul(g, by_q);
            const vec p = reverse ? e : g, other = reverse ? g : e, back = v_sub(zero, d);
            const vec size = v_max(d, back), way = reverse ? back : d;
            const vec moved = v_zero_where(v_equal(p, zero), v_mul(p, way));
            const vec far = v_sub(v_sub(other, p), moved);
            s = v_add(s, v_where(v_less(size, near), v_mul(p, NAME(quick_expm1_less)(way)), far));
        }
        lane_total_add(&total, s);
    }
    *sum += lane_total_value(total);
}

static void NAME(quick_terms)(const void *x, const void *q, ptrdiff_t n, const distilled *r, const void *of_x,
                              const void *of_q, double *sum)
{
    QUICK_CASES(quick_terms_as, x, q, n, r, of_x, of_q, sum);
}

/* As distilled_gradient; of rows far from each other (is_far) p_s - p_t as it is. */
SIMD void NAME(quick_gradient_as)(const ELEMENT *x, const ELEMENT *q, ptrdiff_t n, const distilled *r, const REAL *of_x,
                                  const REAL *of_q, ELEMENT *out, int bypass, int is_far, int scaled, int reverse)
{
    const quick_frame f = NAME(quick_frame_of)(r, r->base + r->shift / r->inverse);
    const vec zero = v_set1(0), near = v_set1(QUICK_NEAR), loss = v_set1((REAL)r->loss);
    const vec by_x = v_set1((REAL)(r->scale * r->unit_x / EXP_SCALE));
    const vec by_q = v_set1((REAL)(r->scale * r->unit_q / EXP_SCALE));
    for (ptrdiff_t j = 0, here; j < n; j += here) {
        const ptrdiff_t before = j ? 0 : NAME(before_vectors)(out, n, bypass);
        here = before ? before : n - j < LANES ? n - j : LANES;
        vec e, g, d, grad;
        if (is_far && !reverse && of_x) {
            grad = v_fnma(NAME(real_at)(of_q, j, j + here), by_q, v_mul(NAME(real_at)(of_x, j, j + here), by_x));
        } else {
            NAME(quick_lanes)(x, q, j, j + here, &f, of_x, of_q, scaled, &e, &g, &d);
            e = v_mul(e, by_x), g = v_mul(g, by_q);
            if (reverse) grad = v_zero_where(v_equal(e, zero), v_mul(e, v_sub(d, loss)));
            else {
                const vec size = v_max(d, v_sub(zero, d));
                const vec moved = v_mul(g, v_add(d, NAME(quick_expm1_less)(d)));
                grad = is_far ? v_sub(e, g) : v_where(v_less(size, near), moved, v_sub(e, g));
            }
        }
        NAME(put)(out + j, here, grad, bypass);
    }
}

static void NAME(quick_gradient)(const void *x, const void *q, ptrdiff_t n, const distilled *r, const void *of_x,
                                 const void *of_q, void *out, int bypass, int is_far)
{
    if (is_far) QUICK_CASES(quick_gradient_as, x, q, n, r, of_x, of_q, out, bypass, 1);
    else QUICK_CASES(quick_gradient_as, x, q, n, r, of_x, of_q, out, bypass, 0);
}
