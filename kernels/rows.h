/* The block functions, written once; an ISA unit includes this file once for each ELEMENT (unit.h).
 *
 * float32 and 16-bit elements are worked on in float32 lanes, float64 in float64 lanes. A sum runs in four vectors of
 * lanes over a chunk of 16 vectors, then goes into a lane_total: all-equal logits, whose rounding errors all point the
 * same way, would cost 4 ulp of float32 in lanes that run over 1000 classes.
 * The last, partial vector of a block goes through the same arithmetic as the others, filled up with what leaves each
 * result alone; so a row's bits do not depend on where it lies. */

#define NAME(function) PASTE(function, ELEMENT)
#define CHUNK (16 * LANES)
#define PREFETCH 4096    /* bytes ahead: the hardware's prefetcher stops at the page */

/* The vector at x + j, where the elements end at n. */
SIMD vec NAME(at)(const ELEMENT *x, ptrdiff_t j, ptrdiff_t n, REAL fill)
{
    return n - j >= LANES ? v_load(x + j) : v_load_part(x + j, n - j, fill);
}

SIMD vec NAME(real_at)(const REAL *x, ptrdiff_t j, ptrdiff_t n)
{
    return n - j >= LANES ? v_load_real(x + j) : v_load_part_real(x + j, n - j, 0);
}

