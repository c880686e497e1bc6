#include "batch.h"

#include "targets.h"

/* Field by field into memory: a structure copied as a whole waits for the stores of its parts (a quarter of the time at 10 classes). */
static inline void set_target(const task *t, row_target *r, int64_t y, double v)
{
    r->v = v;
    r->y = y;
    r->skipped = v == 0 || is_ignored(&t->targets, y);
    r->bad = (uint64_t)y >= (uint64_t)t->classes;
}

void find_targets(const task *t, ptrdiff_t row, ptrdiff_t rows, row_target *r)
{
    const double *v = t->sample_weight ? t->sample_weight + row : NULL;
    if (!t->targets.data)
        for (ptrdiff_t i = 0; i < rows; ++i) r[i] = (row_target){v ? v[i] : 1, -1, v && v[i] == 0, 0};
    else if (t->targets.size == -8 && !v)
        for (ptrdiff_t i = 0; i < rows; ++i) set_target(t, &r[i], ((const int64_t *)t->targets.data)[row + i], 1);
    else
        for (ptrdiff_t i = 0; i < rows; ++i) set_target(t, &r[i], target_at(&t->targets, row + i), v ? v[i] : 1);
}

static double class_weight_of(const task *t, ptrdiff_t c) { return t->class_weight ? t->class_weight[c] : 1; }

void set_unread(batch *b, ptrdiff_t i, double max)
{
    b->max[i] = max;
    b->shift[i] = b->k[i] = b->z[i] = b->sum[i] = b->base[i] = b->own[i] = 0;
}

void restore(const task *t, ptrdiff_t row, batch *b, ptrdiff_t i, double *mass)
{
    const double *saved = t->saved + 3 * row;
    const int is_f64 = t->x.type == ELEMENT_F64;
    const anchor at = anchor_at(isnan(saved[0]) ? 0 : saved[0], sum_headroom(is_f64), is_f64);
    b->max[i] = saved[0], b->base[i] = saved[1], *mass = saved[2];
    b->shift[i] = at.shift, b->k[i] = at.k;
    b->sum[i] = b->own[i] = 0;
}

static int is_plain_loss(const task *t)
{
    return t->targets.data && !t->class_weight && !t->sample_weight && t->label_smoothing == 0 && t->z_loss == 0;
}

static double loss_of(const task *t, const row_target *r, const batch *b, ptrdiff_t i, double mass, double distance)
{
    const double log_sum = b->log_sum[i], lse = b->max[i] + log_sum;
    double loss = times(mass, log_sum) + distance;
    if (t->targets.data) loss += times((1 - t->label_smoothing) * class_weight_of(t, r->y), (b->max[i] - b->z[i]) + log_sum);
    return r->v * (loss + times(t->z_loss, lse * lse));
}

void find_losses(const task *t, ptrdiff_t row, ptrdiff_t rows, const row_target *r, const batch *b, double *mass,
                 const double *distance)
{
    const int plain = is_plain_loss(t);
    /* From the float64 weights: the gradient at y subtracts W - w_y from it, which must be of the same W. */
    const double smoothed = times(t->label_smoothing / (double)t->classes, t->class_weight_sum);
    for (ptrdiff_t i = 0; i < rows; ++i) {
        if (plain) t->loss[row + i] = r[i].skipped ? 0 : (b->max[i] - b->z[i]) + b->log_sum[i];
        else if (r[i].skipped) t->loss[row + i] = 0;
        else t->loss[row + i] = isnan(b->max[i]) ? NAN : loss_of(t, &r[i], b, i, mass[i], distance[i]);
        if (t->targets.data) mass[i] = smoothed;
    }
    for (ptrdiff_t i = 0; i < rows && t->saved; ++i) {
        double *saved = t->saved + 3 * (row + i);
        saved[0] = b->max[i], saved[1] = b->rest[i], saved[2] = mass[i];
    }
}

static row_gradient gradient_of(const task *t, double scale, const row_target *r, const batch *b, ptrdiff_t i, double mass)
{
    const double z_term = times(2 * t->z_loss, b->max[i] + b->log_sum[i]);
    row_gradient g = {scale * (mass + z_term), scale, 0};
    if (t->targets.data) {
        const double w = class_weight_of(t, r->y), d = t->label_smoothing / (double)t->classes;
        const double rest_of_w = t->class_weight ? t->class_weight_sum - w : (double)(t->classes - 1);
        const double own = (1 - t->label_smoothing) * w, a = own + mass + z_term;
        g.factor = scale * a;
        /* At y: a p - b - d w, and where p > 1/2 with a - b - d w taken together, which has no p to cancel against. */
        g.value = scale * (b->p[i] > 0.5 ? times(d, rest_of_w) + z_term + a * b->below_1[i] : a * b->p[i] - own - d * w);
    }
    return g;
}

void find_gradients(const task *t, ptrdiff_t row, ptrdiff_t rows, const row_target *r, const batch *b, const double *mass,
                    row_gradient *g)
{
    const int plain = is_plain_loss(t);
    for (ptrdiff_t i = 0; i < rows; ++i) {
        const double scale = t->row_scale ? t->row_scale[(row + i) * t->row_scale_step] * r[i].v : 1;
        if (r[i].skipped || isnan(b->max[i])) g[i].factor = g[i].scale = g[i].value = 0;
        else if (t->work == SOFTMAX) g[i].factor = 1, g[i].scale = g[i].value = 0;
        else if (plain) g[i].factor = scale, g[i].scale = 0, g[i].value = scale * b->below_1[i];
        else g[i] = gradient_of(t, scale, &r[i], b, i, mass[i]);
    }
}

subtrahend subtrahend_of(const task *t, double scale)
{
    const double floor = t->label_smoothing / (double)t->classes;
    const subtrahend s = {NULL, NULL, t->targets.data ? 0 : 1 - t->label_smoothing, floor,
                          t->targets.data && floor == 0 ? 0 : scale};
    return s;
}

double total_of(const double *a, ptrdiff_t n)
{
    compensated total = {0, 0};
    for (ptrdiff_t j = 0; j < n; j += 128) {
        double s[8] = {0};
        const ptrdiff_t end = n - j < 128 ? n : j + 128;
        ptrdiff_t i = j;
        for (; end - i >= 8; i += 8)
            for (int u = 0; u < 8; ++u) s[u] += a[i + u];
        for (; i < end; ++i) s[0] += a[i];
        compensated_add(&total, ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])));
    }
    return compensated_value(total);
}
