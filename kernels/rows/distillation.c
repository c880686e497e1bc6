/* The divergence of the softmax of x from that of a teacher's logits q, both over T, and its gradient on x. With
 * d_c = log p_s,c - log p_t,c, phi(d) = e^d - 1 - d and m = beta p_t + (1 - beta) p_s:
 *
 *   forward    T^2 sum p_t phi(d)                    T (p_s - p_t) = T p_t (e^d - 1)
 *   reverse    T^2 sum p_s phi(-d)                   T p_s (d - KL)
 *   js         T^2 (beta KL(p_t || m) + (1 - beta) KL(p_s || m))      T (1 - beta) p_s (log(p_s / m) - KL(p_s || m))
 *
 * d_c = x_c - log sum p_t e^(x_c), where x_c are the differences of the logits less a base, so that no digit
 * of it is lost where the rows are nearly equal, up to a constant. */
#include <math.h>

#include "rows/place.h"

static double largest(place *p, const reader *r)
{
    double max = -INFINITY;
    reader own = *r;
    for (block b = {0, 0}; next_block(&p->c, &b);) {
        const double top = p->k->max(read_block(&own, b), b.n);
        max = isnan(top) || top > max ? top : max;
        if (isnan(max)) break;
    }
    return max;
}

/* ------------------------------------------------------------------ in lanes of float32 */

#define GUESSED_FROM 64    /* classes */
#define LEAST_MIXED 64     /* classes: of fewer, the rounding errors of terms that each cost several show */

/* About what most of the logits differ by: the mean over the first ones, which is all of it where all differ alike; and
 * how far these lie from it; whether one of them is infinite, or what differs is. */
static double usual_difference(const f32 *b, const f32 *a, ptrdiff_t n, double *spread, int *masked)
{
    double sum = 0, squares = 0;
    int count = 0;
    for (ptrdiff_t c = 0; c < n; ++c) {
        const double d = (double)b[c] - (double)a[c];
        if (isfinite(d)) sum += d, squares += d * d, ++count;
    }
    const double mean = count ? sum / count : 0, variance = count ? squares / count - mean * mean : 0;
    *spread = variance > 0 ? sqrt(variance) : 0;
    *masked = count < n;
    return mean;
}

/* Such a factor of e^z leaves the lanes' range in no product that counts. */
static int suits_lanes(double factor) { return factor == 0 || (fabs(factor) >= 0x1p-125 && fabs(factor) <= 0x1p20); }

/* The sums of a block of a row; and the next part of the gradient of the one before it, for each that is read. */
static void add_block(place *p, const quick_pair *r, int forward, block at, f32 *m, f32 *e, quick_totals *totals)
{
    reader *a = forward ? &p->q : &p->x, *b = forward ? &p->x : &p->q;
    p->k->quick_sums(read_block(a, at), read_block(b, at), at.n, r, totals, m, e, &p->distilled);
}

static const quick_totals of_nothing = {0, 0, 0, 0, -INFINITY, -INFINITY};

/* mean(e^d) - 1, and where it is that mean(phi) less up - log(1 + up) keeps its digits. */
static double mean_up(const quick_pair *r, const quick_totals *t)
{
    return r->far ? t->phi / t->e * r->ratio - 1 : (t->moved + t->phi) / t->e;
}
static int is_near(const quick_totals *t, double up) { return up > -0.5 && up - log1p(up) <= 0.5 * (t->phi / t->e); }

static void move_base(quick_pair *r, double by)
{
    r->base += by / r->inverse;
    r->ratio = times_power_of_2(exp(-r->base * r->inverse), r->of_b.k - r->of_a.k);
    r->carefully = 1;
}

/* After the first block the base is moved, and it is read again, if that shows the base to be far off. */
static quick_totals add_up(place *p, quick_pair *r, int forward, char *m, char *e)
{
    quick_totals totals = of_nothing;
    for (block at = {0, 0}; next_block(&p->c, &at);) {
        f32 *ms = m ? (f32 *)m + at.at : NULL, *es = e ? (f32 *)e + at.at : NULL;
        add_block(p, r, forward, at, ms, es, &totals);
        if (at.at || r->far || at.n == p->t->classes) continue;
        const double up = mean_up(r, &totals);
        if (!isfinite(up) || !(up > -1) || is_near(&totals, up)) continue;
        move_base(r, log1p(up));
        totals = of_nothing;
        add_block(p, r, forward, at, ms, es, &totals);
    }
    return totals;
}

