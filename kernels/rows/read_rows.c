/* Reading a batch of rows in blocks: one pass over each where that will do, else two (blocks.h, B to D). */
#include <math.h>

#include "math/anchor.h"
#include "math/compensated.h"
#include "rows/place.h"

/* The classes that the anchor is guessed from: one unrolled step of AVX-512. */
#define GUESS_FROM 64

/* Maxima that are near 0, from -NEAR to MOST, have one anchor, whose numbers wait for nothing: the next row's pass
 * starts before its guess is known. e^40 is at 2^122; were there many, the sum would not be finite. */
#define NEAR(is_f64) ((is_f64) ? 100 : 14)
#define MOST(is_f64) ((is_f64) ? 300 : 40)

/* An anchor for a row whose maximum is about the guess, and the largest maximum that it serves; 0 where none is
 * safe. */
static int guess_anchor(int is_f64, double guess, anchor *at, double *most)
{
    const double limit = anchor_limit(is_f64), highest = guess + (is_f64 ? 300 : 20);
    at->shift = 0;
    if (fabs(guess) <= NEAR(is_f64)) {
        at->k = -sum_headroom(is_f64);
        *most = MOST(is_f64);
        return 1;
    }
    at->k = even(guess * LOG2E) - sum_headroom(is_f64);
    *most = highest < limit ? highest : limit;
    return fabs(guess) <= limit;
}

/* Adds the block to the mass and distance of row i. */
static void add_spread(place *p, ptrdiff_t i, block b, const void *x, double from)
{
    double mass = 0, distance = 0;
    subtrahend s = p->s;
    s.q = p->q.row ? read_block(&p->q, b) : NULL;
    s.w = weights_block(p, b);
    p->k->spread(x, b.n, from, s, &mass, &distance);
    p->n.mass[i] += mass;
    p->n.distance[i] += distance;
}

static void spread_from(place *p, ptrdiff_t i, double from)
{
    p->n.mass[i] = p->n.distance[i] = 0;
    for (block b = {0, 0}; next_block(&p->c, &b);) add_spread(p, i, b, read_block(&p->x, b), from);
}

/* From sums about a guess to those about the maximum, and of the weights themselves. Where most of the mass lies at
 * a maximum above the guess, that would be a difference of large terms: summed again then. */
static void end_spread(place *p, ptrdiff_t i, double guess)
{
    const double unit = p->t->options.class_weight_unit, max = p->n.b.max[i];
    const double further = times(p->n.mass[i], max - guess), distance = p->n.distance[i] + further;
    p->n.distance[i] = distance;
    if (distance < further) spread_from(p, i, max);
    p->n.distance[i] = times(unit, p->n.distance[i]);
    p->n.mass[i] *= unit;
}

static void set_read(batch *b, ptrdiff_t i, double max, anchor at, compensated sum, double base, double own)
{
    b->max[i] = max, b->shift[i] = at.shift, b->k[i] = at.k;
    b->sum[i] = sum.sum, b->sum_error[i] = isfinite(sum.sum) ? sum.error : 0, b->base[i] = base, b->own[i] = own;
}

/* The sum again with the classes at the maximum left out and counted, so that rest keeps its digits whatever leads. */
void sum_below(place *p, ptrdiff_t i, double max, anchor at)
{
    compensated sum = {0, 0};
    ptrdiff_t ties = 0;
    for (block b = {0, 0}; next_block(&p->c, &b);)
        compensated_join(&sum, p->k->sum(read_block(&p->x, b), b.n, at, max, &ties));
    set_read(&p->n.b, i, max, at, sum, (double)(ties - 1), 0);
}

/* Two passes, maximum first: for any row. */
void read_exactly(place *p, ptrdiff_t i)
{
    double max = -INFINITY;
    p->kept.has[i] = 0;
    for (block b = {0, 0}; next_block(&p->c, &b);) {
        const double top = p->k->max(read_block(&p->x, b), b.n);
        max = isnan(top) || top > max ? top : max;
        if (isnan(max)) break;
    }
    if (!isfinite(max)) {    /* of which the logsumexp is made; everything else is NaN there */
        set_unread(&p->n.b, i, p->t->work == LOGSUMEXP || p->t->parts ? max : NAN);
        return;
    }
    sum_below(p, i, max, anchor_at(max, sum_headroom(p->is_f64), p->is_f64));
    if (!p->spreads) return;
    spread_from(p, i, max);
    end_spread(p, i, max);
}

static compensated pass_over(place *p, const void *x, block b, anchor at, ptrdiff_t y, void *kept, double *max)
{
    if (p->scales)
        return p->k->transformed_sum(x, b.n, at, &p->numbers, y - b.at, kept, &p->queue, lie_from(p, b.at), max);
    const lie_of_rows lie = lie_from(p, b.at);
    return p->k->pass(x, b.n, at, y - b.at, kept, &p->queue, &lie, max);
}

/* One pass at the anchor for a maximum about the guess; 0 where that will not do. The target y is left out of the sum,
 * so that rest keeps its digits where y leads. */
