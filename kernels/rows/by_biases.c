/* A bias that is added to logits, and the sums of a gradient's columns, which are the gradient on it: memory-bound both,
 * so that the compiler's own vectors do. */
#include <string.h>

#include "rows/parallel.h"

#define ADD(REAL)                                                        \
    static void add_##REAL(const biased *b, ptrdiff_t row)               \
    {                                                                    \
        REAL *const logits = (REAL *)b->logits + row * b->stride;        \
        const REAL *const bias = b->bias;                                \
        for (ptrdiff_t c = 0; c < b->columns; ++c) logits[c] += bias[c]; \
    }
ADD(f32)
ADD(f64)

#define SUM(REAL)                                                                       \
    static void sum_##REAL(const biased *b, ptrdiff_t first, ptrdiff_t n)               \
    {                                                                                   \
        double sums[SUMMED_AT_ONCE];                                                    \
        memcpy(sums, b->sums + first, (size_t)n * sizeof *sums);                        \
        for (ptrdiff_t row = 0; row < b->rows; ++row) {                                 \
            const REAL *const grad = (const REAL *)b->logits + row * b->stride + first; \
            for (ptrdiff_t c = 0; c < n; ++c) sums[c] += grad[c];                       \
        }                                                                               \
        memcpy(b->sums + first, sums, (size_t)n * sizeof *sums);                        \
    }
SUM(f32)
SUM(f64)

static void add_bias(const biased *b, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t row = first; row < last; ++row) {
        if (b->type == ELEMENT_F32) add_f32(b, row);
        else add_f64(b, row);
    }
}

static void sum_bias(const biased *b, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t i = first * SUMMED_AT_ONCE; i < last * SUMMED_AT_ONCE && i < b->columns; i += SUMMED_AT_ONCE) {
        const ptrdiff_t left = b->columns - i, n = left < SUMMED_AT_ONCE ? left : SUMMED_AT_ONCE;
        if (b->type == ELEMENT_F32) sum_f32(b, i, n);
        else sum_f64(b, i, n);
    }
}

void by_biases(const task *t)
{
    ptrdiff_t first, last;
    while (take_rows(t, &first, &last)) (t->work == ADD_BIAS ? add_bias : sum_bias)(t->biased, first, last);
}
