/* The functions of exp.h, which includes this once for each REAL. */

typedef struct {
    vec shift, magic, bias, lowest;
} EXP_FRAME;

/* The frame of each lane's own anchor; or of one for all. */
SIMD EXP_FRAME frame_of(vec shift, vec k)
{
    const vec magic = v_set1(EXP_TABLE ? EXP_CONSTANTS.magic / (REAL)EXP_TABLE : EXP_CONSTANTS.magic);
    const REAL least = (REAL)(SCALES_TO_ZERO ? 2.25 * EXP_CONSTANTS.least : EXP_CONSTANTS.least);
    const vec lowest = v_mul(v_add(k, v_set1(least)), v_set1((REAL)LN2));
    const EXP_FRAME f = {shift, SCALES_TO_ZERO ? magic : v_sub(magic, k), v_add(magic, k), lowest};
    return f;
}

SIMD EXP_FRAME frame_at(anchor a) { return frame_of(v_set1((REAL)a.shift), v_set1((REAL)a.k)); }

/* Of y = z - shift, where that isn't below the frame's lowest. NaN stays NaN but for scaling by the exponent's bits. */
SIMD vec v_exp_unclamped(vec y, EXP_FRAME f)
{
    const vec t = v_fma(y, v_set1(EXP_CONSTANTS.log2e), f.magic), n = v_sub(t, f.magic);
    const vec r = v_fnma(n, v_set1(EXP_CONSTANTS.ln2_lo), v_fnma(n, v_set1(EXP_CONSTANTS.ln2_hi), y));
#if EXP_TABLE
    vec power = v_lookup(v_load_real(exp_table), t), q = v_set1(exp_table_q[0]);
    for (size_t i = 1; i < sizeof exp_table_q / sizeof *exp_table_q; ++i) q = v_fma(q, r, v_set1(exp_table_q[i]));
    q = v_fma(v_mul(r, r), q, r);
#if SCALES_TO_ZERO
    return v_scale(v_fma(power, q, power), v_sub(t, f.bias));
#else
    power = v_scale_whole(power, t);
    return v_fma(power, q, power);
#endif
#else
    vec p = v_set1(EXP_CONSTANTS.q[0]);
    for (int i = 1; i < EXP_CONSTANTS.terms; ++i) p = v_fma(p, r, v_set1(EXP_CONSTANTS.q[i]));
    p = v_fma(v_fma(p, r, v_set1(1)), r, v_set1(1));
    return v_scale(p, SCALES_TO_ZERO ? v_sub(t, f.bias) : t);
#endif
}

/* For a sum: on AVX-512, finite logits below -1e13 may leave no finite one. NaN stays NaN, here or in nan, to which
 * finite numbers are added. */
SIMD vec v_exp_summed(vec y, EXP_FRAME f, vec *nan)
{
    if (SCALES_TO_ZERO) return v_exp_unclamped(y, f);
    if (!EXP_TABLE) *nan = v_add(*nan, v_zero_where(v_less(y, v_set1(INFINITY)), y));
    return v_zero_where(v_less(y, f.lowest), v_exp_unclamped(y, f));
}

SIMD vec v_exp_unshifted(vec y, EXP_FRAME f)
{
    if (SCALES_TO_ZERO) return v_exp_unclamped(v_max(f.lowest, y), f);
    return v_zero_where(v_less(y, f.lowest), v_exp_unclamped(y, f));
}

SIMD vec v_exp(vec z, EXP_FRAME f) { return v_exp_unshifted(v_sub(z, f.shift), f); }
