#include "rows/usual_tiles.h"

#include <math.h>
#include <string.h>

#include "rows/hessians.h"
#include "rows/targets.h"

#define GROUP_BYTES (1 << 14)    /* of the tiles of a group that are kept: they stay in the L1 cache */
#define EXACT ((int64_t)1 << 53)

int is_usual(const task *t)
{
    const row_options *o = &t->options;
    if (t->work == LOGSUMEXP || t->work == SOFTMAX || t->work == LOG_SOFTMAX) return 1;
    if ((t->work != FORWARD && t->work != FORWARD_BACKWARD) || !t->targets.data) return 0;
    if (t->targets.has_ignored && (t->targets.ignored >= EXACT || t->targets.ignored <= -EXACT)) return 0;
    return o->label_smoothing == 0 && o->z_loss == 0 && o->focal == 0 && !o->all_classes && !is_transformed(o);
}

ptrdiff_t tiles_of_group(const task *t, ptrdiff_t tile_bytes, ptrdiff_t *kept)
{
    const ptrdiff_t most = GROUP_BYTES / tile_bytes, tiles = most < 1 ? 1 : most < GROUP ? most : GROUP;
    *kept = t->out.data ? tiles : 1;
    return t->out.data ? tiles : GROUP;
}

void open_usual(usual_tiles *w, const task *t, ptrdiff_t tiles, ptrdiff_t kept, char *memory, ptrdiff_t tile_bytes)
{
    w->pattern.rows = w->pattern.class_numbers = NULL;
    w->t = t;
    w->k = t->isa->of[t->x.type];
    w->tiles = tiles;
    for (ptrdiff_t i = 0; i < tiles; ++i) {
        usual_arrays *of = w->of + i;
        memset(of, 0, sizeof *of);
        for (ptrdiff_t j = 0; j < MOST_LANES; ++j) of->scale[j] = t->row_scale ? t->row_scale[0] : 1;
        for (ptrdiff_t j = 0; j < MOST_LANES; ++j) of->least[j] = least_of_hessian(t, of->scale[j]);
        w->x[i] = memory + (kept > 1 ? i * tile_bytes : 0);
        usual_rows *u = w->u + i;
        memset(u, 0, sizeof *u);
        u->results = t->work == SOFTMAX || t->work == FORWARD_BACKWARD;
        u->y = t->targets.data ? of->y : NULL;
        u->has_ignored = t->targets.has_ignored;
        u->ignored = (double)t->targets.ignored;
        u->own = t->targets.data && t->options.class_weight ? of->own : NULL;
        u->v = t->targets.data && t->options.sample_weight ? of->v : NULL;
        u->scale = of->scale;
        u->factor = of->factor, u->value = of->value;
        u->loss = t->loss ? of->loss : NULL;
        if (!t->hess.data) continue;
        u->hess = &of->hess;
        u->hess_by = t->hessian == UPPER_BOUND ? 0 : hessian_by(t), u->bound_by = bound_by(t);
        u->least = of->least;
    }
}

void find_pattern(usual_tiles *w, char *memory, ptrdiff_t tile_bytes)
{
    w->k->pattern_of(w->t->classes, memory, memory + tile_bytes);
    w->pattern.rows = memory, w->pattern.class_numbers = memory + tile_bytes;
}

/* What the rows bring; lanes past them keep what was there before. */
static void find_arrays(usual_tiles *w, ptrdiff_t i, ptrdiff_t row, ptrdiff_t rows)
{
    const task *t = w->t;
    usual_arrays *of = w->of + i;
    usual_rows *u = w->u + i;
    const int whole = rows == w->k->lanes;
    if (t->loss) u->loss = whole ? t->loss + row : of->loss;
    if (u->y) {
        const int as_they_lie = t->targets.size == -8 && whole;
        u->y = as_they_lie ? (const int64_t *)t->targets.data + row : of->y;
        for (ptrdiff_t j = 0; j < rows && !as_they_lie; ++j) of->y[j] = target_at(&t->targets, row + j);
        for (ptrdiff_t j = 0; j < rows && u->own; ++j)
            of->own[j] = (uint64_t)u->y[j] < (uint64_t)t->classes ? t->options.class_weight[u->y[j]] : 1;
    }
    for (ptrdiff_t j = 0; j < rows && u->v; ++j) of->v[j] = t->options.sample_weight[row + j];
    if (u->results && t->row_scale && (t->row_scale_step || u->v))
        for (ptrdiff_t j = 0; j < rows; ++j)
            of->scale[j] = t->row_scale[(row + j) * t->row_scale_step] * (u->v ? of->v[j] : 1);
    for (ptrdiff_t j = 0; j < rows && u->hess && t->row_scale_step; ++j)
        of->least[j] = least_of_hessian(t, t->row_scale[row + j]);
}

