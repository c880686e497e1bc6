/* A row from beginning to end: which blocks it has, its statistics, and the few numbers that carry every option.
 * With lse = log sum e^z, p = e^(z - lse), a row weight v and a scale g:
 *
 *   index target y              loss = v [(1-eps) w_y (lse - z_y) + eps/C sum w_c (lse - z_c) + lambda lse^2]
 *                               grad = g v [a p_c - b delta_cy - d w_c],  a = (1-eps) w_y + eps/C W + 2 lambda lse,
 *                                                                         b = (1-eps) w_y,  d = eps/C,  W = sum w_c
 *   probability target q        q' = (1-eps) q + eps/C
 *                               loss = v [sum w_c q'_c (lse - z_c) + lambda lse^2]
 *                               grad = g v [a p_c - w_c q'_c],            a = sum w_c q'_c + 2 lambda lse
 *
 * Everything is taken relative to the maximum m: lse = m + log_sum, and sum t_c (lse - z_c) = mass log_sum + distance
 * with distance = sum t_c (m - z_c) >= 0, so that large logits cancel nowhere. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "drivers.h"
#include "layout.h"
#include "targets.h"

#define POLL_EVERY (1 << 20)    /* classes between polls: a millisecond, 30 at the slowest layout */

/* One thread's place: its row, and a buffer for a block of each array that can't be read or written in place. */
typedef struct {
    const task *t;
    const block_functions *k;
    int is_f64, x_direct, q_direct, out_direct;
    element q_type;            /* that q is read in */
    const char *x, *q;         /* the row */
    char *out;
    const char *x_held;        /* the block that x_buffer holds, so that a short row is copied once for all passes */
    ptrdiff_t since_poll;
    int stopped;
    f64 *x_buffer, *q_buffer, *out_buffer;    /* of BLOCK each, NULL where none is needed */
} cursor;

static void start(cursor *c, const task *t)
{
    c->t = t;
    c->k = &t->isa->of[t->x.type];
    c->is_f64 = t->x.type == ELEMENT_F64;
    c->x_direct = is_direct(t, &t->x);
    /* Probabilities are read in the lanes' type, the grad_output of log_softmax_backward in that of log_p. */
    c->q_type = t->rows_of == log_softmax_backward_rows ? t->x.type : c->is_f64 ? ELEMENT_F64 : ELEMENT_F32;
    c->q_direct = t->q.data && t->q.type == c->q_type && is_direct(t, &t->q);
    c->out_direct = t->out.data && is_direct(t, &t->out);
    c->since_poll = 0;
    /* On the heap: 48 KiB more than some threads' stacks have. Without memory the rows are left as they are. */
    const int buffers = !(c->x_direct && (c->q_direct || !t->q.data) && (c->out_direct || !t->out.data));
    c->x_buffer = buffers ? malloc(3 * BLOCK * sizeof(f64)) : NULL;
    c->stopped = buffers && !c->x_buffer;
    if (c->stopped) *t->out_of_memory = 1;
    if (c->x_buffer) c->q_buffer = c->x_buffer + BLOCK, c->out_buffer = c->q_buffer + BLOCK;
}

static void finish(cursor *c)
{
    c->t->isa->fence();
    free(c->x_buffer);
}

static void go_to(cursor *c, ptrdiff_t row)
{
    c->x = row_of(c->t, &c->t->x, row);
    c->q = c->t->q.data ? row_of(c->t, &c->t->q, row) : NULL;
    c->out = c->t->out.data ? row_of(c->t, &c->t->out, row) : NULL;
    c->x_held = NULL;
}

/* for (block b = {0, 0}; next(c, &b);) visits the row's blocks. */
typedef struct { ptrdiff_t at, n; } block;

