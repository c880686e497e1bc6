#include "compensated.h"
#include "targets.h"

ptrdiff_t scan_targets(const index_targets *t, ptrdiff_t rows, ptrdiff_t classes, const double *class_weight,
                       const double *sample_weight, double *weight_sum)
{
    ptrdiff_t first_bad = -1, counted = 0;
    compensated sum = {0, 0};
    for (ptrdiff_t row = 0; row < rows; ++row) {
        const int64_t y = target_at(t, row);
        if (is_ignored(t, y)) continue;
        if (y < 0 || y >= classes) {
            if (first_bad < 0) first_bad = row;
            continue;
        }
        ++counted;
        if (class_weight || sample_weight)
            compensated_add(&sum, (class_weight ? class_weight[y] : 1) * (sample_weight ? sample_weight[row] : 1));
    }
    *weight_sum = class_weight || sample_weight ? compensated_value(sum) : (double)counted;
    return first_bad;
}
