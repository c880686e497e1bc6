/* The functions of exp.h, which includes this once for each REAL. */

/* What e^z takes from an anchor: the shift; the constant that rounds; how far the rounded sum is above n - k; and the
 * lowest logit (less the shift) whose e^z is not 0. */
typedef struct {
    vec shift, magic, bias, lowest;
#if EXP_FROM_BITS
    const REAL *magic_at, *q2_at, *q4_at;    /* where magic and two terms lie, in registers; or NULL (read_again) */
#endif
} EXP_FRAME;

/* The frame of each lane's own anchor; or of one for all. */
SIMD EXP_FRAME frame_of(vec shift, vec k)
{
    const REAL above = EXP_FROM_BITS ? EXP_CONSTANTS.bias : 0;    /* of the low bits over n - k */
    const REAL least = EXP_FROM_BITS ? -EXP_CONSTANTS.bias : EXP_CONSTANTS.least;
    const vec magic = v_set1(EXP_TABLE ? EXP_CONSTANTS.magic / (REAL)EXP_TABLE : EXP_CONSTANTS.magic + above);
    const vec lowest = v_mul(v_add(k, v_set1(least)), v_set1((REAL)LN2));
    const EXP_FRAME f = {
        .shift = shift, .magic = SCALES_TO_ZERO ? magic : v_sub(magic, k), .bias = v_add(magic, k), .lowest = lowest};
    return f;
}

SIMD EXP_FRAME frame_at(anchor a) { return frame_of(v_set1((REAL)a.shift), v_set1((REAL)a.k)); }

/* A term of the polynomial, and one that a product is added to. */
#if EXP_FROM_BITS
SIMD vec exp_term(int i) { return v_load_real(EXP_CONSTANTS.q[i]); }
SIMD vec exp_addend(EXP_FRAME f, int i)
{
    const REAL *at = EXP_CONSTANTS.terms != 5 ? NULL : i == 2 ? f.q2_at : f.q4_at;
#if defined(__GNUC__)
    return at ? v_again(at) : *(const volatile vec *)EXP_CONSTANTS.q[i];
#else
    return v_again(at ? at : EXP_CONSTANTS.q[i]);
#endif
}
SIMD vec magic_addend(EXP_FRAME f) { return f.magic_at ? v_again(f.magic_at) : f.magic; }

/* The frame for a loop over a long row. */
SIMD EXP_FRAME read_again(const EXP_FRAME *in_memory)
{
    EXP_FRAME f = *in_memory;
    f.magic_at = in_register(&in_memory->magic);
    if (EXP_CONSTANTS.terms != 5) return f;
    f.q2_at = in_register(EXP_CONSTANTS.q[2]);
    f.q4_at = in_register(EXP_CONSTANTS.q[4]);
    return f;
}
#else
SIMD vec exp_term(int i) { return v_set1(EXP_CONSTANTS.q[i]); }
SIMD vec magic_addend(EXP_FRAME f) { return f.magic; }
SIMD EXP_FRAME read_again(const EXP_FRAME *in_memory) { return *in_memory; }
#endif

/* Without a table. In pairs of terms, which wait for each other less, and of which fewer begin with a constant: a fused
 * multiply-add that writes over what it adds to needs a copy of that. */
SIMD vec PASTE(exp_q, REAL)(vec r, EXP_FRAME f)
{
    const vec r2 = v_mul(r, r);
#if EXP_FROM_BITS
    const int odd = EXP_CONSTANTS.terms % 2;
    vec p = odd ? exp_term(0) : v_fma(r, exp_term(0), exp_addend(f, 1));
    for (int i = 2 - odd; i < EXP_CONSTANTS.terms; i += 2)
        p = v_fma(p, r2, v_fma(r, exp_term(i), exp_addend(f, i + 1)));
#else
    vec p = exp_term(0);
    for (int i = 1; i < EXP_CONSTANTS.terms; ++i) p = v_fma(p, r, exp_term(i));
#endif
    return v_fma(r2, p, r);
}

/* Of y + low: in t the constant plus what y log2e is rounded to; q; and as the result the number of the table, or 1. */
SIMD vec PASTE(exp_start_of, REAL)(vec y, vec low, int has_low, EXP_FRAME f, vec *t, vec *q)
{
    *t = v_fma(y, v_set1(EXP_CONSTANTS.log2e), magic_addend(f));
    const vec n = v_sub(*t, f.magic);
    vec r = v_fnma(n, v_set1(EXP_CONSTANTS.ln2_lo), v_fnma(n, v_set1(EXP_CONSTANTS.ln2_hi), y));
    if (has_low) r = v_add(r, low);
#if EXP_TABLE
    vec p = v_set1(exp_table_q[0]);
    for (size_t i = 1; i < sizeof exp_table_q / sizeof *exp_table_q; ++i) p = v_fma(p, r, v_set1(exp_table_q[i]));
    *q = v_fma(v_mul(r, r), p, r);
    return v_lookup(exp_table, *t);
#else
    *q = PASTE(exp_q, REAL)(r, f);
    return v_set1(1);
#endif
}

#if !SCALES_TO_ZERO
/* 2^(n - k), or the table's number times that. */
SIMD vec PASTE(exp_raised, REAL)(vec power, vec t)
{
#if EXP_FROM_BITS
    (void)power;
    return v_from_bits(t);
#else
    return v_raise(power, t, EXP_SHIFT);
#endif
}
#endif

SIMD vec PASTE(exp_start, REAL)(vec y, EXP_FRAME f, vec *t, vec *q)
{
    return PASTE(exp_start_of, REAL)(y, y, 0, f, t, q);
}

/* Of y = z - shift: high, and q so that e^z is high (1 + q); high is 0 for what is below the frame's lowest, and
 * high q. */
SIMD vec PASTE(exp_parts_of, REAL)(vec y, vec low, int has_low, EXP_FRAME f, vec *q)
{
    vec t;
#if EXP_FROM_BITS
    if (has_low) low = v_zero_where(v_less(y, f.lowest), low);    /* it may be NaN there */
    const vec power = PASTE(exp_start_of, REAL)(v_max(y, f.lowest), low, has_low, f, &t, q);
    return PASTE(exp_raised, REAL)(power, t);
#else
    const mask gone = v_less(y, f.lowest);
    vec power = PASTE(exp_start_of, REAL)(y, low, has_low, f, &t, q);
    *q = v_zero_where(gone, *q);
#if SCALES_TO_ZERO
    power = v_scale(power, v_sub(t, f.bias));
#else
    power = PASTE(exp_raised, REAL)(power, t);
#endif
    return v_zero_where(gone, power);
#endif
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
    return PASTE(exp_raised, REAL)(power, t);
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

/* The same of a logit that is a pair, y + low, and finite. */
SIMD vec v_exp_pair_summed(vec y, vec low, EXP_FRAME f)
{
#if SCALES_TO_ZERO
    vec t, q;
    const vec power = PASTE(exp_start_of, REAL)(y, low, 1, f, &t, &q);
    return v_scale(v_fma(power, q, power), v_sub(t, f.bias));
#else
    vec q;
    const vec high = v_exp_pair_parts(y, low, f, &q);
    return v_fma(high, q, high);
#endif
}
