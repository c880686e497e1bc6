#include "rows/targets.h"

/* Rows that are no class and not ignored, and how many are ignored; without branches, which the compiler makes
 * vectors of. */
#define COUNT(TYPE)                                              \
    for (ptrdiff_t row = first; row < last; ++row) {             \
        const int64_t y = (int64_t)((const TYPE *)t->data)[row]; \
        const int is_skipped = has_ignored & (y == ignored);     \
        skipped += is_skipped;                                   \
        bad |= ((uint64_t)y >= (uint64_t)classes) & !is_skipped; \
    }

/* The scan where nothing is weighted; 0 where a row is bad, which the other finds. */
static int scan_plain(const index_targets *t, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes, target_scan *scan)
{
    const int has_ignored = t->has_ignored;
    const int64_t ignored = t->ignored;
    ptrdiff_t skipped = 0;
    int bad = 0;
    switch (t->size) {
    case 1: COUNT(uint8_t) break;
    case -1: COUNT(int8_t) break;
    case 2: COUNT(uint16_t) break;
    case -2: COUNT(int16_t) break;
    case 4: COUNT(uint32_t) break;
    case -4: COUNT(int32_t) break;
    default: COUNT(int64_t)
    }
    if (!bad) scan->weights.sum += (double)(last - first - skipped);
    return !bad;
}

void scan_targets(const index_targets *t, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes,
                  const double *class_weight, const double *sample_weight, target_scan *scan)
{
    if (!class_weight && !sample_weight && scan_plain(t, first, last, classes, scan)) return;
    for (ptrdiff_t row = first; row < last; ++row) {
        const int64_t y = target_at(t, row);
        const double v = sample_weight ? sample_weight[row] : 1;
        if (is_ignored(t, y) || v == 0) continue;
        if (y < 0 || y >= classes) {
            if (scan->first_bad < 0) scan->first_bad = row;
            continue;
        }
        if (class_weight || sample_weight) compensated_add(&scan->weights, v * (class_weight ? class_weight[y] : 1));
        else scan->weights.sum += 1;
    }
}
