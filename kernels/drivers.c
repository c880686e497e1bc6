/* Rows in blocks: a batch of them is read once each, what was added up becomes losses and gradients (batch.c), and
 * results are written while the rows, or their exponentials, lie in the L2 cache. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "layout.h"

#define POLL_EVERY (1 << 20)    /* classes between polls: a millisecond, 30 at the slowest layout */

/* Rows of a batch together stay below this, in bytes of the lanes' type, and so in the L2 cache until they are
 * written; single rows are kept up to the other limit. */
#define BATCH_BYTES (1 << 17)
#define KEPT_BYTES (5 << 17)

/* One thread's place: a batch, and a buffer for a block of each array that can't be read or written in place. */
typedef struct {
    const task *t;
    const block_functions *k;
    int is_f64, x_direct, q_direct, out_direct, spreads;
    int whole;                 /* a row is one block, read in place */
    subtrahend s;              /* of a row of scale 1 */
    ptrdiff_t near_rows;       /* that came one after the other with a maximum near 0 */
    element q_type;            /* that q is read in */
    const char *x, *q;         /* the row */
    char *out;
    const char *x_held;        /* the block that x_buffer holds, so that a short row is copied once for all passes */
    ptrdiff_t since_poll;
    int stopped;
    f64 *x_buffer, *q_buffer, *out_buffer;    /* of BLOCK each, NULL where none is needed */

    ptrdiff_t row, rows, most_rows;           /* the batch: its first row, how many, at most */
    batch b;
    row_targets r;
    double mass[BATCH], distance[BATCH];
    char *memory, *halves[2];  /* for the exponentials of two batches; NULL: not kept */
    char *kept;                /* those of this one, kept_stride bytes from row to row */
    ptrdiff_t kept_stride;
    int has_kept[BATCH];
    gradient_job jobs[BATCH + 1];    /* rows of the batch before this one, and a place for the next */
    gradient_queue queue;
} cursor;

static void start(cursor *c, const task *t)
{
    memset(c, 0, sizeof *c);
    c->queue.next = c->queue.end = c->jobs;
    c->t = t;
    c->k = t->isa->of[t->x.type];
    c->is_f64 = t->x.type == ELEMENT_F64;
    c->spreads = has_spread(t);
    c->x_direct = is_direct(t, &t->x);
    /* Probabilities are read in the lanes' type, the grad_output of log_softmax_backward in that of log_p. */
    c->q_type = t->work == LOG_SOFTMAX_BACKWARD ? t->x.type : c->is_f64 ? ELEMENT_F64 : ELEMENT_F32;
    c->q_direct = t->q.data && t->q.type == c->q_type && is_direct(t, &t->q);
    c->out_direct = t->out.data && is_direct(t, &t->out);
    c->whole = c->x_direct && !c->spreads && !t->long_rows && t->classes <= POLL_EVERY;
    c->s = subtrahend_of(t, 1);
    const int buffers = !(c->x_direct && (c->q_direct || !t->q.data) && (c->out_direct || !t->out.data));
    const ptrdiff_t vector = 64, row_bytes = t->classes * (c->is_f64 ? 8 : 4);
    c->kept_stride = (row_bytes + vector - 1) / vector * vector + vector;
    c->most_rows = BATCH_BYTES / c->kept_stride < BATCH ? BATCH_BYTES / c->kept_stride : BATCH;
    if (c->most_rows < 1 || !c->x_direct) c->most_rows = 1;
    const int keeps = (t->work == FORWARD_BACKWARD || t->work == SOFTMAX) && row_bytes <= KEPT_BYTES;
    /* On the heap: more than some threads' stacks have. Without memory the rows are left as they are. */
    if (buffers) c->x_buffer = malloc(3 * BLOCK * sizeof(f64));
    if (keeps) c->memory = malloc((size_t)(2 * c->most_rows * c->kept_stride + vector));
    c->stopped = (buffers && !c->x_buffer) || (keeps && !c->memory);
    /* malloc's addresses are multiples of 16, and every store across two lines would cost twice. */
    const ptrdiff_t over = (ptrdiff_t)((uintptr_t)c->memory % (uintptr_t)vector);
    if (c->memory) c->kept = c->halves[0] = c->memory + (vector - over) % vector;
    if (c->memory) c->halves[1] = c->halves[0] + c->most_rows * c->kept_stride;
    if (c->stopped) ran_out_of_memory(t);
    if (c->x_buffer) c->q_buffer = c->x_buffer + BLOCK, c->out_buffer = c->q_buffer + BLOCK;
}

