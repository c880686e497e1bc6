/* Whole and partial vectors of a block, for rows.h and tile.h; unit.h includes this once for each ELEMENT. */
#include "simd/simd.h"

#define NAME(function) PASTE(function, ELEMENT)

/* The vector at x + j, where the elements end at n. */
SIMD vec NAME(at)(const ELEMENT *x, ptrdiff_t j, ptrdiff_t n, REAL fill)
{
    return n - j >= LANES ? v_load(x + j) : v_load_part(x + j, n - j, fill);
}

SIMD vec NAME(real_at)(const REAL *x, ptrdiff_t j, ptrdiff_t n)
{
    return n - j >= LANES ? v_load_real(x + j) : v_load_part_real(x + j, n - j, 0);
}

/* How many elements come before the first whole vector of an output: where its stores bypass the caches,
 * up to an aligned address. */
SIMD ptrdiff_t NAME(before_vectors)(const ELEMENT *out, ptrdiff_t n, int bypass)
{
    const ptrdiff_t over = (ptrdiff_t)((uintptr_t)out % (LANES * sizeof(ELEMENT)) / sizeof(ELEMENT));
    const ptrdiff_t before = bypass && over ? LANES - over : 0;
    return before < n ? before : n;
}

SIMD void NAME(put)(ELEMENT *out, ptrdiff_t n, vec a, int bypass)
{
    if (n < LANES) v_store_part(out, n, a);
    else if (bypass) v_bypass(out, a);
    else v_store(out, a);
}

static void NAME(fill)(void *to, ptrdiff_t n, double value, int bypass)
{
    ELEMENT *out = to;
    const vec a = v_set1((REAL)value);
    ptrdiff_t j = NAME(before_vectors)(out, n, bypass);
    if (j) NAME(put)(out, j, a, 0);
    for (; n - j >= LANES; j += LANES) NAME(put)(out + j, LANES, a, bypass);
    if (j < n) NAME(put)(out + j, n - j, a, 0);
}
