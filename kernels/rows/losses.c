#include "rows/losses.h"

#include "rows/targets.h"

void find_targets(const task *t, row_batch *n)
{
    row_targets *r = &n->r;
    const ptrdiff_t row = n->row, rows = n->rows;
    const double *v = t->options.sample_weight ? t->options.sample_weight + row : NULL;
    const int is_int64 = t->targets.data && t->targets.size == -8;
    const int64_t *as_they_lie = is_int64 ? (const int64_t *)t->targets.data + row : NULL;
    int any = 0;
    for (ptrdiff_t i = 0; i < rows; ++i) r->v[i] = v ? v[i] : 1;
    for (ptrdiff_t i = 0; i < rows; ++i) {
        const int64_t y = as_they_lie ? as_they_lie[i] : t->targets.data ? target_at(&t->targets, row + i) : -1;
        const int skipped = (v && v[i] == 0) | (t->targets.data && is_ignored(&t->targets, y));
        const int outside = t->targets.data && (uint64_t)y >= (uint64_t)t->classes;
        const int bad = outside && !t->options.all_classes;
        r->y[i] = outside && !bad ? -1 : y;
        r->skipped[i] = skipped;
        r->bad[i] = bad;
        any |= skipped | bad;
    }
    r->any_unread = any;
}

/* 1 for what is no class: rows that are skipped or bad come here too, and what becomes of them is seen to later. A class
 * of another block weighs nothing in this one. */
static double class_weight_of(const task *t, ptrdiff_t c)
{
    const double *w = t->options.class_weight;
    if (c < 0 && t->options.all_classes) return 0;
    return w && (size_t)c < (size_t)t->classes ? w[c] : 1;
}

void set_unread(batch *b, ptrdiff_t i, double max)
{
    b->max[i] = max;
    b->shift[i] = b->k[i] = b->z[i] = b->sum[i] = b->sum_error[i] = b->base[i] = b->own[i] = 0;
}

void restore(const task *t, row_batch *n, ptrdiff_t i)
{
    const row_statistics *s = t->statistics + n->row + i;
    n->b.max[i] = s->max, n->mass[i] = s->mass;
    set_rest(&n->b, i, s->rest);
}

/* (1 - p_y)^gamma, and gamma (1 - p_y)^(gamma-1) p_y D; where no other class has any probability, what comes of either
 * in a loss and a gradient is 0. */
typedef struct {
    double factor, slope;
} focus;

static focus focus_of(const task *t, const batch *b, ptrdiff_t i, double data)
{
    const double gamma = t->options.focal, below_1 = -b->below_1[i];
    focus f = {1, 0};
    if (gamma == 0) return f;
    f.factor = below_1 == 0 ? 0 : pow(below_1, gamma);
    f.slope = below_1 == 0 ? 0 : times(gamma * (f.factor / below_1) * b->p[i], data);
    return f;
}

static double loss_of(const task *t, const row_batch *n, ptrdiff_t i)
{
    const row_options *o = &t->options;
    const batch *b = &n->b;
    const double log_sum = b->log_sum[i], lse = b->max[i] + log_sum;
    double loss = times(n->mass[i], log_sum) + n->distance[i];
    const double own = (1 - o->label_smoothing) * (t->targets.data ? class_weight_of(t, n->r.y[i]) : 0);
    loss += times(own, (b->max[i] - b->z[i]) + log_sum);
    if (o->focal != 0) loss = times(focus_of(t, b, i, loss).factor, loss);
    return n->r.v[i] * (loss + times(o->z_loss, lse * lse));
}

void find_losses(const task *t, row_batch *n)
{
    const row_options *o = &t->options;
    const batch *b = &n->b;
    double *loss = t->loss + n->row;
    if (t->work == LOGSUMEXP) {
        /* An infinite maximum is the logsumexp itself: of a row with +inf, or of -inf alone. */
        for (ptrdiff_t i = 0; i < n->rows; ++i)
            loss[i] = isinf(b->max[i]) ? b->max[i] : (b->max[i] + b->log_sum[i]) + b->log_sum_off[i];
        return;
    }
    /* From the float64 weights: the gradient at y subtracts W - w_y from it, which must be of the same W. */
    const double smoothed = times(floor_of(t), o->class_weight_sum);
    if (o->plain && !n->r.any_unread)
        for (ptrdiff_t i = 0; i < n->rows; ++i) loss[i] = (b->max[i] - b->z[i]) + b->log_sum[i];
    else
        for (ptrdiff_t i = 0; i < n->rows; ++i) {
            if (n->r.skipped[i]) loss[i] = 0;
            else loss[i] = isnan(b->max[i]) || n->r.bad[i] ? NAN : loss_of(t, n, i);
        }
    for (ptrdiff_t i = 0; i < n->rows && t->targets.data; ++i) n->mass[i] = smoothed;
    if (t->statistics) keep_statistics(t, n);
}

