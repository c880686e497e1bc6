/* What math/transform.h needs of a call's scale a and cap c, in float32. */
#ifndef TRANSFORM_NUMBERS_H
#define TRANSFORM_NUMBERS_H

#include <math.h>
#include <string.h>

#include "math/anchor.h"
#include "types.h"

/* The errors grow with c, and what is made of a / c must have a float32. */
static inline int suits_float32(double a, double c)
{
    const double of_u = c == 0 ? 1 : a / c;
    return c <= 64 && of_u >= 0x1p-12 && of_u <= 0x1p10 && a >= 0x1p-18 && a <= 0x1p18;
}

/* The numbers of a call: a, and c or 0; these as float32, and what they leave over; and what else is made of them. */
typedef struct {
    f32 a, a_low;
    int scales;    /* a is not 1 */
    f32 a_to_n, a_per_n, a_per_n_low;    /* between z, n and r = a (z - n ln2 / a) */
    f32 c, c_low, per_c;
    f32 small;      /* z^2 up to which d is small */
    f32 d[4];       /* d / z^3 by powers of z^2 */
    f32 most;       /* |z| past which e^(-2u) is 0 */
    f32 to_n, per_n, per_n_low, to_r, to_r_low;    /* between |z|, n and r */
} transform_numbers;

static inline transform_numbers transform_numbers_of(double a, double c)
{
    /* (u - tanh u) / u^3 by powers of u^2 up to 0.1: fit error 2e-8. */
    static const double series[4] = {-0.0201910946857, 0.053865136191, -0.13333128499, 0.33333332694};
    transform_numbers t;
    memset(&t, 0, sizeof t);
    t.a = (f32)a, t.a_low = (f32)(a - (double)t.a);
    t.scales = a != 1;
    t.a_to_n = (f32)(a * LOG2E);
    /* 15 bits, as those of ln2 (exp.h). */
    int e;
    const double m = rounded(frexp(LN2 / a, &e) * 0x1p15);
    t.a_per_n = (f32)ldexp(m, e - 15), t.a_per_n_low = (f32)(LN2 / a - (double)t.a_per_n);
    if (c == 0) return t;
    const double of_u = a / c, twice = 2 * of_u, per_n = LN2 / twice,
                 small = cbrt(0.75 / c < 0.0316 ? 0.75 / c : 0.0316);
    t.c = (f32)c, t.c_low = (f32)(c - (double)t.c), t.per_c = (f32)(1 / c);
    t.small = (f32)(small * small / (of_u * of_u));
    for (int i = 0; i < 4; ++i) t.d[i] = (f32)(series[i] * c * pow(of_u, 9 - 2 * i));
    t.most = (f32)(160 / twice);
    t.to_n = (f32)(-twice * LOG2E);
    t.per_n = (f32)per_n, t.per_n_low = (f32)(twice * (double)t.per_n - LN2);
    t.to_r = (f32)-twice, t.to_r_low = (f32)(-twice - (double)t.to_r);
    return t;
}

#endif
