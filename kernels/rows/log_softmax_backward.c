/* grad = g - e^log_p sum(g), row by row: x is log_p, q is g. */
#include <math.h>

#include "math/anchored_factor.h"
#include "math/compensated.h"
#include "rows/place.h"

void log_softmax_backward(place *p, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t row = first; row < last && !p->c.stopped; ++row) {
        go_to(p, row);
        double max = -INFINITY;
        compensated total = {0, 0};
        for (block b = {0, 0}; next_block(&p->c, &b);) {
            const double top = p->k->max(read_block(&p->x, b), b.n);
            max = isnan(top) || top > max ? top : max;
            if (isnan(max)) break;
            compensated_add(&total, p->k->total(read_block(&p->q, b), b.n));
        }
        if (!isfinite(max)) {
            fill_row(&p->out, &p->c, NAN);
            continue;
        }
        const anchor at = anchor_at(max, 0, p->is_f64);
        const double at_max = exp_at(at, max), of_e = compensated_value(total) * exp(max) / at_max;
        const anchored_factor f = anchor_factor(p->is_f64, of_e, at, at_max);
        const double factor = times_power_of_2(f.factor, f.power);
        for (block b = {0, 0}; next_whole(&p->c, &b);) {
            void *out = block_to_write(&p->out, b);
            const void *log_p = read_block(&p->x, b);
            p->k->log_softmax_backward(log_p, read_block(&p->q, b), b.n, f.at, factor, out, p->out.bypass);
            write_block(&p->out, b, out);
        }
    }
}