static int next_of(cursor *c, block *b, ptrdiff_t size)
{
    const task *t = c->t;
    b->at += b->n;
    if ((c->since_poll += b->n) >= POLL_EVERY && t->poll) {
        c->since_poll = 0;
        c->stopped = c->stopped || t->poll();
    }
    if (c->stopped || b->at >= t->classes) return 0;
    b->n = t->classes - b->at < size ? t->classes - b->at : size;
    return 1;
}

static int next(cursor *c, block *b) { return next_of(c, b, BLOCK); }

/* For what works on each class alone, and so gives the same bits in blocks of any size: one where nothing is copied, so
 * that a streamed row has two partial lines and not two a block. */
static int next_written(cursor *c, block *b) { return next_of(c, b, c->x_buffer ? BLOCK : POLL_EVERY); }

static const void *x_block(cursor *c, block b)
{
    const char *from = c->x + b.at * c->t->x.class_stride;
    if (c->x_direct) return from;
    if (c->x_held != from) gather(&c->t->x, from, b.n, c->x_buffer);
    c->x_held = from;
    return c->x_buffer;
}

static double x_element(cursor *c, ptrdiff_t at)
{
    f64 one;
    gather(&c->t->x, c->x + at * c->t->x.class_stride, 1, &one);
    return get_element(c->t->x.type, &one);
}

/* The block of q in the type that the block functions read it in. */
static const void *q_block(cursor *c, block b)
{
    const element from_type = c->t->q.type, to_type = c->q_type;
    const char *from = c->q + b.at * c->t->q.class_stride;
    if (c->q_direct) return from;
    gather(&c->t->q, from, b.n, c->q_buffer);
    if (from_type == to_type) return c->q_buffer;
    /* In place: downwards where the elements grow, upwards where they shrink. */
    const ptrdiff_t from_size = element_size(from_type), to_size = element_size(to_type);
    char *buffer = (char *)c->q_buffer;
    for (ptrdiff_t j = 0; j < b.n; ++j) {
        const ptrdiff_t i = from_size < to_size ? b.n - 1 - j : j;
        set_element(to_type, buffer + i * to_size, get_element(from_type, buffer + i * from_size));
    }
    return buffer;
}

static void *out_block(cursor *c, block b)
{
    return c->out_direct ? c->out + b.at * c->t->out.class_stride : (char *)c->out_buffer;
}

static void write_block(cursor *c, block b, const void *from)
{
    if (!c->out_direct) scatter(&c->t->out, from, b.n, c->out + b.at * c->t->out.class_stride);
}

static void fill_row(cursor *c, double value)
{
    const ptrdiff_t size = element_size(c->t->out.type);
    for (block b = {0, 0}; next_written(c, &b);) {
        char *out = out_block(c, b);
        if (value == 0) memset(out, 0, (size_t)(b.n * size));
        else for (ptrdiff_t i = 0; i < b.n; ++i) set_element(c->t->out.type, out + i * size, value);
        write_block(c, b, out);
    }
}

/* ------------------------------------------------------------------ the statistics of a row */

/* The classes that the anchor is guessed from: one unrolled step of AVX-512; and by how much the maximum may pass it. */
#define GUESS_FROM 64
static double guess_slack(int is_f64) { return is_f64 ? 300 : 20; }

static const statistics undefined = {NAN, NAN, NAN};

/* All NaN where the row holds a NaN or +inf, or nothing but -inf. */
static statistics statistics_of(cursor *c)
{
    double max = -INFINITY;
    for (block b = {0, 0}; next(c, &b);) {
        const double top = c->k->max(x_block(c, b), b.n);
        if (isnan(top)) return undefined;
        if (top > max) max = top;
    }
    if (isinf(max)) return undefined;
    const anchor at = anchor_at(max, sum_headroom(c->is_f64), c->is_f64);
    compensated sum = {0, 0};
    ptrdiff_t ties = 0;
    for (block b = {0, 0}; next(c, &b);) compensated_add(&sum, c->k->sum(x_block(c, b), b.n, at, max, &ties));
    statistics s;
    s.max = max;
    s.rest = (double)(ties - 1) + compensated_value(sum) / exp_at(at, max);
    s.log_sum = log_of_1_plus(s.rest);
    return s;
}

