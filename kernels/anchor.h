/* Where a row's exponentials are anchored, and e^z of one number there, in float64. */
#ifndef ANCHOR_H
#define ANCHOR_H

#include <math.h>

#include "kernels.h"

#define LOG2E 0x1.71547652b82fep+0
#define LN2_HI_F64 0x1.62e42fefa4000p-1    /* 41 bits: n * ln2_hi is exact for |n| < 2^12 */
#define LN2_LO_F64 -0x1.8432a1b0e2634p-43

/* Up to this |m| logits are used as they are. Above it, m is subtracted from them first: exactly, by Sterbenz' lemma,
 * for every class above m/2, and e^(m/2 - m) is below the type's smallest number. It also bounds n (exp.h). */
static inline double anchor_limit(int is_f64) { return is_f64 ? 2048 : 256; }

/* The anchor at which e^max becomes about 2^headroom. */
static inline anchor anchor_at(double max, double headroom, int is_f64)
{
    anchor a;
    a.shift = fabs(max) > anchor_limit(is_f64) ? max : 0;
    a.k = nearbyint((max - a.shift) * LOG2E) - headroom;
    return a;
}

/* Error below 1 ulp of float64: 1/2 for exp, 1/4 for the rounding of r. */
static inline double exp_at(anchor a, double z)
{
    const double y = z - a.shift, n = nearbyint(y * LOG2E);
    return ldexp(exp((y - n * LN2_HI_F64) - n * LN2_LO_F64), (int)(n - a.k));
}

#endif
