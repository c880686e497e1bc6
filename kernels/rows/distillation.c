/* The divergence of the softmax of x from that of a teacher's logits q, both over T, and its gradient on x. With
 * d_c = log p_s,c - log p_t,c, phi(d) = e^d - 1 - d and m = beta p_t + (1 - beta) p_s:
 *
 *   forward    T^2 sum p_t phi(d)                    T (p_s - p_t) = T p_t (e^d - 1)
 *   reverse    T^2 sum p_s phi(-d)                   T p_s (d - KL)
 *   js         T^2 (beta KL(p_t || m) + (1 - beta) KL(p_s || m))      T (1 - beta) p_s (log(p_s / m) - KL(p_s || m))
 *
 * d_c = x_c - log sum p_t e^(x_c), where x_c are the differences of the logits less a base, so that no digit
 * of it is lost where the rows are nearly equal, up to a constant. */
#include <float.h>
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

#define MIXTURE_TERMS 14   /* of each of the power series that are shortened */
#define GUESSED_FROM 64    /* classes that neither row masks */
#define FAR 0.75    /* the divergence of rows that are far from each other: e^(b/T) is added up, not phi */
#define FAR_MIXED 0.05     /* over the mixture, of which these sums are no terms: e^(b/T) costs no more than phi */
#define LEAST_FAR 0x1p-12  /* over its share: of a smaller divergence, what sums of e^(b/T) are off by shows */
#define LEAST_MIXED 64     /* classes: of fewer, the rounding errors of terms that each cost several show */

/* About what most of the logits differ by: the mean over the first finite ones, all of it where all differ alike; and
 * how far these lie from it; whether one of them is infinite, or what differs is. */
