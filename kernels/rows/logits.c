/* Where the options change the logits, what is read is c tanh(a z / c) + b_c, less the margin at the target, in float64
 * whatever was given: rounded to float32 it would cost a confident row its digits. Nothing behind a reader knows of it but
 * what multiplies a gradient by the slope (write_rows.c, by_tiles.c; its factor a is in losses.c), and float32 rows that
 * are fast (fused_rows.c). */
#include "rows/logits.h"

reader reader_of(const task *t, const array *a, element type)
{
    const int plain = a->data && is_direct(t, a), widens = plain && type == ELEMENT_F32 && a->type != type;
    const reader r = {.a = a,
                      .type = type,
                      .direct = plain && a->type == type,
                      .held = -1,
                      .y = -1,
                      .plain = plain,
                      .widen = widens ? converter(t->isa->name, a->type, type) : NULL};
    return r;
}

reader transformed_reader_of(const task *t)
{
    const reader r = {.a = &t->x, .type = ELEMENT_F64, .held = -1, .transformed = t, .y = -1};
    return r;
}

/* The elements as they lie where that will do, else copied. */
static const void *as_contiguous(const task *t, const array *a, const char *from, ptrdiff_t n, void *raw)
{
    if (is_direct(t, a)) return from;
    gather(a, from, n, raw);
    return raw;
}

/* The logits from class c on, in place. */
static void transform_logits(const reader *r, ptrdiff_t c, ptrdiff_t n, f64 *z, f64 *slope)
{
    const task *t = r->transformed;
    const row_options *o = &t->options;
    t->isa->transform(z, n, o->logit_scale, o->softcap, slope);
    for (ptrdiff_t i = 0; i < n && o->class_prior; ++i) z[i] += o->class_prior[c + i];
    if (r->y >= c && r->y < c + n) z[r->y - c] -= o->margin;
}

const void *copied_block(reader *r, block b)
{
    const ptrdiff_t n = b.n;
    if (r->held == b.at) return r->buffer;
    r->held = b.at;
    const char *from = r->row + b.at * r->a->class_stride;
    if (r->transformed) {
        widen_elements(r->a->type, as_contiguous(r->transformed, r->a, from, n, r->raw), n, r->buffer);
        transform_logits(r, b.at, n, r->buffer, r->slope);
        return r->buffer;
    }
    if (r->widen) {
        r->widen(from, r->buffer, n, 0);
        return r->buffer;
    }
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
    one = get_element(r->a->type, &one);
    if (r->transformed) transform_logits(r, c, 1, &one, NULL);
    return one;
}

tile_reader tile_reader_of(const task *t, const array *a, element type, int columns, char *copies)
{
    const int transforms = a == &t->x && is_transformed(&t->options);
    const block_functions *k = lanes_type(a->type) == type ? t->isa->of[a->type] : NULL;
    const int direct = is_direct(t, a), runs = direct && !columns && a->type == type && lie_in_a_run(t, a);
    const tile_reader r = {t,      a,          k,    type, t->isa->of[type]->lanes, columns, direct, runs,
                           copies, transforms, NULL, NULL};
    return r;
}

static void read_transformed(const tile_reader *r, ptrdiff_t row, ptrdiff_t rows, f64 *tile)
{
    const task *t = r->t;
    const row_options *o = &t->options;
    char *from[BATCH];
    rows_of(t, r->a, row, rows, from);
    for (ptrdiff_t c = 0; c < t->classes && r->columns; ++c) {
        for (ptrdiff_t i = rows; i < r->lanes; ++i) tile[c * r->lanes + i] = 0;
        widen_elements(r->a->type, from[0] + c * r->a->class_stride, rows, tile + c * r->lanes);
    }
    for (ptrdiff_t i = 0; i < rows && !r->columns; ++i) {
        char *copy = r->copies + i * t->classes * (ptrdiff_t)sizeof(f64);
        widen_elements(r->a->type, as_contiguous(t, r->a, from[i], t->classes, r->raw), t->classes, (f64 *)copy);
        from[i] = copy;
    }
    if (!r->columns) t->isa->of[ELEMENT_F64]->tile_rows(from, rows, t->classes, tile);
    t->isa->transform(tile, t->classes * r->lanes, o->logit_scale, o->softcap, r->slope);
    for (ptrdiff_t c = 0; c < t->classes && o->class_prior; ++c)
        for (ptrdiff_t i = 0; i < r->lanes; ++i) tile[c * r->lanes + i] += o->class_prior[c];
}

void read_tile(const tile_reader *r, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t last, char *tile)
{
    const task *t = r->t;
    const ptrdiff_t size = element_size(r->a->type), real = element_size(r->type);
    char *from[BATCH];
    if (r->transforms) {
        read_transformed(r, row, rows, (f64 *)tile);
        return;
    }
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
