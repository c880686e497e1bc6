/* The functions of exp_sum.h, which includes this once for each REAL. */

typedef struct {
    lane_total total;
    vec low[UNROLL];
} EXP_SUM;

SIMD EXP_SUM exp_sum_of_none(void)
{
    EXP_SUM s;
    s.total = lane_total_of_none();
    UNROLLED
    for (int u = 0; u < UNROLL; ++u) s.low[u] = v_set1(0);
    return s;
}

/* The sum of UNROLL vectors, which become 0. Added in pairs, so that each is rounded as often as any other. */
SIMD vec taken(vec *s)
{
    vec sum = v_add(s[0], s[1]);
#if UNROLL == 4
    sum = v_add(sum, v_add(s[2], s[3]));
#endif
    UNROLLED
    for (int u = 0; u < UNROLL; ++u) s[u] = v_set1(0);
    return sum;
}

/* high (1 + q), in the u-th of the low sums beside each other. Without a table q is up to 0.41, and lanes may round its
 * sum fewer times. */
SIMD void exp_sum_add(EXP_SUM *s, int u, vec high, vec q)
{
    lane_total_add(&s->total, high);
    if (!EXP_TABLE && WIDE == 2) lane_total_add(&s->total, v_mul(high, q));
    else s->low[u] = v_fma(high, q, s->low[u]);
    if (!EXP_TABLE && WIDE == 1 && u == UNROLL - 1) lane_total_add(&s->total, taken(s->low));
}

/* After each chunk. */
SIMD void exp_sum_end_chunk(EXP_SUM *s)
{
    if (EXP_TABLE || WIDE == 1) lane_total_add(&s->total, taken(s->low));
}

/* The sum of e^z, from that of e^z EXP_SCALE. What float64 rounds there no float32 row can show. */
SIMD compensated exp_sum_total(compensated c)
{
    if (WIDE == 1) return unscaled(c, EXP_SCALE);
    c.sum *= 1 / EXP_SCALE;
    return c;
}

/* The sum of e^z of each lane apart, and what it is short of. */
SIMD void exp_sum_store(const EXP_SUM *s, double *sums, double *errors)
{
    lane_total_store(s->total, sums, errors);
    for (int i = 0; EXP_SCALE != 1 && i < WIDE * LANES_f64; i += LANES_f64) {
        const vec_f64 inverse = v_set1_f64(1 / EXP_SCALE), sum = load_f64(sums + i), scaled = v_mul_f64(sum, inverse);
        store_f64(sums + i, scaled);
        if (WIDE == 2) continue;
        /* what the product was rounded by, and by how much the inverse is too large */
        const vec_f64 over = v_lost_f64(inverse, v_set1_f64(EXP_SCALE), v_set1_f64(1));
        const vec_f64 lost = v_fnma_f64(scaled, over, v_lost_f64(sum, inverse, scaled));
        store_f64(errors + i, v_fma_f64(load_f64(errors + i), inverse, lost));
    }
}

/* Whether lanes of a first chunk, of two or more that were added and rounded, are those of the same few numbers, whose e^z
 * and sums are all rounded the same way: two lanes side by side, or of two chunks, that differ by no more than roundings
 * do. Of numbers that spread by about 1 this is so once in 2^36 rows. */
SIMD int are_alike(const REAL *sums)
{
    const vec s = v_load_real(sums), limit = v_mul(s, v_set1((REAL)0x1p-20));
    int alike = 0;
    for (int i = 0; i < 2; ++i) {
        const vec other = v_load_real(sums + (i ? LANES : 1)), d = v_sub(s, other);
        alike += mask_count(v_less(v_max(d, v_sub(other, s)), limit));
    }
    return alike >= 2;
}

/* Of lanes that were added up and rounded, without rounding more. */
SIMD compensated sum_of_lanes(const REAL *sums, int lanes)
{
    lane_total total = lane_total_of_none();
    for (int i = 0; i < lanes; i += LANES) lane_total_add(&total, v_load_real(sums + i));
    return lane_total_exact(total);
}

/* The first of the lanes from i on whose sum, or other sum, is above its limit; or `lanes`. Most vectors have none. */
SIMD int next_large(const REAL *sums, double limit, const REAL *others, double other_limit, int i, int lanes)
{
    const vec most = v_set1((REAL)limit), most_others = v_set1((REAL)other_limit);
    while (i < lanes) {
        const vec s = v_load_real(sums + i / LANES * LANES), o = v_load_real(others + i / LANES * LANES);
        if (!mask_count(mask_or(v_less(most, s), v_less(most_others, o)))) i = (i / LANES + 1) * LANES;
        else do
                if (sums[i] > limit || others[i] > other_limit) return i;
            while (++i % LANES);
    }
    return lanes;
}
