/* Two rows of logits, a student's (x) and a teacher's (q): what distillation.c adds up of them, and the gradient on x.
 * In float64 lanes, for rows that were given so, and for others that lanes of float32 do not serve (distilled_quick.h), widened.
 * unit.h includes this once, for ELEMENT f64, after vectors.h.
 *
 * What the two rows differ by is taken before anything else (distilled_lanes), so that nearly equal ones, up to a
 * constant, keep their digits; of d_c = log p_s,c - log p_t,c come terms none of which is negative. */
#include <math.h>

#include "blocks/blocks.h"
#include "math/exp.h"
#include "math/lane_total.h"
#include "math/log.h"
#include "simd/simd.h"

#ifndef DISTILLED_H
#define DISTILLED_H

/* e^d - 1 - d for |d| <= DISTILLED_NEAR. Error 2^-53 at most, by the Taylor series. */
SIMD vec_f64 expm1_less(vec_f64 d)
{
    static const f64 c[14] = {1.0 / 1307674368000, 1.0 / 87178291200, 1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800,
                              1.0 / 3628800,       1.0 / 362880,      1.0 / 40320,      1.0 / 5040,      1.0 / 720,
                              1.0 / 120,           1.0 / 24,          1.0 / 6,          1.0 / 2};
    vec_f64 p = v_set1_f64(c[0]);
    for (int i = 1; i < 14; ++i) p = v_fma_f64(p, d, v_set1_f64(c[i]));
    return v_mul_f64(v_mul_f64(d, d), p);
}

/* x - log(1 + x) for -0.4 <= x <= 0.65: with s = x / (2 + x), |s| < 1/4, log(1 + x) is 2 atanh(s), and x - 2 s = x s. */
SIMD vec_f64 less_log1p(vec_f64 x)
{
    static const f64 c[13] = {1.0 / 27, 1.0 / 25, 1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15,
                              1.0 / 13, 1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3};
    const vec_f64 s = v_div_f64(x, v_add_f64(v_set1_f64(2), x)), z = v_mul_f64(s, s);
    vec_f64 p = v_set1_f64(c[0]);
    for (int i = 1; i < 13; ++i) p = v_fma_f64(p, z, v_set1_f64(c[i]));
    return v_mul_f64(s, v_fnma_f64(v_mul_f64(v_set1_f64(2), z), p, x));
}

SIMD vec_f64 size_of(vec_f64 a) { return v_max_f64(a, v_sub_f64(v_set1_f64(0), a)); }

typedef struct {
    vec_f64 inverse, base, base_error, max_x, max_q;
    exp_frame_f64 below;
} distilled_frame;

SIMD distilled_frame distilled_frame_of(const distilled *r)
{
    const distilled_frame f = {v_set1_f64(r->inverse),    v_set1_f64(r->base),
                               v_set1_f64(r->base_error), v_set1_f64(r->max_x),
                               v_set1_f64(r->max_q),      frame_of_f64(v_set1_f64(0), v_set1_f64(r->k))};
    return f;
}

/* e^((z - max)/T) of either row as it is held, times EXP_SCALE (z/T itself may be so large that rounding it shows), and ((x - q) - base) / T: 0 where both are masked. What x - q
 * loses to rounding is put back where logits are float64: of other types it is exact, or does not show. */
SIMD void distilled_lanes(vec_f64 x, vec_f64 q, const distilled_frame *f, int exactly, vec_f64 *of_x, vec_f64 *of_q,
                          vec_f64 *gap)
{
    const vec_f64 zero = v_set1_f64(0);
    *of_x = v_exp_f64(v_mul_f64(v_sub_f64(x, f->max_x), f->inverse), f->below);
    *of_q = v_exp_f64(v_mul_f64(v_sub_f64(q, f->max_q), f->inverse), f->below);
    vec_f64 d = v_sub_f64(x, q);
    vec_f64 above = v_sub_f64(d, f->base);
    if (exactly) {
        const vec_f64 seen = v_sub_f64(x, d);
        const vec_f64 lost = v_add_f64(v_sub_f64(x, v_add_f64(d, seen)), v_sub_f64(seen, q));
        const vec_f64 more = v_add_f64(above, v_sub_f64(lost, f->base_error));
        above = v_where_f64(v_nan_f64(more), above, more);    /* what an infinite difference has lost is NaN */
    }
    *gap = v_zero_where_f64(v_equal_f64(v_add_f64(*of_x, *of_q), zero), v_mul_f64(above, f->inverse));
}

/* p (e^d - 1 - d), from p, e^d p = other, and d; other where p is 0. */
SIMD vec_f64 divergence_term(vec_f64 p, vec_f64 other, vec_f64 d, mask_f64 is_near)
{
    const vec_f64 none = v_zero_where_f64(v_equal_f64(p, v_set1_f64(0)), v_mul_f64(p, d));
    return v_where_f64(is_near, v_mul_f64(p, expm1_less(d)), v_sub_f64(v_sub_f64(other, p), none));
}