/* The same in one pass, where the anchor that the row's first classes suggest will do. The target y is left out of the sum,
 * so that rest keeps its digits where y leads; y = -1 for none. */
static statistics statistics_about(cursor *c, int64_t y)
{
    block b = {0, 0};
    next(c, &b);
    const double guess = c->k->max(x_block(c, b), b.n < GUESS_FROM ? b.n : GUESS_FROM);
    if (!(fabs(guess) <= anchor_limit(c->is_f64))) return statistics_of(c);
    const anchor at = anchor_at(guess, sum_headroom(c->is_f64), c->is_f64);
    const ptrdiff_t size = element_size(c->t->x.type);
    double max = -INFINITY;
    compensated sum = {0, 0};
    b.at = b.n = 0;
    while (next(c, &b)) {
        const char *x = x_block(c, b);
        const ptrdiff_t before = y >= b.at && y < b.at + b.n ? y - b.at : b.n, after = b.n - before - 1;
        double top;
        compensated_add(&sum, c->k->sum_and_max(x, before, at, &top));
        max = top > max ? top : max;
        if (after <= 0) continue;
        compensated_add(&sum, c->k->sum_and_max(x + (before + 1) * size, after, at, &top));
        max = top > max ? top : max;
    }
    const double z = y < 0 ? -INFINITY : x_element(c, y), others = compensated_value(sum);
    max = z > max ? z : max;
    if (isnan(z)) return undefined;
    /* Before others is looked at: past the slack an exponent may have wrapped, and the sum be anything. */
    if (!(fabs(max) <= anchor_limit(c->is_f64)) || max > guess + guess_slack(c->is_f64)) return statistics_of(c);
    if (isnan(others)) return undefined;
    const double own = exp_at(at, z);
    statistics s;
    s.max = max;
    s.rest = z == max ? others / own : (others + own) / exp_at(at, max) - 1;
    s.log_sum = log_of_1_plus(s.rest);
    /* Where one class that is not left out holds most of the sum, rest is its difference from 1: the exact way then. The
     * loss has max - z_y > 0 to hide that in; a log-softmax has not, nor a loss where w_y may be 0. */
    return z != max && s.rest < (y < 0 || c->t->class_weight ? 3 : 0.25) ? statistics_of(c) : s;
}

/* ------------------------------------------------------------------ writing a row */

anchored_factor anchor_factor(int is_f64, double factor, double max)
{
    const double most = is_f64 ? 1000 : 120, down = is_f64 ? 64 : 32;    /* 1021 + 64 > 1074, 125 + 32 > 149 */
    anchored_factor f = {anchor_at(max, 0, is_f64), 0};
    const double mantissa = factor / exp_at(f.at, max);
    int exponent = 0;
    if (!isfinite(mantissa) || mantissa == 0) {
        f.factor = mantissa;
        return f;
    }
    f.factor = frexp(mantissa, &exponent);
    const double headroom = exponent + down < most ? exponent + down : most;
    f.at.k -= headroom;
    f.factor = times_power_of_2(f.factor, exponent - headroom);
    return f;
}

int is_beyond(int is_f64, double max, double factor, double scale)
{
    /* Up to here float32 results are right down to the subnormals: 88 + 32 bits stay below 2^120, and where m was
     * subtracted, e^(m/2 - m) 2^35 stays below the smallest number. Loss scaling in half precision goes to 2^24. */
    const double most = fabs(max) > anchor_limit(is_f64) ? 0x1p35 : 0x1p88;
    if (is_f64) return isinf(factor);
    return fabs(factor) > most || fabs(scale) > 0x1p100 || (scale != 0 && fabs(scale) < 0x1p-100);
}

