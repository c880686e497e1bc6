/* e^z of one vector at an anchor: e^(z - shift) 2^-k, times EXP_SCALE (exp_of.h, for either REAL).
 *
 * z = n ln2 + r with |r| <= ln2/2: adding 1.5 2^(mantissa bits) to z log2e rounds it to the integer n. n ln2_hi is
 * exact (15 and 41 bits, n below 2^9 and 2^12 by anchor_limit), so z - n ln2_hi is too: the same code serves ISAs
 * without FMA. e^r = 1 + q with q = r + r^2 Q(r); fit.py prints these constants, and checks them.
 *
 * With a table (EXP_TABLE entries: float32 on AVX-512 and AVX2, float64 on AVX-512) n is a multiple of 1/16 or 1/8, r
 * as much smaller and Q of fewer terms: 2^n is 2^floor(n) times what the last bits of n look up. (These ISAs have FMA,
 * for which n may have the more bits.) An entry 2^(j/16) that is rounded to REAL would be off by up to half an ulp. So
 * the table holds 2^(j/16) EXP_SCALE, with a scale for which all entries happen to lie near a number of REAL: within
 * 0.135 (float32, 16 entries), 0.024 (8 entries) and 0.113 ulp (float64) of a number just above 1 (fit.py --search).
 * Whoever adds e^z up, or multiplies it, divides by EXP_SCALE afterwards.
 *
 * The result is high (1 + q), where high is 2^n or the table's number. Sums take high and high q apart (exp_sum.h):
 * what rounds e^z to an ulp of its own is adding these two, and where one class holds most of a sum, that ulp may be
 * two of the loss. Max error in ulp of e^z EXP_SCALE, on every float32 of size 2^-24 to 86.5, and on 2^24 of float64:
 *
 *                                        float32: AVX-512  AVX2   base   NEON   float64: AVX-512  AVX2   base   NEON
 *   high (1 + q), added without rounding          0.25     0.10   0.62   0.57            0.22     0.57   0.60   0.57
 *   v_exp, which adds them                        0.74     0.59   1.05   1.06            0.72     1.07   1.03   1.07
 *
 * (NEON on every 61st of these float32, and on 2^18 of float64.)
 *
 * tests/test_accuracy.py holds a sum and a gradient to these (test_error_of_one_exp_in_a_sum, ..._in_a_gradient).
 *
 * The power of 2 is n - k. Where the ISA scales by powers of 2, k and the constant are taken off the rounded sum again.
 * Elsewhere k is taken off the constant beforehand, so that the low bits of the sum are n - k, ready to be added to the
 * exponent of high. On NEON (EXP_FROM_BITS) the constant has the exponent's bias besides, so that these bits, shifted, are
 * high; a z from which they would be 0 or less becomes the one from which they are 0, and so is high then: that is two
 * operations, where a comparison, two masks, a shift and an addition are five. What would leave the normal range is 0. NaN stays NaN, and +inf becomes it. Callers anchor so that
 * nothing that a result can show lies below that. */
#ifndef EXP_H
#define EXP_H

#include "math/anchor.h"
#include "simd/simd.h"

/* Where a multiply-add writes over what it adds to (EXP_FROM_BITS), a term of the polynomial is a vector in memory: read
 * anew each time, by units that have little to do, it takes no instruction that copies it. So is the constant that rounds
 * in the loops over long rows, which have the addresses of all of these in registers (read_again). */
#if EXP_FROM_BITS
#define EXP_TERM_f32(a) {a, a, a, a}
#define EXP_TERM_f64(a) {a, a}
#define EXP_TERM_IN(q, lanes) q[lanes]
#define EXP_NUMBER(q) q[0]
#else
#define EXP_TERM_f32(a) a
#define EXP_TERM_f64(a) a
#define EXP_TERM_IN(q, lanes) q
#define EXP_NUMBER(q) q
#endif

/* Fit error 0.19 ulp. */
static const struct {
    f32 smallest, bias, magic, least, log2e, ln2_hi, ln2_lo;
    int terms;
    f32 EXP_TERM_IN(q[5], LANES_f32);
} exp_constants_f32 = {0x1p-126f,
                       127,
                       0x1.8p23f,
                       -125,
                       0x1.715476p+0f,
                       0x1.62e4p-1f,
                       0x1.7f7d1cp-20f,
                       5,
                       {EXP_TERM_f32(0x1.6d117cp-10f), EXP_TERM_f32(0x1.120be2p-7f), EXP_TERM_f32(0x1.555518p-5f),
                        EXP_TERM_f32(0x1.5554dcp-3f), EXP_TERM_f32(0x1p-1f)}};
