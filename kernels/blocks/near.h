/* A tile's way from logits to losses and gradients where nothing is unusual: beside a class a target has at most a weight.
 * Then the numbers of a row never leave the lanes, and where all logits lie near 0, e^z needs no anchor. Every result has
 * the bits that columns.h and rows/losses.c find in more steps. unit.h includes this once for each REAL, after columns.h.
 *
 * Three steps, so that the second is done for several tiles at once: a row's exponentials, division and logarithm wait
 * for each other, and those of other tiles fill the gaps. */

/* e^60 times 2^40 classes is a float32, and e^-60 a normal one. */
#define NEAREST_f32 60
#define NEAREST_f64 300
/* Below, the long way, which has e^max at 2^43 or more (float64: 2^367), may do a row alone; so does a backward, then. */
#define LEAST_FACTOR_f32 0x1p-40
#define LEAST_FACTOR_f64 0x1p-500

SIMD vec NAME_R(classes_of)(const int64_t *y)
{
    return v_narrow(v_of_int64_f64(y), v_of_int64_f64(y + (WIDE - 1) * LANES_f64));
}

SIMD void NAME_R(near_step)(const REAL *x, int targets, vec ys, vec *c, vec *high, vec *low, vec *at_y)
{
    const vec z = v_load_real(x);
    *high = v_max(z, *high);
    *low = v_min(z, *low);
    if (!targets) return;
    *at_y = v_where(v_equal(ys, *c), z, *at_y);
    *c = v_add(*c, v_set1(2));
}

/* Whether a tile lies near 0 but for masked classes, which are -inf; these become EXP_NONE then. */
SIMD int NAME_R(took_masked)(REAL *x, ptrdiff_t classes, vec top)
{
    const vec most = v_set1((REAL)PASTE(NEAREST, REAL)), least = v_sub(v_set1(0), most);
    mask beyond = mask_or(v_less(most, top), v_less(top, least));
    for (ptrdiff_t i = 0; i < classes; ++i) {
        const vec z = v_load_real(x + i * LANES);
        beyond = mask_or(beyond, v_less(v_where(v_equal(z, v_set1(-INFINITY)), least, z), least));
    }
    if (mask_count(beyond)) return 0;
    for (ptrdiff_t i = 0; i < classes; ++i)
        v_store_real(x + i * LANES, v_max(v_set1(EXP_NONE), v_load_real(x + i * LANES)));
    return 1;
}

/* The maximum of each row, and its logit at y, NaN where that is no class; where all lie. */
SIMD where_rows_lie NAME_R(near_max)(const REAL *x, ptrdiff_t classes, const int64_t *y, vec *top, vec *at_y)
{
    const vec most = v_set1((REAL)PASTE(NEAREST, REAL)), one = v_set1(1), ys = y ? NAME_R(classes_of)(y) : one;
    const vec none = v_set1(NAN);
    vec high[2] = {v_set1(-INFINITY), v_set1(-INFINITY)}, low[2] = {v_set1(INFINITY), v_set1(INFINITY)};
    vec at = none, c[2] = {v_set1(0), one};
    ptrdiff_t i = 0;
    for (; i + 2 <= classes; i += 2)
        for (int u = 0; u < 2; ++u)
            NAME_R(near_step)(x + (i + u) * LANES, y != NULL, ys, &c[u], &high[u], &low[u], &at);
    if (i < classes) NAME_R(near_step)(x + i * LANES, y != NULL, ys, &c[0], &high[0], &low[0], &at);
    *top = v_max(high[0], high[1]), *at_y = at;
    const vec size = v_max(*top, v_sub(v_set1(0), *top)), least = v_sub(v_set1(0), most);
    if (mask_count(v_less(most, size))) return mask_count(v_equal(size, v_set1(INFINITY))) ? NOWHERE : ANYWHERE;
    return mask_count(v_less(v_min(low[0], low[1]), least)) ? ANYWHERE : NEAR;
}

/* The sums of a tile that lies near 0, and with in_tile the tile holds e^z, times EXP_SCALE, then. Of any other tile the
 * maxima alone, for columns_sum. */
