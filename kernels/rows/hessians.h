/* What stands for the second derivative of the loss beside its gradient: from the numbers of a row, for rows in blocks
 * and for tiles alike. */
#ifndef HESSIANS_H
#define HESSIANS_H

#include "rows/losses.h"

/* Of the Hessian scale (a (diag p - p p^T) + b p p^T), with the factor of a diagonal in it. */
typedef struct {
    double factor, second;    /* scale a, scale b */
    double at_top;            /* of the class that leads, if any does: factor p (1 - p) + second p^2 */
    double least;             /* no entry is below */
    double bound;             /* what stands for all of it in an upper bound */
} row_hessian;

/* Of a row of weight v, whose gradient is found: factor is that of p there, scale a; share and rest as in batch.h. */
row_hessian find_hessian(const task *t, ptrdiff_t row, double v, double factor, double share, double rest);

/* The factor of a diagonal over that of p, and of a bound; and what no entry of a diagonal is below, of a row of that
 * scale. */
double hessian_by(const task *t);
double bound_by(const task *t);
double least_of_hessian(const task *t, double one);

/* Those of a tile of exponentials, into another, of rows that went the long way; of others: blocks/near.h. */
void find_tile_hessians(const task *t, const row_batch *n, const char *tile, char *to);

#endif
