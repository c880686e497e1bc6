/* AVX-512 (F, DQ, BW, VL) and F16C: 16 lanes of float32, 8 of float64. Partial vectors are loaded by masks and
 * stored in pieces. */
#ifndef AVX512_H
#define AVX512_H

#include <immintrin.h>
#include <string.h>

#include "simd/inline.h"
#include "types.h"

#define SCALES_TO_ZERO 1
#define EXP_FROM_BITS 0
#define UNROLL 4    /* vectors of a loop's step */
#define EXP_TABLE_f32 16    /* entries, which a permutation of one vector looks up, */
#define EXP_TABLE_f64 16    /* or one of two */
#define LANES_f32 16
#define LANES_f64 8
typedef __m512 vec_f32;
typedef __m512d vec_f64;
typedef __mmask16 mask_f32;
typedef __mmask8 mask_f64;

SIMD vec_f32 v_set1_f32(f32 a) { return _mm512_set1_ps(a); }
SIMD vec_f32 v_add_f32(vec_f32 a, vec_f32 b) { return _mm512_add_ps(a, b); }
SIMD vec_f32 v_sub_f32(vec_f32 a, vec_f32 b) { return _mm512_sub_ps(a, b); }
SIMD vec_f32 v_mul_f32(vec_f32 a, vec_f32 b) { return _mm512_mul_ps(a, b); }
SIMD vec_f32 v_fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm512_fmadd_ps(a, b, c); }
SIMD vec_f32 v_fnma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm512_fnmadd_ps(a, b, c); }
SIMD vec_f32 v_min_f32(vec_f32 a, vec_f32 b) { return _mm512_min_ps(a, b); }
SIMD vec_f32 v_max_f32(vec_f32 a, vec_f32 b) { return _mm512_max_ps(a, b); }
SIMD vec_f32 v_scale_f32(vec_f32 p, vec_f32 n) { return _mm512_scalef_ps(p, n); }
SIMD vec_f32 v_lookup_f32(const f32 *table, vec_f32 t)
{
    return _mm512_permutexvar_ps(_mm512_castps_si512(t), _mm512_loadu_ps(table));
}
SIMD mask_f32 v_less_f32(vec_f32 a, vec_f32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
SIMD mask_f32 v_equal_f32(vec_f32 a, vec_f32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
SIMD mask_f32 v_unequal_f32(vec_f32 a, vec_f32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
SIMD mask_f32 v_nan_f32(vec_f32 a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
SIMD mask_f32 mask_or_f32(mask_f32 a, mask_f32 b) { return (mask_f32)(a | b); }
SIMD int mask_count_f32(mask_f32 m) { return _mm_popcnt_u32(m); }
SIMD vec_f32 v_only_where_f32(mask_f32 m, vec_f32 a) { return _mm512_maskz_mov_ps(m, a); }
SIMD vec_f32 v_zero_where_f32(mask_f32 m, vec_f32 a) { return _mm512_maskz_mov_ps((mask_f32)~m, a); }
SIMD vec_f64 v_widen_low_f32(vec_f32 a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
SIMD vec_f64 v_widen_high_f32(vec_f32 a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }
SIMD vec_f32 v_add_where_f32(mask_f32 m, vec_f32 a, vec_f32 b) { return _mm512_mask_add_ps(a, m, a, b); }
SIMD vec_f32 v_where_f32(mask_f32 m, vec_f32 a, vec_f32 b) { return _mm512_mask_mov_ps(b, m, a); }
SIMD double v_sum_f32(vec_f32 a)
{
    return _mm512_reduce_add_pd(_mm512_add_pd(v_widen_low_f32(a), v_widen_high_f32(a)));
}
SIMD f32 v_top_f32(vec_f32 a) { return _mm512_reduce_max_ps(a); }

/* The first bytes of a vector, in pieces: a masked store at each end of a row makes loss + gradient a quarter slower. */
SIMD void store_bytes(void *to, ptrdiff_t n, __m512i a)
{
    char *x = to;
    __m256i half = _mm512_castsi512_si256(a);
    if (n & 32) _mm256_storeu_si256((__m256i *)x, half), x += 32, half = _mm512_extracti64x4_epi64(a, 1);
    __m128i quarter = _mm256_castsi256_si128(half);
    if (n & 16) _mm_storeu_si128((__m128i *)x, quarter), x += 16, quarter = _mm256_extracti128_si256(half, 1);
    if (n & 8) _mm_storel_epi64((__m128i *)x, quarter), x += 8, quarter = _mm_unpackhi_epi64(quarter, quarter);
    uint64_t last = (uint64_t)_mm_cvtsi128_si64(quarter);
    if (n & 4) memcpy(x, &last, 4), x += 4, last >>= 32;
    if (n & 2) memcpy(x, &last, 2);
}

SIMD mask_f32 first_f32(ptrdiff_t n) { return (mask_f32)((1u << n) - 1); }
SIMD vec_f32 load_f32(const f32 *x) { return _mm512_loadu_ps(x); }
SIMD vec_f32 load_part_f32(const f32 *x, ptrdiff_t n, f32 fill)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_f32(n), x);
}
SIMD void store_f32(f32 *x, vec_f32 a) { _mm512_storeu_ps(x, a); }
SIMD void store_part_f32(f32 *x, ptrdiff_t n, vec_f32 a) { store_bytes(x, 4 * n, _mm512_castps_si512(a)); }

SIMD vec_f32 load_f16(const f16 *x) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x)); }
SIMD vec_f32 load_part_f16(const f16 *x, ptrdiff_t n, f32 fill)
{
    const mask_f32 m = first_f32(n);
    return _mm512_mask_cvtph_ps(_mm512_set1_ps(fill), m, _mm256_maskz_loadu_epi16(m, x));
}
SIMD __m256i to_f16(vec_f32 a) { return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SIMD void store_f16(f16 *x, vec_f32 a) { _mm256_storeu_si256((__m256i *)x, to_f16(a)); }
SIMD void store_part_f16(f16 *x, ptrdiff_t n, vec_f32 a) { store_bytes(x, 2 * n, _mm512_castsi256_si512(to_f16(a))); }

static const uint16_t high_halves[32] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};

