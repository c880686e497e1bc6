/* The divergence of the softmax of x from that of a teacher's logits q, both over T, and its gradient on x. With
 * d_c = log p_s,c - log p_t,c, phi(d) = e^d - 1 - d and m = beta p_t + (1 - beta) p_s:
 *
 *   forward    T^2 sum p_t phi(d)                    T (p_s - p_t) = T p_t (e^d - 1)
 *   reverse    T^2 sum p_s phi(-d)                   T p_s (d - KL)
 *   js         T^2 (beta KL(p_t || m) + (1 - beta) KL(p_s || m))      T (1 - beta) p_s (log(p_s / m) - KL(p_s || m))
 *
 * d_c = x_c - log sum p_t e^(x_c), where x_c are the differences of the logits less that of one class, so that no digit
 * of it is lost where the rows are nearly equal, up to a constant. A pair of rows stays in the L2 cache for all passes. */
#include <math.h>

#include "rows/place.h"

static double largest(place *p, const reader *r)
{
    double max = -INFINITY;
    reader own = *r;
    for (block b = {0, 0}; next_block(&p->c, &b);) {
        const double top = p->k->max(read_block(&own, b), b.n);
        max = isnan(top) || top > max ? top : max;
        if (isnan(max)) break;
    }
    return max;
}

/* What the logits of the first class differ by that neither row masks. */
static void find_base(place *p, distilled *r)
{
    for (ptrdiff_t c = 0; c < p->t->classes; ++c) {
        const double x = read_element(&p->x, c), q = read_element(&p->q, c), d = x - q, seen = x - d;
        if (!isfinite(x) || !isfinite(q)) continue;
        r->base = d;
        r->base_error = (x - (d + seen)) + (seen - q);
        if (!isfinite(d)) r->base = r->base_error = 0;
        return;
    }
}

static void find_shift(distilled *r, const distilled_totals *t)
{
    const double of_x = compensated_value(t->of_x), of_q = compensated_value(t->of_q);
    r->unit_x = 1 / of_x, r->unit_q = 1 / of_q;
    if (t->most <= DISTILLED_NEAR) {
        r->shift = log1p(compensated_value(t->shift) / of_q);
        return;
    }
    const double of_anchors = (r->of_x.shift - r->of_q.shift) + (r->of_x.k - r->of_q.k) * LN2;
    r->shift = (of_anchors - r->base * r->inverse) + (log(of_x / of_q) - r->base_error * r->inverse);
}

static void one_row(place *p, ptrdiff_t row, double weight)
{
    const task *t = p->t;
    const distillation_task *of = &t->distilled;
    distilled r = {.kind = of->kind, .inverse = 1 / of->temperature, .beta = of->beta};
    const double max_x = largest(p, &p->x), max_q = largest(p, &p->q);
    if (!isfinite(max_x) || !isfinite(max_q)) {
        t->loss[row] = NAN;
        fill_row(&p->out, &p->c, NAN);
        return;
    }
    r.of_x = anchor_at(max_x * r.inverse, sum_headroom(1), 1);
    r.of_q = anchor_at(max_q * r.inverse, sum_headroom(1), 1);
    find_base(p, &r);
    distilled_totals totals = {{0, 0}, {0, 0}, {0, 0}, 0};
    for (block b = {0, 0}; next_block(&p->c, &b);)
        p->k->distilled_sums(read_block(&p->x, b), read_block(&p->q, b), b.n, &r, &totals);
    find_shift(&r, &totals);
    compensated sums[2] = {{0, 0}, {0, 0}};
    for (block b = {0, 0}; next_block(&p->c, &b);)
        p->k->distilled_terms(read_block(&p->x, b), read_block(&p->q, b), b.n, &r, sums);
    const double first = compensated_value(sums[0]), second = compensated_value(sums[1]);
    const double loss = of->kind == JENSEN_SHANNON ? of->beta * first + (1 - of->beta) * second : first;
    t->loss[row] = weight * (of->temperature * of->temperature * loss);
    r.loss = of->kind == JENSEN_SHANNON ? second : first;
    r.scale = t->row_scale[row * t->row_scale_step] * weight * of->temperature;
    if (of->kind == JENSEN_SHANNON) r.scale *= 1 - of->beta;
    if (of->kind == REVERSE_KL && isinf(r.loss)) {
        fill_row(&p->out, &p->c, NAN);
        return;
    }
    for (block b = {0, 0}; next_whole(&p->c, &b);) {
        void *out = block_to_write(&p->out, b);
        p->k->distilled_gradient(read_block(&p->x, b), read_block(&p->q, b), b.n, &r, out, p->out.bypass);
        write_block(&p->out, b, out);
    }
}

void distillation(place *p, ptrdiff_t first, ptrdiff_t last)
{
    const double *v = p->t->options.sample_weight;
    for (ptrdiff_t row = first; row < last && !p->c.stopped; ++row) {
        go_to(p, row);
        if (!v || v[row] != 0) {
            one_row(p, row, v ? v[row] : 1);
            continue;
        }
        p->t->loss[row] = 0;
        fill_row(&p->out, &p->c, 0);
    }
}
