/* log(1 + x + low) of a vector of float64, for x >= 0 (and what rounding leaves just below), low below x's ulp.
 * Max error, on 2^22 points from 2^-60 to 2^40 against log1pl, the same on every ISA: 0.86 ulp; with a low of up to
 * half an ulp of x 1.14 ulp. With off, which is what it is short of, 0.36 ulp (from 2^-40 on).
 *
 * 1 + x = y + lost exactly (TwoSum) and y = m 2^e with m in [sqrt(1/2), sqrt 2); f = m - 1 is exact. With
 * s = f / (2 + f), log m is 2 atanh(s) = f - (f^2/2 - s (f^2/2 + R)), whose largest terms, f and e ln2, are added
 * exactly: the result is rounded when the small ones join them, and what that addition loses is off. What was lost at
 * first, and low, add their sum over y. fit.py prints the constants. */
#ifndef LOG_H
#define LOG_H

#include "math/anchor.h"
#include "simd/simd.h"

static const f64 log_constants[7] = {0x1.2b5f68a50d903p-3, 0x1.39fdcceb4bb45p-3, 0x1.7462b91b8df65p-3,
                                     0x1.c71c62d5e53e0p-3, 0x1.2492492dfd86cp-2, 0x1.9999999995273p-2,
                                     0x1.5555555555558p-1};

SIMD vec_f64 v_log1p_f64(vec_f64 x, vec_f64 low, vec_f64 *off)
{
    const vec_f64 one = v_set1_f64(1), y = v_add_f64(one, x), kept = v_sub_f64(y, one);
    const vec_f64 lost = v_add_f64(v_add_f64(v_sub_f64(x, kept), v_sub_f64(one, v_sub_f64(y, kept))), low);
    vec_f64 e, scale = v_split_f64(y, &e);
    const vec_f64 high = v_zero_where_f64(v_less_f64(v_mul_f64(y, scale), v_set1_f64(0x1.6a09e667f3bcdp+0)), one);
    e = v_add_f64(e, high);
    scale = v_fnma_f64(v_mul_f64(high, v_set1_f64(0.5)), scale, scale);
    const vec_f64 m = v_mul_f64(y, scale), f = v_sub_f64(m, one);
    const vec_f64 inverse = v_fnma_f64(f, v_sub_f64(one, f), one);    /* of m, near enough for what was lost */
    const vec_f64 s = v_div_f64(f, v_add_f64(v_set1_f64(2), f)), z = v_mul_f64(s, s);
    vec_f64 p = v_set1_f64(log_constants[0]);
    for (int i = 1; i < 7; ++i) p = v_fma_f64(p, z, v_set1_f64(log_constants[i]));
    /* 2 atanh(s) = 2 s + s z P(z), and 2 s = f - s f = f - f^2/2 + s f^2/2 */
    const vec_f64 half = v_mul_f64(v_set1_f64(0.5), v_mul_f64(f, f));
    const vec_f64 under = v_sub_f64(half, v_mul_f64(s, v_fma_f64(z, p, half)));
    const vec_f64 big = v_mul_f64(e, v_set1_f64(LN2_HI)), sum = v_add_f64(big, f), seen = v_sub_f64(sum, big);
    const vec_f64 over = v_add_f64(v_sub_f64(big, v_sub_f64(sum, seen)), v_sub_f64(f, seen));
    const vec_f64 small = v_add_f64(over, v_fma_f64(e, v_set1_f64(LN2_LO), v_mul_f64(v_mul_f64(lost, scale), inverse)));
    const vec_f64 rest = v_sub_f64(small, under), result = v_add_f64(sum, rest);
    *off = v_sub_f64(rest, v_sub_f64(result, sum));
    return result;
}

#endif
