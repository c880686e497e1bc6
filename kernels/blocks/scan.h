/* A look at index targets, in loops that the compiler makes the unit's vectors of: each integer type is widened as
 * target_at of rows/targets.h does it. */
#include "blocks/blocks.h"

/* Its highest bit is set for what is no class: most is the last one, and neither has a sign. */
SIMD uint64_t beyond(uint64_t y, uint64_t most) { return y | (most - y); }

#define COUNT(TYPE)                                              \
    for (ptrdiff_t i = 0; i < n; ++i) {                          \
        const uint64_t y = (uint64_t)((const TYPE *)targets)[i]; \
        const uint64_t is_skipped = -(uint64_t)(y == skipped);   \
        count -= is_skipped;                                     \
        bad |= beyond(y, most) & ~is_skipped;                    \
    }
#define LOOK(TYPE) \
    for (ptrdiff_t i = 0; i < n; ++i) bad |= beyond((uint64_t)((const TYPE *)targets)[i], most);
#define SCAN(TYPE)               \
    if (has_ignored) COUNT(TYPE) \
    else LOOK(TYPE)              \
    break;

/* How many of n targets (their size negative where they are signed) are ignored; -1 where another is no class. */
static ptrdiff_t scan(const void *targets, int size, ptrdiff_t n, int64_t classes, int has_ignored, int64_t ignored)
{
    const uint64_t most = (uint64_t)classes - 1, skipped = (uint64_t)ignored;
    uint64_t count = 0, bad = 0;
    switch (size) {
    case 1: SCAN(uint8_t)
    case -1: SCAN(int8_t)
    case 2: SCAN(uint16_t)
    case -2: SCAN(int16_t)
    case 4: SCAN(uint32_t)
    case -4: SCAN(int32_t)
    default: SCAN(int64_t)
    }
    return bad >> 63 ? -1 : (ptrdiff_t)count;
}

#define TALLY(TYPE, COUNT)                                                          \
    {                                                                               \
        COUNT count = 0;                                                            \
        for (ptrdiff_t i = 0; i < n; ++i) count += ((const TYPE *)targets)[i] == y; \
        return (ptrdiff_t)count;                                                    \
    }

/* How many of n targets are y, which every integer type has. */
static ptrdiff_t tally(const void *targets, int size, ptrdiff_t n, int8_t y)
{
    switch (size < 0 ? -size : size) {
    case 1: TALLY(int8_t, int32_t)
    case 2: TALLY(int16_t, int32_t)
    case 4: TALLY(int32_t, int32_t)
    default: TALLY(int64_t, int64_t)
    }
}
