/* Rows side by side, as many as there are lanes (columns.h): for a class axis that is not last, read where it lies, and for
 * few classes in any layout, copied a tile at a time. A row's numbers are those of drivers.c. */
#include <math.h>
#include <stdlib.h>

#include "drivers.h"
#include "layout.h"

#define MOST_LANES 16
#define FEW_CLASSES 64    /* up to here a tile that is copied stays in L1 */

static int lies_side_by_side(const task *t, const array *a)
{
    return !a->data || (t->dims && a->row_strides[t->dims - 1] == element_size(a->type) && is_aligned(t, a));
}

static int is_tiled_in_place(const task *t)
{
    return t->dims && t->shape[t->dims - 1] >= MOST_LANES && lies_side_by_side(t, &t->x) && lies_side_by_side(t, &t->out);
}

/* Smoothing and probability targets, which need a second sum over the classes, go row by row. */
int suits_tiles(const task *t)
{
    if (t->q.data || (t->targets.data && t->label_smoothing > 0)) return 0;
    return t->classes <= FEW_CLASSES || is_tiled_in_place(t);
}

typedef struct {
    const task *t;
    const block_functions *k;
    int is_f64, in_place;
    ptrdiff_t size, row, rows;             /* of an element; the tile's first row, and how many */
    const char *x;
    char *out;
    ptrdiff_t x_stride, out_stride;        /* in elements, from class to class */
    char *x_buffer, *out_buffer;
    statistics s[MOST_LANES];
} tile;

static void go_to(tile *w, ptrdiff_t row, ptrdiff_t last)
{
    const task *t = w->t;
    w->row = row;
    w->rows = last - row < w->k->lanes ? last - row : w->k->lanes;
    if (w->in_place) {
        const ptrdiff_t inner = t->shape[t->dims - 1], left = inner - row % inner;
        if (w->rows > left) w->rows = left;
        w->x = row_of(t, &t->x, row);
        w->out = t->out.data ? row_of(t, &t->out, row) : NULL;
        return;
    }
    for (ptrdiff_t i = 0; i < w->rows; ++i)
        gather_apart(&t->x, row_of(t, &t->x, row + i), t->classes, w->x_buffer + i * w->size, w->k->lanes * w->size);
}

static void leave(tile *w)
{
    const task *t = w->t;
    if (w->in_place || !t->out.data) return;
    for (ptrdiff_t i = 0; i < w->rows; ++i)
        scatter_apart(&t->out, w->out_buffer + i * w->size, w->k->lanes * w->size, t->classes, row_of(t, &t->out, w->row + i));
}

/* Streamed stores are of whole, aligned vectors. */
static int streams(const tile *w)
{
    const ptrdiff_t vector = w->k->lanes * w->size;
    return w->t->stream && w->in_place && w->rows == w->k->lanes && (uintptr_t)w->out % (uintptr_t)vector == 0 &&
           w->out_stride * w->size % vector == 0;
}

static double x_element(const tile *w, ptrdiff_t row, int64_t c)
{
    return get_element(w->t->x.type, w->x + (c * w->x_stride + row) * w->size);
}

static void set_out(tile *w, ptrdiff_t row, int64_t c, double value)
{
    set_element(w->t->out.type, w->out + (c * w->out_stride + row) * w->size, value);
}

static void fill_row(tile *w, ptrdiff_t row, double value)
{
    for (ptrdiff_t c = 0; c < w->t->classes; ++c) set_out(w, row, c, value);
}

/* All NaN where a row holds a NaN or +inf, or nothing but -inf. */
static void find_statistics(tile *w)
{
    double max[MOST_LANES], sum[MOST_LANES], ties[MOST_LANES];
    anchor at[MOST_LANES];
    w->k->columns_max(w->x, w->x_stride, w->t->classes, w->rows, max);
    for (ptrdiff_t i = 0; i < w->rows; ++i) {
        if (isinf(max[i])) max[i] = NAN;
        at[i] = anchor_at(isnan(max[i]) ? 0 : max[i], sum_headroom(w->is_f64), w->is_f64);
    }
    w->k->columns_sum(w->x, w->x_stride, w->t->classes, w->rows, at, max, sum, ties);
    for (ptrdiff_t i = 0; i < w->rows; ++i) {
        w->s[i].max = max[i];
        w->s[i].rest = isnan(max[i]) ? NAN : ties[i] - 1 + sum[i] / exp_at(at[i], max[i]);
        w->s[i].log_sum = log_of_1_plus(w->s[i].rest);
    }
}

static void write_log_softmax(tile *w)
{
    double max[MOST_LANES], log_sum[MOST_LANES];
    for (ptrdiff_t i = 0; i < w->rows; ++i) max[i] = w->s[i].max, log_sum[i] = w->s[i].log_sum;
    w->k->columns_log_softmax(w->x, w->x_stride, w->t->classes, w->rows, max, log_sum, w->out, w->out_stride, streams(w));
}

