/* Losses of one logit each: the binary cross-entropy and the focal loss, value and gradient, over contiguous numbers.
 *
 *     u = e^(-|z|)   sigma(|z|) = 1 / (1 + u)   sigma(-|z|) = u / (1 + u)
 *     softplus(z) = max(z, 0) + log1p(u)
 *     loss = w (r t softplus(-z) + (1 - t) softplus(z)) = w (L (r t + 1 - t) + |z| B)     L = log1p(u)
 *     grad = s w ((1 - t) sigma(z) - r t sigma(-z))
 *
 * with B = 1 - t where z >= 0, and r t below. Focal: w, (1 - alpha)(1 - t) + alpha t and q^gamma are factors,
 * q = (1 - t) sigma(z) + t sigma(-z). docs/derivation.md derives both.
 *
 * Float32 numbers are worked on in lanes of their own where |z| < NEAR and the loss is not focal; float64, and all
 * others, in lanes of float64, which have e^(-z) for every float32 z and powers with as many digits. A number's result
 * never depends on those beside it: where one lane of a vector is far, all are done both ways, and each has its own.
 *
 * Errors, in ulp: L 0.5 of the result's rounding, and what log1p and e^(-|z|) add: the latter is taken in two parts
 * (u and what its rounding lost), so that it adds 0.25 (math/exp.h). */
#ifndef BINARY_H
#define BINARY_H

#include "blocks/blocks.h"
#include "math/exp.h"
#include "math/lane_total.h"
#include "math/log.h"
#include "simd/simd.h"

#define BINARY_NEAR 80    /* e^-80 and its half ulp are normal numbers of float32 */

/* High (1 + q) EXP_SCALE^-1 as u + low. What the scale's own rounding is short of is 2^-26 of float32's u at most, and
 * nothing of float64's digits that a result can show. */
SIMD vec_f32 exp_pair_f32(vec_f32 high, vec_f32 q, vec_f32 *low)
{
    const vec_f32 v = v_fma_f32(high, q, high);
    *low = v_fma_f32(high, q, v_sub_f32(high, v));
#if EXP_TABLE_f32
    const f32 by = (f32)(1 / EXP_SCALE_f32), rest = (f32)(1 / EXP_SCALE_f32 - by);
    const vec_f32 c = v_set1_f32(by), u = v_mul_f32(v, c);
    *low = v_fma_f32(*low, c, v_fma_f32(v, v_set1_f32(rest), v_lost_f32(v, c, u)));
    return u;
#else
    return v;
#endif
}

SIMD vec_f64 exp_pair_f64(vec_f64 high, vec_f64 q, vec_f64 *low)
{
    const vec_f64 v = v_fma_f64(high, q, high);
    *low = v_fma_f64(high, q, v_sub_f64(high, v));
#if EXP_TABLE_f64
    const vec_f64 c = v_set1_f64(1 / EXP_SCALE_f64), u = v_mul_f64(v, c);
    *low = v_fma_f64(*low, c, v_lost_f64(v, c, u));
    return u;
#else
    return v;
#endif
}

/* log(1 + u + low), 0 <= u <= 1: 2 atanh(s) with s = u / (2 + u) is u - s (u - s^2 P(s^2)), of which only the last
 * subtraction rounds what is as large as the result. P by minimax, fit error 0.09 ulp. */
SIMD vec_f32 log1p_near_f32(vec_f32 u, vec_f32 low)
{
    static const f32 terms[4] = {0x1.1ef882p-2f, 0x1.1eb60cp-2f, 0x1.99d27cp-2f, 0x1.5555p-1f};
    const vec_f32 s = v_div_f32(u, v_add_f32(v_set1_f32(2), u)), y = v_mul_f32(s, s);
    vec_f32 p = v_set1_f32(terms[0]);
    for (int i = 1; i < 4; ++i) p = v_fma_f32(p, y, v_set1_f32(terms[i]));
    const vec_f32 rest = v_sub_f32(v_set1_f32(1), s);    /* its square is 1 / (1 + u) within a ninth */
    return v_sub_f32(u, v_fnma_f32(v_mul_f32(rest, rest), low, v_mul_f32(s, v_fnma_f32(y, p, u))));
}

