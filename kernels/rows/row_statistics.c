/* The numbers of each row, block by block. In float32 lanes the row is read once, and what was added up follows the maximum
 * when that rises from block to block. A block is read in one go, about the maximum of those before it, where it can be
 * (look in blocks/numbers.h): else, as the first is, for its maximum, which brings it into the L1 cache, and then for its
 * sums. In float64, which would show what following the maximum rounds, that of the whole row comes first. */
#include "rows/row_statistics.h"

#include <math.h>
#include <string.h>

#include "math/compensated.h"
#include "rows/place.h"

/* ------------------------------------------------------------------ one row */

typedef struct {
    double max; /* up to here */
    anchor at;
    compensated sum;
    double far, squares; /* these in units of 2^headroom */
    int64_t largest, above;
    int guards; /* what a block has found out for those after it: see look in blocks/numbers.h */
} row_look;

/* A larger maximum. What was added up comes to its anchor, with the class that was the largest. */
static void raise_max(const place *p, row_look *r, double max)
{
    const anchor was = r->at, at = anchor_at(max, sum_headroom(p->is_f64), p->is_f64);
    if (r->max > -INFINITY) {
        const double by = times_power_of_2(was.shift == at.shift ? 1 : exp_at(at, was.shift), was.k) *
                          (was.shift == at.shift ? times_power_of_2(1, -at.k) : 1);
        const double e = exp_at(at, r->max), sum = r->sum.sum * by + e;
        r->squares = (r->squares * by) * by + (e * square_unit(p->is_f64)) * e;
        r->sum.sum = sum, r->sum.error = 0;
        r->far = r->far * by + times(sum, max - r->max);
    }
    r->max = max, r->at = at;
}

/* How many classes lie above class y, of the block that has it: ties before it do. */
static void count_around(const place *p, row_look *r, block b, const void *x, int64_t y, double z)
{
    const ptrdiff_t before = (ptrdiff_t)(y - b.at);
    if (before) r->above += p->k->above(x, before, z, 1);
    r->above += p->k->above((const char *)x + before * element_size(p->x.type), b.n - before, z, 0);
}

/* Which classes of a block lie above class y, which is in another, by the maximum that the block has or may have: ties
 * before y do. */
static counted_above counts_of(double top, int64_t y, double z, block b)
{
    const int before = y >= b.at + b.n;
    if (y < 0 || !(before ? top >= z : top > z)) return NOT_COUNTED;
    return before ? NOT_BELOW : ABOVE;
}

static void add_block(row_look *r, const block_look *found, double by)
{
    const compensated sum = {found->sum.sum * by, found->sum.error * by};
    compensated_join(&r->sum, sum);
    r->far += found->far * by, r->squares += found->squares, r->above += found->counted;
}

/* The next block about the maximum of those before it, or 0. */
static int look_ahead(const place *p, row_look *r, block b, const void *x, int64_t y, double z)
{
    const int has_target = y >= b.at && y < b.at + b.n;
    counted_above counts = has_target ? NOT_COUNTED : counts_of(r->max, y, z, b);
    const double unit = p->t->numbers.squares ? square_unit(p->is_f64) : 0, was = r->at.k;
    block_look found;
    if (!p->k->look(x, b.n, r->at, r->max, 0, -1, z, counts, unit, &r->guards, lie_from(p, b.at), &found)) return 0;
    if (has_target) count_around(p, r, b, x, y, z);
    if (found.top > r->max) {
        raise_max(p, r, found.top), r->largest = b.at + found.leader;
        if (!has_target && !counts && (counts = counts_of(found.top, y, z, b)))
            r->above += p->k->above(x, b.n, z, counts == NOT_BELOW);
    }
    add_block(r, &found, times_power_of_2(1, was - r->at.k));
    return 1;
}

