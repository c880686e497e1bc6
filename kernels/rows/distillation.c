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

#define GUESSED_FROM 64    /* classes */

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

/* About what most of the logits differ by: the mean over the first ones, which is all of it where all differ alike; and
 * by how much these differ from it, squared. */
static double usual_difference(place *p, double *spread)
{
    const ptrdiff_t most = p->t->classes < GUESSED_FROM ? p->t->classes : GUESSED_FROM;
    double sum = 0, squares = 0;
    int count = 0;
    for (ptrdiff_t c = 0; c < most; ++c) {
        const double d = read_element(&p->x, c) - read_element(&p->q, c);
        if (isfinite(d)) sum += d, squares += d * d, ++count;
    }
    const double mean = count ? sum / count : 0;
    *spread = count ? squares / count - mean * mean : 0;
    return mean;
}

/* Rows whose differences spread by less are most likely not far from each other. */
#define NEAR_SPREAD 1.2

/* Where the two maxima are near 0, as most are, one anchor serves all rows, and is known beforehand. */
#define NEAR_MAX 20.0
#define NEAR_LEAST (-14.0)

static quick_totals add_quickly(place *p, const distilled *r, char *of_x, char *of_q, ptrdiff_t ahead, int carefully)
{
    quick_totals totals = {0, 0, 0, -INFINITY, -INFINITY};
    for (block b = {0, 0}; next_whole(&p->c, &b);)
        p->k->quick_sums(read_block(&p->x, b), read_block(&p->q, b), b.n, r, &totals, of_x ? of_x + 4 * b.at : NULL,
                         of_x ? of_q + 4 * b.at : NULL, ahead, carefully);
    return totals;
}

static int serves(double top) { return top <= NEAR_MAX && top >= NEAR_LEAST; }

/* What e^z is multiplied by is a normal number of the lanes, and its products are finite. */
static int suits_lanes(double factor) { return factor >= 0x1p-125 && factor <= 0x1p20; }

/* In lanes of float32, where that will do; 0 where it does not. The divergence is D - sum p_t x with x_c as above and
 * D = log sum p_t e^x (reverse: sum p_s x - D): where the rows are far from each other, that is as good as a sum of
 * terms. Where they are not, D comes from logarithms whose error of about 2^-23 shows in the divergence only as its
 * square; or for rows that are nearer than that, is the sum itself, which is short of it by the divergence. */
static int quickly(place *p, ptrdiff_t row, double weight, distilled r)
{
    const task *t = p->t;
    const int reverse = r.kind == REVERSE_KL;
    const double temperature = t->distilled.temperature;
    const double scale = t->row_scale[row * t->row_scale_step] * weight * temperature;
    if (!p->k->quick_sums || r.kind == JENSEN_SHANNON) return 0;
    r.of_x = r.of_q = anchor_at(0, sum_headroom(0), 0);
    double spread;
    r.base = usual_difference(p, &spread);
    char *of_x = p->kept.memory ? p->kept.halves[0] : NULL, *of_q = p->kept.memory ? p->kept.halves[1] : NULL;
    const int has_next = p->x.direct && p->q.direct && row + 1 < t->rows;
    const ptrdiff_t ahead = has_next ? t->classes * element_size(t->x.type) : 0;
    int carefully = spread * r.inverse * r.inverse < NEAR_SPREAD, again = 0;
    quick_totals totals = add_quickly(p, &r, of_x, of_q, ahead, carefully);
    double moved = 0, logs = 0, loss = 0;
    for (;;) {
        const double top_x = totals.max_x * r.inverse, top_q = totals.max_q * r.inverse;
        if (!isfinite(top_x) || !isfinite(top_q)) return 0;
        if (!again && !(serves(top_x) && serves(top_q))) {
            r.of_x = anchor_at(top_x, sum_headroom(0), 0);
            r.of_q = anchor_at(top_q, sum_headroom(0), 0);
            if (r.of_x.shift != 0 || r.of_q.shift != 0) return 0;
        } else {
            moved = totals.moved / (reverse ? totals.of_x : totals.of_q);
            logs = (r.of_x.k - r.of_q.k) * LN2 - r.base * r.inverse + log(totals.of_x / totals.of_q);
            loss = reverse ? moved - logs : logs - moved;
            const int defined = isfinite(loss) && isfinite(totals.of_x) && isfinite(totals.of_q);
            if (carefully && !defined) return 0;
            if (defined && (carefully || loss >= 0.5 + 0.25 * (fabs(moved) + fabs(logs) + fabs(r.base * r.inverse))))
                break;
        }
        totals = add_quickly(p, &r, of_x, of_q, ahead, 1);
        carefully = again = 1;
    }
    r.unit_x = p->k->tile_scale / totals.of_x, r.unit_q = p->k->tile_scale / totals.of_q;
    const double of_x_unit = fabs(scale) * r.unit_x, of_q_unit = fabs(scale) * r.unit_q;
    if (!suits_lanes(of_x_unit) || !suits_lanes(of_q_unit)) return 0;
    const int is_far = loss >= 0.5 + 0.25 * (fabs(moved) + fabs(logs)), is_nearest = loss < 5e-7;
    r.shift = is_nearest ? moved : logs;
    for (int turn = 0; !is_far && turn < 1 + is_nearest; ++turn) {
        loss = 0;
        for (block b = {0, 0}; next_whole(&p->c, &b);)
            p->k->quick_terms(read_block(&p->x, b), read_block(&p->q, b), b.n, &r, of_x ? of_x + 4 * b.at : NULL,
                              of_x ? of_q + 4 * b.at : NULL, &loss);
        r.shift = reverse ? moved - loss : moved + loss;
        if (!isfinite(loss)) return 0;
    }
    t->loss[row] = weight * (temperature * temperature * loss);
    r.loss = loss;
    r.scale = scale;
    for (block b = {0, 0}; next_whole(&p->c, &b);) {
        void *out = block_to_write(&p->out, b);
        p->k->quick_gradient(read_block(&p->x, b), read_block(&p->q, b), b.n, &r, of_x ? of_x + 4 * b.at : NULL,
                             of_x ? of_q + 4 * b.at : NULL, out, p->out.bypass, is_far);
        write_block(&p->out, b, out);
    }
    return 1;
}

static void one_row(place *p, ptrdiff_t row, double weight)
{
    const task *t = p->t;
    const distillation_task *of = &t->distilled;
    distilled r = {.kind = of->kind, .inverse = 1 / of->temperature, .beta = of->beta};
    if (quickly(p, row, weight, r)) return;
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
