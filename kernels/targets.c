#include "targets.h"

void scan_targets(const index_targets *t, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes, const double *class_weight,
                  const double *sample_weight, target_scan *scan)
{
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
