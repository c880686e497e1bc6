#include "rows/targets.h"

#include <string.h>

#define COUNTED_CLASSES 256        /* at most, whose targets are counted */
#define COUNTED_ROWS (1 << 16)     /* between two additions of what was counted: an int32 has room for that */
#define COUNTED_BYTES (1 << 14)    /* that stay in the L1 cache while they are gone through several times */

static const char *targets_from(const index_targets *t, ptrdiff_t row)
{
    return (const char *)t->data + row * (t->size < 0 ? -t->size : t->size);
}

/* Class by class in vectors; the last one has what the others leave. */
static void tally_classes(const isa_table *isa, const index_targets *t, ptrdiff_t first, ptrdiff_t last, int8_t classes,
                          int32_t *counts)
{
    int32_t left = (int32_t)(last - first);
    for (int8_t c = 0; c < classes - 1; ++c) {
        const int32_t found = (int32_t)isa->tally(targets_from(t, first), t->size, last - first, c);
        counts[c] += found, left -= found;
    }
    counts[classes - 1] += left;
}

/* Target by target, those that are no class with the last one: in four counts in turn, since one that was just stored
 * is slow to load again. */
static void count_targets(const index_targets *t, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes,
                          int32_t (*counts)[COUNTED_CLASSES])
{
    const uint64_t most = (uint64_t)classes - 1;
    ptrdiff_t row = first;
    for (; row + 4 <= last; row += 4)
        for (int i = 0; i < 4; ++i) {
            const uint64_t y = (uint64_t)target_at(t, row + i);
            ++counts[i][y < most ? y : most];
        }
    for (; row < last; ++row) {
        const uint64_t y = (uint64_t)target_at(t, row);
        ++counts[0][y < most ? y : most];
    }
}

/* Where rows have no weight of their own, a class is counted, and its weight taken so many times. 0 where a target is no
 * class. */
static int count_classes(const isa_table *isa, const index_targets *t, ptrdiff_t first, ptrdiff_t last,
                         ptrdiff_t classes, const double *class_weight, target_scan *scan)
{
    const ptrdiff_t at_once = COUNTED_BYTES / (t->size < 0 ? -t->size : t->size);
    const int in_vectors = classes <= isa->of[ELEMENT_F64]->lanes, is_class = (uint64_t)t->ignored < (uint64_t)classes;
    compensated weights = scan->weights;
    for (ptrdiff_t from = first; from < last; from += COUNTED_ROWS) {
        const ptrdiff_t to = last - from < COUNTED_ROWS ? last : from + COUNTED_ROWS;
        int32_t counts[4][COUNTED_CLASSES];
        for (int i = 0; i < 4; ++i) memset(counts[i], 0, (size_t)classes * sizeof **counts);
        for (ptrdiff_t row = from; row < to; row += at_once) {
            const ptrdiff_t n = to - row < at_once ? to - row : at_once;
            if (in_vectors) tally_classes(isa, t, row, row + n, (int8_t)classes, counts[0]);
            else count_targets(t, row, row + n, classes, counts);
            /* Last, since counting target by target hides the wait for memory. */
            const ptrdiff_t skipped = isa->scan(targets_from(t, row), t->size, n, classes, t->has_ignored, t->ignored);
            if (skipped < 0) return 0;
            /* They were counted too: as the class that they are, or with the last one. */
            counts[0][is_class ? t->ignored : classes - 1] -= (int32_t)skipped;
        }
        for (ptrdiff_t c = 0; c < classes; ++c) {
            const int32_t n = (counts[0][c] + counts[1][c]) + (counts[2][c] + counts[3][c]);
            if (n) compensated_add(&weights, n * class_weight[c]);
        }
    }
    scan->weights = weights;
    return 1;
}

void scan_targets(const isa_table *isa, const index_targets *t, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes,
                  const double *class_weight, const double *sample_weight, target_scan *scan)
{
    if (!class_weight && !sample_weight) {
        const ptrdiff_t skipped = isa->scan(targets_from(t, first), t->size, last - first, classes, t->has_ignored,
                                            t->ignored);
        if (skipped >= 0) {
            scan->weights.sum += (double)(last - first - skipped);
            return;
        }
    } else if (!sample_weight && classes <= COUNTED_CLASSES &&
               count_classes(isa, t, first, last, classes, class_weight, scan))
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
