/* The vector operations of one ISA, under names without a type: vec, v_add ... mean those of REAL (f32 or f64), v_load
 * and v_store those of ELEMENT (f16, bf16, f32, f64), whatever these are where the name is used.
 *
 *   v_max(a, b)         b where either is NaN
 *   v_fma(a, b, c)      a b + c;  v_fnma: c - a b
 *   v_scale(p, n)       p 2^n where the ISA has that (SCALES_TO_ZERO), else n is an integer in the low bits (exp.h)
 *   v_lookup(table, t)  the lane of the table that the low bits of t name, where EXP_TABLE is the number of lanes;
 *                       v_scale_whole(p, t): p 2^n, where n are the bits above those
 *   v_zero_where(m, a)  0 where m holds, else a;  v_where(m, a, b): a where m holds, else b
 *   v_sum(a)            of the lanes, in float64, in a fixed order; lane_total: such a sum of many vectors
 *   v_load_part(x, n, fill), v_store_part(x, n, a)   the first n < LANES elements
 *   v_split(a, &e)      a = m 2^e with 1 <= m < 2 for normal a > 0: e, and 2^-e as the result
 *   transpose(v)        the matrix of LANES vectors
 *   v_widen(a, u)       float64 lanes of the u-th part of WIDE: 2 for float32, 1 for float64
 *   v_stream(x, a)      a store past the caches, x aligned to the vector; fence() before the thread leaves */
#ifndef SIMD_H
#define SIMD_H

#include <math.h>
#include <string.h>

#include "kernels.h"

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
/* Left to itself GCC passes as arguments the flags that are constants where a function is inlined. */
#if defined(__GNUC__)
#define SIMD static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define SIMD static __forceinline
#else
#define SIMD static inline
#endif

#if defined(USE_AVX512)
#include "simd_avx512.h"
#elif defined(USE_AVX2)
#include "simd_avx2.h"
#else
#include "simd_base.h"
#endif

#define WIDE_f32 2
#define WIDE_f64 1
SIMD vec_f64 v_widen_f32(vec_f32 a, int part) { return part ? v_widen_high_f32(a) : v_widen_low_f32(a); }
SIMD vec_f64 v_widen_f64(vec_f64 a, int part) { (void)part; return a; }
SIMD vec_f64 v_narrow_f64(vec_f64 low, vec_f64 high) { (void)high; return low; }

static const f32 lane_numbers_f32[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const f64 lane_numbers_f64[8] = {0, 1, 2, 3, 4, 5, 6, 7};

/* Sums that go on where lanes would round too much: float32 lanes in float64, float64 lanes with the error of each
 * sum. */
typedef struct { vec_f64 low, high; } lane_total_f32;
typedef struct { vec_f64 sum, error; } lane_total_f64;

SIMD void lane_total_add_f32(lane_total_f32 *t, vec_f32 a)
{
    t->low = v_add_f64(t->low, v_widen_low_f32(a));
    t->high = v_add_f64(t->high, v_widen_high_f32(a));
}

SIMD void lane_total_add_f64(lane_total_f64 *t, vec_f64 a)    /* as compensated_add */
{
    const vec_f64 sum = v_add_f64(t->sum, a), kept = v_sub_f64(sum, t->sum);
    const vec_f64 lost = v_add_f64(v_sub_f64(t->sum, v_sub_f64(sum, kept)), v_sub_f64(a, kept));
    t->error = v_add_f64(t->error, lost);
    t->sum = sum;
}

SIMD double lane_total_value_f32(lane_total_f32 t) { return v_sum_f64(v_add_f64(t.low, t.high)); }

SIMD double lane_total_value_f64(lane_total_f64 t)
{
    const compensated c = {v_sum_f64(t.sum), v_sum_f64(t.error)};
    return compensated_value(c);
}

/* The sum of each lane apart. */
SIMD void lane_total_store_f32(lane_total_f32 t, double *to)
{
    store_f64(to, t.low);
    store_f64(to + LANES_f64, t.high);
}
SIMD void lane_total_store_f64(lane_total_f64 t, double *to)    /* the error of an infinite sum is NaN */
{
    store_f64(to, v_add_f64(t.sum, v_zero_where_f64(v_nan_f64(t.error), t.error)));
}

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
#define v_scale PASTE(v_scale, REAL)
#define v_lookup PASTE(v_lookup, REAL)
#define v_scale_whole PASTE(v_scale_whole, REAL)
#define v_less PASTE(v_less, REAL)
#define v_equal PASTE(v_equal, REAL)
#define v_nan PASTE(v_nan, REAL)
#define mask_or PASTE(mask_or, REAL)
#define mask_count PASTE(mask_count, REAL)
#define v_zero_where PASTE(v_zero_where, REAL)
#define v_where PASTE(v_where, REAL)
#define v_sum PASTE(v_sum, REAL)
#define v_top PASTE(v_top, REAL)
#define WIDE PASTE(WIDE, REAL)
#define v_widen PASTE(v_widen, REAL)
#define v_narrow PASTE(v_narrow, REAL)
#define transpose PASTE(transpose, REAL)
#define lane_numbers PASTE(lane_numbers, REAL)
#define v_load_real PASTE(load, REAL)
#define v_load_part_real PASTE(load_part, REAL)
#define v_store_real PASTE(store, REAL)

#define lane_total PASTE(lane_total, REAL)
#define lane_total_add PASTE(lane_total_add, REAL)
#define lane_total_value PASTE(lane_total_value, REAL)
#define lane_total_store PASTE(lane_total_store, REAL)

#define v_load PASTE(load, ELEMENT)
#define v_load_part PASTE(load_part, ELEMENT)
#define v_store PASTE(store, ELEMENT)
#define v_stream PASTE(stream, ELEMENT)
#define v_store_part PASTE(store_part, ELEMENT)

#endif