/* 0 where the row is undefined. */
static int look_at_row(place *p, row_look *r, int64_t y, double z)
{
    const double none = -INFINITY;
    const double unit = p->t->numbers.squares ? square_unit(p->is_f64) : 0;
    const row_look start = {none, {0, 0}, {0, 0}, 0, 0, -1, 0, 0};
    *r = start;
    for (block b = {0, 0}; p->is_f64 && next_block(&p->c, &b);) {
        const void *x = read_block(&p->x, b);
        const double top = p->k->max(x, b.n);
        if (!(top < INFINITY)) return 0;
        if (top > r->max)
            raise_max(p, r, top), r->sum.sum = r->far = r->squares = 0, r->largest = b.at + p->k->place(x, b.n, top);
    }
    for (block b = {0, 0}; next_block(&p->c, &b);) {
        const void *x = read_block(&p->x, b);
        if (r->max > none && !p->is_f64 && look_ahead(p, r, b, x, y, z)) continue;
        const double top = p->is_f64 && y < 0 ? none : p->k->top(x, b.n);
        if (!p->is_f64) {
            if (top == INFINITY) return 0;
            if (top > r->max) raise_max(p, r, top), r->largest = b.at + p->k->place(x, b.n, top);
        }
        const int has_target = y >= b.at && y < b.at + b.n;
        const counted_above counts = has_target ? NOT_COUNTED : counts_of(top, y, z, b);
        if (has_target) count_around(p, r, b, x, y, z);
        if (r->max > none) {
            const int here = r->largest >= b.at && r->largest < b.at + b.n;
            block_look found;
            p->k->look(x, b.n, r->at, r->max, 1, here ? (ptrdiff_t)(r->largest - b.at) : -1, z, counts, unit,
                       &r->guards, lie_from(p, b.at), &found);
            if (isnan(found.sum.sum)) return 0;
            add_block(r, &found, 1);
        } else if (isnan(p->k->max(x, b.n))) return 0;
        else if (counts) r->above += b.n; /* all -inf, as the target is */
    }
    return r->max > none;
}

/* The maximum of a row that is undefined, NaN where one is: its logsumexp. */
static double undefined_max(place *p)
{
    double max = -INFINITY;
    for (block b = {0, 0}; !isnan(max) && next_block(&p->c, &b);) {
        const double top = p->k->max(read_block(&p->x, b), b.n);
        max = isnan(top) || top > max ? top : max;
    }
    return max;
}

static void look_at(place *p, row_looks *l, ptrdiff_t i)
{
    batch *b = &p->n.b;
    row_look r;
    const int64_t y = p->t->targets.data ? p->n.r.y[i] : -1;
    l->far[i] = l->squares[i] = 0, l->undefined[i] = NAN, l->largest[i] = -1, l->above[i] = p->t->classes;
    b->z[i] = -INFINITY;
    if (p->n.r.skipped[i] || p->n.r.bad[i]) {
        set_unread(b, i, p->n.r.skipped[i] ? 0 : NAN);
        return;
    }
    go_to(p, p->n.row + i);
    const double z = y < 0 ? -INFINITY : read_element(&p->x, y);
    if (!look_at_row(p, &r, y, z)) {
        if (p->c.stopped) return;
        l->undefined[i] = undefined_max(p);
        set_unread(b, i, NAN);
        return;
    }
    b->z[i] = z;
    b->max[i] = r.max, b->shift[i] = r.at.shift, b->k[i] = r.at.k;
    b->sum[i] = r.sum.sum, b->sum_error[i] = r.sum.error, b->base[i] = b->own[i] = 0;
    l->far[i] = r.far, l->squares[i] = r.squares, l->largest[i] = r.largest, l->above[i] = r.above;
}

/* ------------------------------------------------------------------ all rows */

/* Of row i, the sum of p_c^2 over every class but one at the maximum: over others there, which a tile counts, and below. */
static double squares_of(const task *t, const batch *b, const row_looks *l, ptrdiff_t i)
{
    const double unit = b->unit[i];
    return b->base[i] * b->share[i] * b->share[i] +
           (l->squares[i] * unit) * (unit / square_unit(t->x.type == ELEMENT_F64));
}

