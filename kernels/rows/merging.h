/* The losses of rows whose classes lie in several blocks, from the few numbers of each block (`_merging.py`). */
#ifndef MERGING_H
#define MERGING_H

#include <stddef.h>

/* A number of each block and row, float32 or float64, aligned or not. */
typedef struct {
    const char *data;
    ptrdiff_t block, row;    /* bytes from one to the next */
    int is_f64;
} block_numbers;

/* As `crossentropy.blocks` documents them. */
typedef struct {
    ptrdiff_t blocks, rows;
    block_numbers max, rest, target;
} blocks_of_rows;

/* Of rows without any option: the losses, float32 or float64; and where whole is not NULL, the same three numbers of all
 * classes, (3, rows). */
void merge_losses(const blocks_of_rows *of, void *losses, int are_f64, double *whole);

#endif
