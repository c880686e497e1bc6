/* AVX2, FMA and F16C: 8 lanes of float32, 4 of float64. Partial vectors pass through a buffer (simd/part.h). */
#ifndef AVX2_H
#define AVX2_H

#include <immintrin.h>

#include "simd/inline.h"
#include "types.h"

#define SCALES_TO_ZERO 0
#define EXP_FROM_BITS 0
#define UNROLL 2    /* vectors of a loop's step: there are registers for the sums of no more */
#define EXP_TABLE_f32 8     /* entries, which a permutation looks up */
#define EXP_TABLE_f64 0
#define EXP_SHIFT_f32 20 /* from the low bits of a number to where those of the exponent follow three of the mantissa */
#define EXP_SHIFT_f64 52
#define LANES_f32 8
#define LANES_f64 4
typedef __m256 vec_f32, mask_f32;
typedef __m256d vec_f64, mask_f64;

SIMD vec_f32 v_set1_f32(f32 a) { return _mm256_set1_ps(a); }
SIMD vec_f32 v_add_f32(vec_f32 a, vec_f32 b) { return _mm256_add_ps(a, b); }
SIMD vec_f32 v_sub_f32(vec_f32 a, vec_f32 b) { return _mm256_sub_ps(a, b); }
SIMD vec_f32 v_mul_f32(vec_f32 a, vec_f32 b) { return _mm256_mul_ps(a, b); }
SIMD vec_f32 v_fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm256_fmadd_ps(a, b, c); }
SIMD vec_f32 v_fnma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm256_fnmadd_ps(a, b, c); }
SIMD vec_f32 v_min_f32(vec_f32 a, vec_f32 b) { return _mm256_min_ps(a, b); }
SIMD vec_f32 v_max_f32(vec_f32 a, vec_f32 b) { return _mm256_max_ps(a, b); }
SIMD vec_f32 v_lookup_f32(const f32 *table, vec_f32 t)
{
    const __m256i places = _mm256_slli_epi32(_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), EXP_SHIFT_f32);
    const __m256i found = _mm256_sub_epi32(_mm256_loadu_si256((const __m256i *)table), places);
    return _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(found, _mm256_castps_si256(t)));
}
SIMD vec_f32 v_raise_f32(vec_f32 p, vec_f32 t, int shift)
{
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), shift);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
}
SIMD mask_f32 v_less_f32(vec_f32 a, vec_f32 b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
SIMD mask_f32 v_equal_f32(vec_f32 a, vec_f32 b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
SIMD mask_f32 v_unequal_f32(vec_f32 a, vec_f32 b) { return _mm256_cmp_ps(a, b, _CMP_NEQ_UQ); }
SIMD mask_f32 v_nan_f32(vec_f32 a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
SIMD mask_f32 mask_or_f32(mask_f32 a, mask_f32 b) { return _mm256_or_ps(a, b); }
SIMD int mask_count_f32(mask_f32 m) { return _mm_popcnt_u32((unsigned)_mm256_movemask_ps(m)); }
SIMD vec_f32 v_only_where_f32(mask_f32 m, vec_f32 a) { return _mm256_and_ps(m, a); }
SIMD vec_f32 v_zero_where_f32(mask_f32 m, vec_f32 a) { return _mm256_andnot_ps(m, a); }
SIMD vec_f64 v_widen_low_f32(vec_f32 a) { return _mm256_cvtps_pd(_mm256_castps256_ps128(a)); }
SIMD vec_f64 v_widen_high_f32(vec_f32 a) { return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)); }
SIMD vec_f32 v_add_where_f32(mask_f32 m, vec_f32 a, vec_f32 b) { return _mm256_add_ps(a, _mm256_and_ps(m, b)); }
SIMD vec_f32 v_where_f32(mask_f32 m, vec_f32 a, vec_f32 b) { return _mm256_blendv_ps(b, a, m); }
SIMD double v_sum_f32(vec_f32 a)
{
    const __m256d s = _mm256_add_pd(v_widen_low_f32(a), v_widen_high_f32(a));
    const __m128d t = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
    return _mm_cvtsd_f64(t) + _mm_cvtsd_f64(_mm_unpackhi_pd(t, t));
}
SIMD f32 v_top_f32(vec_f32 a)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
SIMD vec_f32 load_f32(const f32 *x) { return _mm256_loadu_ps(x); }
SIMD void store_f32(f32 *x, vec_f32 a) { _mm256_storeu_ps(x, a); }
SIMD vec_f32 load_f16(const f16 *x) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x)); }
SIMD __m128i to_f16(vec_f32 a) { return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SIMD void store_f16(f16 *x, vec_f32 a) { _mm_storeu_si128((__m128i *)x, to_f16(a)); }
SIMD vec_f32 load_bf16(const bf16 *x)
{
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
SIMD __m128i to_bf16(vec_f32 a) /* to nearest even, in integers */
{
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256 r = _mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)),
                                      v_nan_f32(a));
    const __m256i half = _mm256_srli_epi32(_mm256_castps_si256(r), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0x08);
    return _mm256_castsi256_si128(packed);
}
SIMD void store_bf16(bf16 *x, vec_f32 a) { _mm_storeu_si128((__m128i *)x, to_bf16(a)); }

