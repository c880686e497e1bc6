/* grad = g - p sum(g), row by row: q is g. For the class y that leads, p_y > 1/2, that would cancel, and it is
 * g_y (1 - p_y) - p_y sum_{c != y} g_c with 1 - p_y = rest / (1 + rest). */
#include <math.h>

#include "math/anchored_factor.h"
#include "math/compensated.h"
#include "rows/place.h"

/* What is beyond the lanes (is_beyond), in float64 and one by one. */
static void write_beyond(const place *p, const void *x, const void *g, ptrdiff_t n, const moved *m, double share,
                         void *out)
{
    const ptrdiff_t size = element_size(p->x.type);
    for (ptrdiff_t i = 0; i < n; ++i) {
        const double z = get_element(p->x.type, (const char *)x + i * size);
        const double a = get_element(p->x.type, (const char *)g + i * size);
        const double grad = a - times(exp(z - m->top), share);
        set_element(p->x.type, (char *)out + i * size, z == m->top && m->leads ? m->at_top : grad);
    }
}

static arrived sum_arriving(place *p, double top, int leads, int exactly)
{
    arrived sums = {{0, 0}, 0, 0};
    for (block b = {0, 0}; next_block(&p->c, &b);)
        p->k->arriving(read_block(&p->q, b), leads ? read_block(&p->x, b) : NULL, b.n, top, exactly, &sums);
    return sums;
}

/* So much of a sum, without or with the class that leads, that its error in float64, 2^-44 of the terms' size over a
 * BLOCK, might show in float32. NaN and infinite sums do, too. */
static int cancels(const arrived *sums)
{
    const double others = sums->others.sum, all = others + sums->leader, size = sums->size;
    return !(fabs(others) >= 0x1p-17 * size && fabs(all) >= 0x1p-17 * (size + fabs(sums->leader)));
}

static void write_row(place *p, const row_statistics *s)
{
    const int leads = s->rest < 1;
    arrived sums = sum_arriving(p, s->max, leads, p->is_f64);
    if (!p->is_f64 && cancels(&sums)) sums = sum_arriving(p, s->max, leads, 1);
    compensated all = sums.others;
    compensated_add(&all, sums.leader);
    const double others = compensated_value(sums.others), share = compensated_value(all) / (1 + s->rest);
    const anchor at = anchor_at(s->max, 0, p->is_f64);
    const double top = exp_at(at, s->max);
    const anchored_factor f = anchor_factor(p->is_f64, share / top, at, top);
    const double leader = (times(s->rest, sums.leader) - others) / (1 + s->rest);
    const moved m = {f.at, times_power_of_2(f.factor, f.power), s->max, leads ? leader : share, leads};
    const int beyond = is_beyond(p->is_f64, s->max, share, 0);
    for (block b = {0, 0}; next_whole(&p->c, &b);) {
        void *out = block_to_write(&p->out, b);
        const void *x = read_block(&p->x, b), *g = read_block(&p->q, b);
        if (beyond) write_beyond(p, x, g, b.n, &m, share, out);
        else p->k->log_softmax_backward(x, g, b.n, &m, out, p->out.bypass);
        write_block(&p->out, b, out);
    }
}

void log_softmax_backward(place *p, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t row = first; row < last && !p->c.stopped; ++row) {
        const row_statistics *s = p->t->statistics + row;
        go_to(p, row);
        if (isnan(s->max)) fill_row(&p->out, &p->c, NAN);
        else write_row(p, s);
    }
}
