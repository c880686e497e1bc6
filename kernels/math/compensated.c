#include "math/compensated.h"

double total_of(const double *a, ptrdiff_t n)
{
    compensated total = {0, 0};
    for (ptrdiff_t j = 0; j < n; j += 128) {
        double s[8] = {0};
        const ptrdiff_t end = n - j < 128 ? n : j + 128;
        ptrdiff_t i = j;
        for (; end - i >= 8; i += 8)
            for (int u = 0; u < 8; ++u) s[u] += a[i + u];
        for (; i < end; ++i) s[0] += a[i];
        compensated_add(&total, ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])));
    }
    return compensated_value(total);
}
