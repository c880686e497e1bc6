/* Index targets: one, widened from its own integer type, and a look at all before a loss begins. */
#ifndef TARGETS_H
#define TARGETS_H

#include "blocks/blocks.h"
#include "math/compensated.h"
#include "types.h"

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

static inline int is_ignored(const index_targets *t, int64_t target) { return t->has_ignored && target == t->ignored; }

typedef struct {
    ptrdiff_t first_bad;      /* the first target that is no class, or -1 */
    compensated weights;      /* the sum of sample weight times class weight over the others */
} target_scan;

/* Of the targets of a range of rows; rows that are ignored or of sample weight 0 don't count. */
void scan_targets(const isa_table *isa, const index_targets *t, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes,
                  const double *class_weight, const double *sample_weight, target_scan *scan);

#endif