/* Of f(D) = beta D e^D - w log w with w = 1 - beta + beta e^D, whose derivative is beta e^D (D - log w), and that of log w
 * beta e^D / w. It converges up to |D| = pi. */
static void find_series(double beta, f32 *series)
{
    enum { TERMS = QUICK_SHARES + 2 };
    double e[TERMS], w[TERMS], slope[TERMS], gap[TERMS] = {0, 1}; /* e^D; w; its logarithm's derivative; D - log w */
    e[0] = 1;
    for (int i = 1; i < TERMS; ++i) e[i] = e[i - 1] / i;
    for (int i = 0; i < TERMS; ++i) w[i] = beta * e[i] + (i ? 0 : 1 - beta);
    for (int i = 0; i < TERMS; ++i) {
        slope[i] = beta * e[i];
        for (int j = 0; j < i; ++j) slope[i] -= slope[j] * w[i - j];
    }
    for (int i = 1; i < TERMS; ++i) gap[i] -= slope[i - 1] / i;
    for (int i = 2; i < TERMS; ++i) {
        double sum = 0;
        for (int j = 1; j < i; ++j) sum += gap[j] * e[i - 1 - j];
        series[TERMS - 1 - i] = (f32)(beta * sum / i);
    }
}

/* The two divergences over the mixture, and the student's own, of what was kept. */
static double over_mixture(place *p, const quick_pair *r, double e, double up, double *own)
{
    quick_shares of = {.shift = log1p(up), .of_b = r->ratio / (1 + up), .beta = p->t->distilled.beta};
    quick_mixed found = {0, 0};
    char *m = p->kept.rows, *es = m + p->kept.stride;
    find_series(of.beta, of.series);
    for (block at = {0, 0}; next_block(&p->c, &at);)
        p->k->quick_mixture(read_block(&p->x, at), read_block(&p->q, at), at.n, r, &of, m + 4 * at.at, es + 4 * at.at,
                            &found);
    *own = -found.own / e;
    return found.both / e;
}

/* What is kept of the row, m of_m + e of_e, goes to the gradient: at once, or while the next row is read. */
static void write_quickly(place *p, quick_pair r, int forward, double of_m, double of_e)
{
    char *m = p->kept.rows, *e = m ? m + p->kept.stride : NULL;
    write_distilled(p);
    if (m && p->out.direct) {
        const quick_job job = {(f32 *)m, (f32 *)e, (f32 *)p->out.row, of_m, of_e, p->t->classes, 0, p->out.bypass};
        p->distilled = job;
        p->kept.rows = p->kept.halves[p->kept.rows == p->kept.halves[0]];
        return;
    }
    r.keeps = forward ? KEEP_MOVED : KEEP_TERM;
    for (block b = {0, 0}; next_block(&p->c, &b);) {
        const f32 *of_block = m ? (f32 *)m + b.at : p->exps, *es = m ? (f32 *)e + b.at : p->exps + BLOCK + MOST_LANES;
        quick_job job = {of_block, es, block_to_write(&p->out, b), of_m, of_e, b.n, 0, p->out.direct && p->out.bypass};
        quick_totals unused = of_nothing;
        if (!m) add_block(p, &r, forward, b, p->exps, p->exps + BLOCK + MOST_LANES, &unused);
        p->k->quick_gradient(&job, b.n);
        write_block(&p->out, b, job.out);
    }
}

void write_distilled(place *p)
{
    if (p->distilled.done < p->distilled.n) p->k->quick_gradient(&p->distilled, p->distilled.n);
}

/* The anchors of rows whose maxima are known to be elsewhere; 0 where lanes have none. */
static int anchor_pair(place *p, quick_pair *r, int forward)
{
    const double of_x = largest(p, &p->x) * r->inverse, of_q = largest(p, &p->q) * r->inverse;
    if (!isfinite(of_x) || !isfinite(of_q)) return 0;
    r->of_a = anchor_at(forward ? of_q : of_x, sum_headroom(0), 0);
    r->of_b = anchor_at(forward ? of_x : of_q, sum_headroom(0), 0);
    return r->of_a.shift == 0 && r->of_b.shift == 0;
}

