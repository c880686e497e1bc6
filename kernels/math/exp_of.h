/* The functions of exp.h, which includes this once for each REAL. */

typedef struct {
    vec shift, magic, bias, lowest;
} EXP_FRAME;

/* The frame of each lane's own anchor; or of one for all. */
SIMD EXP_FRAME frame_of(vec shift, vec k)
{
    const vec magic = v_set1(EXP_TABLE ? EXP_CONSTANTS.magic / (REAL)EXP_TABLE : EXP_CONSTANTS.magic);
    const vec lowest = v_mul(v_add(k, v_set1(EXP_CONSTANTS.least)), v_set1((REAL)LN2));
    const EXP_FRAME f = {shift, SCALES_TO_ZERO ? magic : v_sub(magic, k), v_add(magic, k), lowest};
    return f;
}

SIMD EXP_FRAME frame_at(anchor a) { return frame_of(v_set1((REAL)a.shift), v_set1((REAL)a.k)); }

/* Of y = z - shift: high, and q so that e^z is high (1 + q). What is below the frame's lowest, -inf too, counts as that,
 * which no sum shows. */
SIMD vec v_exp_parts(vec y, EXP_FRAME f, vec *q)
{
    y = v_max(f.lowest, y);
    const vec t = v_fma(y, v_set1(EXP_CONSTANTS.log2e), f.magic), n = v_sub(t, f.magic);
    const vec r = v_fnma(n, v_set1(EXP_CONSTANTS.ln2_lo), v_fnma(n, v_set1(EXP_CONSTANTS.ln2_hi), y));
#if EXP_TABLE
    vec p = v_set1(exp_table_q[0]);
    for (size_t i = 1; i < sizeof exp_table_q / sizeof *exp_table_q; ++i) p = v_fma(p, r, v_set1(exp_table_q[i]));
    const vec power = v_lookup(exp_table, t);
#else
    vec p = v_set1(EXP_CONSTANTS.q[0]);
    for (int i = 1; i < EXP_CONSTANTS.terms; ++i) p = v_fma(p, r, v_set1(EXP_CONSTANTS.q[i]));
    const vec power = v_set1(1);
#endif
    *q = v_fma(v_mul(r, r), p, r);
#if SCALES_TO_ZERO
    return v_scale(power, v_sub(t, f.bias));
#else
    return v_raise(power, t, EXP_SHIFT);
#endif
}

/* e^y of its parts: 0 for what is below the frame's lowest. */
SIMD vec v_exp_of_parts(vec y, EXP_FRAME f, vec high, vec q)
{
    return v_zero_where(v_less(y, f.lowest), v_fma(high, q, high));
}

SIMD vec v_exp(vec z, EXP_FRAME f)
{
    const vec y = v_sub(z, f.shift);
    vec q;
    const vec high = v_exp_parts(y, f, &q);
    return v_exp_of_parts(y, f, high, q);
}