static void finish(cursor *c)
{
    c->t->isa->fence();
    free(c->x_buffer);
    free(c->memory);
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
    if (t->long_rows && (c->since_poll += b->n) >= POLL_EVERY) {
        c->since_poll = 0;
        c->stopped = c->stopped || t->poll();
    }
    if (c->stopped || b->at >= t->classes) return 0;
    b->n = t->classes - b->at < size ? t->classes - b->at : size;
    return 1;
}

static int next(cursor *c, block *b) { return next_of(c, b, BLOCK); }

/* For what takes the row at a time where nothing is copied: a streamed row then has two partial lines and not two a
 * block. */
static int next_whole(cursor *c, block *b) { return next_of(c, b, c->x_buffer ? BLOCK : POLL_EVERY); }

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
    if (c->x_direct) return get_element(c->t->x.type, c->x + at * element_size(c->t->x.type));
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
    for (block b = {0, 0}; next_whole(c, &b);) {
        char *out = out_block(c, b);
        if (value == 0) memset(out, 0, (size_t)(b.n * size));
        else for (ptrdiff_t i = 0; i < b.n; ++i) set_element(c->t->out.type, out + i * size, value);
        write_block(c, b, out);
    }
}

/* ------------------------------------------------------------------ reading a row */

/* The classes that the anchor is guessed from: one unrolled step of AVX-512. */
#define GUESS_FROM 64

/* Maxima that are near 0, from -NEAR to MOST, have one anchor, whose numbers wait for nothing: the next row's pass
 * starts before its guess is known. e^40 is at 2^122; were there many, the sum would not be finite. */
#define NEAR(is_f64) ((is_f64) ? 100 : 14)
#define MOST(is_f64) ((is_f64) ? 300 : 40)

/* An anchor for a row whose maximum is about the guess, and the largest maximum that it serves; 0 where none is
 * safe. */
static int guess_anchor(int is_f64, double guess, anchor *at, double *most)
{
    const double limit = anchor_limit(is_f64), highest = guess + (is_f64 ? 300 : 20);
    at->shift = 0;
    if (fabs(guess) <= NEAR(is_f64)) {
        at->k = -sum_headroom(is_f64);
        *most = MOST(is_f64);
        return 1;
    }
    at->k = even(guess * LOG2E) - sum_headroom(is_f64);
    *most = highest < limit ? highest : limit;
    return fabs(guess) <= limit;
}

/* Adds the block to the mass and distance of row i. */
static void add_spread(cursor *c, ptrdiff_t i, block b, const void *x, double from)
{
    const task *t = c->t;
    const ptrdiff_t real = c->is_f64 ? 8 : 4;
    double mass = 0, distance = 0;
    subtrahend s = c->s;
    s.q = c->q ? q_block(c, b) : NULL;
    s.w = t->class_weight_real ? (const char *)t->class_weight_real + b.at * real : NULL;
    c->k->spread(x, b.n, from, s, &mass, &distance);
    c->mass[i] += mass;
    c->distance[i] += distance;
}

static void spread_from(cursor *c, ptrdiff_t i, double from)
{
    c->mass[i] = c->distance[i] = 0;
    for (block b = {0, 0}; next(c, &b);) add_spread(c, i, b, x_block(c, b), from);
}

/* From sums about a guess to those about the maximum, and of the weights themselves. Where most of the mass lies at
 * a maximum above the guess, that would be a difference of large terms: summed again then. */
