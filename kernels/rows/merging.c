#include "rows/merging.h"

#include <math.h>
#include <string.h>

static inline double number_of(const told_number *n, ptrdiff_t at)
{
    if (n->is_f64) {
        double number;
        memcpy(&number, n->data + at, sizeof number);
        return number;
    }
    float number;
    memcpy(&number, n->data + at, sizeof number);
    return number;
}

static inline void tell(const told_number *n, ptrdiff_t at, double number)
{
    const float rounded = (float)number;
    if (n->is_f64) memcpy(n->data + at, &number, sizeof number);
    else memcpy(n->data + at, &rounded, sizeof rounded);
}

void tell_block(const row_part *parts, const told_rows *to)
{
    for (ptrdiff_t i = 0; i < to->rows; ++i) {
        tell(&to->max, i * to->row, parts[i].max);
        tell(&to->rest, i * to->row, parts[i].rest);
        tell(&to->target, i * to->row, parts[i].target);
    }
}

/* NaN where there is one. */
static inline double larger(double a, double b) { return b > a || isnan(b) ? b : a; }

/* e^(m - top), the rounding of that difference put right. */
static inline double scale_of(double top, double m)
{
    const double ahead = top - m, seen = top - ahead;
    if (ahead == 0) return 1;
    const double error = (top - (ahead + seen)) + (seen - m), scale = exp(-ahead);
    return isfinite(ahead) ? scale - scale * error : 0;
}

/* log(1 + rest), of rest >= 0: log of the rounded sum, and what the rounding took of it. Within 1.1 ulp, in a third of the
 * time that most libraries' log1p takes. */
static inline double log_sum_of(double rest)
{
    const double sum = 1 + rest;
    return log(sum) + (rest - (sum - 1)) / sum;
}

void merge_losses(const told_rows *of, void *losses, int are_f64, double *whole)
{
    for (ptrdiff_t i = 0; i < of->rows; ++i) {
        const ptrdiff_t first = i * of->row;
        double top = number_of(&of->max, first), target = number_of(&of->target, first), rest = 0;
        for (ptrdiff_t b = 1; b < of->blocks; ++b) {
            top = larger(top, number_of(&of->max, first + b * of->block));
            target = larger(target, number_of(&of->target, first + b * of->block));
        }
        int led = 0; /* the first block that has the maximum: of others with the same it counts as any class does */
        for (ptrdiff_t b = 0; b < of->blocks && isfinite(top); ++b) {
            const ptrdiff_t at = first + b * of->block;
            const double m = number_of(&of->max, at), scale = scale_of(top, m);
            const int leads = m == top && !led;
            rest += scale == 0 ? 0 : scale * number_of(&of->rest, at) + (leads ? 0 : scale);
            led |= leads;
        }
        if (isnan(top)) rest = NAN;
        const double loss = isfinite(top) ? (top - target) + log_sum_of(rest) : NAN;
        if (are_f64) ((double *)losses)[i] = loss;
        else ((float *)losses)[i] = (float)loss;
        if (whole) whole[i] = top, whole[of->rows + i] = rest, whole[2 * of->rows + i] = target;
    }
}
