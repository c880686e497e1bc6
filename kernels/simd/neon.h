/* NEON of AArch64, where every CPU has it: 4 lanes of float32, 2 of float64, fused multiply-add, 32 registers. */
#ifndef NEON_H
#define NEON_H

#include <arm_neon.h>
#if defined(_MSC_VER)
#include <intrin.h>
#endif

#include "simd/inline.h"
#include "types.h"

#define SCALES_TO_ZERO 0
#define EXP_FROM_BITS 1    /* math/exp.h */
#define UNROLL 4           /* vectors of a loop's step, whose sums and maxima take a quarter of the registers */
#define TOGETHER 2         /* vectors that one instruction stores */
/* Entries of a table take four bytes each, which a permutation of bytes must be told apart: that and what else a table
 * needs are more operations than the two terms that it saves. */
#define EXP_TABLE_f32 0
#define EXP_TABLE_f64 0
#define EXP_SHIFT_f32 23
#define EXP_SHIFT_f64 52
#define LANES_f32 4
#define LANES_f64 2
typedef float32x4_t vec_f32;
typedef float64x2_t vec_f64;
typedef uint32x4_t mask_f32;
typedef uint64x2_t mask_f64;

SIMD mask_f32 bits_f32(vec_f32 a) { return vreinterpretq_u32_f32(a); }
SIMD vec_f32 value_f32(mask_f32 a) { return vreinterpretq_f32_u32(a); }
SIMD mask_f64 bits_f64(vec_f64 a) { return vreinterpretq_u64_f64(a); }
SIMD vec_f64 value_f64(mask_f64 a) { return vreinterpretq_f64_u64(a); }

SIMD vec_f32 v_set1_f32(f32 a) { return vdupq_n_f32(a); }
SIMD vec_f32 v_add_f32(vec_f32 a, vec_f32 b) { return vaddq_f32(a, b); }
SIMD vec_f32 v_sub_f32(vec_f32 a, vec_f32 b) { return vsubq_f32(a, b); }
SIMD vec_f32 v_mul_f32(vec_f32 a, vec_f32 b) { return vmulq_f32(a, b); }
SIMD vec_f32 v_fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return vfmaq_f32(c, a, b); }
SIMD vec_f32 v_fnma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return vfmsq_f32(c, a, b); }
SIMD vec_f32 v_min_f32(vec_f32 a, vec_f32 b) { return vminq_f32(a, b); }
SIMD vec_f32 v_max_f32(vec_f32 a, vec_f32 b) { return vmaxq_f32(a, b); }
SIMD vec_f32 v_raise_f32(vec_f32 p, vec_f32 t, int shift)
{
    (void)shift;
    return value_f32(vaddq_u32(bits_f32(p), vshlq_n_u32(bits_f32(t), EXP_SHIFT_f32)));
}
SIMD vec_f32 v_from_bits_f32(vec_f32 t) { return value_f32(vshlq_n_u32(bits_f32(t), 23)); }
SIMD mask_f32 v_less_f32(vec_f32 a, vec_f32 b) { return vcltq_f32(a, b); }
SIMD mask_f32 v_equal_f32(vec_f32 a, vec_f32 b) { return vceqq_f32(a, b); }
SIMD mask_f32 v_unequal_f32(vec_f32 a, vec_f32 b) { return vmvnq_u32(vceqq_f32(a, b)); }
SIMD mask_f32 v_nan_f32(vec_f32 a) { return v_unequal_f32(a, a); }
SIMD mask_f32 mask_or_f32(mask_f32 a, mask_f32 b) { return vorrq_u32(a, b); }
SIMD int mask_count_f32(mask_f32 m) { return (int)vaddvq_u32(vshrq_n_u32(m, 31)); }
SIMD vec_f32 v_only_where_f32(mask_f32 m, vec_f32 a) { return value_f32(vandq_u32(bits_f32(a), m)); }
SIMD vec_f32 v_zero_where_f32(mask_f32 m, vec_f32 a) { return value_f32(vbicq_u32(bits_f32(a), m)); }
SIMD vec_f64 v_widen_low_f32(vec_f32 a) { return vcvt_f64_f32(vget_low_f32(a)); }
SIMD vec_f64 v_widen_high_f32(vec_f32 a) { return vcvt_high_f64_f32(a); }
SIMD vec_f32 v_add_where_f32(mask_f32 m, vec_f32 a, vec_f32 b) { return vaddq_f32(a, v_only_where_f32(m, b)); }
SIMD vec_f32 v_where_f32(mask_f32 m, vec_f32 a, vec_f32 b) { return vbslq_f32(m, a, b); }
SIMD double v_sum_f32(vec_f32 a) { return vaddvq_f64(vaddq_f64(v_widen_low_f32(a), v_widen_high_f32(a))); }
SIMD f32 v_top_f32(vec_f32 a) { return vmaxvq_f32(a); }
SIMD vec_f32 load_f32(const f32 *x) { return vld1q_f32(x); }
SIMD void store_f32(f32 *x, vec_f32 a) { vst1q_f32(x, a); }

