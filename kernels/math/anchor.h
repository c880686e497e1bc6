/* Where a row's exponentials are anchored, and e^z of one number there, in float64. */
#ifndef ANCHOR_H
#define ANCHOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* e^z is held as e^(z - shift) 2^(-k). */
typedef struct {
    double shift;    /* 0, or the row's maximum where that passes anchor_limit */
    double k;        /* an integer */
} anchor;

#define LOG2E 0x1.71547652b82fep+0
#define LN2 0x1.62e42fefa39efp-1
#define LN2_HI 0x1.62e42fefa4000p-1    /* 41 bits: n * ln2_hi is exact for |n| < 2^12 */
#define LN2_LO -0x1.8432a1b0e2634p-43

/* Up to this |m| logits are used as they are. Above it, m is subtracted from them first: exactly, by Sterbenz' lemma,
 * for every class above m/2, and e^(m/2 - m) is below the type's smallest number. It also bounds n (exp.h). */
static inline double anchor_limit(int is_f64) { return is_f64 ? 2048 : 256; }

/* a 2^j; by the exponent's bits where that is a normal number, since ldexp is a call. */
static inline double times_power_of_2(double a, double j)
{
    if (!(fabs(j) < 1000)) return ldexp(a, (int)j);
    const uint64_t bits = (uint64_t)(1023 + (int64_t)j) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return a * power;
}

/* To the nearest integer, for |a| < 2^51: nearbyint is a call too, below SSE4.1. */
static inline double rounded(double a) { return (a + 0x1.8p52) - 0x1.8p52; }

/* To an even integer. Each k of a row's anchor is one: without FMA z log2e may lie halfway between two integers to the bit,
 * where which is taken hangs on whether k is odd (exp.h); the gradient of fused and of saved rows would differ. */
static inline double even(double a) { return 2 * rounded(0.5 * a); }

/* The anchor at which e^max becomes about 2^headroom (which is even). */
static inline anchor anchor_at(double max, double headroom, int is_f64)
{
    anchor a;
    a.shift = fabs(max) > anchor_limit(is_f64) ? max : 0;
    a.k = even((max - a.shift) * LOG2E) - headroom;
    return a;
}

/* The rounding of r adds at most 1/4 ulp of float64 to that of the C library's exp. */
static inline double exp_at(anchor a, double z)
{
    const double y = z - a.shift, n = rounded(y * LOG2E);
    if (y < (a.k - 1100) * LN2) return 0;    /* below the smallest number; -inf and -1e308 have no n */
    return times_power_of_2(exp((y - n * LN2_HI) - n * LN2_LO), n - a.k);
}

#endif
