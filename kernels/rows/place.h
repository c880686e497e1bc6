/* One thread's place among rows in blocks (by_rows.c): the batch that it is at, and what it reads, keeps and writes
 * with. */
#ifndef PLACE_H
#define PLACE_H

#include "blocks/blocks.h"
#include "rows/cursor.h"
#include "rows/logits.h"
#include "rows/losses.h"
#include "rows/results.h"
#include "rows/task.h"

/* The exponentials of two batches, one of which is written while the other is read. */
typedef struct {
    char *memory, *halves[2];    /* NULL: nothing is kept */
    char *rows;                  /* those of this batch, stride bytes from row to row */
    ptrdiff_t stride;
    int has[BATCH];
} exponentials;

typedef struct {
    const task *t;
    const block_functions *k;
    int is_f64, spreads;
    int whole;                       /* a row is one block, read as it lies */
    subtrahend s;                    /* of a row of scale 1 */
    cursor c;
    reader x, q, vector;
    writer out, hess;
    f64 *buffers;                    /* for a block of each array, NULL where none is needed */
    row_batch n;
    ptrdiff_t most_rows;             /* of a batch */
    ptrdiff_t near_rows;             /* that came one after the other with a maximum near 0 */
    exponentials kept;
    gradient_job jobs[BATCH + 1];    /* rows of the batch before this one, and a place for the next */
    gradient_queue queue;
} place;

/* Stopped where there is no memory. */
void open_place(place *p, const task *t);
void close_place(place *p);

static inline void go_to(place *p, ptrdiff_t row)
{
    read_from(&p->x, p->t, row);
    read_from(&p->q, p->t, row);
    write_to(&p->out, p->t, row);
}

/* A block of a row's exponentials, and of the class weights, in the lanes' type. */
static inline char *kept_block(const place *p, ptrdiff_t i, block b)
{
    return p->kept.rows + i * p->kept.stride + b.at * (p->is_f64 ? 8 : 4);
}
static inline const void *weights_block(const place *p, block b)
{
    const char *w = p->t->options.class_weight_real;
    return w ? w + b.at * (p->is_f64 ? 8 : 4) : NULL;
}

/* read_rows.c: the batch from its rows to everything up to its results. */
void read_batch(place *p);

/* write_rows.c: the batch's results, and what waited to be written while it was read. */
void write_batch(place *p);
void write_waiting(place *p);

/* log_softmax_backward.c, weighted_logsumexp.c, distillation.c */
void log_softmax_backward(place *p, ptrdiff_t first, ptrdiff_t last);
void weighted_logsumexp(place *p, ptrdiff_t first, ptrdiff_t last);
void distillation(place *p, ptrdiff_t first, ptrdiff_t last);

#endif
