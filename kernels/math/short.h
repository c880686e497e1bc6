/* exp and log of float64 lanes, as exactly as float32 results can show: within 2^-33 of themselves, by half the
 * operations of exp.h and log.h. The constants are those of the Taylor series. */
#ifndef SHORT_H
#define SHORT_H

#include "math/exp.h"
#include "simd/simd.h"

/* e^(z - shift) 2^-k at the frame's anchor, for a result among the normal numbers. */
SIMD vec_f64 v_exp_short_f64(vec_f64 z, exp_frame_f64 f)
{
    const vec_f64 y = v_sub_f64(z, f.shift), t = v_fma_f64(y, v_set1_f64(LOG2E), f.magic), n = v_sub_f64(t, f.magic);
    const vec_f64 r = v_fnma_f64(n, v_set1_f64(LN2), y);
#if EXP_TABLE_f64    /* |r| <= ln2/32 */
    const vec_f64 p = v_fma_f64(v_fma_f64(v_set1_f64(1.0 / 24), r, v_set1_f64(1.0 / 6)), r, v_set1_f64(0.5));
    const vec_f64 power = v_mul_f64(v_lookup_f64(exp_table_f64, t), v_set1_f64(1 / EXP_SCALE_f64));
#else    /* |r| <= ln2/2 */
    static const f64 c[8] = {1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5};
    vec_f64 p = v_set1_f64(c[0]);
    for (int i = 1; i < 8; ++i) p = v_fma_f64(p, r, v_set1_f64(c[i]));
    const vec_f64 power = v_set1_f64(1);
#endif
    const vec_f64 q = v_fma_f64(v_mul_f64(r, r), p, r);
#if SCALES_TO_ZERO
    return v_scale_f64(v_fma_f64(power, q, power), v_sub_f64(t, f.bias));
#else
    const vec_f64 raised = exp_raised_f64(power, t);
    return v_fma_f64(raised, q, raised);
#endif
}

/* log(1 + x) for x >= 0. With 1 + x = m 2^e, sqrt(1/2) <= m <= sqrt 2, and s = (m - 1) / (m + 1), log m is
 * 2 atanh(s). */
SIMD vec_f64 v_log1p_short_f64(vec_f64 x)
{
    static const f64 c[5] = {2.0 / 11, 2.0 / 9, 2.0 / 7, 2.0 / 5, 2.0 / 3};
    const vec_f64 one = v_set1_f64(1), y = v_add_f64(one, x), lost = v_sub_f64(x, v_sub_f64(y, one));
    vec_f64 e;
    const vec_f64 scale = v_split_f64(v_mul_f64(y, v_set1_f64(0x1.6a09e667f3bcdp+0)), &e);
    const vec_f64 f = v_fma_f64(lost, scale, v_sub_f64(v_mul_f64(y, scale), one));
    const vec_f64 s = v_div_f64(f, v_add_f64(v_set1_f64(2), f)), z = v_mul_f64(s, s);
    vec_f64 p = v_set1_f64(c[0]);
    for (int i = 1; i < 5; ++i) p = v_fma_f64(p, z, v_set1_f64(c[i]));
    return v_fma_f64(e, v_set1_f64(LN2), v_mul_f64(s, v_fma_f64(z, p, v_set1_f64(2))));
}

#endif
