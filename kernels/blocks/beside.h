/* Rows that have another array beside them: probability targets or class weights, whose terms are summed, or what has arrived
 * at a log-softmax. unit.h includes this once for each ELEMENT, after rows.h. */
#include "blocks/blocks.h"
#include "blocks/prefetch.h"
#include "math/lane_total.h"
#include "simd/simd.h"

#define spreading NAME(spreading)

/* Exactly: with the rounding error of every sum, for what cancels. Else in float64 alone, which float32 seldom needs
 * more than. */
SIMD void NAME(arriving_as)(const ELEMENT *g, const ELEMENT *x, ptrdiff_t n, double top, arrived *sums, int leads,
                            int exactly)
{
    const vec tops = v_set1((REAL)top), zero = v_set1(0);
    const vec_f64 none = v_set1_f64(0);
    lane_total_f64 total[WIDE];
    vec leader = zero, size = zero;
    for (int u = 0; u < WIDE; ++u) total[u].sum = total[u].error = none;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        vec a = NAME(at)(g, j, n, 0);
        if (leads) {
            const mask is_leader = v_equal(NAME(at)(x, j, n, -INFINITY), tops);
            leader = v_add(leader, v_where(is_leader, a, zero));
            a = v_zero_where(is_leader, a);
        }
        if (!exactly) size = v_add(size, v_max(a, v_sub(zero, a)));
        for (int u = 0; u < WIDE; ++u) {
            if (exactly) lane_total_add_f64(&total[u], v_widen(a, u));
            else total[u].sum = v_add_f64(total[u].sum, v_widen(a, u));
        }
    }
    if (leads) sums->leader += v_sum(leader);
    if (!exactly) {
        for (int u = 1; u < WIDE; ++u) total[0].sum = v_add_f64(total[0].sum, total[u].sum);
        compensated_add(&sums->others, v_sum_f64(total[0].sum));
        sums->size += v_sum(size);
        return;
    }
    double sum[LANES_f64], error[LANES_f64];
    for (int u = 0; u < WIDE; ++u) {
        store_f64(sum, total[u].sum);
        store_f64(error, total[u].error);
        for (int i = 0; i < LANES_f64; ++i) {
            compensated_add(&sums->others, sum[i]);
            sums->others.error += error[i];
        }
    }
}

static void NAME(arriving)(const void *g, const void *x, ptrdiff_t n, double top, int exactly, arrived *sums)
{
    if (x && exactly) NAME(arriving_as)(g, x, n, top, sums, 1, 1);
    else if (x) NAME(arriving_as)(g, x, n, top, sums, 1, 0);
    else if (exactly) NAME(arriving_as)(g, NULL, n, top, sums, 0, 1);
    else NAME(arriving_as)(g, NULL, n, top, sums, 0, 0);
}

/* With t_c = w_c (keep q_c + floor): mass = sum of t_c, distance = sum of t_c (from - z_c), where 0 times inf is 0
 * if that is looked for (has_zeros). In float64: from - z_c rounded to float32 would cost up to half an ulp of each
 * term. */
typedef struct {
    vec_f64 mass[WIDE], distance[WIDE];
} spreading;

SIMD void NAME(spread_step)(spreading *p, vec z, vec q, vec w, vec_f64 from, vec_f64 keep, vec_f64 floor, int has_q,
                            int has_w, int has_zeros)
{
    for (int u = 0; u < WIDE; ++u) {
        const vec_f64 below = v_sub_f64(from, v_widen(z, u));
        vec_f64 t = has_q ? v_fma_f64(v_widen(q, u), keep, floor) : floor;
        if (has_w) t = v_mul_f64(v_widen(w, u), t);
        p->mass[u] = v_add_f64(p->mass[u], t);
        if (!has_zeros) p->distance[u] = v_fma_f64(t, below, p->distance[u]);
        else {
            const vec_f64 term = v_zero_where_f64(v_equal_f64(t, v_set1_f64(0)), v_mul_f64(t, below));
            p->distance[u] = v_add_f64(p->distance[u], term);
        }
    }
}