SIMD vec_f64 v_set1_f64(f64 a) { return _mm256_set1_pd(a); }
SIMD vec_f64 v_add_f64(vec_f64 a, vec_f64 b) { return _mm256_add_pd(a, b); }
SIMD vec_f64 v_sub_f64(vec_f64 a, vec_f64 b) { return _mm256_sub_pd(a, b); }
SIMD vec_f64 v_mul_f64(vec_f64 a, vec_f64 b) { return _mm256_mul_pd(a, b); }
SIMD vec_f64 v_fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm256_fmadd_pd(a, b, c); }
SIMD vec_f64 v_fnma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm256_fnmadd_pd(a, b, c); }
SIMD vec_f64 v_min_f64(vec_f64 a, vec_f64 b) { return _mm256_min_pd(a, b); }
SIMD vec_f64 v_max_f64(vec_f64 a, vec_f64 b) { return _mm256_max_pd(a, b); }
SIMD vec_f64 v_raise_f64(vec_f64 p, vec_f64 t, int shift)
{
    const __m256i n = _mm256_slli_epi64(_mm256_castpd_si256(t), shift);
    return _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(p), n));
}
SIMD mask_f64 v_less_f64(vec_f64 a, vec_f64 b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
SIMD mask_f64 v_equal_f64(vec_f64 a, vec_f64 b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
SIMD mask_f64 v_unequal_f64(vec_f64 a, vec_f64 b) { return _mm256_cmp_pd(a, b, _CMP_NEQ_UQ); }
SIMD mask_f64 v_nan_f64(vec_f64 a) { return _mm256_cmp_pd(a, a, _CMP_UNORD_Q); }
SIMD mask_f64 mask_or_f64(mask_f64 a, mask_f64 b) { return _mm256_or_pd(a, b); }
SIMD int mask_count_f64(mask_f64 m) { return _mm_popcnt_u32((unsigned)_mm256_movemask_pd(m)); }
SIMD vec_f64 v_only_where_f64(mask_f64 m, vec_f64 a) { return _mm256_and_pd(m, a); }
SIMD vec_f64 v_zero_where_f64(mask_f64 m, vec_f64 a) { return _mm256_andnot_pd(m, a); }
SIMD vec_f64 v_add_where_f64(mask_f64 m, vec_f64 a, vec_f64 b) { return _mm256_add_pd(a, _mm256_and_pd(m, b)); }
SIMD vec_f64 v_where_f64(mask_f64 m, vec_f64 a, vec_f64 b) { return _mm256_blendv_pd(b, a, m); }
SIMD double v_sum_f64(vec_f64 a)
{
    const __m128d t = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(t) + _mm_cvtsd_f64(_mm_unpackhi_pd(t, t));
}
SIMD f64 v_top_f64(vec_f64 a)
{
    const __m128d m = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(m, _mm_unpackhi_pd(m, m)));
}
SIMD vec_f64 load_f64(const f64 *x) { return _mm256_loadu_pd(x); }
SIMD void store_f64(f64 *x, vec_f64 a) { _mm256_storeu_pd(x, a); }

SIMD vec_f64 v_of_int64_f64(const int64_t *a)
{
    return _mm256_set_pd((double)a[3], (double)a[2], (double)a[1], (double)a[0]);
}
SIMD vec_f32 v_div_f32(vec_f32 a, vec_f32 b) { return _mm256_div_ps(a, b); }
SIMD vec_f32 v_lost_f32(vec_f32 a, vec_f32 b, vec_f32 p) { return _mm256_fmsub_ps(a, b, p); }
SIMD vec_f64 v_div_f64(vec_f64 a, vec_f64 b) { return _mm256_div_pd(a, b); }
SIMD vec_f64 v_lost_f64(vec_f64 a, vec_f64 b, vec_f64 p) { return _mm256_fmsub_pd(a, b, p); }
SIMD vec_f32 v_split_f32(vec_f32 a, vec_f32 *e)
{
    const __m256i exponent = _mm256_srli_epi32(_mm256_castps_si256(a), 23);
    *e = _mm256_cvtepi32_ps(_mm256_sub_epi32(exponent, _mm256_set1_epi32(127)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_sub_epi32(_mm256_set1_epi32(254), exponent), 23));
}
SIMD vec_f64 v_split_f64(vec_f64 a, vec_f64 *e)
{
    const __m256i exponent = _mm256_srli_epi64(_mm256_castpd_si256(a), 52);
    const __m256i magic = _mm256_set1_epi64x(0x4330000000000000);
    *e = _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(exponent, magic)), _mm256_set1_pd(0x1p52 + 1023));
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_sub_epi64(_mm256_set1_epi64x(2046), exponent), 52));
}
SIMD vec_f32 v_narrow_f32(vec_f64 low, vec_f64 high)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(low)), _mm256_cvtpd_ps(high), 1);
}

