/* What is told of rows whose classes lie in several blocks, a record of three numbers of each row and block, and the losses
 * that come of the records of all blocks (`_merging.py`): of rows without any option. */
#ifndef MERGING_H
#define MERGING_H

#include "rows/task.h"

/* A number of each block and row, float32 or float64, aligned or not. */
typedef struct {
    char *data;
    int is_f64;
} told_number;

/* As `crossentropy.blocks` documents them. */
typedef struct {
    ptrdiff_t blocks, rows;
    ptrdiff_t block, row; /* bytes from one to the next */
    told_number max, rest, target;
} told_rows;

/* What a forward has found of one block, into its records. */
void tell_block(const row_part *parts, const told_rows *to);

/* The losses, float32 or float64; and where whole is not NULL, the same three numbers of all classes, (3, rows). */
void merge_losses(const told_rows *of, void *losses, int are_f64, double *whole);

#endif