void keep_statistics(const task *t, const row_batch *n)
{
    for (ptrdiff_t i = 0; i < n->rows; ++i) {
        const row_statistics s = {n->b.max[i], n->b.rest[i], n->mass[i]};
        t->statistics[n->row + i] = s;
    }
}

void keep_parts(const task *t, const row_batch *n)
{
    const double smoothed = times(floor_of(t), t->options.class_weight_sum);
    const int spreads = has_spread(t);
    for (ptrdiff_t i = 0; i < n->rows; ++i) {
        const double max = n->b.max[i], mass = t->targets.data ? smoothed : n->mass[i];
        row_part r = {max, n->b.rest[i], n->b.z[i], mass, spreads ? n->distance[i] : 0};
        if (max == INFINITY) r.max = NAN;
        if (max == -INFINITY) r.rest = 0, r.distance = mass == 0 ? 0 : INFINITY;
        t->parts[n->row + i] = r;
    }
}

static void find_gradient(const task *t, double scale, const row_batch *n, ptrdiff_t i, row_gradients *g)
{
    const row_options *o = &t->options;
    const batch *b = &n->b;
    /* From the rest that a backward has, too, of which the logarithm at hand may have had more: both have the same bits. */
    const double log_sum = o->z_loss == 0 && o->focal == 0 ? 0 : log1p(b->rest[i]);
    const double z_term = o->z_loss == 0 ? 0 : 2 * o->z_loss * (b->max[i] + log_sum);
    focus f = {1, 0};
    double a = n->mass[i] + z_term;
    if (t->targets.data) {
        const double w = class_weight_of(t, n->r.y[i]), d = floor_of(t);
        const double rest_of_w = o->class_weight ? o->class_weight_sum - w : (double)(t->classes - 1);
        const double own = (1 - o->label_smoothing) * w;
        /* Of a block the mass is that of all blocks, which the sum of its own weights is not. */
        double others = o->all_classes ? n->mass[i] - d * w : times(d, rest_of_w), at_y = own + d * w;
        a += own;
        if (o->focal != 0) {
            const double smoothed = times(n->mass[i], log_sum) + (d == 0 ? 0 : n->distance[i]);
            f = focus_of(t, b, i, smoothed + times(own, (b->max[i] - b->z[i]) + log_sum));
            a = f.factor * (n->mass[i] + own) + f.slope + z_term;
            others *= f.factor, at_y = f.factor * at_y + f.slope;
        }
        /* At y: a p - b - d w, and where p > 1/2 with a - b - d w taken together, which has no p to cancel against. */
        others += z_term;
        g->value[i] = scale * (b->p[i] > 0.5 ? others + a * b->below_1[i] : a * b->p[i] - at_y);
        if (isinf(f.slope)) g->value[i] = times(scale, -INFINITY); /* slope (p - 1) */
    }
    g->factor[i] = times(scale, a);
    g->scale[i] = scale * f.factor;
}

int find_gradients(const task *t, const row_batch *n, row_gradients *g)
{
    const int plain = t->options.plain, any_weight = t->row_scale && (t->row_scale_step || t->options.sample_weight);
    const double slope = t->options.logit_scale, one = (t->row_scale ? t->row_scale[0] : 1) * slope;
    const batch *b = &n->b;
    int any_nan = 0;
    for (ptrdiff_t i = 0; i < n->rows; ++i) any_nan |= isnan(b->max[i]) != 0;
    for (ptrdiff_t i = 0; i < n->rows; ++i) {
        const double scale = any_weight ? t->row_scale[(n->row + i) * t->row_scale_step] * n->r.v[i] * slope : one;
        g->factor[i] = scale;
        g->scale[i] = 0;
        g->value[i] = scale * b->below_1[i];
        if (!plain) find_gradient(t, scale, n, i, g);
    }
    if (n->r.any_unread | any_nan)
        for (ptrdiff_t i = 0; i < n->rows; ++i)
            if (n->r.skipped[i] || isnan(b->max[i])) g->factor[i] = g->scale[i] = g->value[i] = 0;
    return n->r.any_unread | any_nan;
}

subtrahend subtrahend_of(const task *t, double scale)
{
    const double epsilon = t->options.label_smoothing, floor = floor_of(t);
    const subtrahend s = {NULL, NULL, t->targets.data ? 0 : 1 - epsilon, floor,
                          t->targets.data && floor == 0 ? 0 : scale};
    return s;
}
