/* The numbers of rows that are looked at together, in blocks (row_statistics.c) or as lanes (by_tiles.c). */
#ifndef ROW_STATISTICS_H
#define ROW_STATISTICS_H

#include "blocks/blocks.h"
#include "rows/losses.h"
#include "rows/task.h"

/* Of each row, beside what is in its batch; in arrays by field, as that is. */
typedef struct {
    double far[BATCH];        /* the sum of e^z (max - z), in units of the batch's sum */
    double squares[BATCH]; /* that of 2^-headroom (e^z)^2 below the maximum, in units of its square; where wanted */
    double undefined[BATCH]; /* of a row whose maximum is NaN: its logsumexp */
    int64_t largest[BATCH], above[BATCH];
} row_looks;

/* From what was added up, which is complete now, to the task's numbers. */
void put_numbers(const task *t, row_batch *n, const row_looks *l);

#endif
