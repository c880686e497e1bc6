/* How a product is cut into shares of work, and what a share does (product.h says why). */
#include <stdlib.h>

#include "atomic.h"
#include "products/memory.h"
#include "products/product.h"

enum {
    KEPT = 9 << 18, /* bytes of a stage's panels: 512 rows by 1024 float32 or 2048 bfloat16, and room to round */
    KEPT_WIDTH = 1024, /* at most */
    SLICES_OF = 32, /* numbers: a multiple of every unit's */
    PACK_WIDTH = 64, /* about, of a share of packing */
    BLOCK_WIDTH = 256, /* about, of a share of multiplying: fewer where threads would get few of them */
    SHARES = 4, /* for each thread */
    PARTS = 4, /* of a sum, at most */
    PART_DEPTH = 4096, /* at least */
    PARTIAL = 8 << 20, /* bytes of the parts' results, at most */
    PART_WIDTH = 4096, /* of a part of what is streamed, at least */
    COPIES = 10 << 20, /* bytes of the parts' panels, at most */
    MERGED = 1 << 16, /* numbers, of a share of adding them up */
    ROUNDED_WIDTH = 256, /* columns: so much of a panel's rows is rounded at a time, while it lies in L1 */
    BYPASS_FROM = 1 << 23 /* bytes of a result */
};

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t shares_of(ptrdiff_t n, ptrdiff_t size) { return (n + size - 1) / size; }
static ptrdiff_t up_to(ptrdiff_t n, ptrdiff_t multiple) { return shares_of(n, multiple) * multiple; }

static ptrdiff_t panel_width(const product *p, int of_rows) { return of_rows ? p->unit->rows : p->unit->columns; }

static ptrdiff_t panel_size(const product *p, int of_rows, ptrdiff_t depth)
{
    return panel_width(p, of_rows) * up_to(depth, p->unit->multiple) * p->unit->size;
}

/* Panels follow each other slice by slice: those of a slice, then those of the next. */
static ptrdiff_t slice_size(const product *p, int of_rows, ptrdiff_t width)
{
    return up_to(width, panel_width(p, of_rows)) * p->slice * p->unit->size;
}

static ptrdiff_t kept_length(const product *p) { return p->keeps_rows ? p->rows : p->columns; }
static ptrdiff_t streamed_length(const product *p) { return p->keeps_rows ? p->columns : p->rows; }
static ptrdiff_t bytes_of(const product *p) { return p->rows * p->columns * (ptrdiff_t)sizeof(f32); }

/* How the sum is cut into slices, and what is kept and streamed into stages and blocks. */
static void plan_stages(product *p, int is_of_a_sum, int threads)
{
    const product_unit *u = p->unit;
    const ptrdiff_t width = panel_width(p, p->keeps_rows), streamed_width = panel_width(p, !p->keeps_rows);
    const ptrdiff_t slices = p->depth <= u->whole ? 1 : shares_of(p->depth, u->slice);
    p->slice = up_to(shares_of(p->depth, slices), SLICES_OF);
    p->kept_width = up_to(kept_length(p), width);
    /* All at once, in the room of two stages, where what is streamed would otherwise be packed again. */
    if (slices > 1 || p->kept_width * p->slice * u->size > 2 * KEPT)
        p->kept_width = least(p->kept_width, KEPT_WIDTH / width * width);
    p->stage_depth = is_of_a_sum ? p->slice : KEPT / (p->kept_width * u->size) / p->slice * p->slice;
    if (p->stage_depth < p->slice) p->stage_depth = p->slice;
    p->stage_depth = least(p->stage_depth, up_to(p->depth, p->slice));
    p->stages_deep = shares_of(p->depth, p->stage_depth);
    p->stages = p->stages_deep * shares_of(kept_length(p), p->kept_width);
    p->packs = shares_of(p->kept_width, up_to(PACK_WIDTH, width));
    p->block_width = up_to(least(BLOCK_WIDTH, shares_of(streamed_length(p), SHARES * threads)), streamed_width);
    p->blocks = shares_of(streamed_length(p), p->block_width);
}

static ptrdiff_t bytes_kept(const product *p)
{
    return p->kept_width * p->stage_depth * p->unit->size * (p->stages > 1 ? 2 : 1);
}