SIMD void NAME(spread_as)(const ELEMENT *x, ptrdiff_t n, double from, subtrahend s, double *mass, double *distance,
                          int has_q, int has_w, int has_zeros)
{
    const REAL *q = s.q, *w = s.w;
    const vec_f64 zero = v_set1_f64(0), top = v_set1_f64(from), keep = v_set1_f64(s.keep), floor = v_set1_f64(s.floor);
    const vec one = v_set1(1);
    lane_total_f64 masses = {zero, zero}, distances = {zero, zero};
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < CHUNK ? n : j + CHUNK;
        spreading p;
        for (int u = 0; u < WIDE; ++u) p.mass[u] = p.distance[u] = zero;
        for (; end - j >= LANES; j += LANES) {
            if (has_q) prefetch((const char *)(q + j) + PREFETCH);
            const vec t = has_q ? v_load_real(q + j) : one, weights = has_w ? v_load_real(w + j) : one;
            NAME(spread_step)(&p, v_load(x + j), t, weights, top, keep, floor, has_q, has_w, has_zeros);
        }
        if (j < end) { /* w is 0 past the end */
            const mask inside = v_less(v_load_real(lane_numbers), v_set1((REAL)(end - j)));
            const vec t = has_q ? NAME(real_at)(q, j, end) : one;
            const vec weights = has_w ? NAME(real_at)(w, j, end) : v_where(inside, one, v_set1(0));
            NAME(spread_step)(&p, NAME(at)(x, j, end, 0), t, weights, top, keep, floor, has_q, 1, has_zeros);
            j = end;
        }
        for (int u = 0; u < WIDE; ++u) {
            lane_total_add_f64(&masses, p.mass[u]);
            lane_total_add_f64(&distances, p.distance[u]);
        }
    }
    *mass = lane_total_value_f64(masses);
    *distance = lane_total_value_f64(distances);
}

static void NAME(spread)(const void *x, ptrdiff_t n, double from, subtrahend s, double *mass, double *distance)
{
    if (!s.q && !s.w) NAME(spread_as)(x, n, from, s, mass, distance, 0, 0, 0);
    else if (!s.q) NAME(spread_as)(x, n, from, s, mass, distance, 0, 1, 0);
    else if (!s.w) NAME(spread_as)(x, n, from, s, mass, distance, 1, 0, 0);
    else NAME(spread_as)(x, n, from, s, mass, distance, 1, 1, 0);
    /* Rarely: a logit of -inf where the target is 0 (or a NaN, which stays one). */
    if (isnan(*distance)) NAME(spread_as)(x, n, from, s, mass, distance, s.q != NULL, s.w != NULL, 1);
}

SIMD void NAME(log_softmax_backward_as)(const ELEMENT *x, const ELEMENT *g, ptrdiff_t n, const moved *m, ELEMENT *out,
                                        int bypass, int leads)
{
    const EXP_FRAME f = frame_at(m->at);
    const vec times = v_set1((REAL)(m->factor / EXP_SCALE)), top = v_set1((REAL)m->top),
              at_top = v_set1((REAL)m->at_top);
    for (ptrdiff_t j = 0, here; j < n; j += here) {
        const ptrdiff_t before = j ? 0 : NAME(before_vectors)(out, n, bypass);
        here = before ? before : n - j < LANES ? n - j : LANES;
        const vec z = NAME(at)(x, j, j + here, -INFINITY), a = NAME(at)(g, j, j + here, 0);
        const vec grad = v_fnma(v_exp(z, f), times, a);
        NAME(put)(out + j, here, v_where(v_equal(z, top), leads ? at_top : v_sub(a, at_top), grad), bypass);
    }
}

static void NAME(log_softmax_backward)(const void *x, const void *g, ptrdiff_t n, const moved *m, void *out, int bypass)
{
    if (m->leads) NAME(log_softmax_backward_as)(x, g, n, m, out, bypass, 1);
    else NAME(log_softmax_backward_as)(x, g, n, m, out, bypass, 0);
}