/* An address that a compiler keeps in a register, and does not make anew from another each time. */
#if defined(__GNUC__)
SIMD const void *in_register(const void *at)
{
    __asm__("" : "+r"(at));
    if (!at) __builtin_unreachable();
    return at;
}
#else
SIMD const void *in_register(const void *at) { return at; }
#endif

/* A vector that is read anew each time, where a compiler would keep it and copy it; from an address without an offset,
 * which to llvm-mca's Neoverse N1 is an instruction more. */
#if defined(__GNUC__)
#define NEON_AGAIN(REAL)                                                                            \
    SIMD vec_##REAL v_again_##REAL(const REAL *x)                                                   \
    {                                                                                               \
        vec_##REAL a;                                                                               \
        __asm__ volatile("ld1 {%0.16b}, %1" : "=w"(a) : "Q"(*(const vec_##REAL *)(const void *)x)); \
        return a;                                                                                   \
    }
#else
#define NEON_AGAIN(REAL) \
    SIMD vec_##REAL v_again_##REAL(const REAL *x) { return load_##REAL(x); }
#endif

/* Halves are converted by instructions of every AArch64 CPU; to bfloat16 there is one on some of them alone. */
SIMD vec_f32 from_f16(uint16x4_t bits) { return vcvt_f32_f16(vreinterpret_f16_u16(bits)); }
SIMD uint16x4_t to_f16(vec_f32 a) { return vreinterpret_u16_f16(vcvt_f16_f32(a)); }
SIMD vec_f32 from_bf16(uint16x4_t bits) { return value_f32(vshll_n_u16(bits, 16)); }
SIMD uint16x4_t to_bf16(vec_f32 a) /* to nearest even: the high halves of sums */
{
    const mask_f32 bits = vbslq_u32(vceqq_f32(a, a), bits_f32(a), vdupq_n_u32(0x7fc00000));
    const mask_f32 odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vaddhn_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
}

/* The first n < LANES elements: pairs and single ones into lanes, and the fill into the others. */
SIMD uint16x4_t first_16(const uint16_t *x, ptrdiff_t n)
{
    uint16x4_t a = vdup_n_u16(0);
    if (n & 2) {
        a = vld1_lane_u16(x, a, 0);
        a = vld1_lane_u16(x + 1, a, 1);
        if (n & 1) a = vld1_lane_u16(x + 2, a, 2);
    } else if (n & 1) a = vld1_lane_u16(x, a, 0);
    return a;
}
SIMD void store_first_16(uint16_t *x, ptrdiff_t n, uint16x4_t a)
{
    if (n & 2) {
        vst1_lane_u16(x, a, 0);
        vst1_lane_u16(x + 1, a, 1);
        if (n & 1) vst1_lane_u16(x + 2, a, 2);
    } else if (n & 1) vst1_lane_u16(x, a, 0);
}
static const uint32_t lanes_from_0[4] = {0, 1, 2, 3};
SIMD mask_f32 first_f32(ptrdiff_t n) { return vcltq_u32(vld1q_u32(lanes_from_0), vdupq_n_u32((uint32_t)n)); }

#define NEON_HALF(TYPE)                                                                            \
    SIMD vec_f32 load_##TYPE(const TYPE *x) { return from_##TYPE(vld1_u16((const uint16_t *)x)); } \
    SIMD void store_##TYPE(TYPE *x, vec_f32 a) { vst1_u16((uint16_t *)x, to_##TYPE(a)); }          \
    SIMD vec_f32 load_part_##TYPE(const TYPE *x, ptrdiff_t n, f32 fill)                            \
    {                                                                                              \
        const vec_f32 a = from_##TYPE(first_16((const uint16_t *)x, n));                           \
        return vbslq_f32(first_f32(n), a, vdupq_n_f32(fill));                                      \
    }                                                                                              \
    SIMD void store_part_##TYPE(TYPE *x, ptrdiff_t n, vec_f32 a) { store_first_16((uint16_t *)x, n, to_##TYPE(a)); }

NEON_HALF(f16)
NEON_HALF(bf16)

SIMD vec_f32 load_part_f32(const f32 *x, ptrdiff_t n, f32 fill)
{
    vec_f32 a = vdupq_n_f32(fill);
    if (n & 2) {
        a = vcombine_f32(vld1_f32(x), vget_high_f32(a));
        if (n & 1) a = vld1q_lane_f32(x + 2, a, 2);
    } else if (n & 1) a = vld1q_lane_f32(x, a, 0);
    return a;
}
SIMD void store_part_f32(f32 *x, ptrdiff_t n, vec_f32 a)
{
    if (n & 2) {
        vst1_f32(x, vget_low_f32(a));
        if (n & 1) vst1q_lane_f32(x + 2, a, 2);
    } else if (n & 1) vst1q_lane_f32(x, a, 0);
}

SIMD vec_f64 v_set1_f64(f64 a) { return vdupq_n_f64(a); }
SIMD vec_f64 v_add_f64(vec_f64 a, vec_f64 b) { return vaddq_f64(a, b); }
SIMD vec_f64 v_sub_f64(vec_f64 a, vec_f64 b) { return vsubq_f64(a, b); }
SIMD vec_f64 v_mul_f64(vec_f64 a, vec_f64 b) { return vmulq_f64(a, b); }
SIMD vec_f64 v_fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return vfmaq_f64(c, a, b); }
SIMD vec_f64 v_fnma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return vfmsq_f64(c, a, b); }
SIMD vec_f64 v_min_f64(vec_f64 a, vec_f64 b) { return vminq_f64(a, b); }
SIMD vec_f64 v_max_f64(vec_f64 a, vec_f64 b) { return vmaxq_f64(a, b); }
SIMD vec_f64 v_raise_f64(vec_f64 p, vec_f64 t, int shift)
{
    (void)shift;
    return value_f64(vaddq_u64(bits_f64(p), vshlq_n_u64(bits_f64(t), EXP_SHIFT_f64)));
}
SIMD vec_f64 v_from_bits_f64(vec_f64 t) { return value_f64(vshlq_n_u64(bits_f64(t), 52)); }
SIMD mask_f64 v_less_f64(vec_f64 a, vec_f64 b) { return vcltq_f64(a, b); }
SIMD mask_f64 v_equal_f64(vec_f64 a, vec_f64 b) { return vceqq_f64(a, b); }
SIMD mask_f64 v_unequal_f64(vec_f64 a, vec_f64 b)
{
    return vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(vceqq_f64(a, b))));
}
SIMD mask_f64 v_nan_f64(vec_f64 a) { return v_unequal_f64(a, a); }
SIMD mask_f64 mask_or_f64(mask_f64 a, mask_f64 b) { return vorrq_u64(a, b); }
SIMD int mask_count_f64(mask_f64 m) { return (int)vaddvq_u64(vshrq_n_u64(m, 63)); }
SIMD vec_f64 v_only_where_f64(mask_f64 m, vec_f64 a) { return value_f64(vandq_u64(bits_f64(a), m)); }
SIMD vec_f64 v_zero_where_f64(mask_f64 m, vec_f64 a) { return value_f64(vbicq_u64(bits_f64(a), m)); }
SIMD vec_f64 v_add_where_f64(mask_f64 m, vec_f64 a, vec_f64 b) { return vaddq_f64(a, v_only_where_f64(m, b)); }
SIMD vec_f64 v_where_f64(mask_f64 m, vec_f64 a, vec_f64 b) { return vbslq_f64(m, a, b); }
SIMD double v_sum_f64(vec_f64 a) { return vaddvq_f64(a); }
SIMD f64 v_top_f64(vec_f64 a) { return vmaxvq_f64(a); }
SIMD vec_f64 load_f64(const f64 *x) { return vld1q_f64(x); }
SIMD void store_f64(f64 *x, vec_f64 a) { vst1q_f64(x, a); }
SIMD vec_f64 load_part_f64(const f64 *x, ptrdiff_t n, f64 fill)
{
    const vec_f64 a = vdupq_n_f64(fill);
    return n & 1 ? vld1q_lane_f64(x, a, 0) : a;
}
SIMD void store_part_f64(f64 *x, ptrdiff_t n, vec_f64 a)
{
    if (n & 1) vst1q_lane_f64(x, a, 0);
}