/* log(p / m) of the mixture m = share other + (1 - share) p, and what p log(p / m) + share (other - p), which is not
 * negative, has for a factor of p where is_near holds: psi(share (e^-d - 1)) with d = log p - log other. */
SIMD vec_f64 log_over_mixture(vec_f64 p, vec_f64 other, vec_f64 d, double share, mask_f64 is_near, vec_f64 *psi)
{
    const vec_f64 zero = v_set1_f64(0), by = v_set1_f64(share), back = v_sub_f64(zero, d);
    const vec_f64 y = v_mul_f64(by, v_add_f64(back, expm1_less(back)));
    *psi = less_log1p(y);
    vec_f64 off;
    const vec_f64 far = v_log1p_f64(v_mul_f64(by, v_div_f64(v_sub_f64(other, p), p)), zero, &off);
    return v_sub_f64(zero, v_where_f64(is_near, v_sub_f64(y, *psi), far));
}

/* Classes of which lanes add up a few each without the error: equal terms are all rounded to the same side. */
#define DISTILLED_CHUNK (16 * LANES)

/* Nothing of p is left below: then p log p is 0, and 1 / p would overflow. */
#define DISTILLED_LEAST 0x1p-900

#endif

/* of_x, of_q: sums of e^x and e^q; shift: of e^q (e^gap - 1). */
static void NAME(distilled_sums)(const void *in, const void *teacher, ptrdiff_t n, const distilled *r,
                                 distilled_totals *totals)
{
    const ELEMENT *x = in, *q = teacher;
    const distilled_frame f = distilled_frame_of(r);
    const vec_f64 zero = v_set1_f64(0);
    const vec_f64 ratio = v_set1_f64(r->ratio);
    lane_total_f64 of_x_all = lane_total_of_none_f64(), of_q_all = of_x_all, shift_all = of_x_all;
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < DISTILLED_CHUNK ? n : j + DISTILLED_CHUNK;
        vec_f64 sum_x = zero, sum_q = zero, shift = zero;
        for (; j < end; j += LANES) {
            const vec z = NAME(at)(x, j, n, -INFINITY), t = NAME(at)(q, j, n, -INFINITY);
            for (int u = 0; u < WIDE; ++u) {
                vec_f64 of_x, of_q, gap;
                distilled_lanes(v_widen(z, u), v_widen(t, u), &f, WIDE == 1, &of_x, &of_q, &gap);
                sum_x = v_add_f64(sum_x, of_x);
                sum_q = v_add_f64(sum_q, of_q);
                const mask_f64 is_far = v_less_f64(v_set1_f64(DISTILLED_NEAR), size_of(gap));
                const vec_f64 near = v_mul_f64(of_q, v_add_f64(gap, expm1_less(gap)));
                shift = v_add_f64(shift, v_where_f64(is_far, v_sub_f64(v_mul_f64(ratio, of_x), of_q), near));
            }
        }
        lane_total_add_f64(&of_x_all, sum_x);
        lane_total_add_f64(&of_q_all, sum_q);
        lane_total_add_f64(&shift_all, shift);
    }
    compensated_join(&totals->of_x, lane_total_exact_f64(of_x_all));
    compensated_join(&totals->of_q, lane_total_exact_f64(of_q_all));
    compensated_join(&totals->shift, lane_total_exact_f64(shift_all));
}

/* The divergence of a block into loss; for JENSEN_SHANNON the two of it apart, of the teacher from the mixture, and of
 * the student. */
SIMD void NAME(distilled_terms_as)(const ELEMENT *x, const ELEMENT *q, ptrdiff_t n, const distilled *r, int kind,
                                   compensated *loss)
{
    const distilled_frame f = distilled_frame_of(r);
    const vec_f64 zero = v_set1_f64(0), shift = v_set1_f64(r->shift), least = v_set1_f64(DISTILLED_LEAST);
    const vec_f64 by_x = v_set1_f64(r->unit_x), by_q = v_set1_f64(r->unit_q);
    lane_total_f64 all[2] = {lane_total_of_none_f64(), lane_total_of_none_f64()};
    vec_f64 sums[2] = {zero, zero};
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec z = NAME(at)(x, j, n, -INFINITY), t = NAME(at)(q, j, n, -INFINITY);
        for (int u = 0; u < WIDE; ++u) {
            vec_f64 of_x, of_q, gap;
            distilled_lanes(v_widen(z, u), v_widen(t, u), &f, WIDE == 1, &of_x, &of_q, &gap);
            const mask_f64 none = v_equal_f64(v_add_f64(of_x, of_q), zero);
            const vec_f64 student = v_mul_f64(of_x, by_x), teacher = v_mul_f64(of_q, by_q);
            const vec_f64 d = v_sub_f64(gap, shift), back = v_sub_f64(zero, d);
            const mask_f64 is_near = v_less_f64(size_of(d), v_set1_f64(DISTILLED_NEAR));
            if (kind == FORWARD_KL) {
                const vec_f64 term = divergence_term(teacher, student, d, is_near);
                sums[0] = v_add_f64(sums[0], v_zero_where_f64(none, term));
            } else if (kind == REVERSE_KL) {
                const vec_f64 term = divergence_term(student, teacher, back, is_near);
                sums[0] = v_add_f64(sums[0], v_zero_where_f64(none, term));
            } else {
                vec_f64 psi;
                for (int i = 0; i < 2; ++i) {    /* KL(p || m) of either, with m = share other + (1 - share) p */
                    const vec_f64 p = i ? student : teacher, other = i ? teacher : student;
                    const double share = i ? r->beta : 1 - r->beta;
                    const vec_f64 log_p = log_over_mixture(p, other, i ? d : back, share, is_near, &psi);
                    const vec_f64 of_p = v_zero_where_f64(v_less_f64(p, least), v_mul_f64(p, log_p));
                    const vec_f64 far = v_fma_f64(v_set1_f64(share), v_sub_f64(other, p), of_p);
                    const vec_f64 term = v_where_f64(is_near, v_mul_f64(p, psi), far);
                    sums[i] = v_add_f64(sums[i], v_zero_where_f64(none, term));
                }
            }
        }
        if (n - j > LANES && (j + LANES) % DISTILLED_CHUNK) continue;
        for (int i = 0; i < 2; ++i) {
            lane_total_add_f64(&all[i], sums[i]);
            sums[i] = zero;
        }
    }
    for (int i = 0; i < 2; ++i) compensated_join(&loss[i], lane_total_exact_f64(all[i]));
}