SIMD vec_f32 from_bf16(__m256i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)); }
SIMD vec_f32 load_bf16(const bf16 *x) { return from_bf16(_mm256_loadu_si256((const __m256i *)x)); }
SIMD vec_f32 load_part_bf16(const bf16 *x, ptrdiff_t n, f32 fill)
{
    const mask_f32 m = first_f32(n);
    return _mm512_mask_mov_ps(_mm512_set1_ps(fill), m, from_bf16(_mm256_maskz_loadu_epi16(m, x)));
}
/* To nearest even in integers: VCVTNEPS2BF16 would flush subnormals. Every NaN becomes the default one first, which
 * rounding up leaves a NaN; the high halves are picked by a permutation. A comparison for the NaNs, a shift and
 * VPMOVDW are slower. */
SIMD __m256i to_bf16(vec_f32 a)
{
    const __m512i to_default = _mm512_set1_epi32(0x33);    /* what becomes of quiet and of signalling NaNs */
    const __m512i bits = _mm512_castps_si512(_mm512_fixupimm_ps(a, a, to_default, 0));
    const __m512i up = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    const __m512i even = _mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1));
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_loadu_si512(high_halves), even));
}
SIMD void store_bf16(bf16 *x, vec_f32 a) { _mm256_storeu_si256((__m256i *)x, to_bf16(a)); }
SIMD void store_part_bf16(bf16 *x, ptrdiff_t n, vec_f32 a)
{
    store_bytes(x, 2 * n, _mm512_castsi256_si512(to_bf16(a)));
}

