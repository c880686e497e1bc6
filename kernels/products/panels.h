/* A factor's numbers into panels of float32, of any ELEMENT: [k][width], so that a kernel reads one k after the other. */

/* LANES numbers of a factor's row, or as many as there are, and zeros. */
SIMD vec PASTE(row_part, ELEMENT)(const ELEMENT *x, ptrdiff_t n)
{
    return n >= LANES ? v_load(x) : n > 0 ? v_load_part(x, n, 0) : v_set1(0);
}

SIMD void PASTE(pack, ELEMENT)(const ELEMENT *from, ptrdiff_t across, ptrdiff_t along, ptrdiff_t n, ptrdiff_t k,
                               f32 *to, ptrdiff_t width)
{
    if (along == 1)
        for (ptrdiff_t first = 0; first < n; first += width, to += k * width)
            for (ptrdiff_t group = 0; group < width; group += LANES)
                for (ptrdiff_t j = 0; j < k; j += LANES) {
                    const ELEMENT *const x = from + (first + group) * across + j;
                    vec square[LANES];
                    for (ptrdiff_t i = 0; i < LANES; ++i)
                        square[i] = i < n - first - group ? PASTE(row_part, ELEMENT)(x + i * across, k - j) : v_set1(0);
                    transpose(square);
                    for (ptrdiff_t i = 0; i < LANES && i < k - j; ++i)
                        store_up_to(to + (j + i) * width + group, width - group, square[i]);
                }
    else /* a row of what lies there, of every panel, before the next: they are far apart */
        for (ptrdiff_t j = 0; j < k; ++j, from += along, to += width)
            for (ptrdiff_t first = 0; first < n; first += width)
                for (ptrdiff_t group = 0; group < width; group += LANES)
                    store_up_to(to + first * k + group, width - group,
                                PASTE(row_part, ELEMENT)(from + first + group, n - first - group));
}

static void PASTE(pack_rows, ELEMENT)(const void *from, ptrdiff_t across, ptrdiff_t along, ptrdiff_t n, ptrdiff_t k,
                                      void *to)
{
    PASTE(pack, ELEMENT)(from, across, along, n, k, to, ROWS);
}

static void PASTE(pack_columns, ELEMENT)(const void *from, ptrdiff_t across, ptrdiff_t along, ptrdiff_t n, ptrdiff_t k,
                                         void *to)
{
    PASTE(pack, ELEMENT)(from, across, along, n, k, to, COLUMNS);
}