/* The numbers of a vector. */
#define DEFINE_BINARY_LANES(T)                                                                                \
    typedef struct {                                                                                          \
        vec_##T z, t, w, r, s;                                                                                \
    } binary_lanes_##T;                                                                                       \
    SIMD vec_##T binary_scale_##T(const T *x, double of_all, ptrdiff_t j)                                     \
    {                                                                                                         \
        return x ? load_##T(x + j) : v_set1_##T((T)of_all);                                                   \
    }                                                                                                         \
    SIMD binary_lanes_##T binary_load_##T(const binary_block *b, ptrdiff_t j)                                 \
    {                                                                                                         \
        const binary_lanes_##T x = {                                                                          \
            load_##T((const T *)b->z + j),                                                                    \
            load_##T((const T *)b->t + j),                                                                    \
            binary_scale_##T(b->weight, b->weight_of_all, j),                                                 \
            binary_scale_##T(b->pos_weight, b->pos_weight_of_all, j),                                         \
            binary_scale_##T(b->grad_output, b->grad_output_of_all, j),                                       \
        };                                                                                                    \
        return x;                                                                                             \
    }                                                                                                         \
    SIMD void binary_store_##T(const binary_block *b, ptrdiff_t j, vec_##T loss, vec_##T grad)                \
    {                                                                                                         \
        T *const losses = (T *)b->loss + (b->loss ? j : 0), *const slopes = (T *)b->grad + (b->grad ? j : 0); \
        if (b->loss && b->bypass) bypass_##T(losses, loss);                                                   \
        else if (b->loss) store_##T(losses, loss);                                                            \
        if (b->grad && b->bypass) bypass_##T(slopes, grad);                                                   \
        else if (b->grad) store_##T(slopes, grad);                                                            \
    }
DEFINE_BINARY_LANES(f32)
DEFINE_BINARY_LANES(f64)

/* Of |z| < BINARY_NEAR. */
SIMD vec_f32 binary_near(binary_lanes_f32 x, vec_f32 size, vec_f32 *grad, int wants_grad)
{
    const vec_f32 zero = v_set1_f32(0), one = v_set1_f32(1);
    const mask_f32 negative = v_less_f32(x.z, zero);
    vec_f32 q, low;
    const vec_f32 high = v_exp_near_f32(v_sub_f32(zero, size), frame_at_f32((anchor){0, 0}), &q);
    const vec_f32 u = exp_pair_f32(high, q, &low), log1p = log1p_near_f32(u, low);
    const vec_f32 rest = v_sub_f32(one, x.t), up = v_mul_f32(x.r, x.t);
    *grad = zero;
    if (wants_grad) {    /* a division less where none is wanted */
        const vec_f32 from = v_mul_f32(rest, v_where_f32(negative, u, one)), to = v_where_f32(negative, one, u);
        const vec_f32 slope = v_div_f32(v_fnma_f32(up, to, from), v_add_f32(one, u));
        *grad = v_mul_f32(v_mul_f32(x.s, x.w), slope);
    }
    const vec_f32 far = v_where_f32(negative, up, rest);
    return v_mul_f32(x.w, v_fma_f32(size, far, v_mul_f32(log1p, v_add_f32(up, rest))));
}

/* q^gamma and its slope over itself, q = above / (above + below) the probability that the target has not, from its parts. */
SIMD vec_f64 focal_power(vec_f64 above, vec_f64 below, vec_f64 sum, double gamma)
{
    if (gamma == 2) {
        const vec_f64 q = v_div_f64(above, sum);
        return v_mul_f64(q, q);
    }
    /* log q = -log1p(below / above), to more digits than it has by itself: a power's error is that of its exponent */
    vec_f64 off, q;
    const mask_f64 none = v_less_f64(above, v_set1_f64(0x1p-1000));
    const vec_f64 part = v_where_f64(none, v_set1_f64(1), above), g = v_set1_f64(-gamma);
    const vec_f64 log = v_log1p_f64(v_div_f64(below, part), v_set1_f64(0), &off), y = v_mul_f64(g, log);
    const vec_f64 low = v_fma_f64(g, off, v_lost_f64(g, log, y));
    const vec_f64 high = v_exp_pair_parts_f64(y, low, frame_at_f64((anchor){0, 0}), &q);
    return v_zero_where_f64(none, v_mul_f64(v_set1_f64(1 / EXP_SCALE_f64), v_fma_f64(high, q, high)));
}

/* Of any numbers. 0 times an infinity is 0: a weight of 0 counts for nothing, and so does what a target rules out. */
static NOT_INLINED vec_f64 binary_any(binary_lanes_f64 x, const binary_block *b, vec_f64 *grad)
{
    const vec_f64 zero = v_set1_f64(0), one = v_set1_f64(1);
    const mask_f64 negative = v_less_f64(x.z, zero);
    const vec_f64 size = v_max_f64(x.z, v_sub_f64(zero, x.z));
    vec_f64 q, low, off;
    const vec_f64 high = v_exp_parts_f64(v_sub_f64(zero, size), frame_at_f64((anchor){0, 0}), &q);
    const vec_f64 u = exp_pair_f64(high, q, &low), log1p = v_log1p_f64(u, low, &off), sum = v_add_f64(one, u);
    const vec_f64 rest = v_sub_f64(one, x.t), up = v_mul_f64(x.r, x.t);
    const vec_f64 at = v_where_f64(negative, u, one),
                  opposite = v_where_f64(negative, one, u);    /* sigma(z), sigma(-z) */
    vec_f64 slope = v_div_f64(v_fnma_f64(up, opposite, v_mul_f64(rest, at)), sum);
    const vec_f64 far = v_where_f64(negative, up, rest);
    const vec_f64 line = v_zero_where_f64(v_equal_f64(far, zero), v_mul_f64(size, far));
    vec_f64 loss = v_add_f64(line, v_mul_f64(log1p, v_add_f64(up, rest))), w = x.w;
    if (b->gamma != 0) {
        const vec_f64 above = v_fma_f64(x.t, opposite, v_mul_f64(rest, at));
        const vec_f64 below = v_fma_f64(x.t, at, v_mul_f64(rest, opposite)),
                      power = focal_power(above, below, sum, b->gamma);
        const vec_f64 held = v_max_f64(above, v_set1_f64(0x1p-1000));
        const vec_f64 turn = v_mul_f64(v_set1_f64(b->gamma), v_sub_f64(rest, x.t));
        const vec_f64 more = v_mul_f64(v_mul_f64(turn, loss), v_div_f64(v_div_f64(u, held), sum));
        slope = v_mul_f64(power, v_add_f64(slope, v_zero_where_f64(v_equal_f64(u, zero), more)));
        loss = v_mul_f64(power, loss);
    }
    if (b->alpha >= 0)
        w = v_mul_f64(w, v_fma_f64(v_set1_f64(b->alpha), x.t, v_mul_f64(v_set1_f64(1 - b->alpha), rest)));
    const mask_f64 none = v_equal_f64(w, zero);
    *grad = v_zero_where_f64(none, v_mul_f64(v_mul_f64(x.s, w), slope));
    return v_zero_where_f64(none, v_mul_f64(w, loss));
}

