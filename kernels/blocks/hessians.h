/* What stands for the second derivative of the loss (rows/hessians.c): the diagonal of a row's Hessian from its
 * exponentials, or the product of the Hessian with a vector. unit.h includes this once for each ELEMENT, after
 * vectors.h and hessian_columns.h. */
#include "blocks/blocks.h"
#include "math/exp.h"
#include "simd/simd.h"

SIMD vec NAME(e_of)(const hessian_row *r, EXP_FRAME f, ptrdiff_t j, ptrdiff_t end, int keeps)
{
    return keeps ? NAME(real_at)(r->kept, j, end) : v_exp(NAME(at)(r->x, j, end, -INFINITY), f);
}

SIMD void NAME(hessian_as)(hessian_row *r, ptrdiff_t end, int keeps, int bypass, int has_second)
{
    ELEMENT *out = r->out;
    const EXP_FRAME f = frame_at(r->at);
    const PASTE(diagonals, REAL) d = PASTE(diagonals_of_row, REAL)(r);
    const ptrdiff_t last = end < r->n ? end : r->n;
    ptrdiff_t j = r->done;
    if (j == 0 && (j = NAME(before_vectors)(out, r->n, bypass)) > 0)
        NAME(put)(out, j, PASTE(diagonal, REAL)(NAME(e_of)(r, f, 0, j, keeps), d, has_second), 0);
    IN_FOURS
    for (; last - j >= LANES; j += LANES)
        NAME(put)(out + j, LANES, PASTE(diagonal, REAL)(NAME(e_of)(r, f, j, j + LANES, keeps), d, has_second), bypass);
    if (j < last && last == r->n) {
        NAME(put)(out + j, last - j, PASTE(diagonal, REAL)(NAME(e_of)(r, f, j, last, keeps), d, has_second), 0);
        j = last;
    }
    r->done = j;
}

static void NAME(hessian)(hessian_row *r, ptrdiff_t end)
{
    const int has_second = r->second != 0;    /* of a z_loss */
    if (!r->kept) NAME(hessian_as)(r, end, 0, r->bypass, 1);
    else if (has_second) NAME(hessian_as)(r, end, 1, r->bypass, 1);
    else if (r->bypass) NAME(hessian_as)(r, end, 1, 1, 0);
    else NAME(hessian_as)(r, end, 1, 0, 0);
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