NEON_AGAIN(f32)
NEON_AGAIN(f64)
SIMD vec_f64 v_of_int64_f64(const int64_t *a) { return vcvtq_f64_s64(vld1q_s64(a)); }
SIMD vec_f32 v_div_f32(vec_f32 a, vec_f32 b) { return vdivq_f32(a, b); }
SIMD vec_f32 v_lost_f32(vec_f32 a, vec_f32 b, vec_f32 p) { return vfmaq_f32(vnegq_f32(p), a, b); }
SIMD vec_f64 v_div_f64(vec_f64 a, vec_f64 b) { return vdivq_f64(a, b); }
SIMD vec_f64 v_lost_f64(vec_f64 a, vec_f64 b, vec_f64 p) { return vfmaq_f64(vnegq_f64(p), a, b); }
SIMD vec_f32 v_split_f32(vec_f32 a, vec_f32 *e)
{
    const mask_f32 exponent = vshrq_n_u32(bits_f32(a), 23);
    *e = vsubq_f32(vcvtq_f32_u32(exponent), vdupq_n_f32(127));
    return value_f32(vshlq_n_u32(vsubq_u32(vdupq_n_u32(254), exponent), 23));
}
SIMD vec_f64 v_split_f64(vec_f64 a, vec_f64 *e)
{
    const mask_f64 exponent = vshrq_n_u64(bits_f64(a), 52);
    *e = vsubq_f64(vcvtq_f64_u64(exponent), vdupq_n_f64(1023));
    return value_f64(vshlq_n_u64(vsubq_u64(vdupq_n_u64(2046), exponent), 52));
}
SIMD vec_f32 v_narrow_f32(vec_f64 low, vec_f64 high) { return vcvt_high_f32_f64(vcvt_f32_f64(low), high); }

