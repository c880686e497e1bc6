/* The gradient of what arrives at each row's log-probability and entropy, row by row. With m = max z, R the sum of the
 * other e^(z - m), d = sum_c p_c (m - z_c) and so the entropy h = d + log1p(R),
 *
 *   grad_c = g_p (delta_cy - p_c) - g_h p_c (log p_c + h) = g_p delta_cy + p_c (g_h (m - z_c) - (g_p + g_h d)). */
#include <math.h>

#include "math/anchored_factor.h"
#include "rows/place.h"

enum { RAISED = 10 };    /* 2^10 is more than max - z where e^z counts */

/* What is beyond the lanes, in float64 and one by one. */
static void write_beyond(const place *p, block b, const void *x, const log_probs_job *job, int64_t y, double share,
                         void *out)
{
    const ptrdiff_t size = element_size(p->x.type);
    for (ptrdiff_t i = 0; i < b.n; ++i) {
        const double below = job->max - get_element(p->x.type, (const char *)x + i * size);
        const double grad = times(exp(-below) * share, times(job->slope, below) + job->level);
        set_element(p->x.type, (char *)out + i * size, b.at + i == y ? job->value : isinf(below) ? 0 : grad);
    }
}

static void write_row(place *p, ptrdiff_t row, const row_statistics *s, int64_t y)
{
    const task *t = p->t;
    const double g_p = !t->targets.data ? 0 : t->row_scale[row * t->row_scale_step],
                 g_h = t->entropy_scale[row * t->entropy_scale_step];
    const double share = 1 / (1 + s->rest), slope = g_h, level = -(g_p + times(g_h, s->mass));
    const anchor at = anchor_at(s->max, 0, p->is_f64);
    const double top = exp_at(at, s->max);
    double value = 0;
    if (y >= 0) {
        const double z = read_element(&p->x, y), below = s->max - z, p_y = exp_at(at, z) / top * share;
        const double others = below == 0 && s->rest < 1 ? s->rest * share : 1 - p_y;
        value = g_p * others + times(p_y, times(g_h, below - s->mass));
        if (isinf(below)) value = g_p;
    }
    const double large = fmax(fabs(slope), fabs(level));
    int power = 0;
    if (large > 0 && isfinite(large)) frexp(large, &power);
    /* What e^z is multiplied by is raised, so that a product with it that is then multiplied by max - z keeps its digits. */
    power += RAISED;
    const double down = times_power_of_2(1, -power), at_max = share * level;
    const anchored_factor f = anchor_factor(p->is_f64, times_power_of_2(share / top, power), at, top);
    const log_probs_job job = {f.at,   s->max, times_power_of_2(f.factor, f.power), slope * down, level * down,
                               at_max, value};
    const log_probs_job alone = {at, s->max, 1, slope, level, at_max, value};
    const int beyond = is_beyond(p->is_f64, s->max, times_power_of_2(large, RAISED), 0) || !isfinite(large);
    for (block b = {0, 0}; next_whole(&p->c, &b);) {
        void *out = block_to_write(&p->out, b);
        const void *x = read_block(&p->x, b);
        if (beyond) write_beyond(p, b, x, &alone, y, share, out);
        else p->k->log_probs_gradient(x, b.n, &job, y < 0 ? -1 : (ptrdiff_t)(y - b.at), out, p->out.bypass);
        write_block(&p->out, b, out);
    }
}

void log_probs_backward(place *p, ptrdiff_t first, ptrdiff_t last)
{
    const task *t = p->t;
    for (p->n.row = first; p->n.row < last && !p->c.stopped; p->n.row += p->n.rows) {
        p->n.rows = last - p->n.row < BATCH ? last - p->n.row : BATCH;
        find_targets(t, &p->n);
        for (ptrdiff_t i = 0; i < p->n.rows && !p->c.stopped; ++i) {
            const row_statistics *s = t->statistics + p->n.row + i;
            go_to(p, p->n.row + i);
            if (p->n.r.skipped[i]) fill_row(&p->out, &p->c, 0);
            else if (p->n.r.bad[i] || isnan(s->max)) fill_row(&p->out, &p->c, NAN);
            else write_row(p, p->n.row + i, s, t->targets.data ? p->n.r.y[i] : -1);
        }
    }
}