SIMD vec_f64 v_set1_f64(f64 a) { return _mm512_set1_pd(a); }
SIMD vec_f64 v_add_f64(vec_f64 a, vec_f64 b) { return _mm512_add_pd(a, b); }
SIMD vec_f64 v_sub_f64(vec_f64 a, vec_f64 b) { return _mm512_sub_pd(a, b); }
SIMD vec_f64 v_mul_f64(vec_f64 a, vec_f64 b) { return _mm512_mul_pd(a, b); }
SIMD vec_f64 v_fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm512_fmadd_pd(a, b, c); }
SIMD vec_f64 v_fnma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm512_fnmadd_pd(a, b, c); }
SIMD vec_f64 v_min_f64(vec_f64 a, vec_f64 b) { return _mm512_min_pd(a, b); }
SIMD vec_f64 v_max_f64(vec_f64 a, vec_f64 b) { return _mm512_max_pd(a, b); }
SIMD vec_f64 v_scale_f64(vec_f64 p, vec_f64 n) { return _mm512_scalef_pd(p, n); }
SIMD vec_f64 v_lookup_f64(const f64 *table, vec_f64 t)
{
    return _mm512_permutex2var_pd(_mm512_loadu_pd(table), _mm512_castpd_si512(t), _mm512_loadu_pd(table + 8));
}
SIMD mask_f64 v_less_f64(vec_f64 a, vec_f64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
SIMD mask_f64 v_equal_f64(vec_f64 a, vec_f64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
SIMD mask_f64 v_unequal_f64(vec_f64 a, vec_f64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_NEQ_UQ); }
SIMD mask_f64 v_nan_f64(vec_f64 a) { return _mm512_cmp_pd_mask(a, a, _CMP_UNORD_Q); }
SIMD mask_f64 mask_or_f64(mask_f64 a, mask_f64 b) { return (mask_f64)(a | b); }
SIMD int mask_count_f64(mask_f64 m) { return _mm_popcnt_u32(m); }
SIMD vec_f64 v_only_where_f64(mask_f64 m, vec_f64 a) { return _mm512_maskz_mov_pd(m, a); }
SIMD vec_f64 v_zero_where_f64(mask_f64 m, vec_f64 a) { return _mm512_maskz_mov_pd((mask_f64)~m, a); }
SIMD vec_f64 v_add_where_f64(mask_f64 m, vec_f64 a, vec_f64 b) { return _mm512_mask_add_pd(a, m, a, b); }
SIMD vec_f64 v_where_f64(mask_f64 m, vec_f64 a, vec_f64 b) { return _mm512_mask_mov_pd(b, m, a); }
SIMD double v_sum_f64(vec_f64 a) { return _mm512_reduce_add_pd(a); }
SIMD f64 v_top_f64(vec_f64 a) { return _mm512_reduce_max_pd(a); }

SIMD mask_f64 first_f64(ptrdiff_t n) { return (mask_f64)((1u << n) - 1); }
SIMD vec_f64 load_f64(const f64 *x) { return _mm512_loadu_pd(x); }
SIMD vec_f64 load_part_f64(const f64 *x, ptrdiff_t n, f64 fill)
{
    return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), first_f64(n), x);
}
SIMD void store_f64(f64 *x, vec_f64 a) { _mm512_storeu_pd(x, a); }
SIMD void store_part_f64(f64 *x, ptrdiff_t n, vec_f64 a) { store_bytes(x, 8 * n, _mm512_castpd_si512(a)); }

SIMD vec_f64 v_of_int64_f64(const int64_t *a) { return _mm512_cvtepi64_pd(_mm512_loadu_si512(a)); }
SIMD vec_f32 v_div_f32(vec_f32 a, vec_f32 b) { return _mm512_div_ps(a, b); }
SIMD vec_f32 v_lost_f32(vec_f32 a, vec_f32 b, vec_f32 p) { return _mm512_fmsub_ps(a, b, p); }
SIMD vec_f64 v_div_f64(vec_f64 a, vec_f64 b) { return _mm512_div_pd(a, b); }
SIMD vec_f64 v_lost_f64(vec_f64 a, vec_f64 b, vec_f64 p) { return _mm512_fmsub_pd(a, b, p); }
SIMD vec_f32 v_split_f32(vec_f32 a, vec_f32 *e)
{
    *e = _mm512_getexp_ps(a);
    return _mm512_scalef_ps(_mm512_set1_ps(1), _mm512_sub_ps(_mm512_setzero_ps(), *e));
}
SIMD vec_f64 v_split_f64(vec_f64 a, vec_f64 *e)
{
    *e = _mm512_getexp_pd(a);
    return _mm512_scalef_pd(_mm512_set1_pd(1), _mm512_sub_pd(_mm512_setzero_pd(), *e));
}
SIMD vec_f32 v_narrow_f32(vec_f64 low, vec_f64 high)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1);
}

/* Of the four vectors from v, `apart` from each other: the matrix of their 128-bit lanes. */
SIMD void transpose_lanes(__m512 *v, int apart)
{
    const __m512 ab02 = _mm512_shuffle_f32x4(v[0], v[apart], 0x88), ab13 = _mm512_shuffle_f32x4(v[0], v[apart], 0xdd);
    const __m512 cd02 = _mm512_shuffle_f32x4(v[2 * apart], v[3 * apart], 0x88);
    const __m512 cd13 = _mm512_shuffle_f32x4(v[2 * apart], v[3 * apart], 0xdd);
    v[0] = _mm512_shuffle_f32x4(ab02, cd02, 0x88);
    v[apart] = _mm512_shuffle_f32x4(ab13, cd13, 0x88);
    v[2 * apart] = _mm512_shuffle_f32x4(ab02, cd02, 0xdd);
    v[3 * apart] = _mm512_shuffle_f32x4(ab13, cd13, 0xdd);
}

