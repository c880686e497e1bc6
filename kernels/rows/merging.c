#include "rows/merging.h"

#include <math.h>
#include <string.h>

static inline double number_of(const block_numbers *n, ptrdiff_t block, ptrdiff_t row)
{
    const char *at = n->data + block * n->block + row * n->row;
    if (n->is_f64) {
        double number;
        memcpy(&number, at, sizeof number);
        return number;
    }
    float number;
    memcpy(&number, at, sizeof number);
    return number;
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

void merge_losses(const blocks_of_rows *of, void *losses, int are_f64, double *whole)
{
    for (ptrdiff_t i = 0; i < of->rows; ++i) {
        double top = number_of(&of->max, 0, i), target = number_of(&of->target, 0, i), rest = 0;
        for (ptrdiff_t b = 1; b < of->blocks; ++b) {
            top = larger(top, number_of(&of->max, b, i));
            target = larger(target, number_of(&of->target, b, i));
        }
        int led = 0;    /* the first block that has the maximum: of others with the same it counts as any class does */
        for (ptrdiff_t b = 0; b < of->blocks && isfinite(top); ++b) {
            const double m = number_of(&of->max, b, i), scale = scale_of(top, m);
            const int leads = m == top && !led;
            rest += scale == 0 ? 0 : scale * number_of(&of->rest, b, i) + (leads ? 0 : scale);
            led |= leads;
        }
        if (isnan(top)) rest = NAN;
        const double loss = isfinite(top) ? (top - target) + log1p(rest) : NAN;
        if (are_f64) ((double *)losses)[i] = loss;
        else ((float *)losses)[i] = (float)loss;
        if (whole) whole[i] = top, whole[of->rows + i] = rest, whole[2 * of->rows + i] = target;
    }
}
