/* A factor's numbers in pairs of bfloat16, two that follow each other in the sum: the operands of VDPBF16PS and TDPBF16PS.
 * Both take a subnormal number for 0, and so does the rounding of float32 here. */
#ifndef PAIRS_H
#define PAIRS_H

#include "simd/simd.h"

enum {
    SQUARE = 16, /* rows of a factor, and pairs of each, that are packed at a time */
    IN_SQUARE = 2 * SQUARE, /* numbers of each row */
    AHEAD = 512 /* bytes that are asked for ahead */
};

SIMD __mmask16 first_16(ptrdiff_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }
SIMD __mmask32 first_32(ptrdiff_t n) { return n >= 32 ? 0xffffffff : n <= 0 ? 0 : (1u << n) - 1; }

/* 16 pairs of one row, and zeros after its n numbers. */
SIMD __m512 pairs_along_bf16(const bf16 *x, ptrdiff_t n)
{
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(first_32(n), x));
}
SIMD __m512 pairs_along_f32(const f32 *x, ptrdiff_t n)
{
    const __m512 low = _mm512_maskz_loadu_ps(first_16(n), x);
    const __m512 high = n > 16 ? _mm512_maskz_loadu_ps(first_16(n - 16), x + 16) : _mm512_setzero_ps();
    return (__m512)_mm512_cvtne2ps_pbh(high, low);
}

static const uint16_t interleaved[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                         8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

/* A pair of each of n rows that lie side by side; the second number is 0 where there is none. */
SIMD __m512 pairs_across_bf16(const bf16 *x, ptrdiff_t along, ptrdiff_t n, int both)
{
    const __mmask16 m = first_16(n);
    const __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, x));
    if (!both) return _mm512_castsi512_ps(first);
    const __m512i second = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, x + along));
    return _mm512_castsi512_ps(_mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
}
SIMD __m512 pairs_across_f32(const f32 *x, ptrdiff_t along, ptrdiff_t n, int both)
{
    const __mmask16 m = first_16(n);
    const __m512 first = _mm512_maskz_loadu_ps(m, x);
    const __m512 second = both ? _mm512_maskz_loadu_ps(m, x + along) : _mm512_setzero_ps();
    const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_loadu_si512(interleaved), rounded));
}

/* square[i] are the pairs of row i, of n rows, k numbers each; or the i-th pair of every row. */
#define SQUARE_OF(ELEMENT)                                                                                    \
    SIMD void square_along_##ELEMENT(const ELEMENT *x, ptrdiff_t across, ptrdiff_t n, ptrdiff_t k,            \
                                     __m512 square[SQUARE])                                                   \
    {                                                                                                         \
        for (ptrdiff_t i = 0; i < SQUARE; ++i, x += across) {                                                 \
            square[i] = i < n ? pairs_along_##ELEMENT(x, k) : _mm512_setzero_ps();                            \
            prefetch((const char *)x + AHEAD);                                                                \
        }                                                                                                     \
    }                                                                                                         \
    SIMD void square_across_##ELEMENT(const ELEMENT *x, ptrdiff_t along, ptrdiff_t n, ptrdiff_t k,            \
                                      __m512 square[SQUARE])                                                  \
    {                                                                                                         \
        for (ptrdiff_t j = 0; j < SQUARE; ++j, x += 2 * along) {                                              \
            square[j] = 2 * j < k ? pairs_across_##ELEMENT(x, along, n, 2 * j + 1 < k) : _mm512_setzero_ps(); \
            prefetch(x + IN_SQUARE * along);                                                                  \
            prefetch(x + (IN_SQUARE + 1) * along);                                                            \
        }                                                                                                     \
    }

SQUARE_OF(bf16)
SQUARE_OF(f32)

/* Stores a square into the panel of a kernel that multiplies a pair of a row with one of each column: [pair][width]. */
SIMD void store_pairs(f32 *panel, ptrdiff_t width, ptrdiff_t row, ptrdiff_t number, const __m512 square[SQUARE])
{
    UNROLLED
    for (ptrdiff_t u = 0; u < SQUARE; ++u)
        _mm512_mask_storeu_ps(panel + (number / 2 + u) * width + row, first_16(width - row), square[u]);
}

/* Into that of rows of a tile, which has a pair of each column in a row of its own: [number / 32][row][32]. */
SIMD void store_rows(f32 *panel, ptrdiff_t width, ptrdiff_t row, ptrdiff_t number, const __m512 square[SQUARE])
{
    UNROLLED
    for (ptrdiff_t u = 0; u < SQUARE; ++u) _mm512_storeu_ps(panel + number / 2 * width + (row + u) * SQUARE, square[u]);
}

/* Panels one after the other where the numbers of a row lie side by side; else what lies side by side, of every panel. */
#define PACK_PAIRS(NAME, ELEMENT, WIDTH, STORE, PAIRS_LEAD)                                                          \
    static void NAME##_##ELEMENT(const void *from, ptrdiff_t across, ptrdiff_t along, ptrdiff_t n, ptrdiff_t k,      \
                                 void *to)                                                                           \
    {                                                                                                                \
        const ptrdiff_t panel = (k + IN_SQUARE - 1) / IN_SQUARE * SQUARE * WIDTH;                                    \
        __m512 square[SQUARE];                                                                                       \
        if (along == 1)                                                                                              \
            for (ptrdiff_t first = 0; first < n; first += WIDTH)                                                     \
                for (ptrdiff_t j = 0; j < k; j += IN_SQUARE)                                                         \
                    for (ptrdiff_t i = 0; i < WIDTH; i += SQUARE) {                                                  \
                        square_along_##ELEMENT((const ELEMENT *)from + (first + i) * across + j, across,             \
                                               n - first - i, k - j, square);                                        \
                        if (PAIRS_LEAD) transpose_f32(square);                                                       \
                        STORE((f32 *)to + first / WIDTH * panel, WIDTH, i, j, square);                               \
                    }                                                                                                \
        else                                                                                                         \
            for (ptrdiff_t j = 0; j < k; j += IN_SQUARE)                                                             \
                for (ptrdiff_t first = 0; first < n; first += WIDTH)                                                 \
                    for (ptrdiff_t i = 0; i < WIDTH; i += SQUARE) {                                                  \
                        square_across_##ELEMENT((const ELEMENT *)from + first + i + j * along, along, n - first - i, \
                                                k - j, square);                                                      \
                        if (!PAIRS_LEAD) transpose_f32(square);                                                      \
                        STORE((f32 *)to + first / WIDTH * panel, WIDTH, i, j, square);                               \
                    }                                                                                                \
    }

#endif
