/* What a loss makes of its logits before the softmax, in float32 lanes: c tanh(a z / c) as a pair, since rounded to float32
 * it would be off by more than a small loss may show; and e^(a z), which needs none.
 *
 * Where u = a |z| / c is small, c tanh u = a z - d with d = c (u - tanh u), a series whose error is small since d is. In
 * any other lane, with e^(-2u) = 2^n B, B = e^r as a pair, D = 1 + e^(-2u) as another, and y = 1/D as a third,
 *
 *     c tanh u = c (2y - 1),  of which 2y - 1 is exact;    1 - tanh^2 u = 4 e^(-2u) y^2, which cancels nowhere.
 *
 * A vector without such a lane, as most are, goes without that. Either way what a lane becomes is its own. Error, on 6.4
 * million numbers of |z / c| up to 10 for each of c = 1.5, 5, 30, 33.3, 50: 5e-8, and of the slope 0.9 ulp. */
#ifndef TRANSFORM_H
#define TRANSFORM_H

#include <math.h>

#include "math/exp.h"
#include "math/transform_numbers.h"
#include "simd/simd.h"

/* e^(a z) at an anchor without a shift, by the method of exp.h and its operations: r / a is what z leaves over of a
 * multiple of ln2 / a, and the powers of a are in the terms. */
#if EXP_TABLE_f32
#define SCALED_TERMS ((int)(sizeof exp_table_q_f32 / sizeof *exp_table_q_f32))
#define SCALED_TERM(i) exp_table_q_f32[i]
#else
#define SCALED_TERMS 5
#define SCALED_TERM(i) EXP_NUMBER(exp_constants_f32.q[i])
#endif
typedef struct {
    exp_frame_f32 f;
    vec_f32 to_n, per_n, per_n_low, lowest, terms[SCALED_TERMS + 1];
} scaled_frame;

SIMD scaled_frame scaled_frame_at(anchor at, const transform_numbers *t)
{
    scaled_frame s;
    s.f = frame_at_f32(at);
    s.to_n = v_set1_f32(t->a_to_n), s.per_n = v_set1_f32(t->a_per_n), s.per_n_low = v_set1_f32(t->a_per_n_low);
    s.lowest = v_div_f32(s.f.lowest, v_set1_f32(t->a));
    f32 power = t->a;
    s.terms[SCALED_TERMS] = v_set1_f32(power);
    for (int i = SCALED_TERMS - 1; i >= 0; --i) s.terms[i] = v_set1_f32(SCALED_TERM(i) * (power *= t->a));
    return s;
}

SIMD vec_f32 scaled_start(vec_f32 z, const scaled_frame *s, vec_f32 *t, vec_f32 *q)
{
    *t = v_fma_f32(z, s->to_n, s->f.magic);
    const vec_f32 n = v_sub_f32(*t, s->f.magic);
    const vec_f32 rest = v_fnma_f32(n, s->per_n_low, v_fnma_f32(n, s->per_n, z));
    vec_f32 p = s->terms[0];
    for (int i = 1; i <= SCALED_TERMS; ++i) p = v_fma_f32(p, rest, s->terms[i]);
    *q = v_mul_f32(p, rest);
#if EXP_TABLE_f32
    return v_lookup_f32(exp_table_f32, *t);
#else
    return v_set1_f32(1);
#endif
}

SIMD vec_f32 v_exp_scaled_parts(vec_f32 z, const scaled_frame *s, vec_f32 *q)
{
    const mask_f32 gone = v_less_f32(z, s->lowest);
    vec_f32 t, power = scaled_start(z, s, &t, q);
    *q = v_zero_where_f32(gone, *q);
#if SCALES_TO_ZERO
    power = v_scale_f32(power, v_sub_f32(t, s->f.bias));
#else
    power = exp_raised_f32(power, t);
#endif
    return v_zero_where_f32(gone, power);
}

/* As v_exp_summed. */
SIMD vec_f32 v_exp_scaled_summed(vec_f32 z, const scaled_frame *s)
{
    vec_f32 q;
#if SCALES_TO_ZERO
    vec_f32 t;
    const vec_f32 power = scaled_start(z, s, &t, &q);
    return v_scale_f32(v_fma_f32(power, q, power), v_sub_f32(t, s->f.bias));
#else
    const vec_f32 high = v_exp_scaled_parts(z, s, &q);
    return v_fma_f32(high, q, high);
#endif
}

#define T(name) v_set1_f32(t->name)

/* a z; what that is short of is low. */
SIMD vec_f32 v_scaled(vec_f32 z, const transform_numbers *t, vec_f32 *low)
{
    const vec_f32 high = v_mul_f32(z, T(a));
    *low = v_fma_f32(z, T(a_low), v_lost_f32(z, T(a), high));
    return high;
}

SIMD vec_f32 v_power_f32(vec_f32 n) /* 2^n, for an integer */
{
#if SCALES_TO_ZERO
    return v_scale_f32(v_set1_f32(1), n);
#else
    return v_raise_f32(v_set1_f32(1), v_add_f32(n, v_set1_f32(exp_constants_f32.magic)), 23);
#endif
}

/* 1 + e^(-2u), for a size |z| that is not small; e^(-2u) itself is e + e_low times `power`, so that a subnormal one may be
 * rounded last. */
