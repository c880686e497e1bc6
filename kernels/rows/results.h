/* How results leave: the gradient, a softmax or a log-softmax, a block or a tile at a time, straight to where they
 * belong where a block function can write there, else copied, and rounded where they were made in float64. */
#ifndef RESULTS_H
#define RESULTS_H

#include "rows/cursor.h"
#include "rows/layout.h"
#include "rows/task.h"

/* ------------------------------------------------------------------ blocks */

typedef struct {
    const array *a;
    int direct;        /* block functions write to the array itself */
    int bypass;        /* by stores that bypass the caches */
    element type;      /* that they write in */
    int narrows;       /* it is not that of the results: */
    int plain;         /* these may be written as they lie, */
    convert_function *narrow; /* and are of 16 bits, and made in float32; or NULL */
    void *narrowed;    /* room for a block of results */
    void *buffer;      /* BLOCK elements of float64's size, where they do not */
    char *row;         /* the row that is written, NULL where there is no array */
} writer;

/* Of the task's results, which block functions write in that type; without its buffer. */
writer writer_of(const task *t, element type);
void write_as(writer *w, const task *t, const array *a);    /* to another array than that */

static inline void write_to(writer *w, const task *t, ptrdiff_t row)
{
    w->row = w->a->data ? row_of(t, w->a, row) : NULL;
}

/* Where a block function writes the block. */
static inline void *block_to_write(writer *w, block b)
{
    return w->direct ? w->row + b.at * w->a->class_stride : w->buffer;
}

/* The block that was written there leaves. */
static inline void write_block(writer *w, block b, const void *from)
{
    if (w->narrow) {
        w->narrow(from, w->row + b.at * w->a->class_stride, b.n, w->bypass ? BYPASS_UNFENCED : 0);
        return;
    }
    if (w->narrows) {
        narrow_elements(w->type, from, w->a->type, b.n, w->narrowed);
        from = w->narrowed;
    }
    if (!w->direct) scatter(w->a, from, b.n, w->row + b.at * w->a->class_stride);
}

/* The same value in the whole row. */
void fill_row(writer *w, cursor *c, double value);

/* ------------------------------------------------------------------ tiles */

typedef struct {
    const task *t;
    const block_functions *k;
    ptrdiff_t lanes;
    int columns;     /* the rows lie side by side */
    int direct;
    int runs;        /* the rows lie one after the other, in the lanes' type */
    char *copies;    /* (BATCH, classes) elements of float64's size */
    int narrows;     /* the tile is of float64, the results are not of that: */
    void *narrowed;    /* room for a row of results */
} tile_writer;

/* From a tile of lanes of that type. */
tile_writer tile_writer_of(const task *t, element type, int columns, char *copies);

void write_tile(const tile_writer *w, ptrdiff_t row, ptrdiff_t rows, const char *tile);

/* Up to here the rows of a tile reach, so that the stores of those that follow are whole, aligned vectors and can
 * bypass the caches. */
ptrdiff_t rows_to_aligned(const tile_writer *w, ptrdiff_t row, ptrdiff_t rows);

#endif
