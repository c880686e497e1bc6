/* Rows side by side, as many as there are lanes, copied into a tile that stays in the caches (tile.h, columns.h):
 * for few classes in any layout, and for a class axis that is not last, read where it lies. A row's numbers are
 * those of batch.c. */
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "layout.h"

#define FEW_CLASSES 64
#define LARGEST_TILE (1 << 22)    /* bytes: past this a column is gathered for each row instead (drivers.c) */

static int lies_side_by_side(const task *t, const array *a)
{
    return !a->data || (t->dims && a->row_strides[t->dims - 1] == element_size(a->type) && is_aligned(t, a));
}

/* By the logits alone, so that loss, gradient and backward of the same logits have the same sums, wherever results
 * go: dimensions of theirs that another array keeps apart (coalesce) count as one. */
static int is_in_place(const task *t)
{
    if (!t->dims || !lies_side_by_side(t, &t->x) || t->classes > LARGEST_TILE / (BATCH * 8)) return 0;
    ptrdiff_t beside = t->shape[t->dims - 1];
    for (int d = t->dims - 2; d >= 0 && t->x.row_strides[d] == beside * element_size(t->x.type); --d)
        beside *= t->shape[d];
    return beside >= BATCH;
}

int suits_tiles(const task *t)
{
    return t->work != LOG_SOFTMAX_BACKWARD && (t->classes <= FEW_CLASSES || is_in_place(t));
}

/* How an array is copied into a tile: by the tile functions of its type, from columns or from rows. */
typedef struct {
    const block_functions *k;    /* NULL: its type has other lanes than the logits */
    int columns, direct;
} way;

typedef struct {
    const task *t;
    const block_functions *k;
    int is_f64, in_place, out_beside, out_direct;
    way x_way, q_way;
    ptrdiff_t real, lanes, row, rows;    /* bytes of a lane; the tile's first row, and how many */
    char *x, *q;                         /* the tile, and that of probability targets */
    char *copies;                        /* rows that can't be read or written where they lie */
    batch b;
    row_targets r;
    double mass[BATCH], distance[BATCH];
} tile;

static way way_of(const tile *w, const array *a)
{
    const int same_lanes = w->is_f64 == (a->type == ELEMENT_F64);
    return (way){same_lanes ? w->t->isa->of[a->type] : NULL, w->in_place && lies_side_by_side(w->t, a),
                 is_direct(w->t, a)};
}

static char *copy_of(const tile *w, ptrdiff_t i) { return w->copies + i * w->t->classes * (ptrdiff_t)sizeof(f64); }

static void find_rows(const tile *w, const array *a, char **rows)
{
    const task *t = w->t;
    rows[0] = row_of(t, a, w->row);
    for (ptrdiff_t i = 1; i < w->rows; ++i)
        rows[i] = t->dims == 1 ? rows[i - 1] + a->row_strides[0] : row_of(t, a, w->row + i);
}

static void load(tile *w, const array *a, way by, char *to)
{
    const task *t = w->t;
    const ptrdiff_t size = element_size(a->type);
    char *rows[BATCH];
    if (by.columns && by.k) {
        by.k->tile_columns(row_of(t, a, w->row), a->class_stride / size, w->rows, t->classes, to);
        return;
    }
    find_rows(w, a, rows);
    for (ptrdiff_t i = 0; i < w->rows && !by.direct; ++i) {
        gather(a, rows[i], t->classes, copy_of(w, i));
        rows[i] = copy_of(w, i);
    }
    if (by.k) {
        by.k->tile_rows(rows, w->rows, t->classes, to);
        return;
    }
    for (ptrdiff_t i = 0; i < w->rows; ++i)
        for (ptrdiff_t c = 0; c < t->classes; ++c)
            set_element(w->is_f64 ? ELEMENT_F64 : ELEMENT_F32, to + (c * w->lanes + i) * w->real,
                        get_element(a->type, (const char *)rows[i] + c * size));
}

/* Streamed stores are of whole, aligned vectors. */
static int streams(const tile *w, const char *out)
{
    const ptrdiff_t vector = w->lanes * element_size(w->t->out.type);
    return w->t->stream && w->rows == w->lanes && (uintptr_t)out % (uintptr_t)vector == 0
        && w->t->out.class_stride % vector == 0;
}