static where_rows_lie NAME_R(near_sums)(void *tile, ptrdiff_t classes, const usual_rows *u, batch *b)
{
    const vec zero = v_set1(0), infinite = v_set1(INFINITY);
    vec top, at_y;
    where_rows_lie lie = u->y ? NAME_R(near_max)(tile, classes, u->y, &top, &at_y)
                              : NAME_R(near_max)(tile, classes, NULL, &top, &at_y);
    if (SCALES_TO_ZERO && lie == ANYWHERE && u->results && NAME_R(took_masked)(tile, classes, top)) lie = NEAR;
    else if (lie == NOWHERE) top = v_where(v_equal(v_max(top, v_sub(zero, top)), infinite), v_set1(NAN), top);
    NAME_R(store_lanes)(b->max, top);
    NAME_R(store_lanes)(b->z, at_y);
    if (lie != NEAR) return lie;
    EXP_SUM s = exp_sum_of_none();
    const EXP_FRAME f = frame_of(zero, zero);
    const vec ties = u->results && u->in_tile ? NAME_R(columns_add)(tile, classes, top, f, &s, 1, NEAR)
                                              : NAME_R(columns_add)(tile, classes, top, f, &s, 0, NEAR);
    exp_sum_store(&s, b->sum, b->sum_error);
    NAME_R(store_lanes)(b->base, v_sub(ties, v_set1(1)));
    NAME_R(store_lanes)(b->own, zero);
    NAME_R(store_lanes)(b->shift, zero);
    NAME_R(store_lanes)(b->k, zero);
    return NEAR;
}

SIMD mask_f64 NAME_R(uncounted)(const usual_rows *u, ptrdiff_t i)
{
    const vec_f64 zero = v_set1_f64(0);
    mask_f64 m = v_nan_f64(zero);
    if (u->v) m = mask_or_f64(m, v_equal_f64(load_f64(u->v + i), zero));
    if (u->has_ignored) m = mask_or_f64(m, v_equal_f64(v_of_int64_f64(u->y + i), v_set1_f64(u->ignored)));
    return m;
}

SIMD void NAME_R(near_losses)(const usual_rows *u, const batch *b, ptrdiff_t i)
{
    const vec_f64 max = load_f64(b->max + i), log_sum = load_f64(b->log_sum + i);
    if (!u->y) {
        store_f64(u->loss + i, v_add_f64(v_add_f64(max, log_sum), load_f64(b->log_sum_off + i)));
        return;
    }
    vec_f64 loss = v_add_f64(v_sub_f64(max, load_f64(b->z + i)), log_sum);
    if (u->own) {
        const vec_f64 own = load_f64(u->own + i), zero = v_set1_f64(0);
        const vec_f64 of_no_weight = v_where_f64(v_equal_f64(own, zero), loss, zero); /* 0 times inf is 0 */
        loss = v_zero_where_f64(v_equal_f64(of_no_weight, v_set1_f64(INFINITY)), v_mul_f64(own, loss));
    }
    if (u->v) loss = v_mul_f64(load_f64(u->v + i), loss);
    store_f64(u->loss + i, u->v || u->has_ignored ? v_zero_where_f64(NAME_R(uncounted)(u, i), loss) : loss);
}

/* What diagonals are made of (rows/hessians.c), of rows with that factor of p in the gradient: 0 where a row does not
 * count. An upper bound is a least value over nothing. */
SIMD void NAME_R(near_hessians)(const usual_rows *u, const batch *b, vec_f64 factor, ptrdiff_t i)
{
    const vec_f64 zero = v_set1_f64(0), share = load_f64(b->share + i),
                  others = v_mul_f64(load_f64(b->rest + i), share);
    const vec_f64 of_p = v_mul_f64(v_set1_f64(u->hess_by), factor);
    vec_f64 least = v_mul_f64(v_max_f64(zero, factor), v_set1_f64(u->bound_by));
    if (u->hess_by != 0) {
        least = load_f64(u->least + i); /* which a class without a weight has, too */
        if (u->v || u->has_ignored) least = v_zero_where_f64(NAME_R(uncounted)(u, i), least);
    }
    const vec_f64 unit = v_div_f64(load_f64(b->unit + i), v_set1_f64(EXP_SCALE));
    store_f64(u->hess->unit + i, unit);
    store_f64(u->hess->of_e + i, v_mul_f64(of_p, unit));
    store_f64(u->hess->second + i, zero);
    store_f64(u->hess->at_top + i, v_mul_f64(v_mul_f64(of_p, share), others));
    store_f64(u->hess->least + i, least);
}

