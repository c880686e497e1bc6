/* Rows in blocks: a batch of them is read once each (read_rows.c), what was added up becomes losses and gradients
 * (losses.c), and results are written (write_rows.c) while the rows, or their exponentials, lie in the L2 cache. */
#include "rows/parallel.h"
#include "rows/place.h"

/* The queue of a thread reaches over all the rows that it takes. */
static void run_batches(place *p, ptrdiff_t first, ptrdiff_t last)
{
    const task *t = p->t;
    for (p->n.row = first; p->n.row < last && !p->c.stopped; p->n.row += p->n.rows) {
        p->n.rows = last - p->n.row < p->most_rows ? last - p->n.row : p->most_rows;
        read_batch(p);
        if (p->c.stopped) break;
        if (t->parts) keep_parts(t, &p->n);
        else if (t->loss) find_losses(t, &p->n);
        write_waiting(p);
        if (t->hess.data) write_hessians(p);
        if (t->out.data) write_batch(p);
    }
}

void by_rows(const task *t)
{
    ptrdiff_t first, last;
    place p;
    open_place(&p, t, 0);
    while (!p.c.stopped && take_rows(t, &first, &last)) {
        if (t->work == LOG_SOFTMAX_BACKWARD) log_softmax_backward(&p, first, last);
        else if (t->work == WEIGHTED_LOGSUMEXP) weighted_logsumexp(&p, first, last);
        else if (t->work == ROW_STATISTICS) find_row_statistics(&p, first, last);
        else if (t->work == LOG_PROBS_BACKWARD) log_probs_backward(&p, first, last);
        else if (t->work == DISTILLATION) distillation(&p, first, last);
        else run_batches(&p, first, last);
    }
    write_waiting(&p);
    write_distilled(&p);
    close_place(&p);
}