static void store(const tile *w)
{
    const task *t = w->t;
    char *rows[BATCH];
    if (w->in_place && w->out_beside) {
        char *out = row_of(t, &t->out, w->row);
        w->k->untile_columns(w->x, w->rows, t->classes, out, t->out.class_stride / element_size(t->out.type),
                             streams(w, out));
        return;
    }
    if (w->out_direct) find_rows(w, &t->out, rows);
    for (ptrdiff_t i = 0; i < w->rows && !w->out_direct; ++i) rows[i] = copy_of(w, i);
    w->k->untile_rows(w->x, w->rows, t->classes, rows);
    for (ptrdiff_t i = 0; i < w->rows && !w->out_direct; ++i)
        scatter(&t->out, rows[i], t->classes, row_of(t, &t->out, w->row + i));
}

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

static void fill_row(tile *w, ptrdiff_t i, double value)
{
    for (ptrdiff_t c = 0; c < w->t->classes; ++c) set(w, i, c, value);
}

static void restore_rows(tile *w)
{
    for (ptrdiff_t i = 0; i < w->rows; ++i) restore(w->t, w->row + i, &w->b, i, &w->mass[i]);
}

/* From the rows to everything up to their results; where these are products of e^z, the tile holds that then. */
static void read_tile(tile *w)
{
    const task *t = w->t;
    const int keeps = t->work == SOFTMAX || t->work == BACKWARD || t->work == FORWARD_BACKWARD;
    load(w, &t->x, w->x_way, w->x);
    if (t->q.data) load(w, &t->q, w->q_way, w->q);
    find_targets(t, w->row, w->rows, &w->r);
    for (ptrdiff_t i = 0; i < w->rows && t->targets.data; ++i)
        w->b.z[i] = w->r.bad[i] ? -INFINITY : get(w, w->x, i, w->r.y[i]);
    if (t->work == BACKWARD) restore_rows(w);    /* whose maxima give the anchors that forward had */
    else w->k->columns_max(w->x, t->classes, &w->b);
    if (has_spread(t)) {
        const subtrahend s = subtrahend_of(t, 1);
        w->k->columns_spread(w->x, w->q, t->classes, t->class_weight, s.keep, s.floor, &w->b, w->mass, w->distance);
    }
    w->k->columns_sum(w->x, t->classes, sum_headroom(w->is_f64), anchor_limit(w->is_f64), keeps, &w->b);
    if (t->work == BACKWARD) restore_rows(w);    /* again: the sums are saved ones too */
    for (ptrdiff_t i = 0; i < w->rows && w->r.any_unread; ++i) {
        if (w->r.skipped[i]) set_unread(&w->b, i, 0);
        else if (w->r.bad[i]) set_unread(&w->b, i, NAN);
    }
    t->isa->finish(&w->b, w->rows, t->targets.data && keeps);
}

/* factor e^(z - max) - scale t_c in float64: what the lanes have no room for. From the array, since the tile has e^z
 * by now. */
static void multiply_alone(tile *w, ptrdiff_t i, double factor, double scale, subtrahend s)
{
    const task *t = w->t;
    const anchor at = {w->b.shift[i], w->b.k[i]};
    const char *row = row_of(t, &t->x, w->row + i);
    for (ptrdiff_t c = 0; c < t->classes; ++c) {
        f64 one;
        gather(&t->x, row + c * t->x.class_stride, 1, &one);
        const double p = exp_at(at, get_element(t->x.type, &one)) / w->b.top[i];
        const double q = w->q ? get(w, w->q, i, c) : 0, weight = t->class_weight ? t->class_weight[c] : 1;
        set(w, i, c, times(p, factor) - times(weight * (s.keep * q + s.floor), scale));
    }
}

