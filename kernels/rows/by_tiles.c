/* Rows side by side, as many as there are lanes, copied into a tile that stays in the caches (blocks/tile.h,
 * blocks/columns.h): for few classes in any layout, and for a class axis that is not last, read where it lies. A row's
 * numbers are those of losses.c. */
#include <stdlib.h>
#include <string.h>

#include "rows/hessians.h"
#include "rows/layout.h"
#include "rows/logits.h"
#include "rows/losses.h"
#include "rows/parallel.h"
#include "rows/results.h"
#include "rows/row_statistics.h"
#include "rows/usual_tiles.h"

#define FEW_CLASSES 64
#define LARGEST_TILE (1 << 22)    /* bytes: past this a column is gathered for each row instead (by_rows.c) */

static int lies_side_by_side(const task *t, const array *a)
{
    return !a->data || (t->dims && a->row_strides[t->dims - 1] == element_size(a->type) && is_aligned(t, a));
}

/* By the logits alone, so that loss, gradient and backward of the same logits have the same sums, wherever results
 * go: dimensions of theirs that another array keeps apart (coalesce) count as one. */
static int is_in_place(const task *t)
{
    if (!t->dims || !lies_side_by_side(t, &t->x) || t->classes > LARGEST_TILE / (MOST_LANES * 8)) return 0;
    ptrdiff_t beside = t->shape[t->dims - 1];
    for (int d = t->dims - 2; d >= 0 && t->x.row_strides[d] == beside * element_size(t->x.type); --d)
        beside *= t->shape[d];
    return beside >= MOST_LANES;
}

int suits_tiles(const task *t)
{
    return t->work != LOG_SOFTMAX_BACKWARD && t->work != WEIGHTED_LOGSUMEXP && t->work != LOG_PROBS_BACKWARD &&
           t->work != DISTILLATION && t->hessian != HESSIAN_PRODUCT && (t->classes <= FEW_CLASSES || is_in_place(t));
}

typedef struct {
    const task *t;
    const block_functions *k;
    int is_f64, in_place;
    ptrdiff_t real, lanes;       /* bytes of a lane; lanes of a vector */
    tile_reader from_x, from_q;
    tile_writer to_out;
    char *x, *q;                 /* the tile, and that of probability targets */
    char *h;                     /* and that of Hessians, */
    task of_hess;                /* whose results these are */
    tile_writer to_hess;
    f64 *slope;                  /* and that of the logits' slopes, or NULL */
    row_batch n;
    usual_tiles usual;           /* where the task suits them */
} tile;

static double get(const tile *w, const char *of, ptrdiff_t i, ptrdiff_t c)
{
    const char *at = of + (c * w->lanes + i) * w->real;
    return w->is_f64 ? *(const f64 *)at : (double)*(const f32 *)at;
}

static void set(tile *w, ptrdiff_t i, ptrdiff_t c, double value)
{
    char *at = w->x + (c * w->lanes + i) * w->real;
    if (w->is_f64) *(f64 *)at = value;
    else *(f32 *)at = (f32)value;
}

static void fill(tile *w, ptrdiff_t i, double value)
{
    for (ptrdiff_t c = 0; c < w->t->classes; ++c) set(w, i, c, value);
}

static void restore_rows(tile *w)
{
    for (ptrdiff_t i = 0; i < w->n.rows; ++i) restore(w->t, &w->n, i);
}

/* The maximum of a row that columns_max calls undefined: +inf or -inf, or NaN where there is one. For the logsumexp and
 * blocks alone, so that the columns of every other work stay as short as they are. */
static double undefined_max(const tile *w, ptrdiff_t i)
{
    double max = -INFINITY;
    for (ptrdiff_t c = 0; c < w->t->classes && !isnan(max); ++c) {
        const double z = get(w, w->x, i, c);
        max = isnan(z) || z > max ? z : max;
    }
    return max;
}

/* The sum of e^(z - max) over every class but the target, which leads, in float64: what the lanes have no room for. */
static double rest_alone(const tile *w, ptrdiff_t i)
{
    const task *t = w->t;
    double rest = 0;
    reader x = reader_of(t, &t->x, t->x.type);
    read_from(&x, t, w->n.row + i);
    for (ptrdiff_t c = 0; c < t->classes; ++c)
        if (c != w->n.r.y[i]) rest += exp(read_element(&x, c) - w->n.b.max[i]);
    return rest;
}