static double usual_difference(element type, const char *b, const char *a, ptrdiff_t n, double *spread, int *masked)
{
    double sum = 0, squares = 0;
    ptrdiff_t count = 0, c = 0;
    for (; c < n && count < GUESSED_FROM; ++c) {
        const ptrdiff_t at = c * element_size(type);
        const double d = get_element(type, b + at) - get_element(type, a + at);
        if (isfinite(d)) sum += d, squares += d * d, ++count;
    }
    const double mean = count ? sum / count : 0, variance = count ? squares / count - mean * mean : 0;
    *spread = variance > 0 ? sqrt(variance) : 0;
    *masked = count < c;
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

/* The means over p_a of d and of phi(d), and what they come to. */
typedef struct {
    double moved, phi, up, shift; /* up: mean(e^d) - 1; shift: log(1 + up) */
    double apart; /* shift - moved, the divergence */
    int finite, serves;
} quick_means;

/* With up = mean(e^d) - 1, and d less the base,
 *
 *   KL(p_a || p_b) = mean(phi) - (up - log(1 + up)) = log(1 + up) - mean(d),
 *
 * of which the former is good to the last digits where its second term is the smaller one, and the latter where rows are far from
 * each other, and mean(d) is not much larger: where one lane has nearly all of its sum, that is off by up to 2^-22. */
static quick_means means_of(const quick_pair *r, const quick_totals *t)
{
    quick_means m;
    m.moved = t->moved / t->e * (r->far ? r->inverse : 1), m.phi = t->phi / t->e;
    /* Over the mixture an error of the shift shows, and up may be next to nothing beside what it is the sum of. */
    const int mixes = r->keeps == KEEP_OTHER, directly = r->far || (mixes && fabs(m.moved) > 0.5);
    const double ratio = r->far ? t->phi / t->e * r->ratio : t->other / t->e;
    m.up = directly ? ratio - 1 : m.moved + m.phi;
    m.shift = directly ? log(ratio) : log1p(m.up);
    m.apart = m.shift - m.moved;
    m.finite = isfinite(m.shift) && isfinite(m.apart);
    const double size = fabs(m.moved);
    if (r->far && mixes) m.serves = m.finite;
    else if (r->far) m.serves = m.finite && m.apart >= 0.6 && size <= 1.5 * m.apart;
    else {
        const int is_near = m.up - m.shift <= 0.5 * m.phi, is_far = m.apart >= 0.5 + 0.25 * (fabs(m.shift) + size);
        m.serves = m.finite && m.up > -0.5 && m.apart < FAR && (is_near || is_far);
    }
    return m;
}

static void find_ratio(quick_pair *r)
{
    r->ratio = times_power_of_2(exp(-r->base * r->inverse), r->of_b.k - r->of_a.k);
}

/* By so much of a logit: what rows differ by throughout, and divided and multiplied by T, would leave something over. */
static void move_base(quick_pair *r, double by)
{
    r->base += by;
    r->carefully = 1;
    find_ratio(r);
}

/* The anchors of rows with these maxima; 0 where lanes have none. */
static int anchor_pair(quick_pair *r, double max_a, double max_b)
{
    const double of_a = max_a * r->inverse, of_b = max_b * r->inverse;
    if (!isfinite(of_a) || !isfinite(of_b)) return 0;
    r->of_a = anchor_at(of_a, sum_headroom(0), 0), r->of_b = anchor_at(of_b, sum_headroom(0), 0);
    find_ratio(r);
    return r->of_a.shift == 0 && r->of_b.shift == 0;
}

/* Whether the anchors serve the two rows: by their maxima, or by their sums, which are infinite where they do not. */
static int have_anchors(const quick_pair *r, const quick_totals *t, double up, double least, double most)
{
    const double of_b = r->far ? t->phi : t->e * (1 + up) / r->ratio, room = 20 + sum_headroom(0) * LN2;
    if (t->max_a * r->inverse - r->of_a.k * LN2 > room || t->max_b * r->inverse - r->of_b.k * LN2 > room) return 0;
    return t->e >= least && t->e <= most && of_b >= least && of_b <= most;
}

/* The base, and the way to add up, by which sums should serve that do not by these; 0 where there is none. Rows far from
 * each other want mean(d) for a base, after which up is no less than 0, others log(1 + up), after which it is next to 0. */
static int settle(quick_pair *r, const quick_means *m, int mixes)
{
    const int was_far = r->far, is_far = m->finite && m->apart >= (mixes ? FAR_MIXED : FAR);
    const double by = !mixes && (is_far || !(m->up > -0.5)) ? m->moved : m->shift;
    r->far = is_far;
    if (!isfinite(by)) return was_far; /* classes that both mask */
    move_base(r, by / r->inverse);
    return r->ratio >= 0x1p-60 && r->ratio <= 0x1p60;
}

/* After the first block, which is added up again where it shows that the anchors or the base are far off. */
static void begin_with(place *p, quick_pair *r, int forward, int mixes, block at, f32 *m, f32 *e, quick_totals *totals)
{
    quick_means found = means_of(r, totals);
    quick_pair other = *r;
    if (!have_anchors(r, totals, found.up, 0x1p16, 0x1p88)) {
        const double of_x = p->k->top(read_block(&p->x, at), at.n), of_q = p->k->top(read_block(&p->q, at), at.n);
        if (!anchor_pair(&other, forward ? of_q : of_x, forward ? of_x : of_q)) return;
        *r = other;
        *totals = of_nothing;
        add_block(p, r, forward, at, m, e, totals);
        found = means_of(r, totals);
    }
    if (found.serves || !settle(&other, &found, mixes)) return;
    *r = other;
    *totals = of_nothing;
    add_block(p, r, forward, at, m, e, totals);
}

static quick_totals add_up(place *p, quick_pair *r, int forward, int mixes, int at_first, char *m, char *e)
{
    quick_totals totals = of_nothing;
    for (block at = {0, 0}; next_block(&p->c, &at);) {
        f32 *ms = m ? (f32 *)m + at.at : NULL, *es = e ? (f32 *)e + at.at : NULL;
        const quick_totals before = totals;
        add_block(p, r, forward, at, ms, es, &totals);
        if (r->far && !r->masked && isnan(totals.moved) && !isnan(totals.e)) {
            r->masked = 1;
            totals = before;
            add_block(p, r, forward, at, ms, es, &totals);
        }
        if (at_first && at.at == 0 && at.n < p->t->classes) begin_with(p, r, forward, mixes, at, ms, es, &totals);
    }
    return totals;
}

/* The first terms of a power series in 0 <= y <= MIXTURE_NEAR^2, with those left out made good by Chebyshev polynomials:
 * each of the others is taken off with that of its degree, which is all but 0 there. */
static void shorten(double *c, f32 *to)
{
    double power = 1;
    for (int i = 0; i < MIXTURE_TERMS; ++i, power *= MIXTURE_NEAR * MIXTURE_NEAR) c[i] *= power;
    for (int n = MIXTURE_TERMS - 1; n >= QUICK_TERMS; --n) {
        double last[MIXTURE_TERMS] = {1}, t[MIXTURE_TERMS] = {-1, 2};
        for (int degree = 2; degree <= n; ++degree)
            for (int i = degree; i >= 0; --i) { /* t <- (4y - 2) t - last */
                const double next = 4 * (i ? t[i - 1] : 0) - 2 * t[i] - last[i];
                last[i] = t[i], t[i] = next;
            }
        const double by = c[n] / t[n];
        for (int i = 0; i <= n; ++i) c[i] -= by * t[i];
    }
    power = 1;
    for (int i = 0; i < QUICK_TERMS; ++i, power /= MIXTURE_NEAR * MIXTURE_NEAR) to[i] = (f32)(c[i] * power);
}

/* Of w = 1 - beta + beta e^D: log w, whose derivative is sigma = beta e^D / w, and K = D sigma - log w. The power series
 * converge up to |D| = pi. */
static void find_series(double beta, quick_shares *of)
{
    enum { POWERS = 2 * MIXTURE_TERMS + 1 };
    double e[POWERS], w[POWERS], sigma[POWERS], both[2][MIXTURE_TERMS], own[2][MIXTURE_TERMS];
    e[0] = 1;
    for (int i = 1; i < POWERS; ++i) e[i] = e[i - 1] / i;
    for (int i = 0; i < POWERS; ++i) w[i] = beta * e[i] + (i ? 0 : 1 - beta);
    for (int i = 0; i < POWERS; ++i) {
        sigma[i] = beta * e[i];
        for (int j = 0; j < i; ++j) sigma[i] -= sigma[j] * w[i - j];
    }
    for (int i = 0; i < POWERS - 1; ++i) {
        own[i % 2][i / 2] = sigma[i] / (i + 1);
        both[i % 2][i / 2] = sigma[i + 1] * (i + 1) / (i + 2);
    }
    shorten(both[0], of->both), shorten(both[1], of->both_odd);
    shorten(own[0], of->own), shorten(own[1], of->own_odd);
}

/* The two divergences over the mixture, and the student's own, of what was kept. With its shift in the base, a difference
 * loses nothing to it. */
static double over_mixture(place *p, const quick_pair *r, const quick_totals *found, const quick_means *by, int in_base,
                           double *own)
{
    quick_pair pair = *r;
    quick_shares *of = &p->shares;
    quick_mixed mixed = {0, 0};
    char *m = p->kept.rows, *es = m + p->kept.stride;
    if (of->beta == 0) find_series(of->beta = p->t->distilled.beta, of);
    of->shift = in_base ? 0 : by->shift;
    if (in_base) move_base(&pair, by->shift / r->inverse);
    of->of_b = of->beta / (1 - of->beta) * (r->far ? found->e / found->phi : 1 / (1 + by->up));
    of->coarsely = r->coarsely;
    for (block at = {0, 0}; next_block(&p->c, &at);)
        p->k->quick_mixture(read_block(&p->x, at), read_block(&p->q, at), at.n, &pair, of, m + 4 * at.at,
                            es + 4 * at.at, &mixed);
    *own = -mixed.own / found->e;
    return mixed.both / found->e;
}

/* What is kept of the row, m of_m + e of_e, goes to the gradient: at once, or while the next row is read. */
static void write_quickly(place *p, quick_pair r, int forward, double of_m, double of_e)
{
    char *m = p->kept.rows, *e = m ? m + p->kept.stride : NULL;
    write_distilled(p);
    if (m && p->out.direct) {
        const quick_job job = {(f32 *)m, (f32 *)e, p->out.row, of_m, of_e, p->t->classes, 0, p->out.bypass};
        p->distilled = job;
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

/* 0 where lanes of float32 will not do. */
static int quickly(place *p, ptrdiff_t row, double weight)
{
    const task *t = p->t;
    const distillation_kind kind = t->distilled.kind;
    const double temperature = t->distilled.temperature, beta = t->distilled.beta;
    const int forward = kind == FORWARD_KL, mixes = kind == JENSEN_SHANNON;
    char *m = p->kept.rows, *e = m ? m + p->kept.stride : NULL;
    if (!p->k->quick_sums || !suits_float32(1 / temperature, 0) || (mixes && (!m || t->classes < LEAST_MIXED)))
        return 0;
    quick_pair r = {.inverse = 1 / temperature, .numbers = &p->numbers};
    if (m) r.keeps = forward ? KEEP_MOVED : mixes ? KEEP_OTHER : KEEP_TERM;
    reader *of_a = forward ? &p->q : &p->x, *of_b = forward ? &p->x : &p->q;
    block first = {0, 0};
    if (!next_block(&p->c, &first)) return 1;
    const void *a = read_block(of_a, first), *b = read_block(of_b, first);
    double spread;
    int anchored = 0, in_base = 0;
    const double usual = usual_difference(p->x.type, b, a, first.n, &spread, &r.masked);
    const double apart = fabs(usual) * r.inverse;
    spread *= r.inverse;
    if (!anchor_pair(&r, 0, 0)) return 0;
    r.far = spread > (mixes ? 0.25 : 1.1), r.coarsely = spread > 0.5;
    if (r.far ? apart >= 2 : apart > 0.5 * spread) move_base(&r, usual);
    double loss, own = 0;
    quick_totals found;
    quick_means by;
    for (int turn = 0;; ++turn) {
        if (turn == 8) return 0;
        found = add_up(p, &r, forward, mixes, turn == 0, m, e);
        by = means_of(&r, &found);
        if (!anchored && !have_anchors(&r, &found, by.up, 0x1p40, 0x1p100)) {
            anchored = 1;
            if (!anchor_pair(&r, largest(p, of_a), largest(p, of_b))) return 0;
            continue;
        }
        if (mixes && by.finite && (r.far || by.up > -0.5)) {
            const double share = beta * (1 - beta);
            in_base |= r.far && fabs(by.shift) > 0.25 * spread;
            loss = over_mixture(p, &r, &found, &by, in_base, &own);
            if (!isfinite(loss) || !isfinite(own)) return 0;
            if (r.far && loss < LEAST_FAR * share) {
                r.far = in_base = 0;
                move_base(&r, by.shift / r.inverse);
                continue;
            }
            if (r.coarsely && loss < 0.0625 * share) {
                r.coarsely = 0;
                continue;
            }
            if (in_base || by.shift * by.shift <= 4 * loss / share) break;
            if (r.far) {
                in_base = 1;
                continue;
            }
        } else if (by.serves) {
            loss = !r.far && by.up - by.shift <= 0.5 * by.phi ? by.phi - (by.up - by.shift) : by.apart;
            break;
        }
        if (!settle(&r, &by, mixes)) return 0;
    }
    const double scale = t->row_scale[row * t->row_scale_step] * weight * temperature, of_e = scale / found.e;
    const double factors[3][2] = {{of_e / (1 + by.up), -of_e * by.up / (1 + by.up)},
                                  {-of_e, -of_e * (loss - by.shift)},
                                  {-of_e * (1 - beta), -of_e * (1 - beta) * own}};
    double of_m = factors[kind][0], of_both = factors[kind][1];
    if (r.far && forward) of_m = scale / found.phi, of_both = -of_e;
    else if (r.far && !mixes) of_m *= r.inverse;
    if (!suits_lanes(of_e) || !suits_lanes(of_m)) return 0;
    t->loss[row] = weight * (temperature * temperature * loss);
    write_quickly(p, r, forward, of_m, of_both);
    return 1;
}

/* ------------------------------------------------------------------ in float64 */

#define HAS_SOME -40 /* a logit over T so far below the row's top: there is some probability left */

/* What the logits of a class differ by that has some probability in both rows, as far as there is such a class: of others
 * the difference may be so large that its rounding shows in those that have some. Mostly one of the two tops is such a
 * class; else all are looked at. */
static void find_base(place *p, distilled *r)
{
    double best = -INFINITY;
    for (int all = 0; all < 2 && !(best * r->inverse > HAS_SOME); ++all) {
        int found_x = 0, found_q = 0;
        for (ptrdiff_t c = 0; c < p->t->classes && (all || !(found_x && found_q)); ++c) {
            const double x = read_element(&p->x, c), q = read_element(&p->q, c), d = x - q, seen = x - d;
            found_x |= x == r->max_x, found_q |= q == r->max_q;
            if (!isfinite(d) || (!all && x != r->max_x && q != r->max_q)) continue;
            const double below = fmax(fmin(x - r->max_x, q - r->max_q), -DBL_MAX);
            if (!(below > best)) continue;
            best = below;
            r->base = d;
            r->base_error = (x - (d + seen)) + (seen - q);
        }
    }
}

/* What the two maxima differ by, less the base, over T: e^q and e^x are held apart by so much. */
static double of_maxima(const distilled *r)
{
    const double of_max = r->max_x - r->max_q, seen = r->max_x - of_max;
    const double lost = (r->max_x - (of_max + seen)) + (seen - r->max_q);
    return ((of_max - r->base) + (lost - r->base_error)) * r->inverse;
}

/* log mean(e^gap), of a mean that is near 1 by what it is more. */
static void find_shift(distilled *r, const distilled_totals *t)
{
    const double of_x = compensated_value(t->of_x), of_q = compensated_value(t->of_q);
    r->unit_x = 1 / of_x, r->unit_q = 1 / of_q;
    const double more = compensated_value(t->shift) / of_q;
    r->shift = more > -0.5 && more < 1 ? log1p(more) : of_maxima(r) + log(of_x / of_q);
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
    r.max_x = max_x, r.max_q = max_q, r.k = -sum_headroom(1);
    find_base(p, &r);
    r.ratio = exp(of_maxima(&r));
    distilled_totals totals = {{0, 0}, {0, 0}, {0, 0}};
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
