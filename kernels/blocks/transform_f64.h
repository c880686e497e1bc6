/* What logits are before the softmax where a loss is told so: c tanh(a z / c), in float64 lanes whatever was given.
 *
 * With y = -2 a |z| / c, e^y = 2^n (1 + q) by the method of exp.h without a table, and e^y - 1 = 2^n q + (2^n - 1), which
 * keeps the digits of a small y. Then tanh(-y/2) = -(e^y - 1) / (e^y + 1), and 1 - tanh^2 = 4 e^y / (e^y + 1)^2, which
 * keeps those of a large one. y is a pair, since the error of e^y is y times
 * that of y. Error: 3 ulp of float64. */
#ifndef TRANSFORM_F64_H
#define TRANSFORM_F64_H

#include <math.h>

#include "math/exp.h"
#include "simd/simd.h"

#define LEAST_Y -760    /* e^y is 0 */

SIMD vec_f64 v_power_f64(vec_f64 n)    /* 2^n, for an integer */
{
#if SCALES_TO_ZERO
    return v_scale_f64(v_set1_f64(1), n);
#else
    return v_raise_f64(v_set1_f64(1), v_add_f64(n, v_set1_f64(exp_constants_f64.magic)), 52);
#endif
}

SIMD vec_f64 v_capped_f64(vec_f64 z, double twice, double twice_low, double cap, vec_f64 *slope)
{
    const vec_f64 zero = v_set1_f64(0), one = v_set1_f64(1), magic = v_set1_f64(exp_constants_f64.magic);
    const vec_f64 size = v_max_f64(v_sub_f64(zero, z), z);    /* NaN stays */
    const vec_f64 least = v_set1_f64(LEAST_Y), by_twice = v_set1_f64(-twice), given = v_mul_f64(size, by_twice);
    const vec_f64 y = v_max_f64(least, given);
    /* What the product is short of: an ulp of a large y is many of e^y. */
    const vec_f64 short_of = v_fma_f64(size, v_set1_f64(-twice_low), v_lost_f64(size, by_twice, given));
    const vec_f64 low = v_zero_where_f64(v_equal_f64(y, least), short_of);
    const vec_f64 n = v_sub_f64(v_fma_f64(y, v_set1_f64(LOG2E), magic), magic);
    const vec_f64 r = v_fnma_f64(n, v_set1_f64(LN2_LO), v_fnma_f64(n, v_set1_f64(LN2_HI), y));
    vec_f64 p = exp_term_f64(0);
    for (int i = 1; i < exp_constants_f64.terms; ++i) p = v_fma_f64(p, r, exp_term_f64(i));
    const vec_f64 half = v_sub_f64(v_fma_f64(n, v_set1_f64(0.5), magic), magic);
    const vec_f64 by = v_power_f64(half), again = v_power_f64(v_sub_f64(n, half)), power = v_mul_f64(by, again);
    const vec_f64 of_y = v_fma_f64(v_mul_f64(r, r), p, r), q = v_fma_f64(low, v_add_f64(one, of_y), of_y);
    const vec_f64 below = v_fma_f64(power, q, v_sub_f64(power, one)), above = v_add_f64(below, v_set1_f64(2));
    const vec_f64 e = v_fma_f64(by, q, by);    /* but for `again`: a subnormal slope is rounded last */
    *slope = v_mul_f64(v_div_f64(v_mul_f64(v_set1_f64(4), v_div_f64(e, above)), above), again);
    const vec_f64 t = v_mul_f64(v_div_f64(below, above), v_set1_f64(cap));
    return v_where_f64(v_less_f64(z, zero), t, v_sub_f64(zero, t));
}

static void transform(f64 *z, ptrdiff_t n, double a, double c, f64 *slope)
{
    const vec_f64 scale = v_set1_f64(a);
    const double twice = c == 0 ? 0 : fmin(2 * (a / c), 1e308), twice_low = c == 0 ? 0 : fma(-twice, c, 2 * a) / c;
    for (ptrdiff_t j = 0; j < n; j += LANES_f64) {
        const int whole = n - j >= LANES_f64;
        const vec_f64 given = whole ? load_f64(z + j) : load_part_f64(z + j, n - j, 0);
        vec_f64 s = v_set1_f64(1);
        const vec_f64 to = c == 0 ? v_mul_f64(given, scale)
                                  : v_capped_f64(given, twice, isfinite(twice_low) ? twice_low : 0, c, &s);
        if (whole) store_f64(z + j, to);
        else store_part_f64(z + j, n - j, to);
        if (slope && whole) store_f64(slope + j, s);
        else if (slope) store_part_f64(slope + j, n - j, s);
    }
}

#endif
