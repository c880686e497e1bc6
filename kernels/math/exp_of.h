/* The functions of exp.h, which includes this once for each REAL. */

/* What e^z takes from an anchor: the shift; the constant that rounds; how far the rounded sum is above n - k; and the
 * lowest logit (less the shift) whose e^z is not 0. */
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

/* Of y + low: in t the constant plus what y log2e is rounded to; q; and as the result the number of the table, or 1. */
SIMD vec PASTE(exp_start_of, REAL)(vec y, vec low, int has_low, EXP_FRAME f, vec *t, vec *q)
{
    *t = v_fma(y, v_set1(EXP_CONSTANTS.log2e), f.magic);
    const vec n = v_sub(*t, f.magic);
    vec r = v_fnma(n, v_set1(EXP_CONSTANTS.ln2_lo), v_fnma(n, v_set1(EXP_CONSTANTS.ln2_hi), y));
    if (has_low) r = v_add(r, low);
#if EXP_TABLE
    vec p = v_set1(exp_table_q[0]);
    for (size_t i = 1; i < sizeof exp_table_q / sizeof *exp_table_q; ++i) p = v_fma(p, r, v_set1(exp_table_q[i]));
    *q = v_fma(v_mul(r, r), p, r);
    return v_lookup(exp_table, *t);
#else
    vec p = v_set1(EXP_CONSTANTS.q[0]);
    for (int i = 1; i < EXP_CONSTANTS.terms; ++i) p = v_fma(p, r, v_set1(EXP_CONSTANTS.q[i]));
    *q = v_fma(v_mul(r, r), p, r);
    return v_set1(1);
#endif
}

SIMD vec PASTE(exp_start, REAL)(vec y, EXP_FRAME f, vec *t, vec *q)
{
    return PASTE(exp_start_of, REAL)(y, y, 0, f, t, q);
}

/* Of y = z - shift: high, and q so that e^z is high (1 + q); both are 0 for what is below the frame's lowest. */
SIMD vec PASTE(exp_parts_of, REAL)(vec y, vec low, int has_low, EXP_FRAME f, vec *q)
{
    const mask gone = v_less(y, f.lowest);
    vec t, power = PASTE(exp_start_of, REAL)(y, low, has_low, f, &t, q);
    *q = v_zero_where(gone, *q);
#if SCALES_TO_ZERO
    power = v_scale(power, v_sub(t, f.bias));
#else
    power = v_raise(power, t, EXP_SHIFT);
#endif
    return v_zero_where(gone, power);
}

SIMD vec v_exp_parts(vec y, EXP_FRAME f, vec *q) { return PASTE(exp_parts_of, REAL)(y, y, 0, f, q); }

/* Of a logit that is a pair, y + low. */
SIMD vec v_exp_pair_parts(vec y, vec low, EXP_FRAME f, vec *q) { return PASTE(exp_parts_of, REAL)(y, low, 1, f, q); }

/* The same of a y far above the frame's lowest, with k = 0: what is left out here changes no bit. */
SIMD vec v_exp_near(vec y, EXP_FRAME f, vec *q)
{
    vec t;
    const vec power = PASTE(exp_start, REAL)(y, f, &t, q);
#if SCALES_TO_ZERO
    return v_scale(power, v_sub(t, f.magic));
#else
    return v_raise(power, t, EXP_SHIFT);
#endif
}

SIMD vec v_exp(vec z, EXP_FRAME f)
{
    vec q;
    const vec high = v_exp_parts(v_sub(z, f.shift), f, &q);
    return v_fma(high, q, high);
}

/* Both parts in one; 0 of -inf, too, where the ISA scales to 0. */
SIMD vec v_exp_near_whole(vec y, EXP_FRAME f)
{
    vec q;
#if SCALES_TO_ZERO
    vec t;
    const vec power = PASTE(exp_start, REAL)(y, f, &t, &q);
    return v_scale(v_fma(power, q, power), v_sub(t, f.magic));
#else
    const vec high = v_exp_near(y, f, &q);
    return v_fma(high, q, high);
#endif
}

/* e^y for a sum. Where the ISA scales to 0, -inf becomes 0 by that alone, but finite logits below -1e13 may become NaN:
 * so does the sum then, and its caller takes another way. */
SIMD vec v_exp_summed(vec y, EXP_FRAME f)
{
#if SCALES_TO_ZERO
    vec t, q;
    const vec power = PASTE(exp_start, REAL)(y, f, &t, &q);
    return v_scale(v_fma(power, q, power), v_sub(t, f.bias));
#else
    vec q;
    const vec high = v_exp_parts(y, f, &q);
    return v_fma(high, q, high);
#endif
}
