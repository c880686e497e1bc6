/* The product of bfloat16 factors by VDPBF16PS: the sums are float32. Compiled with AVX512-BF16 on, where the compiler
 * knows it. A float32 factor is rounded to bfloat16. */
#if defined(__x86_64__)
#define USE_AVX512
#include "products/product.h"
#include "products/pairs.h"

enum { ROWS = 12, COLUMNS = 32 };

PACK_PAIRS(pack_rows, bf16, ROWS, store_pairs, 1)
PACK_PAIRS(pack_rows, f32, ROWS, store_pairs, 1)
PACK_PAIRS(pack_columns, bf16, COLUMNS, store_pairs, 1)
PACK_PAIRS(pack_columns, f32, COLUMNS, store_pairs, 1)

static void multiply(const void *a_panel, const void *b_panel, ptrdiff_t k, f32 *c, ptrdiff_t stride, ptrdiff_t rows,
                     ptrdiff_t columns, storing how)
{
    const int add = how == ADD;
    const int32_t *a = a_panel, *b = b_panel;
    __m512 sum[ROWS][2];
    UNROLLED
    for (int i = 0; i < ROWS; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    for (; k > 0; k -= 2, a += ROWS, b += COLUMNS) {
        const __m512bh left = (__m512bh)_mm512_loadu_si512(b), right = (__m512bh)_mm512_loadu_si512(b + 16);
        UNROLLED
        for (int i = 0; i < ROWS; ++i) {
            const __m512bh row = (__m512bh)_mm512_set1_epi32(a[i]);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], row, left);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], row, right);
        }
    }
    f32 whole[ROWS * COLUMNS];
    UNROLLED
    for (int i = 0; i < ROWS; ++i) {
        store_f32(whole + i * COLUMNS, sum[i][0]);
        store_f32(whole + i * COLUMNS + LANES_f32, sum[i][1]);
    }
    for (ptrdiff_t i = 0; i < rows; ++i)
        for (ptrdiff_t j = 0; j < columns; j += LANES_f32) {
            f32 *const to = c + i * stride + j;
            const __mmask16 m = first_16(columns - j);
            const __m512 there = add ? _mm512_maskz_loadu_ps(m, to) : _mm512_setzero_ps();
            _mm512_mask_storeu_ps(to, m, _mm512_add_ps(there, load_f32(whole + i * COLUMNS + j)));
        }
}

const product_unit product_avx512_bf16 = {
    .name = "avx512_bf16",
    .rows = ROWS,
    .columns = COLUMNS,
    .size = sizeof(bf16),
    .multiple = IN_SQUARE,
    .slice = 512,
    .whole = 512,
    .pack_rows = {[ELEMENT_BF16] = pack_rows_bf16, [ELEMENT_F32] = pack_rows_f32},
    .pack_columns = {[ELEMENT_BF16] = pack_columns_bf16, [ELEMENT_F32] = pack_columns_f32},
    .multiply = multiply,
};
#endif
