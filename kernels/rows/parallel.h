/* Threads, and what each of them does: it takes rows until there are none. */
#ifndef PARALLEL_H
#define PARALLEL_H

#include "rows/task.h"

/* The next rows, from first up to last; 0 where there are none left, or the call was told to stop. */
int take_rows(const task *t, ptrdiff_t *first, ptrdiff_t *last);

void ran_out_of_memory(const task *t);

/* What run() starts on every thread. */
void by_rows(const task *t);       /* rows in blocks of classes */
void by_tiles(const task *t);      /* the same work for many rows at once */
void by_streams(const task *t);    /* the roofs that a kernel's time is held against; they compute nothing */
void by_products(const task *t);   /* shares of a product of matrices, or of a conversion */
void by_elements(const task *t);   /* losses of one logit each */
void by_biases(const task *t);     /* a bias, which is added to logits; the gradient on it */

#endif
