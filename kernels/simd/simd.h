/* The vector operations of one ISA, under names without a type: vec, v_add ... mean those of REAL (f32 or f64), v_load
 * and v_store those of ELEMENT (f16, bf16, f32, f64), whatever these are where the name is used.
 *
 *   v_max(a, b), v_min  NaN where b is; where a is, b or NaN
 *   v_fma(a, b, c)      a b + c;  v_fnma: c - a b
 *   v_scale(p, n)       p 2^n for n rounded down, 0 below the smallest number, where the ISA has that (SCALES_TO_ZERO)
 *   v_lookup(table, t)  where there is a table of EXP_TABLE numbers, the one that the low bits of t name
 *   v_raise(p, t, s)    where the ISA has no v_scale: the bits of p plus those of t shifted left by s, which is p 2^n
 *                       where n are the low bits of t. From a table comes a p that lacks the bits by which it was
 *                       named: here they are added again
 *   v_from_bits(t)      where the ISA has EXP_FROM_BITS (math/exp.h): 2^(n-b) for an n from 1 to 2b that the low bits of
 *                       t are, where b is the bias of an exponent, and 0 for n = 0
 *   v_add_where(m, a, b)  a + b where m holds, else a
 *   v_unequal(a, b)     true where either is NaN
 *   v_zero_where(m, a)  0 where m holds, else a;  v_only_where(m, a): a where m holds, else 0;  v_where(m, a, b): a where m holds, else b
 *   v_sum(a)            of the lanes, in float64, in a fixed order
 *   v_load_part(x, n, fill), v_store_part(x, n, a)   the first n < LANES elements
 *   v_split(a, &e)      a = m 2^e with 1 <= m < 2 for normal a > 0: e, and 2^-e as the result
 *   transpose(v)        the matrix of LANES vectors
 *   transpose_parts(v)  of PART vectors, in each part of 16 bytes apart: these are matrices of PART by PART
 *   v_pick(v, lanes)    the lanes of v that these integers name, as wide as REAL is
 *   v_load_parts(x, a), v_store_part_of(x, v, i)   a vector's parts from x, x + a ...; its i-th to x
 *   v_widen(a, u)       float64 lanes of the u-th part of WIDE: 2 for float32, 1 for float64
 *   v_of_int64(a)       LANES_f64 integers from a on, rounded to float64
 *   v_lost(a, b, p)     a b - p, rounded once; exact where p is the rounded product
 *   v_div(a, b)         the quotient
 *   v_bypass(x, a)      a store that bypasses the caches, x aligned to the vector; fence() before the thread leaves */
#ifndef SIMD_H
#define SIMD_H

#include "simd/inline.h"
#include "types.h"

#if defined(USE_AVX512)
#include "simd/avx512.h"
#elif defined(USE_AVX2)
#include "simd/avx2.h"
#elif defined(USE_NEON)
#include "simd/neon.h"
#else
#include "simd/base.h"
#endif

/* Before a loop of little work, one vector a turn: where the turn itself takes as long as the work, four are done in one. */
#if defined(USE_NEON) && defined(__GNUC__)
#define IN_FOURS _Pragma("GCC unroll 4")
#else
#define IN_FOURS
#endif

#ifndef TOGETHER
#define TOGETHER 1
#endif

#define WIDE_f32 2
#define WIDE_f64 1
SIMD vec_f64 v_widen_f32(vec_f32 a, int part) { return part ? v_widen_high_f32(a) : v_widen_low_f32(a); }
SIMD vec_f64 v_widen_f64(vec_f64 a, int part)
{
    (void)part;
    return a;
}
SIMD vec_f64 v_narrow_f64(vec_f64 low, vec_f64 high)
{
    (void)high;
    return low;
}

static const f32 lane_numbers_f32[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const f64 lane_numbers_f64[8] = {0, 1, 2, 3, 4, 5, 6, 7};

#define LANES PASTE(LANES, REAL)
#define vec PASTE(vec, REAL)
#define mask PASTE(mask, REAL)
#define v_set1 PASTE(v_set1, REAL)
#define v_add PASTE(v_add, REAL)
#define v_sub PASTE(v_sub, REAL)
#define v_mul PASTE(v_mul, REAL)
#define v_fma PASTE(v_fma, REAL)
#define v_fnma PASTE(v_fnma, REAL)
#define v_max PASTE(v_max, REAL)
#define v_min PASTE(v_min, REAL)
#define v_scale PASTE(v_scale, REAL)
#define v_div PASTE(v_div, REAL)
#define v_lost PASTE(v_lost, REAL)
#define v_split PASTE(v_split, REAL)
#define v_raise PASTE(v_raise, REAL)
#define v_lookup PASTE(v_lookup, REAL)
#define v_less PASTE(v_less, REAL)
#define v_equal PASTE(v_equal, REAL)
#define v_unequal PASTE(v_unequal, REAL)
#define v_nan PASTE(v_nan, REAL)
#define mask_or PASTE(mask_or, REAL)
#define mask_count PASTE(mask_count, REAL)
#define v_only_where PASTE(v_only_where, REAL)
#define v_zero_where PASTE(v_zero_where, REAL)
#define v_add_where PASTE(v_add_where, REAL)
#define v_where PASTE(v_where, REAL)
#define v_sum PASTE(v_sum, REAL)
#define v_top PASTE(v_top, REAL)
#define WIDE PASTE(WIDE, REAL)
#define v_widen PASTE(v_widen, REAL)
#define v_narrow PASTE(v_narrow, REAL)
#define transpose PASTE(transpose, REAL)
#define lane_numbers PASTE(lane_numbers, REAL)
#define transpose_parts PASTE(transpose_parts, REAL)
#define v_pick PASTE(v_pick, REAL)
#define v_bypass_real PASTE(bypass, REAL)
#define v_load_parts PASTE(v_load_parts, REAL)
#define v_store_part_of PASTE(v_store_part_of, REAL)
#define PART ((ptrdiff_t)(16 / sizeof(REAL)))
#define v_again PASTE(v_again, REAL)
#define v_load_real PASTE(load, REAL)
#define v_load_part_real PASTE(load_part, REAL)
#define v_store_real PASTE(store, REAL)

#define v_load PASTE(load, ELEMENT)
#define v_load_part PASTE(load_part, ELEMENT)
#define v_store PASTE(store, ELEMENT)
#define v_bypass PASTE(bypass, ELEMENT)
#define v_store_part PASTE(store_part, ELEMENT)

#endif