/* factor e^(z - max) everywhere. */
static void write_exponentials(tile *w, const double *factor)
{
    anchor at[MOST_LANES];
    double scaled[MOST_LANES];
    for (ptrdiff_t i = 0; i < w->rows; ++i) {
        const anchored_factor f = anchor_factor(w->is_f64, factor[i], isnan(w->s[i].max) ? 0 : w->s[i].max);
        at[i] = f.at, scaled[i] = f.factor;
    }
    w->k->columns_gradient(w->x, w->x_stride, w->t->classes, w->rows, at, scaled, w->out, w->out_stride, streams(w));
}

static void write_softmax(tile *w)
{
    double factor[MOST_LANES];
    for (ptrdiff_t i = 0; i < w->rows; ++i) factor[i] = isnan(w->s[i].max) ? 0 : 1 / (1 + w->s[i].rest);
    write_exponentials(w, factor);
    for (ptrdiff_t i = 0; i < w->rows; ++i)
        if (isnan(w->s[i].max)) fill_row(w, i, NAN);
}

static void find_losses(tile *w)
{
    const task *t = w->t;
    for (ptrdiff_t i = 0; i < w->rows; ++i) {
        const row_target r = target_of(t, w->row + i);
        statistics s = w->s[i];
        if (r.bad) s.max = NAN;
        if (r.skipped) s.max = s.rest = 0;
        t->loss[w->row + i] = r.skipped ? 0 : isnan(s.max) ? NAN : loss_from(t, r, s, x_element(w, i, r.y), 0, 0);
        if (t->saved) {
            double *saved = t->saved + 3 * (w->row + i);
            saved[0] = s.max, saved[1] = s.rest, saved[2] = 0;
        }
    }
}

static void write_gradient(tile *w)
{
    const task *t = w->t;
    row_target r[MOST_LANES];
    row_gradient g[MOST_LANES];
    double factor[MOST_LANES];
    for (ptrdiff_t i = 0; i < w->rows; ++i) {
        r[i] = target_of(t, w->row + i);
        factor[i] = 0;
        if (r[i].skipped || r[i].bad || isnan(w->s[i].max)) continue;
        g[i] = gradient_from(t, w->row + i, r[i], w->s[i], x_element(w, i, r[i].y), 0);
        factor[i] = g[i].factor;
    }
    int beyond = 0;
    for (ptrdiff_t i = 0; i < w->rows; ++i) beyond |= is_beyond(w->is_f64, w->s[i].max, factor[i], 0);
    if (beyond)
        for (ptrdiff_t i = 0; i < w->rows; ++i)
            for (ptrdiff_t c = 0; c < t->classes; ++c)
                set_out(w, i, c, times(exp(x_element(w, i, c) - w->s[i].max), factor[i]));
    else write_exponentials(w, factor);
    for (ptrdiff_t i = 0; i < w->rows; ++i) {
        if (r[i].skipped) fill_row(w, i, 0);
        else if (r[i].bad || isnan(w->s[i].max)) fill_row(w, i, NAN);
        else set_out(w, i, r[i].y, g[i].value);
    }
}

static void restore_statistics(tile *w)
{
    for (ptrdiff_t i = 0; i < w->rows; ++i) {
        const double *saved = w->t->saved + 3 * (w->row + i);
        const statistics s = {saved[0], saved[1], log_of_1_plus(saved[1])};
        w->s[i] = s;
    }
}

void tiled_rows(const task *t, ptrdiff_t first, ptrdiff_t last)
{
    tile w = {.t = t, .k = &t->isa->of[t->x.type], .is_f64 = t->x.type == ELEMENT_F64, .in_place = is_tiled_in_place(t)};
    w.size = element_size(t->x.type);
    w.x_stride = t->x.class_stride / w.size;
    w.out_stride = t->out.class_stride / w.size;
    char *buffers = NULL;
    if (!w.in_place) {
        const ptrdiff_t one = t->classes * w.k->lanes * w.size;
        buffers = malloc((size_t)(2 * one));
        if (!buffers) {
            *t->out_of_memory = 1;
            return;
        }
        w.x = w.x_buffer = buffers;
        w.out = w.out_buffer = buffers + one;
        w.x_stride = w.out_stride = w.k->lanes;
    }
    for (ptrdiff_t row = first; row < last; row += w.rows) {
        go_to(&w, row, last);
        if (t->rows_of == backward_rows) restore_statistics(&w);
        else find_statistics(&w);
        if (t->rows_of == logsumexp_rows)
            for (ptrdiff_t i = 0; i < w.rows; ++i) t->loss[row + i] = w.s[i].max + w.s[i].log_sum;
        if (t->rows_of == log_softmax_rows) write_log_softmax(&w);
        if (t->rows_of == softmax_rows) write_softmax(&w);
        if (t->rows_of == forward_rows || t->rows_of == forward_backward_rows) find_losses(&w);
        if (t->rows_of == backward_rows || t->rows_of == forward_backward_rows) write_gradient(&w);
        leave(&w);
    }
    t->isa->fence();
    free(buffers);
}