static double binary_f64(const binary_block *b, ptrdiff_t n)
{
    lane_total_f64 total = lane_total_of_none_f64();
    for (ptrdiff_t j = 0; j < n; j += LANES_f64) {
        vec_f64 grad;
        const vec_f64 loss = binary_any(binary_load_f64(b, j), b, &grad);
        binary_store_f64(b, j, loss, grad);
        lane_total_add_f64(&total, loss);
    }
    return lane_total_value_f64(total);
}

/* The same of BINARY_MULTIPLE float32 numbers from j on, in float64. */
static NOT_INLINED double binary_widened(const binary_block *b, ptrdiff_t j, f32 *loss, f32 *grad)
{
    f64 numbers[7][BINARY_MULTIPLE];
    binary_block wide = *b;
    const void **of[5] = {&wide.z, &wide.t, &wide.weight, &wide.pos_weight, &wide.grad_output};
    for (int k = 0; k < 5; ++k) {
        const f32 *from = *of[k];
        if (from == NULL) continue;
        for (int i = 0; i < BINARY_MULTIPLE; i += LANES_f32) {
            const vec_f32 x = load_f32(from + j + i);
            store_f64(numbers[k] + i, v_widen_low_f32(x));
            store_f64(numbers[k] + i + LANES_f64, v_widen_high_f32(x));
        }
        *of[k] = numbers[k];
    }
    wide.loss = numbers[5], wide.grad = numbers[6], wide.bypass = 0;
    const double sum = binary_f64(&wide, BINARY_MULTIPLE);
    for (int i = 0; i < BINARY_MULTIPLE; i += LANES_f32) {
        const f64 *l = numbers[5] + i, *g = numbers[6] + i;
        store_f32(loss + i, v_narrow_f32(load_f64(l), load_f64(l + LANES_f64)));
        store_f32(grad + i, v_narrow_f32(load_f64(g), load_f64(g + LANES_f64)));
    }
    return sum;
}

static double binary_f32(const binary_block *b, ptrdiff_t n)
{
    const vec_f32 limit = v_set1_f32(BINARY_NEAR);
    const int is_focal = b->gamma != 0 || b->alpha >= 0;
    vec_f64 low = v_set1_f64(0), high = low;
    double total = 0;
    for (ptrdiff_t j = 0; j < n; j += BINARY_MULTIPLE) {
        f32 losses[BINARY_MULTIPLE], slopes[BINARY_MULTIPLE];
        int widened = is_focal;
        if (is_focal) total += binary_widened(b, j, losses, slopes);
        for (int i = 0; i < BINARY_MULTIPLE; i += LANES_f32) {
            vec_f32 loss, grad;
            if (is_focal) {
                loss = load_f32(losses + i), grad = load_f32(slopes + i);
            } else {
                const binary_lanes_f32 x = binary_load_f32(b, j + i);
                const vec_f32 size = v_max_f32(x.z, v_sub_f32(v_set1_f32(0), x.z));
                const mask_f32 near = v_less_f32(size, limit);
                loss = binary_near(x, size, &grad, b->grad != NULL);
                if (mask_count_f32(near) < LANES_f32) {
                    if (!widened) binary_widened(b, j, losses, slopes);
                    widened = 1;
                    loss = v_where_f32(near, loss, load_f32(losses + i));
                    grad = v_where_f32(near, grad, load_f32(slopes + i));
                }
                low = v_add_f64(low, v_widen_low_f32(loss)), high = v_add_f64(high, v_widen_high_f32(loss));
            }
            binary_store_f32(b, j + i, loss, grad);
        }
    }
    return total + v_sum_f64(v_add_f64(low, high));
}

static const binary_functions functions_binary = {binary_f32, binary_f64};

#endif