SIMD vec_f32 v_pick_f32(vec_f32 a, const int32_t *lanes)
{
    const uint32x4_t first = vdupq_n_u32(0x03020100),
                     bytes = vmlaq_n_u32(first, vld1q_u32((const uint32_t *)lanes), 0x04040404);
    return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(a), vreinterpretq_u8_u32(bytes)));
}
SIMD vec_f64 v_pick_f64(vec_f64 a, const int64_t *lanes)
{
    return vbslq_f64(vceqzq_s64(vld1q_s64(lanes)), vdupq_laneq_f64(a, 0), vdupq_laneq_f64(a, 1));
}

/* A vector is one part. */
SIMD vec_f32 v_load_parts_f32(const f32 *x, ptrdiff_t apart)
{
    (void)apart;
    return load_f32(x);
}
SIMD vec_f64 v_load_parts_f64(const f64 *x, ptrdiff_t apart)
{
    (void)apart;
    return load_f64(x);
}
SIMD void v_store_part_of_f32(f32 *x, vec_f32 a, int part)
{
    (void)part;
    store_f32(x, a);
}
SIMD void v_store_part_of_f64(f64 *x, vec_f64 a, int part)
{
    (void)part;
    store_f64(x, a);
}

SIMD void transpose_f32(vec_f32 v[4])
{
    const vec_f64 a = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1])), b = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));
    const vec_f64 c = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3])), d = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
    v[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c)), v[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    v[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c)), v[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}
SIMD void transpose_f64(vec_f64 v[2])
{
    const vec_f64 a = v[0];
    v[0] = vtrn1q_f64(a, v[1]), v[1] = vtrn2q_f64(a, v[1]);
}
SIMD void transpose_parts_f32(vec_f32 v[4]) { transpose_f32(v); }
SIMD void transpose_parts_f64(vec_f64 v[2]) { transpose_f64(v); }

/* A store is a store: these CPUs see by themselves that whole lines are written, and then read none (write streaming).
 * The pair of stores with a hint, STNP, is documented to do no more. */
SIMD void bypass_f32(f32 *x, vec_f32 a) { store_f32(x, a); }
SIMD void bypass_f16(f16 *x, vec_f32 a) { store_f16(x, a); }
SIMD void bypass_bf16(bf16 *x, vec_f32 a) { store_bf16(x, a); }
SIMD void bypass_f64(f64 *x, vec_f64 a) { store_f64(x, a); }
SIMD void fence(void) {}
#if defined(__GNUC__)
SIMD void prefetch(const void *x) { __builtin_prefetch(x, 0, 3); }
SIMD void prefetch_to_l2(const void *x) { __builtin_prefetch(x, 0, 2); }
#else
SIMD void prefetch(const void *x) { __prefetch2(x, 0); }          /* PLDL1KEEP */
SIMD void prefetch_to_l2(const void *x) { __prefetch2(x, 2); }    /* PLDL2KEEP */
#endif

#endif