/* 0, or -1 where there is no memory. */
static int allocate_kept(product *p)
{
    const size_t bytes = (size_t)(p->kept_width * p->stage_depth * p->unit->size);
    p->kept[0] = allocate_lines(bytes);
    p->kept[1] = p->stages > 1 ? allocate_lines(bytes) : NULL;
    p->packed = calloc((size_t)(p->stages + p->blocks), sizeof *p->packed);
    p->progress = p->packed + p->stages;
    return !p->kept[0] || (p->stages > 1 && !p->kept[1]) || !p->packed ? -1 : 0;
}

/* Into how many parts the sum is cut: this does not depend on the number of threads, so that the bits do not. */
static ptrdiff_t parts_of_the_sum(const product *p)
{
    ptrdiff_t parts = p->rounded ? 1 : PARTS;
    while (parts > 1 && (p->depth < parts * PART_DEPTH || (parts - 1) * bytes_of(p) > PARTIAL)) parts /= 2;
    return parts;
}

/* And what is streamed, where the sum is not, which changes no bits: each part has what is kept in panels of its own. */
static ptrdiff_t parts_of_the_streamed(product *p, int threads)
{
    plan_stages(p, 0, 1);
    const ptrdiff_t parts = least(least(streamed_length(p) / PART_WIDTH, COPIES / bytes_kept(p)), threads);
    return parts > 1 ? parts : 1;
}

/* Gives the i-th part its piece of the sum, and a result of its own. */
static void cut_sum(const product *p, product *part, ptrdiff_t i)
{
    const ptrdiff_t depth = up_to(shares_of(p->depth, p->parts), SLICES_OF);
    part->depth = least(depth, p->depth - i * depth);
    part->a.data += i * depth * p->a.along * element_size(p->a.type);
    part->b.data += i * depth * p->b.along * element_size(p->b.type);
    if (i == 0) return;
    part->out = p->partial + (i - 1) * p->rows * p->columns;
    part->stride = p->columns;
    part->first_storing = STORE;
}

/* Gives the i-th part its rows or columns of the result, whichever are streamed. */
static void cut_streamed(const product *p, product *part, ptrdiff_t i)
{
    const ptrdiff_t length = streamed_length(p);
    const ptrdiff_t width = up_to(shares_of(length, p->parts), panel_width(p, !p->keeps_rows));
    factor *const streamed = p->keeps_rows ? &part->b : &part->a;
    const ptrdiff_t first = i * width, moved = first * (p->keeps_rows ? 1 : p->stride);
    streamed->data += first * streamed->across * element_size(streamed->type);
    if (p->out) part->out += moved;
    if (p->rounded) part->rounded += moved * (ptrdiff_t)sizeof(bf16);
    *(p->keeps_rows ? &part->columns : &part->rows) = least(width, length - first);
}

static ptrdiff_t shares_of_part(const product *part) { return part->stages * (part->packs + part->blocks); }

ptrdiff_t plan_product(product *p, int threads)
{
    p->keeps_rows = p->rows < p->columns;
    p->first_storing = p->add ? ADD : bytes_of(p) >= BYPASS_FROM && p->depth <= p->unit->whole ? BYPASS : STORE;
    p->round_bypass = bytes_of(p) / 2 >= BYPASS_FROM ? BYPASS_UNFENCED : 0;
    const ptrdiff_t of_the_sum = parts_of_the_sum(p);
    p->parts = of_the_sum > 1 ? of_the_sum : parts_of_the_streamed(p, threads);
    p->part = calloc((size_t)p->parts, sizeof *p->part);
    p->partial = of_the_sum > 1 ? (f32 *)allocate_lines((size_t)((of_the_sum - 1) * bytes_of(p))) : NULL;
    p->begun = p->merged = 0;
    if (!p->part || (of_the_sum > 1 && !p->partial)) return -1;

    ptrdiff_t shares = of_the_sum > 1 ? shares_of(p->rows * p->columns, MERGED) : 0;
    for (ptrdiff_t i = 0; i < p->parts; ++i) {
        product *const part = &p->part[i];
        *part = *p;
        (of_the_sum > 1 ? cut_sum : cut_streamed)(p, part, i);
        plan_stages(part, of_the_sum > 1, (int)shares_of(threads, p->parts));
        if (allocate_kept(part)) return -1;
        shares += shares_of_part(part);
    }
    return shares;
}

void release_product(product *p)
{
    for (ptrdiff_t i = 0; p->part != NULL && i < p->parts; ++i) {
        release_lines(p->part[i].kept[0]);
        release_lines(p->part[i].kept[1]);
        free(p->part[i].packed);
    }
    free(p->part);
    release_lines((char *)p->partial);
    p->part = NULL;
    p->partial = NULL;
}

