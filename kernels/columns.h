/* Block functions whose lanes are rows: for few classes, where a row would not fill a vector, and for a class axis that
 * is not last, where neighbouring rows lie side by side. A tile has up to LANES rows; element (c, row) is x[c stride + row].
 * Included like rows.h, once for each ELEMENT. What rows.h finds from one number of a row is here a vector of them. */

#define TILE_ROW(c) NAME(at)(x + (c) * stride, 0, rows, -INFINITY)

static void NAME(columns_max)(const void *in, ptrdiff_t stride, ptrdiff_t classes, ptrdiff_t rows, double *max)
{
    const ELEMENT *x = in;
    vec m = v_set1(-INFINITY), nan = v_set1(0);
    for (ptrdiff_t c = 0; c < classes; ++c) {
        const vec z = TILE_ROW(c);
        m = v_max(z, m);
        nan = v_add(nan, v_zero_where(v_equal(z, z), v_set1(1)));
    }
    REAL top[LANES], nans[LANES];
    v_store_real(top, m);
    v_store_real(nans, nan);
    for (ptrdiff_t i = 0; i < rows; ++i) max[i] = nans[i] > 0 ? NAN : (double)top[i];
}

/* The sum of e^x over the classes below the maximum, and how many are at it. Four classes at a time go into the totals,
 * so that no lane rounds more than three times in float32. */
static void NAME(columns_sum)(const void *in, ptrdiff_t stride, ptrdiff_t classes, ptrdiff_t rows, const anchor *at,
                              const double *max, double *sum, double *ties)
{
    const ELEMENT *x = in;
    const EXP_FRAME f = frames_at(at, rows);
    const vec top = v_load_doubles(max, rows), one = v_set1(1);
    lane_total total = {v_set1_f64(0), v_set1_f64(0)};
    vec count = v_set1(0);
    for (ptrdiff_t c = 0; c < classes; c += 4) {
        vec s = v_set1(0);
        for (ptrdiff_t u = c; u < classes && u < c + 4; ++u) {
            const vec z = TILE_ROW(u);
            s = v_add(s, v_zero_where(v_equal(z, top), v_exp(z, f)));
            count = v_add(count, v_zero_where(v_less(z, top), one));
        }
        lane_total_add(&total, s);
    }
    double sums[2 * LANES_f64];
    REAL counts[LANES];
    lane_total_store(total, sums);
    v_store_real(counts, count);
    for (ptrdiff_t i = 0; i < rows; ++i) sum[i] = sums[i], ties[i] = (double)counts[i];
}

static void NAME(columns_gradient)(const void *in, ptrdiff_t stride, ptrdiff_t classes, ptrdiff_t rows, const anchor *at,
                                   const double *factor, void *to, ptrdiff_t out_stride, int stream)
{
    const ELEMENT *x = in;
    ELEMENT *out = to;
    const EXP_FRAME f = frames_at(at, rows);
    const vec times = v_load_doubles(factor, rows);
    for (ptrdiff_t c = 0; c < classes; ++c) NAME(put)(out + c * out_stride, 0, rows, v_mul(v_exp(TILE_ROW(c), f), times), stream);
}

static void NAME(columns_log_softmax)(const void *in, ptrdiff_t stride, ptrdiff_t classes, ptrdiff_t rows, const double *max,
                                      const double *log_sum, void *to, ptrdiff_t out_stride, int stream)
{
    const ELEMENT *x = in;
    ELEMENT *out = to;
    const vec m = v_load_doubles(max, rows), l = v_load_doubles(log_sum, rows);
    for (ptrdiff_t c = 0; c < classes; ++c) NAME(put)(out + c * out_stride, 0, rows, v_sub(v_sub(TILE_ROW(c), m), l), stream);
}

#undef TILE_ROW