/* Whether the anchors serve the two rows: by their maxima, or by their sums, which are infinite where they do not. */
static int have_anchors(const quick_pair *r, const quick_totals *t, double up)
{
    const double least = 0x1p40, most = 0x1p100, of_b = (r->far ? t->phi : t->e * (1 + up) / r->ratio);
    const int suit = t->e >= least && t->e <= most && of_b >= least && of_b <= most;
    return suit && !(t->max_a * r->inverse > 20) && !(t->max_b * r->inverse > 20);
}

/* 0 where lanes of float32 will not do. With the means over p_a of d, of phi(d), and so up = mean(e^d) - 1,
 *
 *   KL(p_a || p_b) = mean(phi) - (up - log(1 + up)) = log(1 + up) - mean(d),
 *
 * of which the former is good to the last digits where its second term is the smaller one, and the latter where rows are far from
 * each other. Where neither is, the base is moved by log(1 + up), and up is next to 0 then. */
static int quickly(place *p, ptrdiff_t row, double weight)
{
    const task *t = p->t;
    const distillation_kind kind = t->distilled.kind;
    const double temperature = t->distilled.temperature, beta = t->distilled.beta;
    const int forward = kind == FORWARD_KL, mixes = kind == JENSEN_SHANNON;
    char *m = p->kept.rows, *e = m ? m + p->kept.stride : NULL;
    if (!p->k->quick_sums || (mixes && (!m || t->classes < LEAST_MIXED))) return 0;
    quick_pair r = {.inverse = 1 / temperature, .of_a = anchor_at(0, sum_headroom(0), 0), .ratio = 1};
    r.of_b = r.of_a;
    if (m) r.keeps = forward ? KEEP_MOVED : mixes ? KEEP_OTHER : KEEP_TERM;
    block first = {0, 0};
    if (!next_block(&p->c, &first)) return 1;
    const f32 *x = read_block(&p->x, first), *q = read_block(&p->q, first);
    double spread;
    int masked;
    const ptrdiff_t guessed = first.n < GUESSED_FROM ? first.n : GUESSED_FROM;
    const double usual = usual_difference(forward ? x : q, forward ? q : x, guessed, &spread, &masked) * r.inverse;
    r.far = spread * r.inverse > 1.1 && fabs(usual) < 2 && !mixes && !masked;
    if (!r.far && fabs(usual) > 0.5 * spread * r.inverse) move_base(&r, usual);
    double up, loss, own = 0;
    quick_totals found;
    for (int turn = 0, anchored = 0;; ++turn) {
        if (turn == 6 || !(r.ratio >= 0x1p-60 && r.ratio <= 0x1p60)) return 0;
        found = add_up(p, &r, forward, m, e);
        up = mean_up(&r, &found);
        if (!have_anchors(&r, &found, up) && !anchored) {
            if (!anchor_pair(p, &r, forward)) return 0;
            anchored = 1;
            r.far = 0;
            move_base(&r, 0);
            continue;
        }
        /* Over the mixture an error of the shift shows, and up is next to nothing beside what it is the sum of. */
        if (mixes && fabs(found.moved) > 0.5 * found.e) up = found.other / found.e * r.ratio - 1;
        const double moved = found.moved / found.e, phi = found.phi / found.e, shift = log1p(up), apart = shift - moved;
        const int finite = isfinite(up) && up > -1 && isfinite(apart);
        const int are_far = up > -0.5 && apart >= 0.5 + 0.25 * (fabs(shift) + fabs(moved));
        loss = apart;
        if (r.far) {
            if (finite && are_far) break;
            r.far = 0;
            if (finite) move_base(&r, shift);
            continue;
        }
        if (!finite) return 0;
        if (mixes) {
            loss = over_mixture(p, &r, found.e, up, &own);
            if (!isfinite(loss) || !isfinite(own)) return 0;
            if (up > -0.5 && shift * shift <= 4 * loss / (beta * (1 - beta))) break;
        } else if (is_near(&found, up)) {
            loss = phi - (up - shift);
            break;
        } else if (are_far) break;
        move_base(&r, shift);
    }
    const double scale = t->row_scale[row * t->row_scale_step] * weight * temperature, of_e = scale / found.e;
    const double factors[3][2] = {{of_e / (1 + up), -of_e * up / (1 + up)},
                                  {-of_e, -of_e * (loss - log1p(up))},
                                  {-of_e * (1 - beta), -of_e * (1 - beta) * own}};
    double of_m = factors[kind][0], of_both = factors[kind][1];
    if (r.far && forward) of_m = scale / found.phi, of_both = -of_e;
    if (!suits_lanes(of_e) || !suits_lanes(of_m)) return 0;
    t->loss[row] = weight * (temperature * temperature * loss);
    write_quickly(p, r, forward, of_m, of_both);
    return 1;
}