static size_t panels_of_a_block(const product *p) { return (size_t)slice_size(p, !p->keeps_rows, p->block_width); }

size_t scratch_of(const product *p)
{
    size_t most = 0;
    for (ptrdiff_t i = 0; i < p->parts; ++i) {    /* a shorter part may have longer slices */
        const size_t panels = panels_of_a_block(&p->part[i]);
        if (panels > most) most = panels;
    }
    return most + (p->rounded ? (size_t)p->unit->rows * ROUNDED_WIDTH * sizeof(f32) : 0);
}

/* Panels of a slice of the rows from first up to last. */
static void pack(const product *p, int of_rows, ptrdiff_t first, ptrdiff_t last, ptrdiff_t k, ptrdiff_t depth, char *to)
{
    const factor *f = of_rows ? &p->a : &p->b;
    pack_function *const function = (of_rows ? p->unit->pack_rows : p->unit->pack_columns)[f->type];
    function(f->data + (first * f->across + k * f->along) * element_size(f->type), f->across, f->along, last - first,
             depth, to);
}

/* Where a stage stands: which of the kept rows it has, and which part of the sum. */
typedef struct {
    ptrdiff_t number;
    ptrdiff_t first, last; /* kept rows */
    ptrdiff_t k, end; /* of the sum */
    char *kept;
} stage;

static stage stage_of(const product *p, ptrdiff_t number)
{
    stage s = {.number = number, .kept = p->kept[number % 2]};
    s.first = number / p->stages_deep * p->kept_width;
    s.last = least(s.first + p->kept_width, kept_length(p));
    s.k = number % p->stages_deep * p->stage_depth;
    s.end = least(s.k + p->stage_depth, p->depth);
    return s;
}

static void pack_kept(const product *p, const stage *s, ptrdiff_t share)
{
    /* The panels that lie there are those of the stage before the last. */
    for (ptrdiff_t i = 0; i < p->blocks && s->number > 1; ++i) wait_for(&p->progress[i], s->number - 1);
    const ptrdiff_t width = up_to(PACK_WIDTH, panel_width(p, p->keeps_rows));
    const ptrdiff_t first = s->first + share * width, last = least(first + width, s->last);
    char *to = s->kept;
    for (ptrdiff_t k = s->k; k < s->end; k += p->slice) {
        const ptrdiff_t depth = least(p->slice, s->end - k);
        const ptrdiff_t panel = panel_size(p, p->keeps_rows, depth);
        pack(p, p->keeps_rows, first, last, k, depth, to + (first - s->first) / panel_width(p, p->keeps_rows) * panel);
        to += slice_size(p, p->keeps_rows, p->kept_width);
    }
    add_to(&p->packed[s->number], 1);
}

/* Rows and columns of the result by the panels of one slice: a row's panel lies in L1, and the result's lines that follow
 * each other are written one after the other. */
static void multiply(const product *p, const char *a, const char *b, ptrdiff_t depth, ptrdiff_t row, ptrdiff_t last_row,
                     ptrdiff_t column, ptrdiff_t last_column, storing how)
{
    const product_unit *u = p->unit;
    for (ptrdiff_t i = row; i < last_row; i += u->rows, a += panel_size(p, 1, depth)) {
        const char *panel = b;
        for (ptrdiff_t j = column; j < last_column; j += u->columns, panel += panel_size(p, 0, depth))
            u->multiply(a, panel, depth, p->out + i * p->stride + j, p->stride, least(u->rows, last_row - i),
                        least(u->columns, last_column - j), how);
    }
}

/* The same of a result that is rounded: some columns at a time, in memory of the thread's. */
static void multiply_and_round(const product *p, const char *a, const char *b, ptrdiff_t depth, ptrdiff_t row,
                               ptrdiff_t last_row, ptrdiff_t column, ptrdiff_t last_column, f32 *sums)
{
    const product_unit *u = p->unit;
    const ptrdiff_t panel = panel_size(p, 0, depth);
    for (ptrdiff_t i = row; i < last_row; i += u->rows, a += panel_size(p, 1, depth)) {
        const ptrdiff_t rows = least(u->rows, last_row - i);
        for (ptrdiff_t first = column; first < last_column; first += ROUNDED_WIDTH) {
            const ptrdiff_t columns = least(ROUNDED_WIDTH, last_column - first);
            for (ptrdiff_t j = 0; j < columns; j += u->columns)
                u->multiply(a, b + (first - column + j) / u->columns * panel, depth, sums + j, ROUNDED_WIDTH, rows,
                            least(u->columns, columns - j), STORE);
            for (ptrdiff_t r = 0; r < rows; ++r)
                p->round(sums + r * ROUNDED_WIDTH, p->rounded + ((i + r) * p->stride + first) * (ptrdiff_t)sizeof(bf16),
                         columns, p->round_bypass);
        }
    }
}

