/* The inner part of a float32 product: ROWS by two vectors of the result, which stay in registers. */
#ifndef REGISTERS_H
#define REGISTERS_H

#include "simd/simd.h"

/* AVX-512 has 32 registers, the others 16: two are for the columns' vectors, one for a row's number. */
#if defined(USE_AVX512)
#define ROWS 12
#else
#define ROWS 6
#endif
#define COLUMNS (2 * LANES_f32)

SIMD void store_up_to(f32 *x, ptrdiff_t n, vec_f32 a)
{
    if (n >= LANES_f32) store_f32(x, a);
    else if (n > 0) store_part_f32(x, n, a);
}

SIMD vec_f32 load_up_to(const f32 *x, ptrdiff_t n)
{
    return n >= LANES_f32 ? load_f32(x) : n > 0 ? load_part_f32(x, n, 0) : v_set1_f32(0);
}

static void multiply(const void *a_panel, const void *b_panel, ptrdiff_t k, f32 *c, ptrdiff_t stride, ptrdiff_t rows,
                     ptrdiff_t columns, storing how)
{
    const int add = how == ADD;
    for (ptrdiff_t i = 0; i < rows; ++i) {    /* a store that waits for its line holds up the next panel's */
        prefetch(c + i * stride);
        prefetch(c + i * stride + columns - 1);
    }
    const f32 *a = a_panel, *b = b_panel;
    vec_f32 sum[ROWS][2];
    UNROLLED
    for (int i = 0; i < ROWS; ++i) sum[i][0] = sum[i][1] = v_set1_f32(0);
    for (; k > 0; --k, a += ROWS, b += COLUMNS) {
        const vec_f32 left = load_f32(b), right = load_f32(b + LANES_f32);
        UNROLLED
        for (int i = 0; i < ROWS; ++i) {
            const vec_f32 row = v_set1_f32(a[i]);
            sum[i][0] = v_fma_f32(row, left, sum[i][0]);
            sum[i][1] = v_fma_f32(row, right, sum[i][1]);
        }
    }
    if (rows == ROWS && columns == COLUMNS) {
        UNROLLED
        for (int i = 0; i < ROWS; ++i, c += stride) {
            store_f32(c, add ? v_add_f32(load_f32(c), sum[i][0]) : sum[i][0]);
            store_f32(c + LANES_f32, add ? v_add_f32(load_f32(c + LANES_f32), sum[i][1]) : sum[i][1]);
        }
        return;
    }
    f32 whole[ROWS * COLUMNS];    /* since registers have no numbers that a loop could count */
    UNROLLED
    for (int i = 0; i < ROWS; ++i) {
        store_f32(whole + i * COLUMNS, sum[i][0]);
        store_f32(whole + i * COLUMNS + LANES_f32, sum[i][1]);
    }
    for (ptrdiff_t i = 0; i < rows; ++i)
        for (ptrdiff_t j = 0; j < columns; j += LANES_f32) {
            f32 *const to = c + i * stride + j;
            const vec_f32 found = load_f32(whole + i * COLUMNS + j);
            store_up_to(to, columns - j, add ? v_add_f32(load_up_to(to, columns - j), found) : found);
        }
}

#endif
