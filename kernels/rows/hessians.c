/* The second derivative of a row's loss on its logits is scale (a (diag p - p p^T) + b p p^T), with a, the factor of p in
 * the gradient, and b = 2 lambda. Its diagonal is written while the row's exponentials are at hand. A product with a
 * vector u is scale p_c (a (u_c - sum p u) + b sum p u), where u is taken less its number for the class that leads:
 * then nothing cancels there. */
#include "rows/hessians.h"

#include <math.h>

#include "rows/place.h"

#define XGBOOST_LEAST 1e-16 /* kRtEps of its multi-class objective */

double hessian_by(const task *t)
{
    const double classes = (double)t->classes;
    return t->hessian == XGBOOST_HESSIAN                      ? 2
           : t->hessian == LIGHTGBM_HESSIAN && t->classes > 1 ? classes / (classes - 1)
                                                              : 1;
}

double least_of_hessian(const task *t, double one)
{
    return t->hessian == XGBOOST_HESSIAN ? XGBOOST_LEAST * one : -INFINITY;
}

double bound_by(const task *t) { return 0.5 * (1 - 1 / (double)t->classes); }

row_hessian find_hessian(const task *t, ptrdiff_t row, double v, double factor, double share, double rest)
{
    const double one = t->row_scale[row * t->row_scale_step], by = hessian_by(t), others = rest * share;
    row_hessian h;
    h.factor = by * factor;
    h.second = by * times(2 * t->options.z_loss, one * v);
    h.at_top = h.factor * share * others + h.second * share * share;
    h.least = least_of_hessian(t, one);
    h.bound = (factor > 0 ? factor : 0) * bound_by(t) + h.second;
    return h;
}

/* What is beyond the lanes, in float64 and one by one. */
static void write_beyond(const place *p, const hessian_row *r, double max, ptrdiff_t n, void *out)
{
    const ptrdiff_t size = element_size(p->x.type);
    for (ptrdiff_t c = 0; c < n; ++c) {
        const double q = exp(get_element(p->x.type, (const char *)r->x + c * size) - max) * r->unit;
        const double h = q > 0.5 ? r->at_top : q * r->factor * (1 - q) + q * r->second * q;
        set_element(p->x.type, (char *)out + c * size, h < r->least ? r->least : h);
    }
}

static int is_beyond_lanes(int is_f64, const row_hessian *h, double unit)
{
    return !is_f64 && (!suits_kept(0, h->factor, unit) || (h->second != 0 && !suits_kept(0, h->second, unit)));
}

/* Where the row's exponentials are kept and its gradient waits for the next row to be read, so does this (write_rows.c). */
static void write_diagonal(place *p, ptrdiff_t i, const row_hessian *h)
{
    const batch *b = &p->n.b;
    const int beyond = is_beyond_lanes(p->is_f64, h, b->unit[i]), keeps = !beyond && p->kept.has[i];
    hessian_row r = {.factor = h->factor, .second = h->second, .at_top = h->at_top, .least = h->least};
    r.at.shift = b->shift[i], r.at.k = b->k[i];
    r.unit = beyond ? b->share[i] : b->unit[i];
    r.bypass = p->hess.direct && p->hess.bypass;
    for (block at = {0, 0}; next_whole(&p->c, &at);) {
        r.out = block_to_write(&p->hess, at);
        r.kept = keeps ? kept_block(p, i, at) : NULL;
        r.x = keeps ? NULL : read_block(&p->x, at);
        r.n = at.n, r.done = 0;
        if (keeps && at.n == p->t->classes && p->hess.direct) {
            p->diagonal[i] = r, p->waits[i] = 1;
            continue;
        }
        if (beyond) write_beyond(p, &r, b->max[i], at.n, r.out);
        else p->k->hessian(&r, at.n);
        write_block(&p->hess, at, r.out);
    }
}