/* From the rows to everything up to their results; where these are products of e^z, the tile holds that then. */
static void read_rows(tile *w, ptrdiff_t last)
{
    const task *t = w->t;
    const int keeps = t->work == SOFTMAX || t->work == BACKWARD || t->work == FORWARD_BACKWARD;
    row_batch *n = &w->n;
    read_tile(&w->from_x, n->row, n->rows, last, w->x);
    if (t->q.data) read_tile(&w->from_q, n->row, n->rows, last, w->q);
    find_targets(t, n);
    for (ptrdiff_t i = 0; i < n->rows && t->options.margin != 0; ++i)
        if (!n->r.bad[i] && n->r.y[i] >= 0) set(w, i, n->r.y[i], get(w, w->x, i, n->r.y[i]) - t->options.margin);
    for (ptrdiff_t i = 0; i < n->rows && t->targets.data; ++i)
        n->b.z[i] = n->r.bad[i] || n->r.y[i] < 0 ? -INFINITY : get(w, w->x, i, n->r.y[i]);
    if (t->work == BACKWARD) restore_rows(w);    /* whose maxima give the anchors that forward had */
    else w->k->columns_max(w->x, t->classes, &n->b);
    if (has_spread(t)) {
        const subtrahend s = subtrahend_of(t, 1);
        w->k->columns_spread(w->x, w->q, t->classes, t->options.class_weight, s.keep, s.floor, &n->b, n->mass,
                             n->distance);
    }
    w->k->columns_sum(w->x, t->classes, sum_headroom(w->is_f64), anchor_limit(w->is_f64), keeps, &n->b);
    if (t->work == BACKWARD) restore_rows(w);    /* again: the sums are among the statistics */
    for (ptrdiff_t i = 0; i < n->rows && n->r.any_unread; ++i) {
        if (n->r.skipped[i]) set_unread(&n->b, i, 0);
        else if (n->r.bad[i]) set_unread(&n->b, i, NAN);
    }
    for (ptrdiff_t i = 0; i < n->rows && (t->work == LOGSUMEXP || t->parts); ++i)
        if (isnan(n->b.max[i])) n->b.max[i] = undefined_max(w, i);
    const int of_targets = t->targets.data && (keeps || t->options.focal != 0);
    int again = 0;
    t->isa->complete(&n->b, n->rows, of_targets, w->is_f64);
    for (ptrdiff_t i = 0; i < n->rows && t->targets.data && !w->is_f64; ++i) {
        if (!lacks_rest(t, n, i)) continue;
        set_rest(&n->b, i, rest_alone(w, i));
        again = 1;
    }
    if (again) t->isa->complete(&n->b, n->rows, of_targets, w->is_f64);
}

/* factor e^(z - max) - scale t_c in float64: what the lanes have no room for. From the array, since the tile has e^z
 * by now. */
static void multiply_alone(tile *w, ptrdiff_t i, double factor, double scale, subtrahend s)
{
    const task *t = w->t;
    const batch *b = &w->n.b;
    const anchor at = {b->shift[i], b->k[i]};
    const double *weights = t->options.class_weight;
    reader x = w->from_x.transforms ? transformed_reader_of(t) : reader_of(t, &t->x, t->x.type);
    x.y = w->n.r.y[i];
    read_from(&x, t, w->n.row + i);
    for (ptrdiff_t c = 0; c < t->classes; ++c) {
        const double p = exp_at(at, read_element(&x, c)) / b->top[i];
        const double q = w->q ? get(w, w->q, i, c) : 0, weight = weights ? weights[c] : 1;
        set(w, i, c, times(p, factor) - times(weight * (s.keep * q + s.floor), scale));
    }
}

static void write_gradient(tile *w)
{
    const task *t = w->t;
    const row_batch *n = &w->n;
    const subtrahend s = subtrahend_of(t, 1);
    const double unit = t->options.class_weight_unit;
    row_gradients g = {{0}, {0}, {0}};
    double factors[BATCH] = {0}, scales[BATCH] = {0}, y[BATCH] = {0};
    const int unread = find_gradients(t, n, &g);
    int alone[BATCH], any_alone = 0;
    for (ptrdiff_t i = 0; i < n->rows; ++i) {
        factors[i] = g.factor[i] * n->b.unit[i] * (1 / w->k->tile_scale);
        alone[i] = !suits_kept(w->is_f64, g.factor[i], n->b.unit[i]);
        any_alone |= alone[i];
    }
    for (ptrdiff_t i = 0; i < n->rows && s.scale != 0; ++i) {
        scales[i] = g.scale[i] * unit;
        alone[i] |= is_beyond(w->is_f64, n->b.max[i], g.factor[i] * n->b.share[i], scales[i]);
        any_alone |= alone[i];
    }
    for (ptrdiff_t i = 0; i < n->rows && any_alone; ++i) {
        if (!alone[i]) continue;
        multiply_alone(w, i, g.factor[i] * n->b.share[i], s.scale * g.scale[i], s);
        factors[i] = 1, scales[i] = 0;
    }
    for (ptrdiff_t i = 0; i < n->rows; ++i) y[i] = (double)n->r.y[i];
    w->k->columns_gradient(w->x, w->q, t->classes, factors, scales, y, g.value, t->options.class_weight_real, s.keep,
                           s.floor);
    for (ptrdiff_t i = 0; i < t->classes * w->lanes && w->slope; ++i)
        ((f64 *)w->x)[i] = sloped(w->slope[i], ((f64 *)w->x)[i]);
    for (ptrdiff_t i = 0; i < n->rows && unread; ++i)
        if (n->r.skipped[i] || isnan(n->b.max[i])) fill(w, i, n->r.skipped[i] ? 0 : NAN);
}

