/* An elementwise transform z -> f(z) of the logits would be written here, once, in the lanes' type: reader_of and
 * tile_reader_of would be told of it (for t->x), and give a reader that is not direct and whose type is lanes_type(), so that copied_block ends with f of its copy, read_element
 * with f of its number, and read_tile with f of its tile. The block functions then are those of the reader's type. The
 * gradient's factor f'(z) has its place in results.c. */
#include "rows/logits.h"

reader reader_of(const task *t, const array *a, element type)
{
    const reader r = {a, type, a->data && a->type == type && is_direct(t, a), NULL, NULL, NULL};
    return r;
}

const void *copied_block(reader *r, const char *from, ptrdiff_t n)
{
    if (r->held == from) return r->buffer;
    r->held = from;
    gather(r->a, from, n, r->buffer);
    if (r->a->type == r->type) return r->buffer;
    /* In place: downwards where the elements grow, upwards where they shrink. */
    const ptrdiff_t from_size = element_size(r->a->type), to_size = element_size(r->type);
    char *buffer = r->buffer;
    for (ptrdiff_t j = 0; j < n; ++j) {
        const ptrdiff_t i = from_size < to_size ? n - 1 - j : j;
        set_element(r->type, buffer + i * to_size, get_element(r->a->type, buffer + i * from_size));
    }
    return buffer;
}

double read_element(const reader *r, ptrdiff_t c)
{
    f64 one;
    const char *at = r->row + c * r->a->class_stride;
    if (r->direct) return get_element(r->a->type, at);
    gather(r->a, at, 1, &one);
    return get_element(r->a->type, &one);
}

tile_reader tile_reader_of(const task *t, const array *a, int columns, char *copies)
{
    const element type = lanes_type(t->x.type);
    const block_functions *k = lanes_type(a->type) == type ? t->isa->of[a->type] : NULL;
    const int direct = is_direct(t, a), runs = direct && !columns && a->type == type && lie_in_a_run(t, a);
    const tile_reader r = {t, a, k, type, t->isa->of[type]->lanes, columns, direct, runs, copies};
    return r;
}

void read_tile(const tile_reader *r, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t last, char *tile)
{
    const task *t = r->t;
    const ptrdiff_t size = element_size(r->a->type), real = element_size(r->type);
    char *from[BATCH];
    if (r->runs && rows == r->lanes && (last - row - rows) * t->classes * size >= 16) {
        r->k->tile_run(r->a->data + row * t->classes * size, t->classes, tile);
        return;
    }
    if (r->columns && r->k) {
        r->k->tile_columns(row_of(t, r->a, row), r->a->class_stride / size, rows, t->classes, tile);
        return;
    }
    rows_of(t, r->a, row, rows, from);
    for (ptrdiff_t i = 0; i < rows && !r->direct; ++i) {
        char *copy = r->copies + i * t->classes * (ptrdiff_t)sizeof(f64);
        gather(r->a, from[i], t->classes, copy);
        from[i] = copy;
    }
    if (r->k) {
        r->k->tile_rows(from, rows, t->classes, tile);
        return;
    }
    for (ptrdiff_t i = 0; i < rows; ++i)
        for (ptrdiff_t c = 0; c < t->classes; ++c)
            set_element(r->type, tile + (c * r->lanes + i) * real, get_element(r->a->type, from[i] + c * size));
}