static void end_spread(cursor *c, ptrdiff_t i, double guess)
{
    const double unit = c->t->class_weight_real ? c->t->class_weight_unit : 1, max = c->b.max[i];
    const double further = times(c->mass[i], max - guess), distance = c->distance[i] + further;
    c->distance[i] = distance;
    if (distance < further) spread_from(c, i, max);
    c->distance[i] = times(unit, c->distance[i]);
    c->mass[i] *= unit;
}

static void set_read(batch *b, ptrdiff_t i, double max, anchor at, double sum, double base, double own)
{
    b->max[i] = max, b->shift[i] = at.shift, b->k[i] = at.k;
    b->sum[i] = sum, b->base[i] = base, b->own[i] = own;
}

/* The sum again with the classes at the maximum left out and counted, so that rest keeps its digits whatever leads. */
static void sum_below(cursor *c, ptrdiff_t i, double max, anchor at)
{
    compensated sum = {0, 0};
    ptrdiff_t ties = 0;
    for (block b = {0, 0}; next(c, &b);) compensated_add(&sum, c->k->sum(x_block(c, b), b.n, at, max, &ties));
    set_read(&c->b, i, max, at, compensated_value(sum), (double)(ties - 1), 0);
}

/* Two passes, maximum first: for any row. */
static void read_exactly(cursor *c, ptrdiff_t i)
{
    double max = -INFINITY;
    c->has_kept[i] = 0;
    for (block b = {0, 0}; next(c, &b);) {
        const double top = c->k->max(x_block(c, b), b.n);
        max = isnan(top) || top > max ? top : max;
        if (isnan(max)) break;
    }
    if (!isfinite(max)) {
        set_unread(&c->b, i, NAN);
        return;
    }
    sum_below(c, i, max, anchor_at(max, sum_headroom(c->is_f64), c->is_f64));
    if (!c->spreads) return;
    spread_from(c, i, max);
    end_spread(c, i, max);
}

/* One pass at the anchor for a maximum about the guess; 0 where that will not do. The target y is left out of the sum,
 * so that rest keeps its digits where y leads. */
static int read_about(cursor *c, ptrdiff_t i, int64_t y, double guess, double *max)
{
    const task *t = c->t;
    const ptrdiff_t real = c->is_f64 ? 8 : 4;
    char *kept = c->kept ? c->kept + i * c->kept_stride : NULL;
    double most;
    anchor at;
    *max = -INFINITY;
    if (!guess_anchor(c->is_f64, guess, &at, &most)) return 0;
    compensated sum = {0, 0};
    c->mass[i] = c->distance[i] = 0;
    if (c->whole) sum.sum = c->k->pass(c->x, t->classes, at, y, kept, &c->queue, max);
    else for (block b = {0, 0}; next_of(c, &b, c->x_direct && !c->spreads ? POLL_EVERY : BLOCK);) {
        const void *x = x_block(c, b);    /* blocks by x alone: see is_in_place */
        double top;
        compensated_add(&sum, c->k->pass(x, b.n, at, y - b.at, kept ? kept + b.at * real : NULL, &c->queue, &top));
        *max = top > *max ? top : *max;
        if (c->spreads) add_spread(c, i, b, x, guess);
    }
    const double z = c->b.z[i], others = compensated_value(sum);
    /* Past the anchor's maximum an exponent may have wrapped, and the sum be anything. */
    if (!(*max <= most && *max >= (guess < -NEAR(c->is_f64) ? guess : -NEAR(c->is_f64))) || !isfinite(others)) return 0;
    if (isnan(z)) {
        set_unread(&c->b, i, NAN);
        return 1;
    }
    c->has_kept[i] = kept != NULL;
    set_read(&c->b, i, *max, at, others, z == *max ? 0 : -1, z == *max ? 0 : 1);
    if (c->spreads) end_spread(c, i, guess);
    return 1;
}

