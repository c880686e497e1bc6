/* One index target, widened from its own integer type. */
#ifndef TARGETS_H
#define TARGETS_H

#include "kernels.h"

/* Unsigned targets of 2^63 and above come out negative, which no class is: they are bad, as they should be. */
static inline int64_t target_at(const index_targets *t, ptrdiff_t row)
{
    switch (t->size) {
    case 1: return ((const uint8_t *)t->data)[row];
    case -1: return ((const int8_t *)t->data)[row];
    case 2: return ((const uint16_t *)t->data)[row];
    case -2: return ((const int16_t *)t->data)[row];
    case 4: return ((const uint32_t *)t->data)[row];
    case -4: return ((const int32_t *)t->data)[row];
    default: return ((const int64_t *)t->data)[row];
    }
}

static inline int is_ignored(const index_targets *t, int64_t target)
{
    return t->has_ignored && target == t->ignored;
}

#endif
