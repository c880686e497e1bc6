#include "rows/targets.h"

#include <string.h>

#define COUNTED_CLASSES 256        /* at most, whose targets are counted */
#define COUNTED_ROWS (1 << 16)     /* between two additions of what was counted: an int32 has room for that */

/* Where rows have no weight of their own, a class is counted, and its weight taken so many times. In four counts in
 * turn: one that was just stored is slow to load again. 0 where a target is no class. */
static int count_classes(const index_targets *t, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes,
                         const double *class_weight, target_scan *scan)
{
    int32_t counts[4][2 * COUNTED_CLASSES];    /* from COUNTED_CLASSES on: those that are ignored */
    compensated weights = scan->weights;
    const int64_t *as_they_lie = t->size == -8 ? t->data : NULL;
    const uint64_t most = (uint64_t)classes - 1;
    for (ptrdiff_t from = first; from < last; from += COUNTED_ROWS) {
        const ptrdiff_t to = last - from < COUNTED_ROWS ? last : from + COUNTED_ROWS;
        uint64_t bad = 0;    /* as in blocks/scan.h */
        memset(counts, 0, sizeof counts);
        if (as_they_lie && !t->has_ignored)
            for (ptrdiff_t row = from; row < to; ++row) {
                const uint64_t y = (uint64_t)as_they_lie[row];
                bad |= y | (most - y);
                ++counts[row & 3][y % COUNTED_CLASSES];
            }
        else
            for (ptrdiff_t row = from; row < to; ++row) {
                const int64_t y = target_at(t, row);
                const uint64_t skipped = is_ignored(t, y) != 0;
                bad |= ((uint64_t)y | (most - (uint64_t)y)) & (skipped - 1);
                ++counts[row & 3][(uint64_t)y % COUNTED_CLASSES + skipped * COUNTED_CLASSES];
            }
        if (bad >> 63) return 0;
        for (ptrdiff_t c = 0; c < classes; ++c) {
            double n = 0;
            for (int i = 0; i < 4; ++i) n += counts[i][c];
            if (n > 0) compensated_add(&weights, n * class_weight[c]);
        }
    }
    scan->weights = weights;
    return 1;
}

void scan_targets(const isa_table *isa, const index_targets *t, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes,
                  const double *class_weight, const double *sample_weight, target_scan *scan)
{
    if (!class_weight && !sample_weight) {
        const char *from = (const char *)t->data + first * (t->size < 0 ? -t->size : t->size);
        const ptrdiff_t skipped = isa->scan(from, t->size, last - first, classes, t->has_ignored, t->ignored);
        if (skipped >= 0) {
            scan->weights.sum += (double)(last - first - skipped);
            return;
        }
    } else if (!sample_weight && classes <= COUNTED_CLASSES &&
               count_classes(t, first, last, classes, class_weight, scan))
        return;
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
