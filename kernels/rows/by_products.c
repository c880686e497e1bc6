/* Products and conversions, whose shares of work are a call's rows: any thread takes the next. */
#include <stdlib.h>

#include "products/memory.h"
#include "products/product.h"
#include "rows/parallel.h"

static void multiply_shares(const task *t)
{
    char *const scratch = allocate_lines(scratch_of(t->product));
    ptrdiff_t first, last, at = -1;
    if (scratch == NULL) {
        ran_out_of_memory(t);
        return;
    }
    while (take_rows(t, &first, &last)) do_shares(t->product, last - first, &at, scratch);
    if (t->product->rounded) t->isa->fence();
    release_lines(scratch);
}

static void convert_shares(const task *t)
{
    const ptrdiff_t n = t->classes, from_size = element_size(t->x.type), to_size = element_size(t->out.type);
    ptrdiff_t first, last;
    while (take_rows(t, &first, &last)) {
        const ptrdiff_t at = first * CONVERTED_AT_ONCE, end = last * CONVERTED_AT_ONCE;
        t->convert(t->x.data + at * from_size, t->out.data + at * to_size, (end < n ? end : n) - at, t->bypass);
    }
}

void by_products(const task *t)
{
    if (t->work == PRODUCT) multiply_shares(t);
    else convert_shares(t);
}