/* After a batch of rows near 0 the next is taken to be so without a look: 65536 x 1000 took 137 ns a row on one thread
 * in place of 143. Which way a row was read must not show: any two that will do have the same sum to the bit, k being
 * an exponent, and where one will not do the others are tried. (The spread is taken from the guess.) */
static void read_row(cursor *c, ptrdiff_t i, int64_t y)
{
    double max;
    c->b.z[i] = y < 0 ? -INFINITY : x_element(c, y);
    if (c->near_rows >= BATCH && !c->spreads && read_about(c, i, y, 0, &max)) return;
    block first = {0, 0};
    next(c, &first);
    const double near = NEAR(c->is_f64);
    const double guess = c->k->max(x_block(c, first), first.n < GUESS_FROM ? first.n : GUESS_FROM);
    const int done = read_about(c, i, y, guess, &max), is_near = max >= -near && max <= MOST(c->is_f64);
    c->near_rows = is_near ? c->near_rows + 1 : 0;
    if (!done && !(is_near && guess < -near && read_about(c, i, y, 0, &max))) read_exactly(c, i);
}

/* Where one class that is not left out holds most of the sum, rest is its difference from 1: summed again then. The
 * loss has max - z_y > 0 to hide that in; a log-softmax has not, nor a loss where w_y may be 0. */
static int lost_digits(const cursor *c, ptrdiff_t i)
{
    const int hides = c->t->targets.data && !c->t->class_weight;
    return c->b.own[i] == 1 && !isnan(c->b.max[i]) && c->b.rest[i] < (hides ? 0.25 : 3);
}

/* The batch from c->row on: everything up to its results. */
static void read_batch(cursor *c)
{
    const task *t = c->t;
    find_targets(t, c->row, c->rows, &c->r);
    for (ptrdiff_t i = 0; i < c->rows && !c->stopped; ++i) {
        c->has_kept[i] = 0;
        c->b.z[i] = -INFINITY;
        if (c->r.skipped[i] || c->r.bad[i]) {
            set_unread(&c->b, i, c->r.skipped[i] ? 0 : NAN);
            continue;
        }
        go_to(c, c->row + i);
        if (t->work != BACKWARD) read_row(c, i, t->targets.data ? c->r.y[i] : -1);
        else {
            restore(t, c->row + i, &c->b, i, &c->mass[i]);
            const double max = isnan(c->b.max[i]) ? 0 : c->b.max[i];
            const anchor at = anchor_at(max, sum_headroom(c->is_f64), c->is_f64);
            c->b.shift[i] = at.shift, c->b.k[i] = at.k;
            if (t->targets.data) c->b.z[i] = x_element(c, c->r.y[i]);
        }
    }
    t->isa->finish(&c->b, c->rows, 1);
    int again = 0;
    for (ptrdiff_t i = 0; i < c->rows && !c->stopped; ++i) {
        if (!lost_digits(c, i)) continue;
        const anchor at = {c->b.shift[i], c->b.k[i]};
        go_to(c, c->row + i);
        sum_below(c, i, c->b.max[i], at);
        again = 1;
    }
    if (again) t->isa->finish(&c->b, c->rows, 1);
}

/* ------------------------------------------------------------------ writing a row */

/* A factor of e^z, as 2^power times one in [1/2, 1), and the anchor of e^z with it. */
typedef struct { anchor at; double factor, power; } anchored_factor;

static anchored_factor split_factor(double factor, anchor at)
{
    int power = 0;
    anchored_factor f = {at, isfinite(factor) ? frexp(factor, &power) : factor, 0};
    f.power = power;
    return f;
}

/* Where nothing was kept, the power moves into the anchor, where it rounds nothing: a factor of 2^-140 (a small
 * grad_output) would be subnormal in float32, and e^(z-max) below 2^-126 would be lost before a large one. top =
 * e^max at the anchor. */
