/* The diagonals of Hessians (rows/hessians.c) in lanes of e^z: a step, and those of a tile of it (tile.h) into another.
 * unit.h includes this once for each REAL, after columns.h. */

/* For each lane p = unit e^z; of_e is the unit times factor, and this and second are as in rows/hessians.h. */
typedef struct {
    vec unit, of_e, second, at_top, least;
} NAME_R(diagonals);

SIMD NAME_R(diagonals) NAME_R(diagonals_of)(const tile_hessians *h)
{
    const NAME_R(diagonals) d = {NAME_R(lanes_of)(h->unit), NAME_R(lanes_of)(h->of_e), NAME_R(lanes_of)(h->second),
                                 NAME_R(lanes_of)(h->at_top), NAME_R(lanes_of)(h->least)};
    return d;
}

SIMD NAME_R(diagonals) NAME_R(diagonals_of_row)(const hessian_row *r)
{
    const double unit = r->unit / EXP_SCALE;
    const NAME_R(diagonals) d = {v_set1((REAL)unit), v_set1((REAL)(r->factor * unit)), v_set1((REAL)r->second),
                                 v_set1((REAL)r->at_top), v_set1((REAL)r->least)};
    return d;
}

/* factor p (1 - p) + second p^2, at_top for the class with p > 1/2; no less than least. */
SIMD vec NAME_R(diagonal)(vec e, NAME_R(diagonals) d, int has_second)
{
    const vec others = v_fnma(e, d.unit, v_set1(1)), p = v_mul(e, d.unit);
    vec h = v_mul(v_mul(e, d.of_e), others);
    if (has_second) h = v_fma(v_mul(p, d.second), p, h);
    return v_max(d.least, v_where(v_less(others, v_set1((REAL)0.5)), d.at_top, h)); /* NaN stays */
}

static void NAME_R(columns_hessian)(const void *tile, ptrdiff_t classes, const tile_hessians *h, void *to)
{
    const REAL *e = tile;
    REAL *out = to;
    const NAME_R(diagonals) d = NAME_R(diagonals_of)(h);
    const int has_second = mask_count(v_unequal(d.second, v_set1(0)));
    for (ptrdiff_t c = 0; c < classes; ++c)
        v_store_real(out + c * LANES, NAME_R(diagonal)(v_load_real(e + c * LANES), d, has_second));
}