/* Where all rows count and are defined: field by field, in loops that become vectors. */
static void put_usual(const task *t, const row_batch *n, const row_looks *l)
{
    const row_numbers *to = &t->numbers;
    const batch *b = &n->b;
    const ptrdiff_t rows = n->rows;
    double *lse = to->logsumexp + n->row, *entropy = to->entropy + n->row, *max_prob = to->max_prob + n->row;
    double log_sum[BATCH], distance[BATCH];
    for (ptrdiff_t i = 0; i < rows; ++i) log_sum[i] = b->log_sum[i] + b->log_sum_off[i];
    for (ptrdiff_t i = 0; i < rows; ++i) distance[i] = l->far[i] * b->unit[i];
    for (ptrdiff_t i = 0; i < rows; ++i) lse[i] = b->max[i] + log_sum[i];
    for (ptrdiff_t i = 0; i < rows; ++i) entropy[i] = distance[i] + log_sum[i];
    memcpy(max_prob, b->share, (size_t)rows * sizeof *max_prob);
    memcpy(to->argmax + n->row, l->largest, (size_t)rows * sizeof *l->largest);
    if (to->rank) memcpy(to->rank + n->row, l->above, (size_t)rows * sizeof *l->above);
    if (to->log_prob)
        for (ptrdiff_t i = 0; i < rows; ++i) to->log_prob[n->row + i] = (b->z[i] - b->max[i]) - log_sum[i];
    for (ptrdiff_t i = 0; i < rows && to->squares; ++i) to->squares[n->row + i] = squares_of(t, b, l, i);
    for (ptrdiff_t i = 0; i < rows && t->statistics; ++i) {
        const row_statistics s = {b->max[i], b->rest[i], distance[i]};
        t->statistics[n->row + i] = s;
    }
}

void put_numbers(const task *t, row_batch *n, const row_looks *l)
{
    const row_numbers *to = &t->numbers;
    const batch *b = &n->b;
    int usual = !n->r.any_unread;
    for (ptrdiff_t i = 0; i < n->rows; ++i) n->mass[i] = n->distance[i] = 0;
    for (ptrdiff_t i = 0; i < n->rows; ++i) usual &= !isnan(b->max[i]);
    if (t->loss) find_losses(t, n);
    if (usual) put_usual(t, n, l);
    for (ptrdiff_t i = 0; i < n->rows && !usual; ++i) {
        const ptrdiff_t row = n->row + i;
        const int skipped = n->r.skipped[i], undefined = skipped || n->r.bad[i] || isnan(b->max[i]);
        const double none = skipped ? 0 : NAN, distance = l->far[i] * b->unit[i];
        const double log_sum = b->log_sum[i] + b->log_sum_off[i];
        to->logsumexp[row] = skipped ? 0 : n->r.bad[i] ? NAN : undefined ? l->undefined[i] : b->max[i] + log_sum;
        to->entropy[row] = undefined ? none : distance + log_sum;
        if (to->log_prob) to->log_prob[row] = undefined ? none : (b->z[i] - b->max[i]) - log_sum;
        to->max_prob[row] = undefined ? none : b->share[i];
        if (to->squares) to->squares[row] = undefined ? none : squares_of(t, b, l, i);
        to->argmax[row] = undefined ? -1 : l->largest[i];
        if (to->rank) to->rank[row] = undefined ? t->classes : l->above[i];
        if (!t->statistics) continue;
        const row_statistics s = {undefined ? none : b->max[i], undefined ? none : b->rest[i],
                                  undefined ? none : distance};
        t->statistics[row] = s;
    }
}

void find_row_statistics(place *p, ptrdiff_t first, ptrdiff_t last)
{
    const task *t = p->t;
    row_looks l;
    for (p->n.row = first; p->n.row < last && !p->c.stopped; p->n.row += p->n.rows) {
        p->n.rows = last - p->n.row < BATCH ? last - p->n.row : BATCH;
        find_targets(t, &p->n);
        for (ptrdiff_t i = 0; i < p->n.rows && !p->c.stopped; ++i) look_at(p, &l, i);
        if (p->c.stopped) return;
        t->isa->complete(&p->n.b, p->n.rows, t->targets.data != NULL, p->is_f64);
        put_numbers(t, &p->n, &l);
    }
}
