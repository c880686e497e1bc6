/* The functions of exp_sum.h, which includes this once for each REAL. */

typedef struct {
    lane_total total;
    vec low[UNROLL], high[UNROLL];
} EXP_SUM;

SIMD EXP_SUM exp_sum_of_none(void)
{
    EXP_SUM s;
    s.total = lane_total_of_none();
    for (int u = 0; u < UNROLL; ++u) s.low[u] = s.high[u] = v_set1(0);
    return s;
}

/* Of UNROLL vectors, in pairs, in which the largest number is rounded with fewer others; they become 0. */
SIMD vec PASTE(taken, REAL)(vec *s)
{
    for (int by = 1; by < UNROLL; by *= 2)
        for (int u = 0; u < UNROLL; u += 2 * by) s[u] = v_add(s[u], s[u + by]);
    const vec sum = s[0];
    for (int u = 0; u < UNROLL; ++u) s[u] = v_set1(0);
    return sum;
}

/* high (1 + q), in the u-th of the sums beside each other. */
SIMD void exp_sum_add(EXP_SUM *s, int u, vec high, vec q)
{
    if (WIDE == 2 && !EXP_TABLE) {    /* q is large, so that float32 may not round its sum even a few times */
        lane_total_add(&s->total, high);
        lane_total_add(&s->total, v_mul(high, q));
        return;
    }
    s->low[u] = v_fma(high, q, s->low[u]);
    s->high[u] = v_add(s->high[u], high);
}

/* After a chunk. The sum of the high parts in each lane where they are of a table: rounded a few times. */
SIMD vec exp_sum_end_chunk(EXP_SUM *s)
{
    vec high = v_set1(0);
    if (WIDE == 2 && !EXP_TABLE) return high;
    lane_total_add(&s->total, PASTE(taken, REAL)(s->low));
    if (EXP_TABLE) {
        high = PASTE(taken, REAL)(s->high);
        lane_total_add(&s->total, high);
    }
    for (int u = 0; !EXP_TABLE && u < UNROLL; ++u) {
        lane_total_add(&s->total, s->high[u]);
        s->high[u] = v_set1(0);
    }
    return high;
}

/* The same without any rounding of a table's numbers; to be widened they wait in memory, in the i-th place. */
SIMD void exp_sum_add_exactly(EXP_SUM *s, REAL *waiting, ptrdiff_t i, int u, vec high, vec q)
{
    if (!EXP_TABLE) {
        exp_sum_add(s, u, high, q);
        return;
    }
    s->low[u] = v_fma(high, q, s->low[u]);
    v_store_real(waiting + i * LANES, high);
}

SIMD void exp_sum_end_chunk_exactly(EXP_SUM *s, const REAL *waiting, ptrdiff_t n)
{
    exp_sum_end_chunk(s);
    for (ptrdiff_t i = 0; EXP_TABLE && i < n; ++i) lane_total_add_from(&s->total, waiting + i * LANES);
}

SIMD compensated exp_sum_value(const EXP_SUM *s)
{
    compensated c = lane_total_exact(s->total);
    c.sum /= EXP_SCALE;
    return c;
}

/* The sum of each lane apart. */
SIMD void exp_sum_store(const EXP_SUM *s, double *sums, double *errors)
{
    lane_total_store(s->total, sums, errors);
    for (int i = 0; EXP_SCALE != 1 && i < WIDE * LANES_f64; i += LANES_f64)
        store_f64(sums + i, v_mul_f64(load_f64(sums + i), v_set1_f64(1 / EXP_SCALE)));
}