SIMD vec_f32 v_pick_f32(vec_f32 a, const int32_t *lanes) { return _mm512_permutexvar_ps(_mm512_loadu_si512(lanes), a); }
SIMD vec_f64 v_pick_f64(vec_f64 a, const int64_t *lanes) { return _mm512_permutexvar_pd(_mm512_loadu_si512(lanes), a); }

SIMD vec_f32 v_load_parts_f32(const f32 *x, ptrdiff_t apart)
{
    const __m512 a = _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(x)), _mm_loadu_ps(x + apart), 1);
    const __m512 b = _mm512_insertf32x4(a, _mm_loadu_ps(x + 2 * apart), 2);
    return _mm512_insertf32x4(b, _mm_loadu_ps(x + 3 * apart), 3);
}
SIMD vec_f64 v_load_parts_f64(const f64 *x, ptrdiff_t apart)
{
    const __m512d a = _mm512_insertf64x2(_mm512_castpd128_pd512(_mm_loadu_pd(x)), _mm_loadu_pd(x + apart), 1);
    const __m512d b = _mm512_insertf64x2(a, _mm_loadu_pd(x + 2 * apart), 2);
    return _mm512_insertf64x2(b, _mm_loadu_pd(x + 3 * apart), 3);
}
SIMD void v_store_part_of_f32(f32 *x, vec_f32 a, int part)
{
    if (part == 0) _mm_storeu_ps(x, _mm512_castps512_ps128(a));
    else if (part == 1) _mm_storeu_ps(x, _mm512_extractf32x4_ps(a, 1));
    else if (part == 2) _mm_storeu_ps(x, _mm512_extractf32x4_ps(a, 2));
    else _mm_storeu_ps(x, _mm512_extractf32x4_ps(a, 3));
}
SIMD void v_store_part_of_f64(f64 *x, vec_f64 a, int part)
{
    if (part == 0) _mm_storeu_pd(x, _mm512_castpd512_pd128(a));
    else if (part == 1) _mm_storeu_pd(x, _mm512_extractf64x2_pd(a, 1));
    else if (part == 2) _mm_storeu_pd(x, _mm512_extractf64x2_pd(a, 2));
    else _mm_storeu_pd(x, _mm512_extractf64x2_pd(a, 3));
}
SIMD void transpose_parts_f32(vec_f32 v[4])
{
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1])),
                  b = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3])),
                  d = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
    v[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c)), v[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    v[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d)), v[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
}
SIMD void transpose_parts_f64(vec_f64 v[2])
{
    const __m512d a = v[0];
    v[0] = _mm512_unpacklo_pd(a, v[1]), v[1] = _mm512_unpackhi_pd(a, v[1]);
}

SIMD void transpose_f32(vec_f32 v[16])
{
    vec_f32 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int u = 0; u < 2; ++u) {
            const __m512d a = _mm512_castps_pd(t[i + u]), b = _mm512_castps_pd(t[i + u + 2]);
            v[i + 2 * u] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            v[i + 2 * u + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    for (int u = 0; u < 4; ++u) transpose_lanes(v + u, 4);
}

SIMD void transpose_f64(vec_f64 v[8])
{
    vec_f32 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(v[i], v[i + 1]));
        t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(v[i], v[i + 1]));
    }
    for (int u = 0; u < 2; ++u) transpose_lanes(t + u, 2);
    for (int i = 0; i < 8; ++i) v[i] = _mm512_castps_pd(t[i]);
}

SIMD void bypass_f32(f32 *x, vec_f32 a) { _mm512_stream_ps(x, a); }
SIMD void bypass_f16(f16 *x, vec_f32 a) { _mm256_stream_si256((__m256i *)x, to_f16(a)); }
SIMD void bypass_bf16(bf16 *x, vec_f32 a) { _mm256_stream_si256((__m256i *)x, to_bf16(a)); }
SIMD void bypass_f64(f64 *x, vec_f64 a) { _mm512_stream_pd(x, a); }
SIMD void fence(void) { _mm_sfence(); }
SIMD void prefetch(const void *x) { _mm_prefetch((const char *)x, _MM_HINT_T0); }
SIMD void prefetch_to_l2(const void *x) { _mm_prefetch((const char *)x, _MM_HINT_T1); }

#endif