static anchored_factor anchor_factor(int is_f64, double factor, anchor at, double top)
{
    const double most = is_f64 ? 1000 : 120, down = is_f64 ? 64 : 32;    /* 1021 + 64 > 1074, 125 + 32 > 149 */
    anchored_factor f = split_factor(factor, at);
    int up = 0;
    if (!isfinite(factor) || factor == 0) return f;
    frexp(top, &up);
    const double of_p = f.power + up, headroom = of_p + down < most ? of_p + down : most;
    f.at.k = even(at.k + up - headroom);
    f.power += f.at.k - at.k;
    return f;
}

/* What is beyond the lanes, in float64 and one by one. */
static void gradient_beyond(cursor *c, block b, const void *x, double factor, double max, subtrahend s, ptrdiff_t entry,
                            double value, void *out)
{
    const task *t = c->t;
    const ptrdiff_t size = element_size(t->x.type);
    for (ptrdiff_t i = 0; i < b.n; ++i) {
        const double z = get_element(t->x.type, (const char *)x + i * size);
        const double q = s.q ? get_element(c->q_type, (const char *)s.q + i * element_size(c->q_type)) : 0;
        const double w = t->class_weight ? t->class_weight[b.at + i] : 1, p = times(exp(z - max), factor);
        const double grad = p - times(w * (s.keep * q + s.floor), s.scale);
        set_element(t->out.type, (char *)out + i * size, b.at + i == entry ? value : grad);
    }
}

/* Rows that wait to be written. */
static void flush(cursor *c)
{
    for (; c->queue.next < c->queue.end; ++c->queue.next) c->k->gradient(c->queue.next, c->t->classes);
}

/* The lines that a streamed row shares with its neighbours are stored to as others are, and a store that waits for
 * its line holds up all that follow: 65536 x 1000 took 20.4 ms on one thread, and 18.6 with the lines on their way. */
static void prefetch_edges(const cursor *c, const char *out)
{
#if defined(__GNUC__)
    __builtin_prefetch(out, 1);
    __builtin_prefetch(out + c->t->classes * element_size(c->t->out.type) - 1, 1);
#endif
}

/* Row i. Where e^z was kept and everything lies where it can be used, it waits in the queue. */
static void write_gradient(cursor *c, ptrdiff_t i, const row_gradients *g)
{
    const task *t = c->t;
    const ptrdiff_t real = c->is_f64 ? 8 : 4, entry = c->r.y[i];
    subtrahend s = c->s;
    s.scale *= g->scale[i];
    const double unit = t->class_weight_real ? t->class_weight_unit : 1, max = c->b.max[i];
    const double of_e = g->factor[i] * c->b.unit[i], of_p = g->factor[i] * c->b.share[i];
    const int beyond = is_beyond(c->is_f64, max, of_p, s.scale * unit);
    const int keeps = !beyond && c->has_kept[i] && suits_kept(c->is_f64, g->factor[i], c->b.unit[i]);
    const anchor at = {c->b.shift[i], c->b.k[i]};
    const anchored_factor f = keeps ? split_factor(of_e, at) : anchor_factor(c->is_f64, of_e, at, c->b.top[i]);
    if (!beyond) s.scale *= unit;
    for (block b = {0, 0}; next_whole(c, &b);) {
        gradient_job *job = c->queue.end;    /* in its place: see row_targets */
        job->kept = keeps ? c->kept + i * c->kept_stride + b.at * real : NULL;
        job->x = keeps ? NULL : x_block(c, b);
        job->at = f.at;
        job->factor = f.factor, job->power = f.power;
        job->s.keep = s.keep, job->s.floor = s.floor, job->s.scale = s.scale;
        job->s.q = c->q ? q_block(c, b) : NULL;
        job->s.w = t->class_weight_real ? (const char *)t->class_weight_real + b.at * real : NULL;
        job->entry = entry < 0 ? -1 : entry - b.at;
        job->value = g->value[i];
        job->out = out_block(c, b);
        job->stream = t->stream && c->out_direct;
        job->n = b.n, job->done = 0;
        if (keeps && b.n == t->classes && c->out_direct && (!c->q || c->q_direct)) {
            if (job->stream) prefetch_edges(c, job->out);
            ++c->queue.end;
            continue;
        }
        if (beyond) gradient_beyond(c, b, job->x, of_p, max, job->s, entry, job->value, job->out);
        else c->k->gradient(job, b.n);
        write_block(c, b, job->out);
    }
}

