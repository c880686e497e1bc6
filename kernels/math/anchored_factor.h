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

/* By the exponent's bits where that is a normal number, since frexp is a call. */
static inline anchored_factor split_factor(double factor, anchor at)
{
    int power = 0;
    uint64_t bits;
    memcpy(&bits, &factor, sizeof bits);
    const uint64_t exponent = bits >> 52 & 0x7ff;
    if (exponent - 1 < 0x7fe) {
        power = (int)exponent - 1022;
        bits = (bits & ~((uint64_t)0x7ff << 52)) | (uint64_t)1022 << 52;
        memcpy(&factor, &bits, sizeof bits);
    } else if (exponent == 0) factor = frexp(factor, &power);
    const anchored_factor f = {at, factor, power};
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
