/* What stands for the second derivative of the loss (rows/hessians.c): the diagonal of a row's Hessian from its
 * exponentials, or the product of the Hessian with a vector. unit.h includes this once for each ELEMENT, after
 * vectors.h. */
#include "blocks/blocks.h"
#include "math/exp.h"
#include "simd/simd.h"

/* factor p (1 - p) + second p^2, at_top for the class with p > 1/2; no less than least. */
SIMD vec NAME(hessian_lanes)(vec e, vec unit, vec factor, vec second, vec at_top, vec least)
{
    const vec p = v_mul(e, unit), half = v_set1((REAL)0.5);
    const vec of_others = v_mul(v_mul(p, factor), v_sub(v_set1(1), p));
    const vec h = v_where(v_less(half, p), at_top, v_fma(v_mul(p, second), p, of_others));
    return v_max(least, h); /* NaN stays */
}

static void NAME(hessian)(hessian_row *r, ptrdiff_t end)
{
    const ELEMENT *x = r->x;
    const REAL *kept = r->kept;
    ELEMENT *out = r->out;
    const EXP_FRAME f = frame_at(r->at);
    const vec unit = v_set1((REAL)(r->unit / EXP_SCALE)), factor = v_set1((REAL)r->factor);
    const vec second = v_set1((REAL)r->second), at_top = v_set1((REAL)r->at_top), least = v_set1((REAL)r->least);
    for (ptrdiff_t j = r->done, here; j < end; j += here) {
        const ptrdiff_t before = j ? 0 : NAME(before_vectors)(out, r->n, r->bypass);
        here = before ? before : r->n - j < LANES ? r->n - j : LANES;
        const vec e = kept ? NAME(real_at)(kept, j, j + here) : v_exp(NAME(at)(x, j, j + here, -INFINITY), f);
        NAME(put)(out + j, here, NAME(hessian_lanes)(e, unit, factor, second, at_top, least), r->bypass);
        r->done = j + here;
    }
}

/* The vector's numbers where x is the maximum: their sum, and how many. */
static void NAME(vector_at_top)(const void *in, const void *vector, ptrdiff_t n, double top, double *sum,
                                ptrdiff_t *count)
{
    const ELEMENT *x = in, *u = vector;
    const vec tops = v_set1((REAL)top), zero = v_set1(0);
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const mask m = v_equal(NAME(at)(x, j, n, -INFINITY), tops);
        const int here = mask_count(m);
        if (!here) continue;
        *count += here;
        *sum += v_sum(v_where(m, NAME(at)(u, j, n, 0), zero));
    }
}

/* The probability of each lane, and the vector's number less that of the class that leads, which does not count where
 * the probability is 0. */
SIMD void NAME(vector_lanes)(const hessian_row *r, EXP_FRAME f, const ELEMENT *x, const ELEMENT *u, ptrdiff_t j,
                             ptrdiff_t n, vec_f64 *p, vec_f64 *below)
{
    const vec e = v_exp(NAME(at)(x, j, n, -INFINITY), f), v = NAME(at)(u, j, n, 0);
    const vec_f64 zero = v_set1_f64(0), unit = v_set1_f64(r->unit / EXP_SCALE);
    for (int i = 0; i < WIDE; ++i) {
        p[i] = v_mul_f64(v_widen(e, i), unit);
        below[i] = v_zero_where_f64(v_equal_f64(p[i], zero), v_sub_f64(v_widen(v, i), v_set1_f64(r->of_vector)));
    }
}

static void NAME(vector_sum)(const hessian_row *r, const void *vector, ptrdiff_t n, compensated *sum)
{
    const EXP_FRAME f = frame_at(r->at);
    vec_f64 total = v_set1_f64(0), p[WIDE], below[WIDE];
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        NAME(vector_lanes)(r, f, r->x, vector, j, n, p, below);
        for (int i = 0; i < WIDE; ++i) total = v_fma_f64(p[i], below[i], total);
    }
    compensated_add(sum, v_sum_f64(total));
}

/* p (factor (below - mean) + second). */
static void NAME(hessian_product)(const hessian_row *r, const void *vector, ptrdiff_t n, void *to, int bypass)
{
    ELEMENT *out = to;
    const EXP_FRAME f = frame_at(r->at);
    const vec_f64 factor = v_set1_f64(r->factor), mean = v_set1_f64(r->mean), second = v_set1_f64(r->second);
    for (ptrdiff_t j = 0, here; j < n; j += here) {
        const ptrdiff_t before = j ? 0 : NAME(before_vectors)(out, n, bypass);
        here = before ? before : n - j < LANES ? n - j : LANES;
        vec_f64 p[WIDE], below[WIDE];
        NAME(vector_lanes)(r, f, r->x, vector, j, j + here, p, below);
        for (int i = 0; i < WIDE; ++i) p[i] = v_mul_f64(p[i], v_fma_f64(factor, v_sub_f64(below[i], mean), second));
        NAME(put)(out + j, here, v_narrow(p[0], p[WIDE - 1]), bypass);
    }
}
