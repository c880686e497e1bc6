/* Partial vectors, for ISAs without masked memory access: n < LANES elements through a buffer on the stack, so that
 * the same vector arithmetic serves the end of a row. The ISA that includes this has the whole vectors. */
#ifndef PART_H
#define PART_H

#include <string.h>

#define PARTIAL(TYPE, REAL)                                                 \
    SIMD vec_##REAL load_part_##TYPE(const TYPE *x, ptrdiff_t n, REAL fill) \
    {                                                                       \
        TYPE part[LANES_##REAL];                                            \
        REAL lanes[LANES_##REAL];                                           \
        memset(part, 0, sizeof part);                                       \
        memcpy(part, x, (size_t)n * sizeof *x);                             \
        store_##REAL(lanes, load_##TYPE(part));                             \
        for (ptrdiff_t i = n; i < LANES_##REAL; ++i) lanes[i] = fill;       \
        return load_##REAL(lanes);                                          \
    }                                                                       \
    SIMD void store_part_##TYPE(TYPE *x, ptrdiff_t n, vec_##REAL a)         \
    {                                                                       \
        TYPE part[LANES_##REAL];                                            \
        store_##TYPE(part, a);                                              \
        memcpy(x, part, (size_t)n * sizeof *x);                             \
    }

PARTIAL(f16, f32)
PARTIAL(bf16, f32)
PARTIAL(f32, f32)
PARTIAL(f64, f64)

#endif