/* What is beyond the lanes, in float64 and one by one. */
static void gradient_beyond(cursor *c, block b, const void *x, double factor, double max, subtrahend s, void *out)
{
    const task *t = c->t;
    const ptrdiff_t size = element_size(t->x.type);
    for (ptrdiff_t i = 0; i < b.n; ++i) {
        const double z = get_element(t->x.type, (const char *)x + i * size);
        const double q = s.q ? get_element(c->q_type, (const char *)s.q + i * element_size(c->q_type)) : 0;
        const double w = t->class_weight ? t->class_weight[b.at + i] : 1, p = times(exp(z - max), factor);
        set_element(t->out.type, (char *)out + i * size, p - times(w * (s.keep * q + s.floor), s.scale));
    }
}

/* factor e^(z_c - max) - scale w_c (keep q_c + floor); entry replaces the value of one class, where that is >= 0. */
static void write_gradient(cursor *c, double factor, double max, subtrahend s, ptrdiff_t entry, double value)
{
    const task *t = c->t;
    const anchored_factor f = anchor_factor(c->is_f64, factor, max);
    const ptrdiff_t real = c->is_f64 ? 8 : 4;
    const double unit = t->class_weight_real ? t->class_weight_unit : 1;
    const int beyond = is_beyond(c->is_f64, max, factor, s.scale * unit);
    if (!beyond) s.scale *= unit;
    for (block b = {0, 0}; next_written(c, &b);) {
        const void *x = x_block(c, b);
        void *out = out_block(c, b);
        subtrahend here = s;
        here.q = c->q ? q_block(c, b) : NULL;
        here.w = t->class_weight_real ? (const char *)t->class_weight_real + b.at * real : NULL;
        if (beyond) gradient_beyond(c, b, x, factor, max, here, out);
        else c->k->gradient(x, b.n, f.at, f.factor, here, out, t->stream && c->out_direct);
        if (entry >= b.at && entry < b.at + b.n)
            set_element(t->out.type, (char *)out + (entry - b.at) * element_size(t->out.type), value);
        write_block(c, b, out);
    }
}

/* ------------------------------------------------------------------ logsumexp, softmax, log-softmax */

void logsumexp_rows(const task *t, ptrdiff_t first, ptrdiff_t last)
{
    cursor c;
    start(&c, t);
    for (ptrdiff_t row = first; row < last && !c.stopped; ++row) {
        go_to(&c, row);
        const statistics s = statistics_about(&c, -1);
        t->loss[row] = s.max + s.log_sum;
    }
    finish(&c);
}

void softmax_rows(const task *t, ptrdiff_t first, ptrdiff_t last)
{
    const subtrahend nothing = {NULL, NULL, 0, 0, 0};
    cursor c;
    start(&c, t);
    for (ptrdiff_t row = first; row < last && !c.stopped; ++row) {
        go_to(&c, row);
        const statistics s = statistics_about(&c, -1);
        if (isnan(s.max)) fill_row(&c, NAN);
        else write_gradient(&c, 1 / (1 + s.rest), s.max, nothing, -1, 0);
    }
    finish(&c);
}

void log_softmax_rows(const task *t, ptrdiff_t first, ptrdiff_t last)
{
    cursor c;
    start(&c, t);
    for (ptrdiff_t row = first; row < last && !c.stopped; ++row) {
        go_to(&c, row);
        const statistics s = statistics_about(&c, -1);
        for (block b = {0, 0}; next_written(&c, &b);) {
            void *out = out_block(&c, b);
            c.k->log_softmax(x_block(&c, b), b.n, s.max, s.log_sum, out, t->stream && c.out_direct);
            write_block(&c, b, out);
        }
    }
    finish(&c);
}