static void write_product(place *p, ptrdiff_t i, const row_hessian *h)
{
    const batch *b = &p->n.b;
    hessian_row r = {.factor = h->factor};
    r.at.shift = b->shift[i], r.at.k = b->k[i];
    r.unit = b->unit[i];
    double at_top = 0;
    ptrdiff_t count = 0;
    for (block at = {0, 0}; next_block(&p->c, &at);)
        p->k->vector_at_top(read_block(&p->x, at), read_block(&p->vector, at), at.n, b->max[i], &at_top, &count);
    r.of_vector = count ? at_top / (double)count : 0;
    compensated sum = {0, 0};
    for (block at = {0, 0}; next_block(&p->c, &at);) {
        r.x = read_block(&p->x, at);
        p->k->vector_sum(&r, read_block(&p->vector, at), at.n, &sum);
    }
    r.mean = compensated_value(sum);
    r.second = times(h->second, r.of_vector + r.mean);
    for (block at = {0, 0}; next_block(&p->c, &at);) {
        void *out = block_to_write(&p->hess, at);
        r.x = read_block(&p->x, at);
        p->k->hessian_product(&r, read_block(&p->vector, at), at.n, out, 0);
        write_block(&p->hess, at, out);
    }
}

void write_hessians(place *p)
{
    const task *t = p->t;
    row_gradients g;
    find_gradients(t, &p->n, &g);
    for (ptrdiff_t i = 0; i < p->n.rows && !p->c.stopped; ++i) {
        const ptrdiff_t row = p->n.row + i;
        go_to(p, row);
        p->waits[i] = 0;
        read_from(&p->vector, t, row);
        write_to(&p->hess, t, row);
        if (p->n.r.skipped[i] || isnan(p->n.b.max[i])) {
            fill_row(&p->hess, &p->c, p->n.r.skipped[i] ? 0 : NAN);
            continue;
        }
        const row_hessian h = find_hessian(t, row, p->n.r.v[i], g.factor[i], p->n.b.share[i], p->n.b.rest[i]);
        if (t->hessian == UPPER_BOUND) fill_row(&p->hess, &p->c, h.bound);
        else if (t->hessian == HESSIAN_PRODUCT) write_product(p, i, &h);
        else write_diagonal(p, i, &h);
    }
}

static void put(const task *t, char *tile, ptrdiff_t i, ptrdiff_t c, double value)
{
    const element type = lanes_type(t->x.type);
    set_element(type, tile + (c * t->isa->of[t->x.type]->lanes + i) * element_size(type), value);
}

/* Row i of a tile: an upper bound is a least value over nothing. */
static void set_lane(const task *t, tile_hessians *of, ptrdiff_t i, const row_hessian *h, double unit)
{
    const int bound = t->hessian == UPPER_BOUND;
    of->unit[i] = unit / t->isa->of[t->x.type]->tile_scale;
    of->of_e[i] = !bound ? h->factor * of->unit[i] : isnan(h->bound) ? NAN : 0;
    of->second[i] = bound ? 0 : h->second;
    of->at_top[i] = bound ? 0 : h->at_top;
    of->least[i] = bound ? h->bound : h->least;
}

static void put_alone(const task *t, const row_batch *n, ptrdiff_t i, const row_hessian *h, char *to)
{
    reader x = reader_of(t, &t->x, t->x.type);
    read_from(&x, t, n->row + i);
    for (ptrdiff_t c = 0; c < t->classes; ++c) {
        const double p = exp(read_element(&x, c) - n->b.max[i]) * n->b.share[i];
        const double d = p > 0.5 ? h->at_top : p * h->factor * (1 - p) + p * h->second * p;
        put(t, to, i, c, t->hessian == UPPER_BOUND ? h->bound : d < h->least ? h->least : d);
    }
}

void find_tile_hessians(const task *t, const row_batch *n, const char *tile, char *to)
{
    const batch *b = &n->b;
    const int is_f64 = t->x.type == ELEMENT_F64;
    tile_hessians of = {{0}, {0}, {0}, {0}, {0}};
    row_hessian h[BATCH];
    row_gradients g;
    find_gradients(t, n, &g);
    for (ptrdiff_t i = 0; i < n->rows; ++i) {
        h[i] = find_hessian(t, n->row + i, n->r.v[i], g.factor[i], b->share[i], b->rest[i]);
        set_lane(t, &of, i, &h[i], b->unit[i]);
    }
    t->isa->of[t->x.type]->columns_hessian(tile, t->classes, &of, to);
    for (ptrdiff_t i = 0; i < n->rows; ++i) {
        const int counts = !n->r.skipped[i], defined = !isnan(b->max[i]);
        if (!counts || !defined)
            for (ptrdiff_t c = 0; c < t->classes; ++c) put(t, to, i, c, counts ? NAN : 0);
        else if (is_beyond_lanes(is_f64, &h[i], b->unit[i])) put_alone(t, n, i, &h[i], to);
    }
}