SIMD vec_f32 v_pick_f32(vec_f32 a, const int32_t *lanes)
{
    return _mm256_permutevar8x32_ps(a, _mm256_loadu_si256((const __m256i *)lanes));
}
SIMD vec_f64 v_pick_f64(vec_f64 a, const int64_t *lanes)
{
    f64 of[4];
    _mm256_storeu_pd(of, a);
    return _mm256_set_pd(of[lanes[3]], of[lanes[2]], of[lanes[1]], of[lanes[0]]);
}

SIMD vec_f32 v_load_parts_f32(const f32 *x, ptrdiff_t apart)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x)), _mm_loadu_ps(x + apart), 1);
}
SIMD vec_f64 v_load_parts_f64(const f64 *x, ptrdiff_t apart)
{
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(x)), _mm_loadu_pd(x + apart), 1);
}
SIMD void v_store_part_of_f32(f32 *x, vec_f32 a, int part)
{
    _mm_storeu_ps(x, part ? _mm256_extractf128_ps(a, 1) : _mm256_castps256_ps128(a));
}
SIMD void v_store_part_of_f64(f64 *x, vec_f64 a, int part)
{
    _mm_storeu_pd(x, part ? _mm256_extractf128_pd(a, 1) : _mm256_castpd256_pd128(a));
}
SIMD void transpose_parts_f32(vec_f32 v[4])
{
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1])),
                  b = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
    const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3])),
                  d = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
    v[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c)), v[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    v[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d)), v[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
}
SIMD void transpose_parts_f64(vec_f64 v[2])
{
    const __m256d a = v[0];
    v[0] = _mm256_unpacklo_pd(a, v[1]), v[1] = _mm256_unpackhi_pd(a, v[1]);
}

SIMD void transpose_f32(vec_f32 v[8])
{
    vec_f32 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int u = 0; u < 2; ++u) {
            const __m256d a = _mm256_castps_pd(t[i + u]), b = _mm256_castps_pd(t[i + u + 2]);
            v[i + 2 * u] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
            v[i + 2 * u + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
        }
    for (int u = 0; u < 4; ++u) {
        const vec_f32 a = v[u], b = v[u + 4];
        v[u] = _mm256_permute2f128_ps(a, b, 0x20);
        v[u + 4] = _mm256_permute2f128_ps(a, b, 0x31);
    }
}

SIMD void transpose_f64(vec_f64 v[4])
{
    for (int i = 0; i < 4; i += 2) {
        const vec_f64 a = v[i], b = v[i + 1];
        v[i] = _mm256_unpacklo_pd(a, b);
        v[i + 1] = _mm256_unpackhi_pd(a, b);
    }
    for (int u = 0; u < 2; ++u) {
        const vec_f64 a = v[u], b = v[u + 2];
        v[u] = _mm256_permute2f128_pd(a, b, 0x20);
        v[u + 2] = _mm256_permute2f128_pd(a, b, 0x31);
    }
}

SIMD void bypass_f32(f32 *x, vec_f32 a) { _mm256_stream_ps(x, a); }
SIMD void bypass_f16(f16 *x, vec_f32 a) { _mm_stream_si128((__m128i *)x, to_f16(a)); }
SIMD void bypass_bf16(bf16 *x, vec_f32 a) { _mm_stream_si128((__m128i *)x, to_bf16(a)); }
SIMD void bypass_f64(f64 *x, vec_f64 a) { _mm256_stream_pd(x, a); }
SIMD void fence(void) { _mm_sfence(); }
SIMD void prefetch(const void *x) { _mm_prefetch((const char *)x, _MM_HINT_T0); }
SIMD void prefetch_to_l2(const void *x) { _mm_prefetch((const char *)x, _MM_HINT_T1); }

#include "simd/part.h"

#endif
