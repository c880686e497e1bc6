/* e^z of one vector at an anchor: e^(z - shift) 2^-k. Included once for each REAL.
 *
 * z = n ln2 + r with |r| <= ln2/2: adding 1.5 2^(mantissa bits) to z log2e rounds it to the integer n. n ln2_hi is
 * exact (15 and 41 bits, n below 2^9 and 2^12 by anchor_limit), so z - n ln2_hi is too: the same code serves ISAs
 * without FMA. e^r = 1 + r (1 + r Q(r)); fit.py prints these constants.
 *
 * With a table (EXP_TABLE: float32 on AVX-512 and AVX2) n is a multiple of 1/16 or 1/8, r as much smaller and Q of
 * fewer terms: 2^n is 2^floor(n) times what the last bits of n look up. 1.35 ns a vector of AVX-512 in place of
 * 1.73, with the maximum and the sum, and 1.46 in place of 1.64 on AVX2.
 *
 * Max error, measured: float32 1.00 ulp on AVX-512, 0.95 on AVX2, 1.24 on the base; float64 0.95, 0.95, 1.22
 * (tests/test_accuracy.py, test_error_of_exp, on 2^17 points each).
 *
 * Where the ISA scales by a power of 2 (SCALES_TO_ZERO: AVX-512) what underflows is 0 and NaN stays NaN, +inf too.
 * Where not, the constant is lessened by k, so that the low bits of the sum are n - k, ready to be added to the
 * exponent of e^r; what would leave the normal range is 0 then, and z must not be NaN or +inf but in v_exp_summed.
 * Callers anchor so that nothing that a result can show lies below that. */

#define EXP_FRAME PASTE(exp_frame, REAL)
#define v_exp PASTE(v_exp, REAL)
#define v_exp_unshifted PASTE(v_exp_unshifted, REAL)
#define v_exp_summed PASTE(v_exp_summed, REAL)
#define v_exp_unclamped PASTE(v_exp_unclamped, REAL)
#define EXP_TABLE PASTE(EXP_TABLE, REAL)
#define frame_at PASTE(frame_at, REAL)
#define frame_of PASTE(frame_of, REAL)
#define EXP_CONSTANTS PASTE(exp_constants, REAL)

#ifndef EXP_CONSTANTS_DEFINED
#define EXP_CONSTANTS_DEFINED
/* Fit error 0.19 ulp. */
static const struct { f32 smallest, magic, least, log2e, ln2_hi, ln2_lo; int terms; f32 q[5]; } exp_constants_f32 = {
    0x1p-126f, 0x1.8p23f, -125, 0x1.715476p+0f, 0x1.62e4p-1f, 0x1.7f7d1cp-20f, 5,
    {0x1.6d117cp-10f, 0x1.120be2p-7f, 0x1.555518p-5f, 0x1.5554dcp-3f, 0x1p-1f}};
#if EXP_TABLE_f32 == 16
static const f32 exp_table_q[] = {0x1.55565cp-3f, 0x1.000148p-1f};    /* fit error 0.11 ulp */
static const f32 exp_table[] = {
    0x1p+0f, 0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f, 0x1.306fep+0f, 0x1.3dea64p+0f,
    0x1.4bfdaep+0f, 0x1.5ab07ep+0f, 0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f, 0x1.9c4918p+0f,
    0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f};
#elif EXP_TABLE_f32 == 8
static const f32 exp_table_q[] = {0x1.555972p-5f, 0x1.555b7ep-3f, 0x1p-1f};    /* fit error 0.01 ulp */
static const f32 exp_table[] = {
    0x1p+0f, 0x1.172b84p+0f, 0x1.306fep+0f, 0x1.4bfdaep+0f, 0x1.6a09e6p+0f, 0x1.8ace54p+0f,
    0x1.ae89fap+0f, 0x1.d5818ep+0f};
#endif
/* Fit error 0.17 ulp. */
static const struct { f64 smallest, magic, least, log2e, ln2_hi, ln2_lo; int terms; f64 q[10]; } exp_constants_f64 = {
    0x1p-1022, 0x1.8p52, -1021, LOG2E, LN2_HI, LN2_LO, 10,
    {0x1.af390ba7e6f47p-26, 0x1.2891d4ffbb0f9p-22, 0x1.71de0d85293b8p-19, 0x1.a019b8ca26fcfp-16, 0x1.a01a01a7cebcdp-13,
     0x1.6c16c1789d1d7p-10, 0x1.11111111109a6p-7, 0x1.5555555553d37p-5, 0x1.5555555555556p-3, 0x1.0000000000001p-1}};
#endif

typedef struct { vec shift, magic, bias, lowest; } EXP_FRAME;

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
