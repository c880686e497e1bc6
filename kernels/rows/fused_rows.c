/* Rows whose logits go through scale, softcap and margin, in float32 lanes (blocks/transformed.h): what is of a row, and the
 * way by float64 for rows that these lanes do not serve: with a maximum far from where it was guessed, or far from 0, or
 * whose sum must leave out a class that leads. */
#include <math.h>

#include "rows/place.h"

double changed(const place *p, double z)
{
    const row_options *o = &p->t->options;
    if (p->scales) p->t->isa->transform(&z, 1, o->logit_scale, o->softcap, NULL);
    return z;
}

double changed_target(const place *p, double z, double *slope)
{
    const row_options *o = &p->t->options;
    *slope = 1;
    if (p->scales) p->t->isa->transform(&z, 1, o->logit_scale, o->softcap, slope);
    return z - o->margin;
}

/* The largest logit but that of the target. */
static double max_of_others(place *p, ptrdiff_t y)
{
    const ptrdiff_t size = element_size(p->x.type);
    double max = -INFINITY;
    for (block b = {0, 0}; next_block(&p->c, &b);) {
        const char *x = read_block(&p->x, b);
        const ptrdiff_t before = y < b.at ? 0 : y - b.at < b.n ? y - b.at : b.n, after = y < b.at ? 0 : before + 1;
        const double top = fmax(p->k->max(x, before),
                                after < b.n ? p->k->max(x + after * size, b.n - after) : -INFINITY);
        max = top > max ? top : max;
    }
    return max;
}

double changed_max(place *p, ptrdiff_t i, double max, double z_y)
{
    const double margin = p->t->options.margin;
    const int lowered = margin > 0 && changed(p, max) - margin == z_y;
    const double top = changed(p, lowered ? max_of_others(p, p->n.r.y[i]) : max);
    return z_y > top ? z_y : top;
}

static place *elsewhere(place *p, ptrdiff_t i)
{
    place *e = exact_place(p);
    if (!e) return NULL;
    e->n.row = p->n.row + i, e->n.rows = 1;
    e->n.r.v[0] = p->n.r.v[i], e->n.r.y[0] = p->n.r.y[i], e->n.r.skipped[0] = e->n.r.bad[0] = 0;
    go_to(e, e->n.row);
    return e;
}

void read_elsewhere(place *p, ptrdiff_t i)
{
    place *e = elsewhere(p, i);
    batch *to = &p->n.b;
    if (!e) return;
    const batch *b = &e->n.b;
    e->n.b.z[0] = p->n.b.z[i];
    read_exactly(e, 0);
    p->c.stopped = p->c.stopped || e->c.stopped;
    p->kept.has[i] = 0;
    to->max[i] = b->max[0], to->shift[i] = b->shift[0], to->k[i] = b->k[0], to->sum[i] = b->sum[0];
    to->sum_error[i] = b->sum_error[0], to->base[i] = b->base[0], to->own[i] = b->own[0];
    if (!(fabs(b->max[0]) <= anchor_limit(0))) return;
    /* To where float32 has its anchor. */
    const anchor at = anchor_at(b->max[0], sum_headroom(0), 0);
    to->sum[i] = times_power_of_2(to->sum[i], b->k[0] - at.k), to->sum_error[i] = 0, to->k[i] = at.k;
}

void find_rest_elsewhere(place *p, ptrdiff_t i)
{
    place *e = elsewhere(p, i);
    if (!e) return;
    sum_below(e, 0, p->n.b.max[i], anchor_at(p->n.b.max[i], sum_headroom(1), 1));
    p->t->isa->complete(&e->n.b, 1, 0, 1);
    p->c.stopped = p->c.stopped || e->c.stopped;
    set_rest(&p->n.b, i, e->n.b.rest[0]);
}

void write_elsewhere(place *p, ptrdiff_t i, const row_gradients *g)
{
    place *e = elsewhere(p, i);
    if (!e) return;
    const batch *b = &p->n.b;
    batch *to = &e->n.b;
    const row_gradients row = {{g->factor[i]}, {g->scale[i]}, {g->value[i]}};
    /* At the anchor of float64, of the maximum alone: so that a backward, whose sums are gone, finds the same bits. */
    const anchor at = anchor_at(b->max[i], sum_headroom(1), 1);
    to->max[0] = b->max[i], to->shift[0] = at.shift, to->k[0] = at.k;
    to->sum[0] = to->sum_error[0] = to->own[0] = 0, to->base[0] = b->rest[i], to->z[0] = b->z[i];
    p->t->isa->complete(to, 1, 1, 1);
    e->kept.has[0] = 0;
    write_gradient(e, 0, &row);
    p->c.stopped = p->c.stopped || e->c.stopped;
}