/* What e^z is multiplied by, and the gradient at y; whether the lanes' type has no room for these. */
SIMD mask_f64 NAME_R(near_factors)(const usual_rows *u, const batch *b, ptrdiff_t i)
{
    const vec_f64 zero = v_set1_f64(0), scale = load_f64(u->scale + i), unit = load_f64(b->unit + i);
    vec_f64 factor = scale, of_uncounted = zero;
    if (u->y) {
        const vec_f64 below_1 = load_f64(b->below_1 + i);
        vec_f64 value = below_1;
        if (u->own) {
            const vec_f64 own = load_f64(u->own + i), p = load_f64(b->p + i);
            const mask_f64 leads = v_less_f64(v_set1_f64(0.5), p);
            factor = v_mul_f64(scale, own);
            value = v_where_f64(leads, v_mul_f64(own, below_1), v_sub_f64(v_mul_f64(own, p), own));
        }
        value = v_mul_f64(scale, value);
        factor = v_where_f64(v_nan_f64(load_f64(b->z + i)), v_set1_f64(NAN), factor); /* y is no class */
        if (u->v || u->has_ignored) {
            const mask_f64 uncounted = NAME_R(uncounted)(u, i);
            factor = v_zero_where_f64(uncounted, factor);
            value = v_zero_where_f64(uncounted, value);
            of_uncounted = v_only_where_f64(uncounted, unit);
        }
        store_f64(u->value + i, value);
    }
    if (u->hess) NAME_R(near_hessians)(u, b, factor, i);
    const vec_f64 product = v_mul_f64(factor, unit), size = v_max_f64(product, v_sub_f64(zero, product));
    const mask_f64 none = v_equal_f64(factor, zero);
    store_f64(u->factor + i, v_mul_f64(product, v_set1_f64(1 / EXP_SCALE)));
    const vec_f64 size_of_factor = v_where_f64(none, v_set1_f64(1), v_max_f64(factor, v_sub_f64(zero, factor)));
    const mask_f64 small = mask_or_f64(
        v_less_f64(v_where_f64(none, v_set1_f64(1), size), v_set1_f64(EXP_CONSTANTS.smallest)),
        v_less_f64(size_of_factor, v_set1_f64(PASTE(LEAST_FACTOR, REAL))));
    const mask_f64 large = v_less_f64(v_set1_f64(0x1p20), size_of_factor);
    return mask_or_f64(v_nan_f64(of_uncounted), mask_or_f64(small, large)); /* 0 times NaN is no 0 */
}

SIMD void NAME_R(near_numbers_as)(usual_rows *u, batch *b, ptrdiff_t tiles, int targets, int keeps)
{
    for (ptrdiff_t t = 0; t < tiles; ++t) {
        if (!u[t].suited) continue;
        complete_as(b + t, LANES, targets && keeps, WIDE == 1, keeps ? NEAR_RESULTS : NO_RESULTS);
        mask_f64 unsuited = v_nan_f64(v_set1_f64(0));
        for (ptrdiff_t i = 0; i < LANES; i += LANES_f64) {
            if (u[t].loss) NAME_R(near_losses)(u + t, b + t, i);
            if (keeps) unsuited = mask_or_f64(unsuited, NAME_R(near_factors)(u + t, b + t, i));
        }
        u[t].suited = !mask_count_f64(unsuited);
    }
}

/* From the sums of the tiles to losses and factors; suited becomes 0 where the lanes have no room. */
static void NAME_R(near_numbers)(usual_rows *u, batch *b, ptrdiff_t tiles)
{
    const int targets = u->y != NULL;
    if (!u->results) NAME_R(near_numbers_as)(u, b, tiles, 0, 0);
    else if (targets) NAME_R(near_numbers_as)(u, b, tiles, 1, 1);
    else NAME_R(near_numbers_as)(u, b, tiles, 0, 1);
}

/* From e^z in the tile to its gradients. */
static void NAME_R(near_gradient)(void *tile, ptrdiff_t classes, const usual_rows *u)
{
    REAL *x = tile;
    const vec factors = NAME_R(lanes_of)(u->factor), one = v_set1(1);
    if (!u->y) {
        for (ptrdiff_t i = 0; i < classes; ++i) v_store_real(x + i * LANES, v_mul(v_load_real(x + i * LANES), factors));
        return;
    }
    const vec values = NAME_R(lanes_of)(u->value), ys = NAME_R(classes_of)(u->y);
    vec c = v_set1(0);
    for (ptrdiff_t i = 0; i < classes; ++i) {
        const vec grad = v_mul(v_load_real(x + i * LANES), factors);
        v_store_real(x + i * LANES, v_where(v_equal(ys, c), values, grad));
        c = v_add(c, one);
    }
}
