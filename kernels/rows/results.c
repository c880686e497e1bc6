#include "rows/results.h"

#include <string.h>

writer writer_of(const task *t, element type)
{
    writer w = {.a = &t->out, .type = type};
    write_as(&w, t, &t->out);
    return w;
}

void write_as(writer *w, const task *t, const array *a)
{
    w->a = a;
    w->narrows = a->data && a->type != w->type;
    w->plain = a->data && is_direct(t, a);
    w->narrow = w->plain && w->narrows && w->type == ELEMENT_F32 ? converter(t->isa->name, w->type, a->type) : NULL;
    w->direct = w->plain && !w->narrows;
    w->bypass = t->bypass && (w->direct || w->narrow);
}

void fill_row(writer *w, cursor *c, double value)
{
    for (block b = {0, 0}; next_whole(c, &b);) {
        void *out = block_to_write(w, b);
        c->t->isa->of[w->type]->fill(out, b.n, value, w->direct && w->bypass);
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
            narrow_elements(ELEMENT_F64, (const f64 *)tile + c * w->lanes, t->out.type, rows,
                            out + c * t->out.class_stride);
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
            narrow_elements(ELEMENT_F64, from, t->out.type, t->classes, w->narrowed);
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