void sum_usual(usual_tiles *w, ptrdiff_t i, ptrdiff_t row, ptrdiff_t rows)
{
    const task *t = w->t;
    usual_rows *u = w->u + i;
    w->row[i] = row, w->rows[i] = rows;
    w->in_run[i] = w->pattern.rows && rows == w->k->lanes;
    u->in_tile = !w->in_run[i];
    find_arrays(w, i, row, rows);
    const where_rows_lie lie = w->k->near_sums(w->x[i], t->classes, u, w->b + i);
    u->suited = lie != NOWHERE || t->work != LOGSUMEXP;    /* which has an infinite maximum for its result */
    if (lie == NEAR || !u->suited) return;
    /* What results are made of needs the rows' anchors: it is kept in the tile. */
    if (u->results) w->in_run[i] = 0, u->in_tile = 1;
    const int is_f64 = t->x.type == ELEMENT_F64;
    w->k->columns_sum(w->x[i], t->classes, sum_headroom(is_f64), anchor_limit(is_f64), u->results, w->b + i);
}

/* Rows that are not counted, or undefined, have statistics of their own. */
static void keep_usual(const usual_tiles *w, ptrdiff_t i)
{
    const usual_rows *u = w->u + i;
    const batch *b = w->b + i;
    for (ptrdiff_t j = 0; j < w->rows[i]; ++j) {
        row_statistics *s = w->t->statistics + w->row[i] + j;
        const int uncounted = (u->v && u->v[j] == 0) || (u->has_ignored && (double)u->y[j] == u->ignored);
        const int undefined = isnan(b->rest[j]) || (u->y && isnan(b->z[j]));
        s->max = uncounted ? 0 : undefined ? NAN : b->max[j];
        s->rest = uncounted ? 0 : undefined ? NAN : b->rest[j];
        s->mass = 0;
    }
}

/* Straight from where the logits of tile i lie to where its results do. */
static void write_run(usual_tiles *w, ptrdiff_t i)
{
    const task *t = w->t;
    const ptrdiff_t classes = t->classes, at = w->row[i] * classes * element_size(t->x.type);
    const ptrdiff_t vector = w->k->lanes * element_size(t->x.type);
    const char *x = t->x.data + at;
    char *out = t->out.data + at, *hess = t->hess.data ? t->hess.data + at : NULL;
    const int is_aligned = ((uintptr_t)out | (uintptr_t)hess) % (uintptr_t)vector == 0,
              bypass = t->bypass && is_aligned;
    if (t->work == LOG_SOFTMAX) w->k->near_log_softmax_run(x, classes, w->b + i, w->pattern, out, bypass);
    else w->k->near_gradient_run(x, classes, w->u + i, w->pattern, out, hess, bypass);
}

int end_usual(usual_tiles *w, ptrdiff_t i)
{
    const task *t = w->t;
    if (t->loss && w->u[i].loss == w->of[i].loss)
        memcpy(t->loss + w->row[i], w->of[i].loss, (size_t)w->rows[i] * sizeof *t->loss);
    if (t->statistics) keep_usual(w, i);
    if (!t->out.data) return 0;
    if (w->in_run[i]) {
        write_run(w, i);
        return 0;
    }
    if (t->work == LOG_SOFTMAX) w->k->columns_log_softmax(w->x[i], t->classes, w->b + i);
    else w->k->near_gradient(w->x[i], t->classes, w->u + i);
    return 1;
}
