#include "rows/results.h"

#include <string.h>

writer writer_of(const task *t, element type)
{
    const int narrows = type == ELEMENT_F64 && t->out.type != type;
    const int direct = t->out.data && !narrows && is_direct(t, &t->out);
    const writer w = {&t->out, direct, t->bypass && direct, narrows, NULL, NULL, NULL};
    return w;
}

void fill_row(writer *w, cursor *c, double value)
{
    const element type = w->narrows ? ELEMENT_F64 : w->a->type;
    const ptrdiff_t size = element_size(type);
    for (block b = {0, 0}; next_whole(c, &b);) {
        char *out = block_to_write(w, b);
        if (value == 0) memset(out, 0, (size_t)(b.n * size));
        else
            for (ptrdiff_t i = 0; i < b.n; ++i) set_element(type, out + i * size, value);
        write_block(w, b, out);
    }
}

tile_writer tile_writer_of(const task *t, element type, int columns, char *copies)
{
    const int narrows = type == ELEMENT_F64 && t->x.type != type;
    const block_functions *k = t->isa->of[narrows ? type : t->x.type];
    const int direct = t->out.data && !narrows && is_direct(t, &t->out);
    const int runs = direct && !columns && t->out.type == lanes_type(t->out.type) && lie_in_a_run(t, &t->out);
    const tile_writer w = {t, k, k->lanes, columns, direct, runs, copies, narrows, NULL};
    return w;
}

/* Stores that bypass the caches are of whole, aligned vectors. */
static int bypasses(const tile_writer *w, ptrdiff_t rows, const char *out)
{
    const array *a = &w->t->out;
    const ptrdiff_t vector = w->lanes * element_size(a->type);
    return w->t->bypass && rows == w->lanes && (uintptr_t)out % (uintptr_t)vector == 0 && a->class_stride % vector == 0;
}

void write_tile(const tile_writer *w, ptrdiff_t row, ptrdiff_t rows, const char *tile)
{
    const task *t = w->t;
    char *to[BATCH];
    if (w->runs && rows == w->lanes) {
        w->k->untile_run(tile, t->classes, t->out.data + row * t->classes * element_size(t->out.type));
        return;
    }
    if (w->columns && w->narrows) {
        char *out = row_of(t, &t->out, row);
        for (ptrdiff_t c = 0; c < t->classes; ++c)
            narrow_elements(t->out.type, (const f64 *)tile + c * w->lanes, rows, out + c * t->out.class_stride);
        return;
    }
    if (w->columns) {
        char *out = row_of(t, &t->out, row);
        w->k->untile_columns(tile, rows, t->classes, out, t->out.class_stride / element_size(t->out.type),
                             bypasses(w, rows, out));
        return;
    }
    if (w->direct) rows_of(t, &t->out, row, rows, to);
    for (ptrdiff_t i = 0; i < rows && !w->direct; ++i) to[i] = w->copies + i * t->classes * (ptrdiff_t)sizeof(f64);
    w->k->untile_rows(tile, rows, t->classes, to);
    for (ptrdiff_t i = 0; i < rows && !w->direct; ++i) {
        const void *from = to[i];
        if (w->narrows) {
            narrow_elements(t->out.type, from, t->classes, w->narrowed);
            from = w->narrowed;
        }
        scatter(&t->out, from, t->classes, row_of(t, &t->out, row + i));
    }
}

ptrdiff_t rows_to_aligned(const tile_writer *w, ptrdiff_t row, ptrdiff_t rows)
{
    const task *t = w->t;
    if (!t->bypass || !w->columns || w->narrows) return rows;
    const ptrdiff_t size = element_size(t->out.type);
    const ptrdiff_t over = (ptrdiff_t)((uintptr_t)row_of(t, &t->out, row) % (uintptr_t)(w->lanes * size)) / size;
    return over && rows > w->lanes - over ? w->lanes - over : rows;
}
