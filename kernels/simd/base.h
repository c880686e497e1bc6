/* No intrinsics: 16-byte vectors by the GCC and Clang extension, which are SSE2 on x86-64 and NEON on arm64; one lane
 * with any other compiler. Multiply-add is rounded twice here (x86-64 has no FMA below AVX2): exp.h allows for it. */
#ifndef BASE_H
#define BASE_H

#include <string.h>

#include "simd/half.h"
#include "simd/inline.h"
#include "types.h"

#define SCALES_TO_ZERO 0
#define EXP_FROM_BITS 0
#define UNROLL 2    /* vectors of a loop's step: there are registers for the sums of no more */
#define EXP_TABLE_f32 0
#define EXP_TABLE_f64 0
#define EXP_SHIFT_f32 23
#define EXP_SHIFT_f64 52

#if defined(__GNUC__)
#define LANES_f32 4
#define LANES_f64 2
typedef f32 vec_f32 __attribute__((vector_size(16)));
typedef f64 vec_f64 __attribute__((vector_size(16)));
typedef int32_t mask_f32 __attribute__((vector_size(16)));
typedef int64_t mask_f64 __attribute__((vector_size(16)));
typedef uint32_t word_f32 __attribute__((vector_size(16)));
typedef uint64_t word_f64 __attribute__((vector_size(16)));
#define AS_MASK(comparison) (comparison)    /* all ones or zero in each lane already */
#define LANE(a, i) ((a)[i])
#else
#define LANES_f32 1
#define LANES_f64 1
typedef f32 vec_f32;
typedef f64 vec_f64;
typedef int32_t mask_f32;
typedef int64_t mask_f64;
typedef uint32_t word_f32;
typedef uint64_t word_f64;
#define AS_MASK(comparison) (-(comparison))
#define LANE(a, i) (*(&(a) + (i)))
#endif

