#include "batch.h"

#include "targets.h"

void find_targets(const task *t, ptrdiff_t row, ptrdiff_t rows, row_targets *r)
{
    const double *v = t->sample_weight ? t->sample_weight + row : NULL;
    const int64_t *plain = t->targets.data && t->targets.size == -8 ? (const int64_t *)t->targets.data + row : NULL;
    int any = 0;
    for (ptrdiff_t i = 0; i < rows; ++i) r->v[i] = v ? v[i] : 1;
    for (ptrdiff_t i = 0; i < rows; ++i) {
        const int64_t y = plain ? plain[i] : t->targets.data ? target_at(&t->targets, row + i) : -1;
        const int skipped = (v && v[i] == 0) | (t->targets.data && is_ignored(&t->targets, y));
        const int bad = t->targets.data && (uint64_t)y >= (uint64_t)t->classes;
        r->y[i] = y;
        r->skipped[i] = skipped;
        r->bad[i] = bad;
        any |= skipped | bad;
    }
    r->any_unread = any;
}

/* 1 for what is no class: rows that are skipped or bad come here too, and what becomes of them is seen to later. */
static double class_weight_of(const task *t, ptrdiff_t c)
{
    return t->class_weight && (size_t)c < (size_t)t->classes ? t->class_weight[c] : 1;
}

void set_unread(batch *b, ptrdiff_t i, double max)
{
    b->max[i] = max;
    b->shift[i] = b->k[i] = b->z[i] = b->sum[i] = b->base[i] = b->own[i] = 0;
}

void restore(const task *t, ptrdiff_t row, batch *b, ptrdiff_t i, double *mass)
{
    const double *saved = t->saved + 3 * row;
    b->max[i] = saved[0], b->base[i] = saved[1], *mass = saved[2];
    b->sum[i] = b->own[i] = 0;
}

static int is_plain_loss(const task *t)
{
    return t->targets.data && !t->class_weight && !t->sample_weight && t->label_smoothing == 0 && t->z_loss == 0;
}

static double loss_of(const task *t, const row_targets *r, const batch *b, ptrdiff_t i, double mass, double distance)
{
    const double log_sum = b->log_sum[i], lse = b->max[i] + log_sum;
    double loss = times(mass, log_sum) + distance;
    const double own = (1 - t->label_smoothing) * (t->targets.data ? class_weight_of(t, r->y[i]) : 0);
    loss += times(own, (b->max[i] - b->z[i]) + log_sum);
    return r->v[i] * (loss + times(t->z_loss, lse * lse));
}

void find_losses(const task *t, ptrdiff_t row, ptrdiff_t rows, const row_targets *r, const batch *b, double *mass,
                 const double *distance)
{
    const int plain = is_plain_loss(t);
    /* From the float64 weights: the gradient at y subtracts W - w_y from it, which must be of the same W. */
    const double smoothed = times(t->label_smoothing / (double)t->classes, t->class_weight_sum);
    if (plain && !r->any_unread)
        for (ptrdiff_t i = 0; i < rows; ++i) t->loss[row + i] = (b->max[i] - b->z[i]) + b->log_sum[i];
    else
        for (ptrdiff_t i = 0; i < rows; ++i) {
            if (r->skipped[i]) t->loss[row + i] = 0;
            else t->loss[row + i] = isnan(b->max[i]) ? NAN : loss_of(t, r, b, i, mass[i], distance[i]);
        }
    for (ptrdiff_t i = 0; i < rows && t->targets.data; ++i) mass[i] = smoothed;
    for (ptrdiff_t i = 0; i < rows && t->saved; ++i) {
        double *saved = t->saved + 3 * (row + i);
        saved[0] = b->max[i], saved[1] = b->rest[i], saved[2] = mass[i];
    }
}

static void find_gradient(const task *t, double scale, const row_targets *r, const batch *b, ptrdiff_t i, double mass,
                          row_gradients *g)
{
    const double z_term = times(2 * t->z_loss, b->max[i] + b->log_sum[i]);
    double a = mass + z_term;
    if (t->targets.data) {
        const double w = class_weight_of(t, r->y[i]), d = t->label_smoothing / (double)t->classes;
        const double rest_of_w = t->class_weight ? t->class_weight_sum - w : (double)(t->classes - 1);
        const double own = (1 - t->label_smoothing) * w;
        a += own;
        /* At y: a p - b - d w, and where p > 1/2 with a - b - d w taken together, which has no p to cancel against. */
        const double others = times(d, rest_of_w) + z_term;
        g->value[i] = scale * (b->p[i] > 0.5 ? others + a * b->below_1[i] : a * b->p[i] - own - d * w);
    }
    g->factor[i] = scale * a;
    g->scale[i] = scale;
}

int find_gradients(const task *t, ptrdiff_t row, ptrdiff_t rows, const row_targets *r, const batch *b,
                   const double *mass, row_gradients *g)
{
    const int plain = is_plain_loss(t), any_weight = t->row_scale && (t->row_scale_step || t->sample_weight);
    const double one = t->row_scale ? t->row_scale[0] : 1;
    int any_nan = 0;
    for (ptrdiff_t i = 0; i < rows; ++i) any_nan |= isnan(b->max[i]) != 0;
    for (ptrdiff_t i = 0; i < rows; ++i) {
        const double scale = any_weight ? t->row_scale[(row + i) * t->row_scale_step] * r->v[i] : one;
        g->factor[i] = scale;
        g->scale[i] = 0;
        g->value[i] = scale * b->below_1[i];
        if (!plain && t->work != SOFTMAX) find_gradient(t, scale, r, b, i, mass[i], g);
    }
    if (r->any_unread | any_nan)
        for (ptrdiff_t i = 0; i < rows; ++i)
            if (r->skipped[i] || isnan(b->max[i])) g->factor[i] = g->scale[i] = g->value[i] = 0;
    return r->any_unread | any_nan;
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