static int read_about(place *p, ptrdiff_t i, int64_t y, double guess, double *max)
{
    const int keeps = p->kept.rows != NULL;
    double most;
    anchor at;
    *max = -INFINITY;
    if (!guess_anchor(p->is_f64, guess, &at, &most)) return 0;
    compensated sum = {0, 0};
    p->n.mass[i] = p->n.distance[i] = 0;
    if (p->whole && !p->scales) {
        const block b = {0, p->t->classes};
        void *kept = keeps ? kept_block(p, i, b) : NULL;
        sum = p->k->pass(read_block(&p->x, b), b.n, at, y, kept, &p->queue, &p->lie, max);
    } else {
        const ptrdiff_t most = p->x.direct && !p->spreads ? POLL_EVERY : BLOCK;    /* by x alone: see is_in_place */
        for (block b = {0, 0}; next_of(&p->c, &b, most);) {
            const void *x = read_block(&p->x, b);
            void *kept = keeps ? kept_block(p, i, b) : NULL;
            double top;
            compensated_join(&sum, pass_over(p, x, b, at, y, kept, &top));
            *max = top > *max ? top : *max;
            if (p->spreads) add_spread(p, i, b, x, guess);
        }
    }
    const double z = p->n.b.z[i];
    if (p->fuses) *max = changed_max(p, i, *max, z);
    /* Past the anchor's maximum an exponent may have wrapped, and the sum be anything. */
    if (!(*max <= most && *max >= (guess < -NEAR(p->is_f64) ? guess : -NEAR(p->is_f64))) || !isfinite(sum.sum))
        return 0;
    if (isnan(z)) {
        set_unread(&p->n.b, i, NAN);
        return 1;
    }
    p->kept.has[i] = keeps;
    set_read(&p->n.b, i, *max, at, sum, z == *max ? 0 : -1, z == *max ? 0 : 1);
    if (p->spreads) end_spread(p, i, guess);
    return 1;
}

/* After a batch of rows near 0 the next is taken to be so without a look, which spares the wait for its guess. Which way
 * a row was read must not show. Every choice of k gives identical bits, because k only moves the exponent; where one
 * choice will not do, the others are tried. (The spread is taken from the guess.) */
static void read_row(place *p, ptrdiff_t i, int64_t y)
{
    double max;
    p->n.b.z[i] = y < 0 ? -INFINITY : read_element(&p->x, y);
    if (p->fuses && y >= 0) p->n.b.z[i] = changed_target(p, p->n.b.z[i], p->slope + i);
    if (p->near_rows >= BATCH && !p->spreads && read_about(p, i, y, 0, &max)) return;
    block first = {0, 0};
    next_block(&p->c, &first);
    const double near = NEAR(p->is_f64);
    double guess = p->k->max(read_block(&p->x, first), first.n < GUESS_FROM ? first.n : GUESS_FROM);
    if (p->scales) guess = changed(p, guess);
    const int done = read_about(p, i, y, guess, &max), is_near = max >= -near && max <= MOST(p->is_f64);
    p->near_rows = is_near ? p->near_rows + 1 : 0;
    if (!done && !(is_near && guess < -near && read_about(p, i, y, 0, &max))) {
        if (p->fuses) read_elsewhere(p, i);
        else read_exactly(p, i);
    }
}

/* If a class that is not the target dominates, 1 + rest cancels: the row is summed again without that class. A loss
 * hides the lost digits in its other term, max - z_y > 0; a log-softmax has no such term, nor has a loss where w_y may be
 * 0. */
static int lost_digits(const place *p, ptrdiff_t i)
{
    const int hides = p->t->targets.data && !p->t->options.class_weight;
    return p->n.b.own[i] == 1 && !isnan(p->n.b.max[i]) && p->n.b.rest[i] < (hides ? 0.25 : 3);
}

void read_batch(place *p)
{
    const task *t = p->t;
    find_targets(t, &p->n);
    for (ptrdiff_t i = 0; i < p->n.rows && !p->c.stopped; ++i) {
        p->kept.has[i] = 0;
        p->n.b.z[i] = -INFINITY;
        if (p->n.r.skipped[i] || p->n.r.bad[i]) {
            set_unread(&p->n.b, i, p->n.r.skipped[i] ? 0 : NAN);
            continue;
        }
        go_to(p, p->n.row + i);
        if (t->work != BACKWARD) read_row(p, i, t->targets.data ? p->n.r.y[i] : -1);
        else {
            restore(t, &p->n, i);
            const double max = isnan(p->n.b.max[i]) ? 0 : p->n.b.max[i];
            const anchor at = anchor_at(max, sum_headroom(p->is_f64), p->is_f64);
            p->n.b.shift[i] = at.shift, p->n.b.k[i] = at.k;
            const int has_target = t->targets.data && p->n.r.y[i] >= 0;
            if (has_target) p->n.b.z[i] = read_element(&p->x, p->n.r.y[i]);
            p->slope[i] = 1;
            if (p->fuses && has_target) p->n.b.z[i] = changed_target(p, p->n.b.z[i], p->slope + i);
        }
        if (p->spreads_after && !isnan(p->n.b.max[i])) {
            const double mass = p->n.mass[i];    /* a backward's own */
            spread_from(p, i, p->n.b.max[i]);
            end_spread(p, i, p->n.b.max[i]);
            if (t->work == BACKWARD) p->n.mass[i] = mass;
        }
    }
    t->isa->complete(&p->n.b, p->n.rows, 1, p->is_f64);
    int again = 0;
    for (ptrdiff_t i = 0; i < p->n.rows && !p->c.stopped; ++i) {
        const int lacks = !p->is_f64 && lacks_rest(t, &p->n, i);
        if (!lacks && !lost_digits(p, i)) continue;
        const anchor at = {p->n.b.shift[i], p->n.b.k[i]};
        go_to(p, p->n.row + i);
        if (p->fuses) read_elsewhere(p, i);
        else if (lacks) find_rest_elsewhere(p, i);
        else sum_below(p, i, p->n.b.max[i], at);
        again = 1;
    }
    if (again) t->isa->complete(&p->n.b, p->n.rows, 1, p->is_f64);
}