static void write_gradient(tile *w)
{
    const task *t = w->t;
    const subtrahend s = subtrahend_of(t, 1);
    const double unit = t->class_weight_real ? t->class_weight_unit : 1;
    row_gradients g = {{0}, {0}, {0}};
    double factors[BATCH] = {0}, scales[BATCH] = {0}, y[BATCH] = {0};
    const int unread = find_gradients(t, w->row, w->rows, &w->r, &w->b, w->mass, &g);
    int alone[BATCH], any_alone = 0;
    for (ptrdiff_t i = 0; i < w->rows; ++i) {
        factors[i] = g.factor[i] * w->b.unit[i];
        alone[i] = !suits_kept(w->is_f64, g.factor[i], w->b.unit[i]);
        any_alone |= alone[i];
    }
    for (ptrdiff_t i = 0; i < w->rows && s.scale != 0; ++i) {
        scales[i] = g.scale[i] * unit;
        alone[i] |= is_beyond(w->is_f64, w->b.max[i], g.factor[i] * w->b.share[i], scales[i]);
        any_alone |= alone[i];
    }
    for (ptrdiff_t i = 0; i < w->rows && any_alone; ++i) {
        if (!alone[i]) continue;
        multiply_alone(w, i, g.factor[i] * w->b.share[i], s.scale * g.scale[i], s);
        factors[i] = 1, scales[i] = 0;
    }
    for (ptrdiff_t i = 0; i < w->rows; ++i) y[i] = (double)w->r.y[i];
    w->k->columns_gradient(w->x, w->q, t->classes, factors, scales, y, g.value, t->class_weight_real, s.keep, s.floor);
    for (ptrdiff_t i = 0; i < w->rows && unread; ++i)
        if (w->r.skipped[i] || isnan(w->b.max[i])) fill_row(w, i, w->r.skipped[i] ? 0 : NAN);
}

/* As many rows as there are lanes; where they are read in place, up to the end of those side by side, and the first
 * tile of a streamed run up to where the others are aligned. */
static ptrdiff_t rows_of_tile(const tile *w, ptrdiff_t row, ptrdiff_t last)
{
    const task *t = w->t;
    ptrdiff_t rows = last - row < w->lanes ? last - row : w->lanes;
    if (!w->in_place) return rows;
    const ptrdiff_t inner = t->shape[t->dims - 1], left = inner - row % inner;
    if (rows > left) rows = left;
    if (!t->stream || !w->out_beside) return rows;
    const ptrdiff_t size = element_size(t->out.type);
    const ptrdiff_t over = (ptrdiff_t)((uintptr_t)row_of(t, &t->out, row) % (uintptr_t)(w->lanes * size)) / size;
    return over && rows > w->lanes - over ? w->lanes - over : rows;
}

static void run_tiles(tile *w, ptrdiff_t first, ptrdiff_t last)
{
    const task *t = w->t;
    for (ptrdiff_t row = first; row < last; row += w->rows) {
        w->row = row;
        w->rows = rows_of_tile(w, row, last);
        read_tile(w);
        if (t->work == FORWARD || t->work == FORWARD_BACKWARD)
            find_losses(t, row, w->rows, &w->r, &w->b, w->mass, w->distance);
        if (t->work == LOGSUMEXP)
            for (ptrdiff_t i = 0; i < w->rows; ++i) t->loss[row + i] = w->b.max[i] + w->b.log_sum[i];
        else if (t->work == LOG_SOFTMAX) w->k->columns_log_softmax(w->x, t->classes, &w->b);
        else if (t->work != FORWARD) write_gradient(w);
        if (t->out.data) store(w);
    }
}

void by_tiles(const task *t)
{
    tile *w = calloc(1, sizeof *w);
    const ptrdiff_t lanes = t->isa->of[t->x.type]->lanes, real = t->x.type == ELEMENT_F64 ? 8 : 4;
    /* tile_rows fills whole squares */
    const ptrdiff_t tile_bytes = (t->classes + lanes) * lanes * real, vector = 64;
    char *memory = w ? malloc((size_t)(2 * tile_bytes + vector + BATCH * t->classes * 8)) : NULL;
    if (!memory) {
        free(w);
        ran_out_of_memory(t);
        return;
    }
    w->t = t;
    w->k = t->isa->of[t->x.type];
    w->is_f64 = real == 8, w->real = real, w->lanes = lanes;
    w->in_place = is_in_place(t);
    w->out_beside = lies_side_by_side(t, &t->out);
    w->out_direct = t->out.data && is_direct(t, &t->out);
    w->x_way = way_of(w, &t->x);
    w->q_way = way_of(w, &t->q);
    w->x = memory + (vector - (ptrdiff_t)((uintptr_t)memory % (uintptr_t)vector)) % vector;
    w->q = t->q.data ? w->x + tile_bytes : NULL;
    w->copies = w->x + 2 * tile_bytes;
    ptrdiff_t first, last;
    while (take_rows(t, &first, &last)) run_tiles(w, first, last);
    t->isa->fence();
    free(memory);
    free(w);
}