SIMD vec_f32 v_one_and_exp(vec_f32 size, const transform_numbers *t, vec_f32 *low, vec_f32 *e, vec_f32 *e_low,
                           vec_f32 *power)
{
    static const f32 terms[6] = {1 / 40320.0f, 1 / 5040.0f, 1 / 720.0f, 1 / 120.0f, 1 / 24.0f, 1 / 6.0f};
    const vec_f32 one = v_set1_f32(1), magic = v_set1_f32(exp_constants_f32.magic);
    const vec_f32 n = v_sub_f32(v_fma_f32(size, T(to_n), magic), magic);
    const vec_f32 rest = v_lost_f32(n, T(per_n), v_sub_f32(v_set1_f32(0), size)), r = v_mul_f32(rest, T(to_r));
    const vec_f32 r_low = v_fma_f32(n, T(per_n_low), v_fma_f32(rest, T(to_r_low), v_lost_f32(rest, T(to_r), r)));
    vec_f32 p = v_set1_f32(terms[0]);
    for (int i = 1; i < 6; ++i) p = v_fma_f32(p, r, v_set1_f32(terms[i]));
    /* 1 + r + r^2/2 with what its sums and its square lose, and the rest, which is small. */
    const vec_f32 half_r = v_mul_f32(r, v_set1_f32(0.5f)), second = v_mul_f32(half_r, r);
    const vec_f32 two = v_add_f32(one, r), three = v_add_f32(two, second);
    const vec_f32 lost = v_add_f32(v_sub_f32(r, v_sub_f32(two, one)), v_sub_f32(second, v_sub_f32(three, two)));
    const vec_f32 others = v_fma_f32(v_mul_f32(r, r), v_mul_f32(r, p), v_add_f32(lost, v_lost_f32(half_r, r, second)));
    const vec_f32 more = v_fma_f32(r_low, three, others);
    const vec_f32 b = v_add_f32(three, more), b_low = v_add_f32(v_sub_f32(three, b), more);
    const vec_f32 half = v_sub_f32(v_fma_f32(n, v_set1_f32(0.5f), magic), magic), by = v_power_f32(half);
    *power = v_power_f32(v_sub_f32(n, half));
    *e = v_mul_f32(b, by), *e_low = v_mul_f32(b_low, by);
    const vec_f32 exp = v_mul_f32(*e, *power), d = v_add_f32(one, exp);
    *low = v_fma_f32(*e_low, *power, v_add_f32(v_sub_f32(one, d), exp));
    return d;
}

/* c tanh(a z / c) and its slope over a. */
SIMD vec_f32 v_capped(vec_f32 z, const transform_numbers *t, vec_f32 *low, vec_f32 *slope)
{
    const vec_f32 one = v_set1_f32(1), zero = v_set1_f32(0);
    vec_f32 scaled = z, scaled_low = zero;
    if (t->scales) scaled = v_scaled(z, t, &scaled_low);
    const vec_f32 w = v_mul_f32(z, z);
    vec_f32 p = T(d[0]);
    for (int i = 1; i < 4; ++i) p = v_fma_f32(p, w, v_set1_f32(t->d[i]));
    const vec_f32 d = v_mul_f32(v_mul_f32(z, w), p);
    vec_f32 high = v_sub_f32(scaled, d);
    const vec_f32 below = v_mul_f32(high, T(per_c));
    *low = v_add_f32(v_sub_f32(v_sub_f32(scaled, high), d), scaled_low);
    *slope = v_fnma_f32(below, below, one);
    const mask_f32 is_large = v_less_f32(T(small), w);
    if (!mask_count_f32(is_large)) return high;
    const vec_f32 size = v_min_f32(T(most), v_max_f32(v_sub_f32(zero, z), z)); /* NaN stays */
    vec_f32 y_low, e, e_low, power;
    const vec_f32 by = v_one_and_exp(size, t, &y_low, &e, &e_low, &power), y = v_div_f32(one, by),
                  twice = v_add_f32(y, y);
    const vec_f32 over = v_mul_f32(v_fma_f32(y, y_low, v_lost_f32(y, by, one)), twice); /* by which 2y is too large */
    const vec_f32 tanh = v_sub_f32(twice, one), up = v_mul_f32(tanh, T(c));
    const vec_f32 up_low = v_fnma_f32(over, T(c), v_fma_f32(tanh, T(c_low), v_lost_f32(tanh, T(c), up)));
    const vec_f32 of_sign = v_where_f32(v_less_f32(z, zero), v_set1_f32(-1), one);
    high = v_where_f32(is_large, v_mul_f32(up, of_sign), high);
    *low = v_where_f32(is_large, v_mul_f32(up_low, of_sign), *low);
    /* e (2y)^2 with what each of its roundings loses. */
    const vec_f32 twice_y = v_sub_f32(twice, over), left = v_sub_f32(v_sub_f32(twice, twice_y), over);
    const vec_f32 square = v_mul_f32(twice_y, twice_y), product = v_mul_f32(e, square);
    const vec_f32 square_low = v_fma_f32(v_add_f32(left, left), twice_y, v_lost_f32(twice_y, twice_y, square));
    const vec_f32 less = v_fma_f32(e, square_low, v_fma_f32(e_low, square, v_lost_f32(e, square, product)));
    *slope = v_where_f32(is_large, v_mul_f32(v_add_f32(product, less), power), *slope);
    return high;
}

#undef T
#endif
