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

/* Those of a tile of exponentials, into another: of rows that went the long way; of those that went the short one. */
void find_tile_hessians(const task *t, const row_batch *n, const char *tile, char *to);
void find_usual_hessians(const task *t, const usual_rows *u, const batch *b, ptrdiff_t row, ptrdiff_t rows,
                         const char *tile, char *to);

#endif
