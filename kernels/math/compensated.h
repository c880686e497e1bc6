/* A float64 sum that carries its rounding error (Knuth's TwoSum), for terms of either sign. */
#ifndef COMPENSATED_H
#define COMPENSATED_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    double sum, error;
} compensated;

static inline void compensated_add(compensated *c, double a)
{
    const double sum = c->sum + a, kept = sum - c->sum;
    c->error += (c->sum - (sum - kept)) + (a - kept);
    c->sum = sum;
}

static inline void compensated_join(compensated *c, compensated other)
{
    compensated_add(c, other.sum);
    c->error += other.error;
}

static inline double upper_half(double a)    /* 26 bits of it */
{
    uint64_t bits;
    memcpy(&bits, &a, sizeof bits);
    bits &= ~(uint64_t)0x7ffffff;
    memcpy(&a, &bits, sizeof a);
    return a;
}

/* c / by, for a by from 1 to 2. The quotient is rounded, and what it is short of becomes its error: sum by is taken
 * exactly, half by half, because the base ISA has no FMA. */
static inline compensated unscaled(compensated c, double by)
{
    if (by == 1) return c;
    const double sum = c.sum / by, high = upper_half(sum), low = sum - high, of_by = upper_half(by), rest = by - of_by;
    const double over = (((c.sum - high * of_by) - high * rest) - low * of_by) - low * rest;
    const compensated result = {sum, (over + c.error) / by};
    return result;
}

static inline double compensated_value(compensated c)
{
    return isfinite(c.sum) ? c.sum + c.error : c.sum;    /* the error of an infinite sum is NaN */
}

/* The sum of n numbers, always in the same order: in blocks whose own sums are added with their rounding errors. */
double total_of(const double *a, ptrdiff_t n);

#endif
