/* How logits are read, and other arrays of rows like them: a block, an element or a tile at a time, as they lie where
 * that will do, else copied. logits.c says how an elementwise transform of the logits would be added. */
#ifndef LOGITS_H
#define LOGITS_H

#include "rows/cursor.h"
#include "rows/layout.h"
#include "rows/task.h"

/* ------------------------------------------------------------------ blocks */

typedef struct {
    const array *a;
    element type;        /* that the blocks are read in */
    int direct;          /* as they lie */
    void *buffer;        /* BLOCK elements of float64's size, where they are not */
    const char *row;     /* the row that is read, NULL where there is no array */
    const char *held;    /* the block that the buffer holds, so that a short row is copied once for all passes */
} reader;

/* Of an array whose blocks are read in that type; without its buffer. */
reader reader_of(const task *t, const array *a, element type);

static inline void read_from(reader *r, const task *t, ptrdiff_t row)
{
    r->row = r->a->data ? row_of(t, r->a, row) : NULL;
    r->held = NULL;
}

/* The block at `from`, copied into the buffer. */
const void *copied_block(reader *r, const char *from, ptrdiff_t n);

static inline const void *read_block(reader *r, block b)
{
    const char *from = r->row + b.at * r->a->class_stride;
    return r->direct ? from : copied_block(r, from, b.n);
}

/* Of the row, in float64. */
double read_element(const reader *r, ptrdiff_t c);

/* ------------------------------------------------------------------ tiles */

typedef struct {
    const task *t;
    const array *a;
    const block_functions *k;    /* of the array's type; NULL where that has other lanes than the tile */
    element type;                /* of the tile's lanes */
    ptrdiff_t lanes;
    int columns;                 /* the rows lie side by side */
    int direct;
    int runs;                    /* the rows lie one after the other, in the lanes' type */
    char *copies;                /* (BATCH, classes) elements of float64's size */
} tile_reader;

tile_reader tile_reader_of(const task *t, const array *a, int columns, char *copies);

/* The rows from that one on, as lanes (blocks/tile.h). Up to `last` rows may be read, for nothing. */
void read_tile(const tile_reader *r, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t last, char *tile);

#endif
