/* Tiles: rows as lanes. A tile holds up to LANES rows in the lanes' type, class c of row i at c LANES + i. These
 * functions copy rows into one and out of it; columns.h works on it. unit.h includes this once for each ELEMENT, after
 * vectors.h. Lanes past the rows hold anything finite. */
#include "blocks/prefetch.h"
#include "simd/simd.h"

/* Contiguous rows, from anywhere, in squares of LANES classes: the last one fills the tile past its classes.
 * (Where only those are stored, GCC copies the square through memory, which takes longer than all the rest.) */
static void NAME(tile_rows)(char *const *from, ptrdiff_t rows, ptrdiff_t classes, void *tile)
{
    REAL *to = tile;
    for (ptrdiff_t c = 0; c < classes; c += LANES) {
        const ptrdiff_t n = classes - c < LANES ? classes - c : LANES;
        vec v[LANES];
        for (ptrdiff_t i = 0; i < LANES; ++i) {
            const ELEMENT *x = (const ELEMENT *)from[i < rows ? i : 0] + c;
            prefetch((const char *)x + PREFETCH);
            v[i] = NAME(at)(x, 0, n, 0);
        }
        transpose(v);
        for (ptrdiff_t i = 0; i < LANES; ++i) v_store_real(to + (c + i) * LANES, v[i]);
    }
}

static void NAME(untile_rows)(const void *tile, ptrdiff_t rows, ptrdiff_t classes, char *const *to)
{
    const REAL *from = tile;
    for (ptrdiff_t c = 0; c < classes; c += LANES) {
        const ptrdiff_t n = classes - c < LANES ? classes - c : LANES;
        vec v[LANES];
        for (ptrdiff_t i = 0; i < LANES; ++i) v[i] = v_load_real(from + (c + i) * LANES);
        transpose(v);
        for (ptrdiff_t i = 0; i < rows; ++i) {
            prefetch(to[i] + c * (ptrdiff_t)sizeof(ELEMENT) + OUT_PREFETCH);
            NAME(put)((ELEMENT *)to[i] + c, n, v[i], 0);
        }
    }
}

/* Rows that lie side by side: class c of them at x + c stride. */
static void NAME(tile_columns)(const void *from, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t classes, void *tile)
{
    const ELEMENT *x = from;
    REAL *to = tile;
    for (ptrdiff_t c = 0; c < classes; ++c, x += stride) {
        prefetch((const char *)x + TILE_PREFETCH);
        v_store_real(to + c * LANES, NAME(at)(x, 0, rows, 0));
    }
}

static void NAME(untile_columns)(const void *tile, ptrdiff_t rows, ptrdiff_t classes, void *to, ptrdiff_t stride,
                                 int bypass)
{
    const REAL *from = tile;
    ELEMENT *out = to;
    for (ptrdiff_t c = 0; c < classes; ++c, out += stride) NAME(put)(out, rows, v_load_real(from + c * LANES), bypass);
}