static void NAME(distilled_terms)(const void *x, const void *q, ptrdiff_t n, const distilled *r, compensated *loss)
{
    if (r->kind == FORWARD_KL) NAME(distilled_terms_as)(x, q, n, r, FORWARD_KL, loss);
    else if (r->kind == REVERSE_KL) NAME(distilled_terms_as)(x, q, n, r, REVERSE_KL, loss);
    else NAME(distilled_terms_as)(x, q, n, r, JENSEN_SHANNON, loss);
}

/* scale times p_s - p_t, p_s (d - loss), or p_s (log(p_s / m) - loss). */
SIMD vec_f64 NAME(distilled_gradient_lanes)(vec_f64 z, vec_f64 t, const distilled_frame *f, const distilled *r,
                                            int kind)
{
    const vec_f64 zero = v_set1_f64(0);
    vec_f64 of_x, of_q, gap, psi, grad;
    distilled_lanes(z, t, f, WIDE == 1, &of_x, &of_q, &gap);
    const vec_f64 student = v_mul_f64(of_x, v_set1_f64(r->unit_x)), teacher = v_mul_f64(of_q, v_set1_f64(r->unit_q));
    const vec_f64 d = v_sub_f64(gap, v_set1_f64(r->shift));
    const mask_f64 is_near = v_less_f64(size_of(d), v_set1_f64(DISTILLED_NEAR));
    if (kind == FORWARD_KL) {
        const vec_f64 near = v_mul_f64(teacher, v_add_f64(d, expm1_less(d)));
        grad = v_where_f64(is_near, near, v_sub_f64(student, teacher));
        grad = v_zero_where_f64(v_equal_f64(v_add_f64(of_x, of_q), zero), grad);
    } else {
        const vec_f64 above = kind == REVERSE_KL ? d : log_over_mixture(student, teacher, d, r->beta, is_near, &psi);
        grad = v_mul_f64(student, v_sub_f64(above, v_set1_f64(r->loss)));
        grad = v_zero_where_f64(v_less_f64(student, v_set1_f64(DISTILLED_LEAST)), grad);
    }
    return v_mul_f64(grad, v_set1_f64(r->scale));
}

SIMD void NAME(distilled_gradient_as)(const ELEMENT *x, const ELEMENT *q, ptrdiff_t n, const distilled *r, ELEMENT *out,
                                      int bypass, int kind)
{
    const distilled_frame f = distilled_frame_of(r);
    for (ptrdiff_t j = 0, here; j < n; j += here) {
        const ptrdiff_t before = j ? 0 : NAME(before_vectors)(out, n, bypass);
        here = before ? before : n - j < LANES ? n - j : LANES;
        const vec z = NAME(at)(x, j, j + here, -INFINITY), t = NAME(at)(q, j, j + here, -INFINITY);
        vec_f64 grad[WIDE];
        for (int u = 0; u < WIDE; ++u)
            grad[u] = NAME(distilled_gradient_lanes)(v_widen(z, u), v_widen(t, u), &f, r, kind);
        NAME(put)(out + j, here, v_narrow(grad[0], grad[WIDE - 1]), bypass);
    }
}

static void NAME(distilled_gradient)(const void *x, const void *q, ptrdiff_t n, const distilled *r, void *out,
                                     int bypass)
{
    if (r->kind == FORWARD_KL) NAME(distilled_gradient_as)(x, q, n, r, out, bypass, FORWARD_KL);
    else if (r->kind == REVERSE_KL) NAME(distilled_gradient_as)(x, q, n, r, out, bypass, REVERSE_KL);
    else NAME(distilled_gradient_as)(x, q, n, r, out, bypass, JENSEN_SHANNON);
}