/* ------------------------------------------------------------------ in float64 */

/* What the logits of the first class differ by that neither row masks. */
static void find_base(place *p, distilled *r)
{
    for (ptrdiff_t c = 0; c < p->t->classes; ++c) {
        const double x = read_element(&p->x, c), q = read_element(&p->q, c), d = x - q, seen = x - d;
        if (!isfinite(x) || !isfinite(q)) continue;
        r->base = d;
        r->base_error = (x - (d + seen)) + (seen - q);
        if (!isfinite(d)) r->base = r->base_error = 0;
        return;
    }
}

static void find_shift(distilled *r, const distilled_totals *t)
{
    const double of_x = compensated_value(t->of_x), of_q = compensated_value(t->of_q);
    r->unit_x = 1 / of_x, r->unit_q = 1 / of_q;
    if (t->most <= DISTILLED_NEAR) {
        r->shift = log1p(compensated_value(t->shift) / of_q);
        return;
    }
    const double of_anchors = (r->of_x.shift - r->of_q.shift) + (r->of_x.k - r->of_q.k) * LN2;
    r->shift = (of_anchors - r->base * r->inverse) + (log(of_x / of_q) - r->base_error * r->inverse);
}

static void exactly(place *p, ptrdiff_t row, double weight)
{
    const task *t = p->t;
    const distillation_task *of = &t->distilled;
    distilled r = {.kind = of->kind, .inverse = 1 / of->temperature, .beta = of->beta};
    const double max_x = largest(p, &p->x), max_q = largest(p, &p->q);
    if (!isfinite(max_x) || !isfinite(max_q)) {
        t->loss[row] = NAN;
        fill_row(&p->out, &p->c, NAN);
        return;
    }
    r.of_x = anchor_at(max_x * r.inverse, sum_headroom(1), 1);
    r.of_q = anchor_at(max_q * r.inverse, sum_headroom(1), 1);
    find_base(p, &r);
    distilled_totals totals = {{0, 0}, {0, 0}, {0, 0}, 0};
    for (block b = {0, 0}; next_block(&p->c, &b);)
        p->k->distilled_sums(read_block(&p->x, b), read_block(&p->q, b), b.n, &r, &totals);
    find_shift(&r, &totals);
    compensated sums[2] = {{0, 0}, {0, 0}};
    for (block b = {0, 0}; next_block(&p->c, &b);)
        p->k->distilled_terms(read_block(&p->x, b), read_block(&p->q, b), b.n, &r, sums);
    const double first = compensated_value(sums[0]), second = compensated_value(sums[1]);
    const double loss = of->kind == JENSEN_SHANNON ? of->beta * first + (1 - of->beta) * second : first;
    t->loss[row] = weight * (of->temperature * of->temperature * loss);
    r.loss = of->kind == JENSEN_SHANNON ? second : first;
    r.scale = t->row_scale[row * t->row_scale_step] * weight * of->temperature;
    if (of->kind == JENSEN_SHANNON) r.scale *= 1 - of->beta;
    if (of->kind == REVERSE_KL && isinf(r.loss)) {
        fill_row(&p->out, &p->c, NAN);
        return;
    }
    for (block b = {0, 0}; next_whole(&p->c, &b);) {
        void *out = block_to_write(&p->out, b);
        p->k->distilled_gradient(read_block(&p->x, b), read_block(&p->q, b), b.n, &r, out, p->out.bypass);
        write_block(&p->out, b, out);
    }
}

/* Another place, which reads the rows in float64. */
static place *elsewhere(place *p) { return p->is_f64 ? p : exact_place(p); }

void distillation(place *p, ptrdiff_t first, ptrdiff_t last)
{
    const double *v = p->t->options.sample_weight;
    for (ptrdiff_t row = first; row < last && !p->c.stopped; ++row) {
        go_to(p, row);
        if (v && v[row] == 0) {
            p->t->loss[row] = 0;
            fill_row(&p->out, &p->c, 0);
            continue;
        }
        const double weight = v ? v[row] : 1;
        if (quickly(p, row, weight)) continue;
        place *e = elsewhere(p);
        if (!e) return;
        if (e != p) go_to(e, row);
        exactly(e, row, weight);
        p->c.stopped = p->c.stopped || e->c.stopped;
    }
}
