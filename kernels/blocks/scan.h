/* A look at index targets, in loops that the compiler makes the unit's vectors of. Each integer type is widened as
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

/* Of int32 and int64: how many of n targets are ignored; -1 where another is no class. */
static ptrdiff_t scan_wide(const void *targets, int size, ptrdiff_t n, int64_t classes, int has_ignored,
                           int64_t ignored)
{
    const uint64_t most = (uint64_t)classes - 1, skipped = (uint64_t)ignored;
    uint64_t count = 0, bad = 0;
    if (size == -4 && has_ignored) COUNT(int32_t)
    else if (size == -4) LOOK(int32_t)
    else if (has_ignored) COUNT(int64_t)
    else LOOK(int64_t)
    return bad >> 63 ? -1 : (ptrdiff_t)count;
}

/* The other types are rare: vectors of each would be most of the unit's code for targets. */
#define WIDENED 256 /* at a time: they stay in the L1 cache */
#if defined(__GNUC__)
#define ONE_BY_ONE __asm__ volatile("")
#else
#define ONE_BY_ONE
#endif
#define WIDEN(TYPE)                                   \
    for (ptrdiff_t i = 0; i < here; ++i) {            \
        ONE_BY_ONE;                                   \
        wide[i] = ((const TYPE *)targets)[first + i]; \
    }                                                 \
    break;

/* Of targets of any integer type, its size negative where it has a sign. */
static ptrdiff_t scan(const void *targets, int size, ptrdiff_t n, int64_t classes, int has_ignored, int64_t ignored)
{
    if (size == -4 || size == 8 || size == -8) return scan_wide(targets, size, n, classes, has_ignored, ignored);
    int64_t wide[WIDENED];
    ptrdiff_t count = 0;
    for (ptrdiff_t first = 0; first < n; first += WIDENED) {
        const ptrdiff_t here = n - first < WIDENED ? n - first : WIDENED;
        switch (size) {
        case 1: WIDEN(uint8_t)
        case -1: WIDEN(int8_t)
        case 2: WIDEN(uint16_t)
        case -2: WIDEN(int16_t)
        default: WIDEN(uint32_t)
        }
        const ptrdiff_t skipped = scan_wide(wide, sizeof *wide, here, classes, has_ignored, ignored);
        if (skipped < 0) return -1;
        count += skipped;
    }
    return count;
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