/* As many rows as there are lanes; where they are read in place, up to the end of those side by side, and the first
 * tile of a run whose stores bypass the caches up to where the others are aligned. */
static ptrdiff_t rows_of_tile(const tile *w, ptrdiff_t row, ptrdiff_t last)
{
    const task *t = w->t;
    ptrdiff_t rows = last - row < w->lanes ? last - row : w->lanes;
    if (!w->in_place) return rows;
    const ptrdiff_t inner = t->shape[t->dims - 1], left = inner - row % inner;
    if (rows > left) rows = left;
    return rows_to_aligned(&w->to_out, row, rows);
}

static void find_numbers(tile *w, ptrdiff_t last)
{
    const task *t = w->t;
    row_batch *n = &w->n;
    row_looks l;
    double y[BATCH] = {0}, largest[BATCH], above[BATCH];
    read_tile(&w->from_x, n->row, n->rows, last, w->x);
    find_targets(t, n);
    for (ptrdiff_t i = 0; i < n->rows; ++i) {
        const int has_target = t->targets.data && !n->r.bad[i] && !n->r.skipped[i];
        y[i] = has_target ? (double)n->r.y[i] : 0;
        n->b.z[i] = has_target ? get(w, w->x, i, n->r.y[i]) : -INFINITY;
    }
    w->k->columns_max(w->x, t->classes, &n->b);
    w->k->columns_look(w->x, t->classes, sum_headroom(w->is_f64), anchor_limit(w->is_f64), y, &n->b, l.far,
                       t->numbers.squares ? l.squares : NULL, largest, above);
    for (ptrdiff_t i = 0; i < n->rows; ++i) {
        l.largest[i] = (int64_t)largest[i], l.above[i] = (int64_t)above[i];
        if (isnan(n->b.max[i])) l.undefined[i] = undefined_max(w, i);
        if (n->r.any_unread && n->r.skipped[i]) set_unread(&n->b, i, 0);
    }
    t->isa->complete(&n->b, n->rows, t->targets.data != NULL, w->is_f64);
    put_numbers(t, n, &l);
}

static void run_tile(tile *w, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t last)
{
    const task *t = w->t;
    w->n.row = row, w->n.rows = rows;
    if (t->work == ROW_STATISTICS) {
        find_numbers(w, last);
        return;
    }
    read_rows(w, last);
    if (t->parts) keep_parts(t, &w->n);
    else if (t->loss) find_losses(t, &w->n);
    if (!t->out.data) return;
    if (t->hess.data) {
        find_tile_hessians(t, &w->n, w->x, w->h);
        write_tile(&w->to_hess, row, rows, w->h);
    }
    if (t->work != LOG_SOFTMAX) write_gradient(w);
    else {
        if (t->statistics) keep_statistics(t, &w->n);
        w->k->columns_log_softmax(w->x, t->classes, &w->n.b);
    }
    write_tile(&w->to_out, row, rows, w->x);
}

/* A group of tiles goes the short way, but those that it does not suit. */
static ptrdiff_t run_group(tile *w, ptrdiff_t row, ptrdiff_t last)
{
    usual_tiles *u = &w->usual;
    ptrdiff_t tiles = 0;
    for (; tiles < u->tiles && row < last; row += u->rows[tiles++]) {
        const ptrdiff_t rows = rows_of_tile(w, row, last);
        read_tile(&w->from_x, row, rows, last, u->x[tiles]);
        sum_usual(u, tiles, row, rows);
    }
    w->k->near_numbers(u->u, u->b, tiles);
    for (ptrdiff_t i = 0; i < tiles; ++i) {
        if (!u->u[i].suited) {
            run_tile(w, u->row[i], u->rows[i], last);
            continue;
        }
        if (w->h && !u->in_run[i]) {
            w->k->columns_hessian(u->x[i], w->t->classes, u->u[i].hess, w->h);
            write_tile(&w->to_hess, u->row[i], u->rows[i], w->h);
        }
        if (end_usual(u, i)) write_tile(&w->to_out, u->row[i], u->rows[i], u->x[i]);
    }
    return row;
}

