/* e^z of one vector at an anchor: e^(z - shift) 2^-k (exp_of.h, for either REAL).
 *
 * z = n ln2 + r with |r| <= ln2/2: adding 1.5 2^(mantissa bits) to z log2e rounds it to the integer n. n ln2_hi is
 * exact (15 and 41 bits, n below 2^9 and 2^12 by anchor_limit), so z - n ln2_hi is too: the same code serves ISAs
 * without FMA. e^r = 1 + r (1 + r Q(r)); fit.py prints these constants, and checks them.
 *
 * With a table (EXP_TABLE: float32 on AVX-512 and AVX2) n is a multiple of 1/16 or 1/8, r as much smaller and Q of
 * fewer terms: 2^n is 2^floor(n) times what the last bits of n look up.
 *
 * Max error, measured: float32 1.00 ulp on AVX-512, 0.95 on AVX2, 1.24 on the base; float64 0.95, 0.95, 1.22
 * (tests/test_accuracy.py, test_error_of_exp, on 2^17 points each).
 *
 * Where the ISA scales by a power of 2 (SCALES_TO_ZERO: AVX-512) what underflows is 0 and NaN stays NaN, +inf too.
 * Where not, the constant is lessened by k, so that the low bits of the sum are n - k, ready to be added to the
 * exponent of e^r; what would leave the normal range is 0 then, and z must not be NaN or +inf but in v_exp_summed.
 * Callers anchor so that nothing that a result can show lies below that. */
#ifndef EXP_H
#define EXP_H

#include "math/anchor.h"
#include "simd/simd.h"

/* Fit error 0.19 ulp. */
static const struct {
    f32 smallest, magic, least, log2e, ln2_hi, ln2_lo;
    int terms;
    f32 q[5];
} exp_constants_f32 = {
    0x1p-126f,    0x1.8p23f,       -125, 0x1.715476p+0f,
    0x1.62e4p-1f, 0x1.7f7d1cp-20f, 5,    {0x1.6d117cp-10f, 0x1.120be2p-7f, 0x1.555518p-5f, 0x1.5554dcp-3f, 0x1p-1f}};
#if EXP_TABLE_f32 == 16
static const f32 exp_table_q[] = {0x1.55565cp-3f, 0x1.000148p-1f};    /* fit error 0.11 ulp */
static const f32 exp_table[] = {0x1p+0f,        0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f,
                                0x1.306fep+0f,  0x1.3dea64p+0f, 0x1.4bfdaep+0f, 0x1.5ab07ep+0f,
                                0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f, 0x1.9c4918p+0f,
                                0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f};
#elif EXP_TABLE_f32 == 8
static const f32 exp_table_q[] = {0x1.555972p-5f, 0x1.555b7ep-3f, 0x1p-1f};    /* fit error 0.01 ulp */
static const f32 exp_table[] = {0x1p+0f,        0x1.172b84p+0f, 0x1.306fep+0f,  0x1.4bfdaep+0f,
                                0x1.6a09e6p+0f, 0x1.8ace54p+0f, 0x1.ae89fap+0f, 0x1.d5818ep+0f};
#endif
/* Fit error 0.17 ulp. */
static const struct {
    f64 smallest, magic, least, log2e, ln2_hi, ln2_lo;
    int terms;
    f64 q[10];
} exp_constants_f64 = {0x1p-1022,
                       0x1.8p52,
                       -1021,
                       LOG2E,
                       LN2_HI,
                       LN2_LO,
                       10,
                       {0x1.af390ba7e6f47p-26, 0x1.2891d4ffbb0f9p-22, 0x1.71de0d85293b8p-19, 0x1.a019b8ca26fcfp-16,
                        0x1.a01a01a7cebcdp-13, 0x1.6c16c1789d1d7p-10, 0x1.11111111109a6p-7, 0x1.5555555553d37p-5,
                        0x1.5555555555556p-3, 0x1.0000000000001p-1}};

#define EXP_FRAME PASTE(exp_frame, REAL)
#define v_exp PASTE(v_exp, REAL)
#define v_exp_unshifted PASTE(v_exp_unshifted, REAL)
#define v_exp_summed PASTE(v_exp_summed, REAL)
#define v_exp_unclamped PASTE(v_exp_unclamped, REAL)
#define EXP_TABLE PASTE(EXP_TABLE, REAL)
#define frame_at PASTE(frame_at, REAL)
#define frame_of PASTE(frame_of, REAL)
#define EXP_CONSTANTS PASTE(exp_constants, REAL)

#define REAL f32
#include "math/exp_of.h"
#undef REAL
#define REAL f64
#include "math/exp_of.h"
#undef REAL

#endif