/* grad = g - e^log_p sum(g): x is log_p, q is g. */
void log_softmax_backward_rows(const task *t, ptrdiff_t first, ptrdiff_t last)
{
    cursor c;
    start(&c, t);
    for (ptrdiff_t row = first; row < last && !c.stopped; ++row) {
        go_to(&c, row);
        double max = -INFINITY;
        compensated total = {0, 0};
        for (block b = {0, 0}; next(&c, &b);) {
            const double top = c.k->max(x_block(&c, b), b.n);
            max = isnan(top) || top > max ? top : max;
            if (isnan(max)) break;
            compensated_add(&total, c.k->total(q_block(&c, b), b.n));
        }
        if (!isfinite(max)) {
            fill_row(&c, NAN);
            continue;
        }
        const anchored_factor f = anchor_factor(c.is_f64, compensated_value(total) * exp(max), max);
        for (block b = {0, 0}; next_written(&c, &b);) {
            void *out = out_block(&c, b);
            const void *log_p = x_block(&c, b);
            c.k->log_softmax_backward(log_p, q_block(&c, b), b.n, f.at, f.factor, out, t->stream && c.out_direct);
            write_block(&c, b, out);
        }
    }
    finish(&c);
}

/* ------------------------------------------------------------------ the loss and its gradient */

row_target target_of(const task *t, ptrdiff_t row)
{
    row_target r = {t->sample_weight ? t->sample_weight[row] : 1, -1, 0, 0};
    r.skipped = r.v == 0;
    if (t->targets.data) {
        r.y = target_at(&t->targets, row);
        r.skipped = r.skipped || is_ignored(&t->targets, r.y);
        r.bad = r.y < 0 || r.y >= t->classes;
    }
    return r;
}

static double class_weight_of(const task *t, ptrdiff_t c) { return t->class_weight ? t->class_weight[c] : 1; }

/* keep q + floor: probability targets as they come are smoothed here. For index targets this is eps/C alone. */
static subtrahend subtrahend_of(const task *t, double scale)
{
    const double floor = t->label_smoothing / (double)t->classes;
    const subtrahend s = {NULL, NULL, t->targets.data ? 0 : 1 - t->label_smoothing, floor,
                          t->targets.data && floor == 0 ? 0 : scale};
    return s;
}

/* The sum of t_c and of t_c (max - z_c), for t_c = w_c (keep q_c + floor). */
static void spread_of(cursor *c, double max, double *mass, double *distance)
{
    const task *t = c->t;
    const subtrahend s = subtrahend_of(t, 1);
    const ptrdiff_t real = c->is_f64 ? 8 : 4;
    compensated m = {0, 0}, d = {0, 0};
    for (block b = {0, 0}; next(c, &b);) {
        double block_mass = 0, block_distance = 0;
        subtrahend here = s;
        here.q = c->q ? q_block(c, b) : NULL;
        here.w = t->class_weight_real ? (const char *)t->class_weight_real + b.at * real : NULL;
        c->k->spread(x_block(c, b), b.n, max, here, &block_mass, &block_distance);
        compensated_add(&m, block_mass);
        compensated_add(&d, block_distance);
    }
    const double unit = t->class_weight_real ? t->class_weight_unit : 1;
    *mass = unit * compensated_value(m);
    *distance = times(unit, compensated_value(d));
}

double loss_from(const task *t, row_target r, statistics s, double z, double mass, double distance)
{
    const double lse = s.max + s.log_sum;
    double loss = times(mass, s.log_sum) + distance;
    if (t->targets.data) loss += times((1 - t->label_smoothing) * class_weight_of(t, r.y), (s.max - z) + s.log_sum);
    return r.v * (loss + times(t->z_loss, lse * lse));
}

/* The loss of a row that is read; mass is for its gradient. */
static double loss_of(cursor *c, row_target r, statistics s, double *mass)
{
    const task *t = c->t;
    double distance = 0;
    if (!t->targets.data || t->label_smoothing > 0) spread_of(c, s.max, mass, &distance);
    const double loss = loss_from(t, r, s, t->targets.data ? x_element(c, r.y) : 0, *mass, distance);
    /* From the float64 weights: the gradient at y subtracts W - w_y from it, which must be of the same W. */
    if (t->targets.data) *mass = times(t->label_smoothing / (double)t->classes, t->class_weight_sum);
    return loss;
}

