/* A vector of weights as m 2^e: for products with e^z that neither overflow nor vanish on the way. */
#ifndef SPLIT_WEIGHT_H
#define SPLIT_WEIGHT_H

#include "simd/simd.h"

/* m, with 1 <= |m| < 2; 0 for a weight of 0, and of no use where it is not finite. v_split alone takes neither
 * subnormals nor what is above 2^1023. */
SIMD vec_f64 split_weight(vec_f64 b, vec_f64 *e)
{
    const vec_f64 zero = v_set1_f64(0), one = v_set1_f64(1), size = v_max_f64(b, v_sub_f64(zero, b));
    const mask_f64 small = v_less_f64(size, v_set1_f64(0x1p-900)), large = v_less_f64(v_set1_f64(0x1p900), size);
    const vec_f64 by = v_where_f64(small, v_set1_f64(0x1p200), v_where_f64(large, v_set1_f64(0x1p-200), one));
    const vec_f64 moved = v_where_f64(small, v_set1_f64(-200), v_where_f64(large, v_set1_f64(200), zero));
    const vec_f64 scale = v_split_f64(v_where_f64(v_equal_f64(size, zero), one, v_mul_f64(size, by)), e);
    *e = v_add_f64(*e, moved);
    return v_mul_f64(v_mul_f64(b, by), scale);
}

/* The weights from `at` on, 0 from `end` on. */
SIMD vec_f64 weights_at(const double *weights, ptrdiff_t at, ptrdiff_t end)
{
    if (end - at >= LANES_f64) return load_f64(weights + at);
    return end > at ? load_part_f64(weights + at, end - at, 0) : v_set1_f64(0);
}

#endif
