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

typedef struct place {
    const task *t;
    const block_functions *k;
    int is_f64, spreads;             /* the sums of class weights are made in the one pass, */
    int spreads_after;               /* or by a pass of their own: so that a backward finds the same bits */
    int whole;                       /* a row is one block, read as it lies */
    lie_of_rows lie;                 /* of rows, from their first class on */
    subtrahend s;                    /* of a row of scale 1 */
    cursor c;
    reader x, q, vector;
    writer out, hess;
    f64 *buffers;                    /* for a block of each array, NULL where none is needed */
    row_batch n;
    ptrdiff_t most_rows;             /* of a batch */
    ptrdiff_t near_rows;             /* that came one after the other with a maximum near 0 */
    exponentials kept;
    int fuses;                       /* float32 lanes for logits that the options change (fused_rows.c), */
    int scales;                      /* by more than a margin: */
    transform_numbers numbers;
    double slope[BATCH];             /* at the targets, over logit_scale */
    f32 *exps;                       /* room for a block of e^z, or of what a distillation keeps */
    quick_shares shares;             /* of a distillation's mixture; of no beta while they are not made */
    quick_job distilled;             /* the row whose gradient waits to be written while the next is read */
    struct place *exact; /* the same thread's, for rows that must go the long way; NULL until there is one */
    gradient_job jobs[BATCH + 1]; /* rows of the batch before this one, and a place for the next */
    hessian_row diagonals[BATCH + 1]; /* what is written beside them; and that of each row, until it goes there: */
    hessian_row diagonal[BATCH];
    int waits[BATCH];
    gradient_queue queue;
} place;

/* Stopped where there is no memory. Exactly: no float32 lanes for logits that the options change. */
void open_place(place *p, const task *t, int exactly);

/* The thread's other place, which reads rows in float64; NULL, and the thread stops, where there is no memory for it. */
place *exact_place(place *p);
void close_place(place *p);

static inline void go_to(place *p, ptrdiff_t row)
{
    if (p->x.transformed && p->t->targets.data) p->x.y = p->n.r.y[row - p->n.row];
    read_from(&p->x, p->t, row);
    read_from(&p->q, p->t, row);
    write_to(&p->out, p->t, row);
}

/* From a class of a row on. */
static inline lie_of_rows lie_from(const place *p, ptrdiff_t class)
{
    lie_of_rows found = p->lie;
    found.left -= class * element_size(p->x.type);
    return found;
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

/* One row to its sums in two passes, maximum first; and the second of these; and to its gradient. */
void read_exactly(place *p, ptrdiff_t i);
void sum_below(place *p, ptrdiff_t i, double max, anchor at);
void write_gradient(place *p, ptrdiff_t i, const row_gradients *g);

/* fused_rows.c: a logit as the options have it, without and with the margin; the row's maximum, from that of the logits as
 * they are. */
double changed(const place *p, double z);
double changed_target(const place *p, double z, double *slope);
double changed_max(place *p, ptrdiff_t i, double max, double z_y);
/* What float32 lanes do not do: by another place, in float64. */
void read_elsewhere(place *p, ptrdiff_t i);
void find_rest_elsewhere(place *p, ptrdiff_t i);    /* of a row whose logits are as they were given */
void write_elsewhere(place *p, ptrdiff_t i, const row_gradients *g);

/* hessians.c: what stands for the batch's second derivatives, from the rows' exponentials or logits. */
void write_hessians(place *p);

/* log_softmax_backward.c, weighted_logsumexp.c, distillation.c */
void log_softmax_backward(place *p, ptrdiff_t first, ptrdiff_t last);
void weighted_logsumexp(place *p, ptrdiff_t first, ptrdiff_t last);
void distillation(place *p, ptrdiff_t first, ptrdiff_t last);
void write_distilled(place *p);    /* what is left of the last row's gradient */

/* row_statistics.c, log_probs_backward.c */
void find_row_statistics(place *p, ptrdiff_t first, ptrdiff_t last);
void log_probs_backward(place *p, ptrdiff_t first, ptrdiff_t last);

#endif