#define BASE_OPERATIONS(REAL, MANTISSA)                                                                            \
    SIMD vec_##REAL load_##REAL(const REAL *x)                                                                     \
    {                                                                                                              \
        vec_##REAL a;                                                                                              \
        memcpy(&a, x, sizeof a);                                                                                   \
        return a;                                                                                                  \
    }                                                                                                              \
    SIMD void store_##REAL(REAL *x, vec_##REAL a) { memcpy(x, &a, sizeof a); }                                     \
    SIMD mask_##REAL bits_##REAL(vec_##REAL a)                                                                     \
    {                                                                                                              \
        mask_##REAL m;                                                                                             \
        memcpy(&m, &a, sizeof m);                                                                                  \
        return m;                                                                                                  \
    }                                                                                                              \
    SIMD vec_##REAL value_##REAL(mask_##REAL m)                                                                    \
    {                                                                                                              \
        vec_##REAL a;                                                                                              \
        memcpy(&a, &m, sizeof a);                                                                                  \
        return a;                                                                                                  \
    }                                                                                                              \
    SIMD vec_##REAL v_set1_##REAL(REAL s)                                                                          \
    {                                                                                                              \
        REAL lanes[LANES_##REAL];                                                                                  \
        for (int i = 0; i < LANES_##REAL; ++i) lanes[i] = s;                                                       \
        return load_##REAL(lanes);                                                                                 \
    }                                                                                                              \
    SIMD vec_##REAL v_add_##REAL(vec_##REAL a, vec_##REAL b) { return a + b; }                                     \
    SIMD vec_##REAL v_sub_##REAL(vec_##REAL a, vec_##REAL b) { return a - b; }                                     \
    SIMD vec_##REAL v_mul_##REAL(vec_##REAL a, vec_##REAL b) { return a * b; }                                     \
    SIMD vec_##REAL v_fma_##REAL(vec_##REAL a, vec_##REAL b, vec_##REAL c) { return a * b + c; }                   \
    SIMD vec_##REAL v_fnma_##REAL(vec_##REAL a, vec_##REAL b, vec_##REAL c) { return c - a * b; }                  \
    SIMD mask_##REAL v_less_##REAL(vec_##REAL a, vec_##REAL b) { return AS_MASK(a < b); }                          \
    SIMD mask_##REAL v_equal_##REAL(vec_##REAL a, vec_##REAL b) { return AS_MASK(a == b); }                        \
    SIMD mask_##REAL v_unequal_##REAL(vec_##REAL a, vec_##REAL b) { return AS_MASK(a != b); }                      \
    SIMD mask_##REAL v_nan_##REAL(vec_##REAL a) { return AS_MASK(a != a); }                                        \
    SIMD mask_##REAL mask_or_##REAL(mask_##REAL a, mask_##REAL b) { return a | b; }                                \
    SIMD vec_##REAL v_only_where_##REAL(mask_##REAL m, vec_##REAL a) { return value_##REAL(bits_##REAL(a) & m); }  \
    SIMD vec_##REAL v_zero_where_##REAL(mask_##REAL m, vec_##REAL a) { return value_##REAL(bits_##REAL(a) & ~m); } \
    SIMD vec_##REAL v_add_where_##REAL(mask_##REAL m, vec_##REAL a, vec_##REAL b)                                  \
    {                                                                                                              \
        return a + value_##REAL(bits_##REAL(b) & m);                                                               \
    }                                                                                                              \
    SIMD vec_##REAL v_where_##REAL(mask_##REAL m, vec_##REAL a, vec_##REAL b)                                      \
    {                                                                                                              \
        return value_##REAL((bits_##REAL(a) & m) | (bits_##REAL(b) & ~m));                                         \
    }                                                                                                              \
    SIMD vec_##REAL v_max_##REAL(vec_##REAL a, vec_##REAL b)                                                       \
    {                                                                                                              \
        const mask_##REAL m = AS_MASK(a > b);                                                                      \
        return value_##REAL((bits_##REAL(a) & m) | (bits_##REAL(b) & ~m));                                         \
    }                                                                                                              \
    SIMD vec_##REAL v_min_##REAL(vec_##REAL a, vec_##REAL b)                                                       \
    {                                                                                                              \
        const mask_##REAL m = AS_MASK(a < b);                                                                      \
        return value_##REAL((bits_##REAL(a) & m) | (bits_##REAL(b) & ~m));                                         \
    }                                                                                                              \
    SIMD vec_##REAL v_raise_##REAL(vec_##REAL p, vec_##REAL t, int shift)    /* unsigned: it may wrap */           \
    {                                                                                                              \
        word_##REAL a, b;                                                                                          \
        memcpy(&a, &p, sizeof a);                                                                                  \
        memcpy(&b, &t, sizeof b);                                                                                  \
        a += b << shift;                                                                                           \
        memcpy(&p, &a, sizeof p);                                                                                  \
        return p;                                                                                                  \
    }                                                                                                              \
    SIMD void transpose_##REAL(vec_##REAL v[LANES_##REAL])                                                         \
    {                                                                                                              \
        REAL from[LANES_##REAL * LANES_##REAL], to[LANES_##REAL * LANES_##REAL];                                   \
        for (int i = 0; i < LANES_##REAL; ++i) store_##REAL(from + i * LANES_##REAL, v[i]);                        \
        for (int i = 0; i < LANES_##REAL; ++i)                                                                     \
            for (int j = 0; j < LANES_##REAL; ++j) to[i * LANES_##REAL + j] = from[j * LANES_##REAL + i];          \
        for (int i = 0; i < LANES_##REAL; ++i) v[i] = load_##REAL(to + i * LANES_##REAL);                          \
    }                                                                                                              \
    SIMD void transpose_parts_##REAL(vec_##REAL v[LANES_##REAL]) { transpose_##REAL(v); }                          \
    SIMD vec_##REAL v_load_parts_##REAL(const REAL *x, ptrdiff_t apart)                                            \
    {                                                                                                              \
        (void)apart;                                                                                               \
        return load_##REAL(x);                                                                                     \
    }                                                                                                              \
    SIMD void v_store_part_of_##REAL(REAL *x, vec_##REAL a, int part)                                              \
    {                                                                                                              \
        (void)part;                                                                                                \
        store_##REAL(x, a);                                                                                        \
    }                                                                                                              \
    SIMD int mask_count_##REAL(mask_##REAL m)                                                                      \
    {                                                                                                              \
        int n = 0;                                                                                                 \
        for (int i = 0; i < LANES_##REAL; ++i) n -= (int)LANE(m, i);                                               \
        return n;                                                                                                  \
    }                                                                                                              \
    SIMD double v_sum_##REAL(vec_##REAL a)                                                                         \
    {                                                                                                              \
        double s = 0;                                                                                              \
        for (int i = 0; i < LANES_##REAL; ++i) s += (double)LANE(a, i);                                            \
        return s;                                                                                                  \
    }                                                                                                              \
    SIMD REAL v_top_##REAL(vec_##REAL a)                                                                           \
    {                                                                                                              \
        REAL m = LANE(a, 0);                                                                                       \
        for (int i = 1; i < LANES_##REAL; ++i) m = LANE(a, i) > m ? LANE(a, i) : m;                                \
        return m;                                                                                                  \
    }

BASE_OPERATIONS(f32, 23)
BASE_OPERATIONS(f64, 52)

#define BASE_PICK(REAL, INTEGER)                                         \
    SIMD vec_##REAL v_pick_##REAL(vec_##REAL a, const INTEGER *lanes)    \
    {                                                                    \
        REAL of[LANES_##REAL], picked[LANES_##REAL];                     \
        store_##REAL(of, a);                                             \
        for (int i = 0; i < LANES_##REAL; ++i) picked[i] = of[lanes[i]]; \
        return load_##REAL(picked);                                      \
    }

BASE_PICK(f32, int32_t)
BASE_PICK(f64, int64_t)

SIMD vec_f64 v_of_int64_f64(const int64_t *a)
{
    f64 lanes[LANES_f64];
    for (int i = 0; i < LANES_f64; ++i) lanes[i] = (f64)a[i];
    return load_f64(lanes);
}
SIMD vec_f64 v_div_f64(vec_f64 a, vec_f64 b) { return a / b; }
SIMD vec_f64 high_half(vec_f64 a)    /* 26 bits of it (Veltkamp) */
{
    const vec_f64 c = a * v_set1_f64(0x1p27 + 1);
    return c - (c - a);
}
SIMD vec_f64 v_lost_f64(vec_f64 a, vec_f64 b, vec_f64 p)    /* Dekker's product */
{
    const vec_f64 ah = high_half(a), bh = high_half(b), al = a - ah, bl = b - bh;
    return ((ah * bh - p) + ah * bl + al * bh) + al * bl;
}
SIMD vec_f32 v_split_f32(vec_f32 a, vec_f32 *e)
{
    word_f32 bits;
    f32 exponent[LANES_f32];
    memcpy(&bits, &a, sizeof bits);
    bits >>= 23;
    for (int i = 0; i < LANES_f32; ++i) exponent[i] = (f32)(int32_t)LANE(bits, i) - 127;
    *e = load_f32(exponent);
    bits = (254 - bits) << 23;
    memcpy(&a, &bits, sizeof bits);
    return a;
}
SIMD vec_f64 v_split_f64(vec_f64 a, vec_f64 *e)
{
    word_f64 bits;
    f64 exponent[LANES_f64];
    memcpy(&bits, &a, sizeof bits);
    bits >>= 52;
    for (int i = 0; i < LANES_f64; ++i) exponent[i] = (f64)(int64_t)LANE(bits, i) - 1023;
    *e = load_f64(exponent);
    bits = (2046 - bits) << 52;
    memcpy(&a, &bits, sizeof bits);
    return a;
}
SIMD vec_f32 v_narrow_f32(vec_f64 low, vec_f64 high)
{
    f32 lanes[2 * LANES_f64];
    for (int i = 0; i < LANES_f64; ++i) lanes[i] = (f32)LANE(low, i), lanes[LANES_f64 + i] = (f32)LANE(high, i);
    return load_f32(lanes);
}

SIMD vec_f64 widened_from(vec_f32 a, int from)
{
    f64 lanes[LANES_f64];
    for (int i = 0; i < LANES_f64; ++i) lanes[i] = from + i < LANES_f32 ? (f64)LANE(a, from + i) : 0;
    return load_f64(lanes);
}
SIMD vec_f64 v_widen_low_f32(vec_f32 a) { return widened_from(a, 0); }
SIMD vec_f64 v_widen_high_f32(vec_f32 a) { return widened_from(a, LANES_f64); }
SIMD vec_f32 v_div_f32(vec_f32 a, vec_f32 b) { return a / b; }
SIMD vec_f32 v_lost_f32(vec_f32 a, vec_f32 b, vec_f32 p)    /* the product of two float32 is a float64 */
{
    return v_narrow_f32(v_widen_low_f32(a) * v_widen_low_f32(b) - v_widen_low_f32(p),
                        v_widen_high_f32(a) * v_widen_high_f32(b) - v_widen_high_f32(p));
}

/* float16 by functions: some forty instructions a lane, in line they are a quarter of the unit, and spare no time. */
#define BASE_HALF(DECLARED, TYPE)                                             \
    DECLARED vec_f32 load_##TYPE(const TYPE *x)                               \
    {                                                                         \
        f32 lanes[LANES_f32];                                                 \
        for (int i = 0; i < LANES_f32; ++i) lanes[i] = TYPE##_to_f32(x[i]);   \
        return load_f32(lanes);                                               \
    }                                                                         \
    DECLARED void store_##TYPE(TYPE *x, vec_f32 a)                            \
    {                                                                         \
        for (int i = 0; i < LANES_f32; ++i) x[i] = f32_to_##TYPE(LANE(a, i)); \
    }

BASE_HALF(NOT_INLINED static, f16)
BASE_HALF(SIMD, bf16)

/* Without intrinsics a store is a store. */
SIMD void bypass_f32(f32 *x, vec_f32 a) { store_f32(x, a); }
SIMD void bypass_f16(f16 *x, vec_f32 a) { store_f16(x, a); }
SIMD void bypass_bf16(bf16 *x, vec_f32 a) { store_bf16(x, a); }
SIMD void bypass_f64(f64 *x, vec_f64 a) { store_f64(x, a); }
SIMD void fence(void) {}
SIMD void prefetch(const void *x) { (void)x; }
SIMD void prefetch_to_l2(const void *x) { (void)x; }

#include "simd/part.h"

#endif