row_gradient gradient_from(const task *t, ptrdiff_t row, row_target r, statistics s, double z, double mass)
{
    row_gradient g = {0, t->row_scale[row * t->row_scale_step] * r.v, 0};
    const double z_term = times(2 * t->z_loss, s.max + s.log_sum);
    double a = mass + z_term;
    if (t->targets.data) {
        const int is_f64 = t->x.type == ELEMENT_F64;
        const double w = class_weight_of(t, r.y), d = t->label_smoothing / (double)t->classes;
        const double rest_of_w = t->class_weight ? t->class_weight_sum - w : (double)(t->classes - 1);
        const anchor at = anchor_at(s.max, 0, is_f64);
        const double b = (1 - t->label_smoothing) * w, p = exp_at(at, z) / exp_at(at, s.max) / (1 + s.rest);
        a += b;
        /* At y: a p - b - d w, and where p > 1/2 (y leads then, and 1 - p = rest / (1 + rest)) with a - b - d w taken
         * together, which has no p to cancel against: there p - 1 would lose the digits of a small 1 - p. */
        g.value = g.scale * (p > 0.5 ? times(d, rest_of_w) + z_term - a * (s.rest / (1 + s.rest)) : a * p - b - d * w);
    }
    g.factor = g.scale * a / (1 + s.rest);
    return g;
}

static void gradient_of(cursor *c, ptrdiff_t row, row_target r, statistics s, double mass)
{
    const task *t = c->t;
    const row_gradient g = gradient_from(t, row, r, s, t->targets.data ? x_element(c, r.y) : 0, mass);
    write_gradient(c, g.factor, s.max, subtrahend_of(t, g.scale), r.y, g.value);
}

void forward_rows(const task *t, ptrdiff_t first, ptrdiff_t last)
{
    cursor c;
    start(&c, t);
    for (ptrdiff_t row = first; row < last && !c.stopped; ++row) {
        const row_target r = target_of(t, row);
        statistics s = {0, 0, 0};
        double mass = 0, loss = 0;
        if (!r.skipped) {
            go_to(&c, row);
            if (r.bad) s.max = NAN;
            else s = statistics_about(&c, r.y);
            loss = isnan(s.max) ? NAN : loss_of(&c, r, s, &mass);
        }
        t->loss[row] = loss;
        if (t->saved) t->saved[3 * row] = s.max, t->saved[3 * row + 1] = s.rest, t->saved[3 * row + 2] = mass;
    }
    finish(&c);
}

static void backward_row(cursor *c, ptrdiff_t row, row_target r, statistics s, double mass)
{
    if (r.skipped) fill_row(c, 0);
    else if (r.bad || isnan(s.max)) fill_row(c, NAN);
    else gradient_of(c, row, r, s, mass);
}

void backward_rows(const task *t, ptrdiff_t first, ptrdiff_t last)
{
    cursor c;
    start(&c, t);
    for (ptrdiff_t row = first; row < last && !c.stopped; ++row) {
        const double *saved = t->saved + 3 * row;
        const statistics s = {saved[0], saved[1], log_of_1_plus(saved[1])};
        go_to(&c, row);
        backward_row(&c, row, target_of(t, row), s, saved[2]);
    }
    finish(&c);
}

void forward_backward_rows(const task *t, ptrdiff_t first, ptrdiff_t last)
{
    cursor c;
    start(&c, t);
    for (ptrdiff_t row = first; row < last && !c.stopped; ++row) {
        const row_target r = target_of(t, row);
        statistics s = {NAN, NAN, NAN};
        double mass = 0;
        go_to(&c, row);
        if (!r.skipped && !r.bad) s = statistics_about(&c, r.y);
        t->loss[row] = r.skipped ? 0 : isnan(s.max) ? NAN : loss_of(&c, r, s, &mass);
        backward_row(&c, row, r, s, mass);
    }
    finish(&c);
}