#if EXP_TABLE_f32 == 16
#define EXP_SCALE_f32 0x1.084921ccea25fp+0
static const f32 exp_table_q_f32[] = {0x1.55565cp-3f, 0x1.000148p-1f};    /* fit error 0.11 ulp */
static const f32 exp_table_f32[] = {0x1.084922p+0f, 0x1.13fc92p+0f, 0x1.2034ap+0f,  0x1.2cf72cp+0f,
                                    0x1.3a4a58p+0f, 0x1.48348ap+0f, 0x1.56bc72p+0f, 0x1.65e90cp+0f,
                                    0x1.75c1a2p+0f, 0x1.864dd2p+0f, 0x1.97959p+0f,  0x1.a9a128p+0f,
                                    0x1.bc7948p+0f, 0x1.d026fcp+0f, 0x1.e4b3bap+0f, 0x1.fa2962p+0f};
#elif EXP_TABLE_f32 == 8
#define EXP_SCALE_f32 0x1.16747bf728c53p+0
static const f32 exp_table_q_f32[] = {0x1.555972p-5f, 0x1.555b7ep-3f, 0x1p-1f};    /* fit error 0.01 ulp */
static const f32 exp_table_f32[] = {0x1.16747cp+0f, 0x1.2fa848p+0f, 0x1.4b2404p+0f, 0x1.691c8ap+0f,
                                    0x1.89cb7cp+0f, 0x1.ad6fb4p+0f, 0x1.d44dbcp+0f, 0x1.feb052p+0f};
#else
#define EXP_SCALE_f32 1.0
#endif
#if EXP_TABLE_f64 == 16
#define EXP_SCALE_f64 0x1.09b22008cb69fp+0
static const f64 exp_table_q_f64[] = {0x1.a01b0cb76698bp-13, 0x1.6c17ede661f5cp-10,
                                      0x1.11111110e0d94p-7,  0x1.55555554e8d7bp-5,
                                      0x1.5555555555556p-3,  0x1.0000000000001p-1};    /* fit error 0.0005 ulp */
static const f64 exp_table_f64[] = {
    0x1.09b22008cb69fp+0, 0x1.15758b788137cp+0, 0x1.21be4a9a842fdp+0, 0x1.2e9244927dc4p+0,
    0x1.3bf7a36b7a4b8p+0, 0x1.49f4d70e3451bp+0, 0x1.58909858f2782p+0, 0x1.67d1ec5a746e8p+0,
    0x1.77c027b17c5dcp+0, 0x1.8862f21293b9fp+0, 0x1.99c249f5bcce6p+0, 0x1.abe6886dd586cp+0,
    0x1.bed8652b84007p+0, 0x1.d2a0faad9a5b6p+0, 0x1.e749caa0f51afp+0, 0x1.fcdcc271ee375p+0};
#else
#define EXP_SCALE_f64 1.0
#endif
/* Fit error 0.17 ulp. */
static const struct {
    f64 smallest, bias, magic, least, log2e, ln2_hi, ln2_lo;
    int terms;
    f64 EXP_TERM_IN(q[10], LANES_f64);
} exp_constants_f64 = {0x1p-1022,
                       1023,
                       0x1.8p52,
                       -1021,
                       LOG2E,
                       LN2_HI,
                       LN2_LO,
                       10,
                       {EXP_TERM_f64(0x1.af390ba7e6f47p-26), EXP_TERM_f64(0x1.2891d4ffbb0f9p-22),
                        EXP_TERM_f64(0x1.71de0d85293b8p-19), EXP_TERM_f64(0x1.a019b8ca26fcfp-16),
                        EXP_TERM_f64(0x1.a01a01a7cebcdp-13), EXP_TERM_f64(0x1.6c16c1789d1d7p-10),
                        EXP_TERM_f64(0x1.11111111109a6p-7), EXP_TERM_f64(0x1.5555555553d37p-5),
                        EXP_TERM_f64(0x1.5555555555556p-3), EXP_TERM_f64(0x1.0000000000001p-1)}};

/* So low that e^z is 0 without an anchor where the ISA scales to 0: v_exp_near takes it in place of -inf. */
#define EXP_NONE -0x1p13f

#define EXP_FRAME PASTE(exp_frame, REAL)
#define v_exp PASTE(v_exp, REAL)
#define v_exp_parts PASTE(v_exp_parts, REAL)
#define v_exp_pair_parts PASTE(v_exp_pair_parts, REAL)
#define v_exp_summed PASTE(v_exp_summed, REAL)
#define v_exp_pair_summed PASTE(v_exp_pair_summed, REAL)
#define v_exp_near PASTE(v_exp_near, REAL)
#define v_exp_near_whole PASTE(v_exp_near_whole, REAL)
#define EXP_TABLE PASTE(EXP_TABLE, REAL)
#define EXP_SCALE PASTE(EXP_SCALE, REAL)
#define EXP_SHIFT PASTE(EXP_SHIFT, REAL)
#define exp_table PASTE(exp_table, REAL)
#define exp_table_q PASTE(exp_table_q, REAL)
#define exp_term PASTE(exp_term, REAL)
#define exp_addend PASTE(exp_addend, REAL)
#define magic_addend PASTE(magic_addend, REAL)
#define read_again PASTE(read_again, REAL)
#define v_from_bits PASTE(v_from_bits, REAL)
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