static double NAME(max)(const void *in, ptrdiff_t n)
{
    const ELEMENT *x = in;
    vec m[4];
    mask nan = v_nan(v_set1(0));
    for (int u = 0; u < 4; ++u) m[u] = v_set1(-INFINITY);
    ptrdiff_t j = 0;
    for (; n - j >= 4 * LANES; j += 4 * LANES)
        for (int u = 0; u < 4; ++u) {
            const vec z = v_load(x + j + u * LANES);
            nan = mask_or(nan, v_nan(z));
            m[u] = v_max(z, m[u]);
        }
    for (; j < n; j += LANES) {
        const vec z = NAME(at)(x, j, n, -INFINITY);
        nan = mask_or(nan, v_nan(z));
        m[0] = v_max(z, m[0]);
    }
    return mask_count(nan) ? NAN : (double)v_top(v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
}

/* The classes at the maximum are counted, not added (kernels.h, D). */
static double NAME(sum)(const void *in, ptrdiff_t n, anchor at, double max, ptrdiff_t *ties)
{
    const ELEMENT *x = in;
    const EXP_FRAME f = frame_at(at);
    const vec top = v_set1((REAL)max), zero = v_set1(0);
    lane_total total = {v_set1_f64(0), v_set1_f64(0)};
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < CHUNK ? n : j + CHUNK;
        vec s[4] = {zero, zero, zero, zero};
        for (; end - j >= 4 * LANES; j += 4 * LANES)
            for (int u = 0; u < 4; ++u) {
                const vec z = v_load(x + j + u * LANES);
                const mask tie = v_equal(z, top);
                *ties += mask_count(tie);
                s[u] = v_add(s[u], v_zero_where(tie, v_exp(z, f)));
            }
        for (; j < end; j += LANES) {
            const vec z = NAME(at)(x, j, end, -INFINITY);
            const mask tie = v_equal(z, top);
            *ties += mask_count(tie);
            s[0] = v_add(s[0], v_zero_where(tie, v_exp(z, f)));
        }
        lane_total_add(&total, v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
    }
    return lane_total_value(total);
}

/* The sum and the maximum in one pass, for an anchor that was guessed and has no shift: the caller checks that the maximum
 * suits it. NaN where any is NaN. */
static double NAME(sum_and_max)(const void *in, ptrdiff_t n, anchor at, double *max)
{
    const ELEMENT *x = in;
    const EXP_FRAME f = frame_at(at);
    const vec zero = v_set1(0), lowest = v_set1(-INFINITY);
    vec m[4] = {lowest, lowest, lowest, lowest};
    mask nan = v_nan(zero);
    lane_total total = {v_set1_f64(0), v_set1_f64(0)};
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < CHUNK ? n : j + CHUNK;
        vec s[4] = {zero, zero, zero, zero};
        for (; end - j >= 4 * LANES; j += 4 * LANES)
            for (int u = 0; u < 4; ++u) {
                const vec z = v_load(x + j + u * LANES);
                prefetch((const char *)(x + j + u * LANES) + PREFETCH);
                if (!SCALES_TO_ZERO) nan = mask_or(nan, v_nan(z));
                m[u] = v_max(z, m[u]);
                s[u] = v_add(s[u], v_exp_unshifted(z, f));
            }
        for (; j < end; j += LANES) {
            const vec z = NAME(at)(x, j, end, -INFINITY);
            if (!SCALES_TO_ZERO) nan = mask_or(nan, v_nan(z));
            m[0] = v_max(z, m[0]);
            s[0] = v_add(s[0], v_exp_unshifted(z, f));
        }
        lane_total_add(&total, v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
    }
    *max = (double)v_top(v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
    return mask_count(nan) ? NAN : lane_total_value(total);
}

static double NAME(total)(const void *in, ptrdiff_t n)
{
    const ELEMENT *x = in;
    lane_total total = {v_set1_f64(0), v_set1_f64(0)};
    for (ptrdiff_t j = 0; j < n; j += LANES) lane_total_add(&total, NAME(at)(x, j, n, 0));
    return lane_total_value(total);
}

/* With t_c = w_c (keep q_c + floor): mass = sum of t_c, distance = sum of t_c (max - z_c), where 0 times inf is 0.
 * In float64: max - z_c rounded to float32 would cost up to half an ulp of each term. */
static void NAME(spread)(const void *in, ptrdiff_t n, double max, subtrahend s, double *mass, double *distance)
{
    const ELEMENT *x = in;
    const REAL *q = s.q, *w = s.w;
    compensated masses = {0, 0}, distances = {0, 0};
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t end = n - j < CHUNK ? n : j + CHUNK;
        double m[LANES], d[LANES];
        for (int i = 0; i < LANES; ++i) m[i] = d[i] = 0;
        for (; j < end; j += LANES) {
            REAL z[LANES], ql[LANES], wl[LANES];
            v_store_real(z, NAME(at)(x, j, n, 0));
            v_store_real(ql, q ? NAME(real_at)(q, j, n) : v_set1(0));
            v_store_real(wl, w ? NAME(real_at)(w, j, n) : v_set1(1));
            for (ptrdiff_t i = n - j; i < LANES; ++i) wl[i] = 0;
            for (int i = 0; i < LANES; ++i) {
                const double term = (double)wl[i] * (s.keep * (double)ql[i] + s.floor);
                m[i] += term;
                d[i] += term == 0 ? 0 : term * (max - (double)z[i]);
            }
        }
        double mass_here = 0, distance_here = 0;
        for (int i = 0; i < LANES; ++i) mass_here += m[i], distance_here += d[i];
        compensated_add(&masses, mass_here);
        compensated_add(&distances, distance_here);
    }
    *mass = compensated_value(masses);
    *distance = compensated_value(distances);
}

/* Where the first vector of an output ends: before the block's end, and where it streams, at an aligned address. */
SIMD ptrdiff_t NAME(first_end)(const ELEMENT *out, ptrdiff_t n, int stream)
{
    const uintptr_t over = (uintptr_t)out % (LANES * sizeof(ELEMENT));
    const ptrdiff_t end = stream ? LANES - (ptrdiff_t)(over / sizeof(ELEMENT)) : LANES;
    return end < n ? end : n;
}

SIMD ptrdiff_t NAME(next_end)(ptrdiff_t end, ptrdiff_t n) { return n - end > LANES ? end + LANES : n; }

SIMD void NAME(put)(ELEMENT *out, ptrdiff_t j, ptrdiff_t end, vec a, int stream)
{
    if (end - j < LANES) v_store_part(out + j, end - j, a);
    else if (stream) v_stream(out + j, a);
    else v_store(out + j, a);
}

/* factor e^z - scale w (keep q + floor). The three flags are constants where this is inlined. */
SIMD void NAME(gradient_as)(const ELEMENT *x, ptrdiff_t n, anchor at, double factor, subtrahend s, ELEMENT *out, int stream,
                            int subtracts, int has_q, int has_w)
{
    const EXP_FRAME f = frame_at(at);
    const REAL *q = s.q, *w = s.w;
    const vec times = v_set1((REAL)factor), keep = v_set1((REAL)(s.scale * s.keep)), floor = v_set1((REAL)(s.scale * s.floor));
    for (ptrdiff_t j = 0, end = NAME(first_end)(out, n, stream); j < n; j = end, end = NAME(next_end)(end, n)) {
        vec grad = v_mul(v_exp(NAME(at)(x, j, end, -INFINITY), f), times);
        if (subtracts) {
            vec t = has_q ? v_fma(NAME(real_at)(q, j, end), keep, floor) : floor;
            if (has_w) t = v_mul(t, NAME(real_at)(w, j, end));
            grad = v_sub(grad, t);
        }
        NAME(put)(out, j, end, grad, stream);
    }
}

static void NAME(gradient)(const void *x, ptrdiff_t n, anchor at, double factor, subtrahend s, void *out, int stream)
{
    if (s.scale == 0) NAME(gradient_as)(x, n, at, factor, s, out, stream, 0, 0, 0);
    else if (!s.q && !s.w) NAME(gradient_as)(x, n, at, factor, s, out, stream, 1, 0, 0);
    else if (!s.q) NAME(gradient_as)(x, n, at, factor, s, out, stream, 1, 0, 1);
    else if (!s.w) NAME(gradient_as)(x, n, at, factor, s, out, stream, 1, 1, 0);
    else NAME(gradient_as)(x, n, at, factor, s, out, stream, 1, 1, 1);
}

/* (z - max) - log_sum: both terms are <= 0, so neither rounding is magnified. */
static void NAME(log_softmax)(const void *in, ptrdiff_t n, double max, double log_sum, void *to, int stream)
{
    const ELEMENT *x = in;
    ELEMENT *out = to;
    const vec m = v_set1((REAL)max), l = v_set1((REAL)log_sum);
    for (ptrdiff_t j = 0, end = NAME(first_end)(out, n, stream); j < n; j = end, end = NAME(next_end)(end, n))
        NAME(put)(out, j, end, v_sub(v_sub(NAME(at)(x, j, end, 0), m), l), stream);
}

/* g - factor e^log_p, where factor carries the sum of g over the row. */
static void NAME(log_softmax_backward)(const void *in, const void *grad_output, ptrdiff_t n, anchor at, double factor,
                                       void *to, int stream)
{
    const ELEMENT *x = in, *g = grad_output;
    ELEMENT *out = to;
    const EXP_FRAME f = frame_at(at);
    const vec times = v_set1((REAL)factor);
    for (ptrdiff_t j = 0, end = NAME(first_end)(out, n, stream); j < n; j = end, end = NAME(next_end)(end, n)) {
        const vec e = v_exp(NAME(at)(x, j, end, -INFINITY), f);
        NAME(put)(out, j, end, v_fnma(e, times, NAME(at)(g, j, end, 0)), stream);
    }
}

#define BLOCK_FUNCTIONS \
    {LANES, NAME(max), NAME(sum), NAME(sum_and_max), NAME(total), NAME(spread), NAME(gradient), NAME(log_softmax), NAME(log_softmax_backward), \
     NAME(columns_max), NAME(columns_sum), NAME(columns_gradient), NAME(columns_log_softmax)}