static void multiply_block(const product *p, const stage *s, ptrdiff_t block, char *scratch)
{
    const ptrdiff_t other = p->keeps_rows ? p->columns : p->rows;
    const ptrdiff_t first = block * p->block_width, last = least(first + p->block_width, other);
    wait_for(&p->packed[s->number], p->packs);
    wait_for(&p->progress[block], s->number);
    const char *kept = s->kept;
    for (ptrdiff_t k = s->k; k < s->end; k += p->slice) {
        const ptrdiff_t depth = least(p->slice, s->end - k);
        const storing how = k > 0 ? ADD : p->first_storing;
        pack(p, !p->keeps_rows, first, last, k, depth, scratch);
        const char *const a = p->keeps_rows ? kept : scratch, *const b = p->keeps_rows ? scratch : kept;
        const ptrdiff_t row = p->keeps_rows ? s->first : first, last_row = p->keeps_rows ? s->last : last;
        const ptrdiff_t column = p->keeps_rows ? first : s->first, last_column = p->keeps_rows ? last : s->last;
        if (p->rounded)
            multiply_and_round(p, a, b, depth, row, last_row, column, last_column,
                               (f32 *)(scratch + panels_of_a_block(p)));
        else multiply(p, a, b, depth, row, last_row, column, last_column, how);
        kept += slice_size(p, p->keeps_rows, p->kept_width);
    }
    add_to(&p->progress[block], 1);
}

static void do_share_of_part(const product *part, ptrdiff_t i, char *scratch)
{
    const stage s = stage_of(part, i / (part->packs + part->blocks));
    const ptrdiff_t share = i % (part->packs + part->blocks);
    if (share < part->packs) pack_kept(part, &s, share);
    else multiply_block(part, &s, share - part->packs, scratch);
}

/* Adds the other parts' results to the first one's, in their order. */
static void merge(const product *p, ptrdiff_t share)
{
    for (ptrdiff_t i = 0; i < p->parts; ++i)
        for (ptrdiff_t block = 0; block < p->part[i].blocks; ++block)
            wait_for(&p->part[i].progress[block], p->part[i].stages);
    const ptrdiff_t numbers = p->rows * p->columns;
    const ptrdiff_t last = least((share + 1) * MERGED, numbers);
    for (ptrdiff_t first = share * MERGED; first < last;) {
        const ptrdiff_t row = first / p->columns, column = first % p->columns;
        const ptrdiff_t n = least(p->columns - column, last - first);
        f32 *const out = p->out + row * p->stride + column;
        for (ptrdiff_t i = 1; i < p->parts; ++i) {
            const f32 *const partial = p->partial + (i - 1) * numbers + first;
            for (ptrdiff_t j = 0; j < n; ++j) out[j] += partial[j];
        }
        first += n;
    }
}

/* Whether the part had a share left: then it is done. */
static int do_share_of(product *p, ptrdiff_t at, char *scratch)
{
    product *const part = &p->part[at];
    const ptrdiff_t i = add_to(&part->taken, 1);
    if (i >= shares_of_part(part)) return 0;
    do_share_of_part(part, i, scratch);
    return 1;
}

/* Of the part that the thread is at, or else of one that no thread has begun, or else of any. */
static void do_share(product *p, ptrdiff_t *at, char *scratch)
{
    if (*at >= 0 && do_share_of(p, *at, scratch)) return;
    const ptrdiff_t begun = add_to(&p->begun, 1);
    for (ptrdiff_t i = 0; i < p->parts; ++i) {
        *at = (begun + i) % p->parts;
        if (do_share_of(p, *at, scratch)) return;
    }
    merge(p, add_to(&p->merged, 1));
}

void do_shares(product *p, ptrdiff_t number, ptrdiff_t *at, char *scratch)
{
    if (p->unit->enter) p->unit->enter();
    for (; number > 0; --number) do_share(p, at, scratch);
    if (p->unit->leave) p->unit->leave();
}
