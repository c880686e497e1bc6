/* How logits are read, and other arrays of rows like them: a block, an element or a tile at a time, as they lie where
 * that will do, else copied; and what the options make of logits on the way (logits.c). */
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
    ptrdiff_t held;      /* where the buffer's block begins, or -1: a short row is copied once for all passes */
    const task *transformed;    /* whose options change what is read, or NULL */
    int64_t y;           /* the class that a margin lowers */
    f64 *slope;          /* of the block that the buffer holds; NULL where it is logit_scale alone */
    void *raw;           /* room for the block as it was given, where it can't be read as it lies */
    int plain;           /* the array's own numbers may be read as they lie, */
    convert_function *widen; /* and are of 16 bits, and read as float32; or NULL */
} reader;

/* Of an array whose blocks are read in that type; without its buffer. */
reader reader_of(const task *t, const array *a, element type);

/* Of the logits as the options have them, in float64; without its buffers. */
reader transformed_reader_of(const task *t);

static inline void read_from(reader *r, const task *t, ptrdiff_t row)
{
    r->row = r->a->data ? row_of(t, r->a, row) : NULL;
    r->held = -1;
}

/* The block, copied into the buffer. */
const void *copied_block(reader *r, block b);

static inline const void *read_block(reader *r, block b)
{
    return r->direct ? r->row + b.at * r->a->class_stride : copied_block(r, b);
}

/* Of the row, in float64. */
double read_element(const reader *r, ptrdiff_t c);

/* ------------------------------------------------------------------ tiles */

typedef struct {
    const task *t;
    const array *a;
    const block_functions *k; /* of the array's type; NULL where that has other lanes than the tile */
    element type; /* of the tile's lanes */
    ptrdiff_t lanes;
    int columns; /* the rows lie side by side */
    int direct;
    int runs; /* the rows lie one after the other, in the lanes' type */
    char *copies; /* (BATCH, classes) elements of float64's size */
    int transforms; /* into logits as the options have them, but for the margin */
    f64 *slope; /* of the tile, where a softcap gives each logit one of its own */
    void *raw; /* room for a row as it was given */
} tile_reader;

/* Into a tile of lanes of that type. */
tile_reader tile_reader_of(const task *t, const array *a, element type, int columns, char *copies);

/* The rows from that one on, as lanes (blocks/tile.h). Up to `last` rows may be read, for nothing. */
void read_tile(const tile_reader *r, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t last, char *tile);

#endif