static void run_tiles(tile *w, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t row = first; row < last;) {
        if (w->usual.tiles) row = run_group(w, row, last);
        else {
            const ptrdiff_t rows = rows_of_tile(w, row, last);
            run_tile(w, row, rows, last);
            row += rows;
        }
    }
}

static task task_of_hess(const task *t)
{
    task found = *t;
    found.out = t->hess;
    return found;
}

/* Logits and results, so that these may be made where those lie. */
static int lie_in_runs(const task *t, int in_place)
{
    const task of_hess = task_of_hess(t);
    const element type = lanes_type(t->x.type);
    return t->isa->of[t->x.type]->near_gradient_run && tile_reader_of(t, &t->x, type, in_place, NULL).runs &&
           tile_writer_of(t, type, in_place && lies_side_by_side(t, &t->out), NULL).runs &&
           (!t->hess.data || tile_writer_of(&of_hess, type, in_place && lies_side_by_side(t, &t->hess), NULL).runs);
}

void by_tiles(const task *t)
{
    tile *w = calloc(1, sizeof *w);
    const int transforms = is_transformed(&t->options);
    const element type = transforms ? ELEMENT_F64 : lanes_type(t->x.type);
    const block_functions *k = t->isa->of[transforms ? type : t->x.type];
    const ptrdiff_t lanes = k->lanes, real = element_size(type);
    /* tile_rows fills whole squares */
    const ptrdiff_t tile_bytes = (t->classes + lanes) * lanes * real, vector = 64;
    ptrdiff_t kept = 0;
    const ptrdiff_t tiles = is_usual(t) ? tiles_of_group(t, tile_bytes, &kept) : 0;
    const int in_place = is_in_place(t), runs = tiles && lie_in_runs(t, in_place);
    const ptrdiff_t of_x = 1, of_q = t->q.data ? 1 : 0, of_h = t->hess.data ? 1 : 0, of_pattern = runs ? 2 : 0;
    const ptrdiff_t of_slope = t->options.softcap != 0 && t->out.data ? 1 : 0;
    const ptrdiff_t all = (of_x + of_q + of_h + kept + of_pattern + of_slope) * tile_bytes;
    char *memory = w ? malloc((size_t)(vector + all + (MOST_LANES + 1) * t->classes * 8)) : NULL;
    if (!memory) {
        free(w);
        ran_out_of_memory(t);
        return;
    }
    w->t = t;
    w->k = k;
    w->is_f64 = real == 8, w->real = real, w->lanes = lanes;
    w->in_place = in_place;
    w->x = memory + (vector - (ptrdiff_t)((uintptr_t)memory % (uintptr_t)vector)) % vector;
    w->q = of_q ? w->x + tile_bytes : NULL;
    w->h = of_h ? w->x + (of_x + of_q) * tile_bytes : NULL;
    w->slope = of_slope ? (f64 *)(w->x + all - tile_bytes) : NULL;
    char *group = w->x + (of_x + of_q + of_h) * tile_bytes, *pattern = group + kept * tile_bytes, *copies = w->x + all;
    open_usual(&w->usual, t, tiles, kept, group, tile_bytes);
    if (runs) find_pattern(&w->usual, pattern, tile_bytes);
    w->from_x = tile_reader_of(t, &t->x, type, in_place, copies);
    w->from_x.slope = w->slope;
    w->from_x.raw = copies + MOST_LANES * t->classes * 8;
    w->from_q = tile_reader_of(t, &t->q, type, in_place && lies_side_by_side(t, &t->q), copies);
    w->to_out = tile_writer_of(t, type, in_place && lies_side_by_side(t, &t->out), copies);
    w->to_out.narrowed = w->from_x.raw;
    w->of_hess = task_of_hess(t);
    w->to_hess = tile_writer_of(&w->of_hess, type, in_place && lies_side_by_side(t, &t->hess), copies);
    w->to_hess.narrowed = w->from_x.raw;
    ptrdiff_t first, last;
    while (take_rows(t, &first, &last)) run_tiles(w, first, last);
    t->isa->fence();
    free(memory);
    free(w);
}
