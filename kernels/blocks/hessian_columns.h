/* The diagonals of rows whose exponentials lie in a tile (tile.h), into another; unit.h includes this once for each REAL,
 * after columns.h. */

static void NAME_R(columns_hessian)(const void *tile, ptrdiff_t classes, const tile_hessians *h, void *to)
{
    const REAL *e = tile;
    REAL *out = to;
    const vec unit = NAME_R(lanes_of)(h->unit), factor = NAME_R(lanes_of)(h->factor);
    const vec second = NAME_R(lanes_of)(h->second), at_top = NAME_R(lanes_of)(h->at_top);
    const vec least = NAME_R(lanes_of)(h->least), half = v_set1((REAL)0.5), one = v_set1(1);
    for (ptrdiff_t c = 0; c < classes; ++c) {
        const vec p = v_mul(v_load_real(e + c * LANES), unit);
        const vec of_others = v_mul(v_mul(p, factor), v_sub(one, p));
        const vec diagonal = v_where(v_less(half, p), at_top, v_fma(v_mul(p, second), p, of_others));
        v_store_real(out + c * LANES, v_max(least, diagonal));
    }
}
