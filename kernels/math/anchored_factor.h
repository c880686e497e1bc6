/* What e^z is multiplied by in a gradient, so that neither the factor nor e^z leaves the lanes' range. */
#ifndef ANCHORED_FACTOR_H
#define ANCHORED_FACTOR_H

#include <math.h>

#include "math/anchor.h"

/* e^z at that anchor times factor 2^power, the factor in [1/2, 1). */
typedef struct {
    anchor at;
    double factor, power;
} anchored_factor;

static inline anchored_factor split_factor(double factor, anchor at)
{
    int power = 0;
    anchored_factor f = {at, isfinite(factor) ? frexp(factor, &power) : factor, 0};
    f.power = power;
    return f;
}

/* Where nothing was kept, the power moves into the anchor, where it rounds nothing: a factor of 2^-140 (a small
 * grad_output) would be subnormal in float32, and e^(z-max) below 2^-126 would be lost before a large one. top =
 * e^max at the anchor. */
static inline anchored_factor anchor_factor(int is_f64, double factor, anchor at, double top)
{
    const double most = is_f64 ? 1000 : 120, down = is_f64 ? 64 : 32;    /* 1021 + 64 > 1074, 125 + 32 > 149 */
    anchored_factor f = split_factor(factor, at);
    int up = 0;
    if (!isfinite(factor) || factor == 0) return f;
    frexp(top, &up);
    const double of_p = f.power + up, headroom = of_p + down < most ? of_p + down : most;
    f.at.k = even(at.k + up - headroom);
    f.power += f.at.k - at.k;
    return f;
}

#endif
