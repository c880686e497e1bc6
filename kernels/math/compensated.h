/* A float64 sum that carries its rounding error (Knuth's TwoSum), for terms of either sign. */
#ifndef COMPENSATED_H
#define COMPENSATED_H

#include <math.h>
#include <stddef.h>

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

static inline double compensated_value(compensated c)
{
    return isfinite(c.sum) ? c.sum + c.error : c.sum;    /* the error of an infinite sum is NaN */
}

/* The sum of n numbers, always in the same order: in blocks whose own sums are added with their rounding errors. */
double total_of(const double *a, ptrdiff_t n);

#endif
