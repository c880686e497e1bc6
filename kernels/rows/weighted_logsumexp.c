/* log |sum b e^z| and the sign of that sum, row by row: q are the weights b. In two passes, the largest term first. */
#include <math.h>

#include "math/compensated.h"
#include "rows/place.h"

/* The sum of a row with a term that is infinite or NaN, as IEEE 754 has it, of these terms alone. */
static double undefined_sum(place *p)
{
    double sum = 0;
    for (block b = {0, 0}; next_block(&p->c, &b);)
        for (ptrdiff_t c = b.at; c < b.at + b.n; ++c) {
            const double weight = read_element(&p->q, c), z = read_element(&p->x, c);
            if (weight == 0 || (isfinite(weight) && isfinite(z))) continue;
            sum += isnan(z) ? z : z == -INFINITY ? weight * 0 : weight * INFINITY;
        }
    return sum;
}

/* log(s 2^e) for s > 0, by log1p where that is near 1, so that no digit of its distance from 1 is lost. */
static double log_of(compensated s, double e)
{
    if (fabs(e) < 900) {
        s.sum = times_power_of_2(s.sum, e), s.error = times_power_of_2(s.error, e);
        e = 0;
    }
    const double above_1 = (s.sum - 1) + s.error;
    return e * LN2 + (fabs(above_1) < 0.5 ? log1p(above_1) : log(s.sum + s.error));
}

static void put(const task *t, ptrdiff_t row, double log_sum, double sign)
{
    t->loss[row] = log_sum, t->sign[row] = sign;
}

static void one_row(place *p, ptrdiff_t row)
{
    top_term top = {-INFINITY, 0};
    int defined = 1;
    for (block b = {0, 0}; defined && next_block(&p->c, &b);)
        defined = p->k->weighted_max(read_block(&p->x, b), read_block(&p->q, b), b.n, &top);
    if (!defined || top.z == INFINITY) {
        const double sum = undefined_sum(p);
        put(p->t, row, fabs(sum), isnan(sum) ? sum : copysign(1, sum));
        return;
    }
    if (top.z == -INFINITY) {    /* no term but 0 */
        put(p->t, row, top.z, 0);
        return;
    }
    compensated sum = {0, 0};
    for (block b = {0, 0}; next_block(&p->c, &b);)
        p->k->weighted_sum(read_block(&p->x, b), read_block(&p->q, b), b.n, top, &sum);
    const double value = sum.sum + sum.error, sign = value > 0 ? 1 : value < 0 ? -1 : 0;
    const compensated size = {sign * sum.sum, sign * sum.error};
    put(p->t, row, sign == 0 ? -INFINITY : top.z + log_of(size, top.e), sign);
}

void weighted_logsumexp(place *p, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t row = first; row < last && !p->c.stopped; ++row) {
        go_to(p, row);
        one_row(p, row);
    }
}