static void write_log_softmax(cursor *c, ptrdiff_t i)
{
    for (block b = {0, 0}; next_whole(c, &b);) {
        void *out = out_block(c, b);
        c->k->log_softmax(x_block(c, b), b.n, c->b.max[i], c->b.log_sum[i], out, c->t->stream && c->out_direct);
        write_block(c, b, out);
    }
}

static void write_row(cursor *c, ptrdiff_t i, const row_gradients *g)
{
    const task *t = c->t;
    go_to(c, c->row + i);
    if (c->r.skipped[i]) fill_row(c, 0);
    else if (isnan(c->b.max[i])) fill_row(c, NAN);
    else if (t->work == LOG_SOFTMAX) write_log_softmax(c, i);
    else write_gradient(c, i, g);
}

/* grad = g - e^log_p sum(g): x is log_p, q is g. */
static void log_softmax_backward(cursor *c, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t row = first; row < last && !c->stopped; ++row) {
        go_to(c, row);
        double max = -INFINITY;
        compensated total = {0, 0};
        for (block b = {0, 0}; next(c, &b);) {
            const double top = c->k->max(x_block(c, b), b.n);
            max = isnan(top) || top > max ? top : max;
            if (isnan(max)) break;
            compensated_add(&total, c->k->total(q_block(c, b), b.n));
        }
        if (!isfinite(max)) {
            fill_row(c, NAN);
            continue;
        }
        const anchor at = anchor_at(max, 0, c->is_f64);
        const double at_max = exp_at(at, max), of_e = compensated_value(total) * exp(max) / at_max;
        const anchored_factor f = anchor_factor(c->is_f64, of_e, at, at_max);
        const double factor = times_power_of_2(f.factor, f.power);
        const int stream = c->t->stream && c->out_direct;
        for (block b = {0, 0}; next_whole(c, &b);) {
            void *out = out_block(c, b);
            const void *log_p = x_block(c, b);
            c->k->log_softmax_backward(log_p, q_block(c, b), b.n, f.at, factor, out, stream);
            write_block(c, b, out);
        }
    }
}

/* The queue of a thread reaches over all the rows that it takes. */
static void run_batches(cursor *c, ptrdiff_t first, ptrdiff_t last)
{
    const task *t = c->t;
    for (c->row = first; c->row < last && !c->stopped; c->row += c->rows) {
        c->rows = last - c->row < c->most_rows ? last - c->row : c->most_rows;
        read_batch(c);
        if (c->stopped) break;
        if (t->work == FORWARD || t->work == FORWARD_BACKWARD)
            find_losses(t, c->row, c->rows, &c->r, &c->b, c->mass, c->distance);
        if (t->work == LOGSUMEXP)
            for (ptrdiff_t i = 0; i < c->rows; ++i) t->loss[c->row + i] = c->b.max[i] + c->b.log_sum[i];
        flush(c);
        c->queue.next = c->queue.end = c->jobs;
        row_gradients g;
        if (t->out.data && t->work != LOG_SOFTMAX) find_gradients(t, c->row, c->rows, &c->r, &c->b, c->mass, &g);
        for (ptrdiff_t i = 0; i < c->rows && t->out.data && !c->stopped; ++i) write_row(c, i, &g);
        c->kept = c->halves[c->kept == c->halves[0]];
    }
}

void by_rows(const task *t)
{
    ptrdiff_t first, last;
    cursor c;
    start(&c, t);
    while (!c.stopped && take_rows(t, &first, &last)) {
        if (t->work == LOG_SOFTMAX_BACKWARD) log_softmax_backward(&c, first, last);
        else run_batches(&c, first, last);
    }
    flush(&c);
    finish(&c);
}
