/* Writing what a batch of rows in blocks yields, while it or its exponentials lie in the L2 cache. */
#include <math.h>

#include "math/anchored_factor.h"
#include "rows/place.h"

/* What is beyond the lanes, in float64 and one by one: x is read already, into the type of the block functions. */
static void gradient_beyond(place *p, block b, const void *x, double factor, double max, subtrahend s, ptrdiff_t entry,
                            double value, void *out)
{
    const double *weights = p->t->options.class_weight;
    const ptrdiff_t size = element_size(p->x.type);
    for (ptrdiff_t i = 0; i < b.n; ++i) {
        const double z = get_element(p->x.type, (const char *)x + i * size);
        const double q = s.q ? get_element(p->q.type, (const char *)s.q + i * element_size(p->q.type)) : 0;
        const double w = weights ? weights[b.at + i] : 1;
        const double grad = times(exp(z - max), factor) - times(w * (s.keep * q + s.floor), s.scale);
        set_element(p->x.type, (char *)out + i * size, b.at + i == entry ? value : grad);
    }
}

void write_waiting(place *p)
{
    for (; p->queue.next < p->queue.end; ++p->queue.next) p->k->gradient(p->queue.next, p->t->classes);
    p->queue.next = p->queue.end = p->jobs;
}

/* Where stores bypass the caches, those to the lines that a row shares with its neighbours do not, and a store that waits
 * for its line holds up all that follow: so these lines are asked for ahead. */
static void prefetch_edges(const place *p, const char *out)
{
#if defined(__GNUC__)
    __builtin_prefetch(out, 1);
    __builtin_prefetch(out + p->t->classes * element_size(p->t->out.type) - 1, 1);
#endif
}

/* Of row i, whose e^z is made again: the product of factor and unit, taken at an anchor where e^max is about 1, since at
 * 2^512 the unit is so small that the product with a small factor is no float64. */
static anchored_factor factor_made_again(const place *p, ptrdiff_t i, double factor)
{
    const batch *b = &p->n.b;
    int up = 0;
    frexp(b->top[i], &up);
    const anchor at = {b->shift[i], b->k[i] + up};
    return anchor_factor(p->is_f64, factor * times_power_of_2(b->unit[i], up), at, times_power_of_2(b->top[i], -up));
}

/* Row i. Where e^z was kept and everything lies where it can be used, it waits in the queue. */
void write_gradient(place *p, ptrdiff_t i, const row_gradients *g)
{
    const task *t = p->t;
    const ptrdiff_t entry = p->n.r.y[i];
    subtrahend s = p->s;
    s.scale *= g->scale[i];
    const double unit = t->options.class_weight_unit, max = p->n.b.max[i];
    const double of_e = g->factor[i] * p->n.b.unit[i], of_p = g->factor[i] * p->n.b.share[i];
    const int beyond = is_beyond(p->is_f64, max, of_p, s.scale * unit);
    const int keeps = !beyond && p->kept.has[i] && suits_kept(p->is_f64, g->factor[i], p->n.b.unit[i]);
    if (p->fuses && (beyond || fabs(max) > anchor_limit(0))) {
        write_elsewhere(p, i, g);    /* there are no transformed logits of which a Hessian is written */
        return;
    }
    hessian_row *beside = t->hess.data && p->waits[i] ? &p->diagonal[i] : NULL;
    const int again = p->scales && !keeps;    /* e^z is made again, block by block */
    const anchor at = {p->n.b.shift[i], p->n.b.k[i]};
    const anchored_factor f = keeps ? split_factor(of_e, at) : factor_made_again(p, i, g->factor[i]);
    if (!beyond) s.scale *= unit;
    for (block b = {0, 0}; next_of(&p->c, &b, again ? BLOCK : p->c.most);) {
        gradient_job *job = p->queue.end;    /* in its place: see row_targets */
        job->kept = keeps ? kept_block(p, i, b) : NULL;
        job->x = keeps ? NULL : read_block(&p->x, b);
        if (again) {
            gradient_queue none = {NULL, NULL};
            double unused;
            p->k->transformed_sum(job->x, b.n, f.at, &p->numbers, -1, p->exps, &none, lie_from(p, b.at), &unused);
            job->kept = p->exps, job->x = NULL;
        }
        job->at = f.at;
        job->factor = f.factor, job->power = f.power;
        job->s.keep = s.keep, job->s.floor = s.floor, job->s.scale = s.scale;
        job->s.q = p->q.row ? read_block(&p->q, b) : NULL;
        job->s.w = weights_block(p, b);
        job->entry = entry < 0 ? -1 : entry - b.at;
        job->value = p->scales ? sloped(p->slope[i], g->value[i]) : g->value[i];
        job->out = block_to_write(&p->out, b);
        job->bypass = p->out.bypass;
        job->n = b.n, job->done = 0;
        job->beside = NULL;
        if (keeps && b.n == t->classes && p->out.direct && !p->x.slope && (!p->q.row || p->q.direct)) {
            if (job->bypass) prefetch_edges(p, job->out);
            if (beside) {
                job->beside = p->diagonals + (job - p->jobs);
                *job->beside = *beside;
                beside = NULL;
            }
            ++p->queue.end;
            continue;
        }
        if (p->x.slope) read_block(&p->x, b);    /* where results may take its place */
        if (beyond) gradient_beyond(p, b, job->x, of_p, max, job->s, entry, job->value, job->out);
        else p->k->gradient(job, b.n);
        for (ptrdiff_t j = 0; j < b.n && p->x.slope; ++j)
            ((f64 *)job->out)[j] = sloped(p->x.slope[j], ((f64 *)job->out)[j]);
        write_block(&p->out, b, job->out);
    }
    if (beside) p->k->hessian(beside, beside->n);
}

static void write_log_softmax(place *p, ptrdiff_t i)
{
    for (block b = {0, 0}; next_whole(&p->c, &b);) {
        void *out = block_to_write(&p->out, b);
        p->k->log_softmax(read_block(&p->x, b), b.n, p->n.b.max[i], p->n.b.log_sum[i], p->n.b.log_sum_off[i], out,
                          p->out.bypass);
        write_block(&p->out, b, out);
    }
}

static void write_row(place *p, ptrdiff_t i, const row_gradients *g)
{
    go_to(p, p->n.row + i);
    if (p->n.r.skipped[i]) fill_row(&p->out, &p->c, 0);
    else if (isnan(p->n.b.max[i])) fill_row(&p->out, &p->c, NAN);
    else if (p->t->work == LOG_SOFTMAX) write_log_softmax(p, i);
    else write_gradient(p, i, g);
}

void write_batch(place *p)
{
    row_gradients g;
    if (p->t->work != LOG_SOFTMAX) find_gradients(p->t, &p->n, &g);
    else if (p->t->statistics) keep_statistics(p->t, &p->n);
    for (ptrdiff_t i = 0; i < p->n.rows && !p->c.stopped; ++i) write_row(p, i, &g);
    p->kept.rows = p->kept.halves[p->kept.rows == p->kept.halves[0]];
}
