/* Losses of one logit each, in blocks that threads take as they take rows. Contiguous numbers of any type become
 * float32 or float64 a few at a time, and the block functions (blocks/binary.h) do the rest. */
#include <string.h>

#include "math/compensated.h"
#include "rows/parallel.h"

enum { AT_ONCE = 1 << 10 };    /* numbers that are converted, and then still lie in the first cache */

typedef union {
    f32 f32[AT_ONCE];
    f64 f64[AT_ONCE];
} numbers;

/* Targets that are integers, in the lanes' type. */
#define FROM_INTEGERS(T)                                                          \
    static void from_integers_##T(const char *x, int size, ptrdiff_t n, T *to)    \
    {                                                                             \
        if (size == 1)                                                            \
            for (ptrdiff_t i = 0; i < n; ++i) to[i] = (T)((const uint8_t *)x)[i]; \
        else                                                                      \
            for (ptrdiff_t i = 0; i < n; ++i) to[i] = (T)((const int64_t *)x)[i]; \
    }
FROM_INTEGERS(f32)
FROM_INTEGERS(f64)

static const void *converted(const task *t, const void *x, ptrdiff_t n, numbers *to)
{
    if (!t->elements->widen) return x;
    t->elements->widen(x, to->f32, n, 0);
    return to->f32;
}

/* A weight's numbers from i on: its period is that of the blocks, or there is none. */
static const void *weights_at(const void *x, ptrdiff_t i, ptrdiff_t period, ptrdiff_t size)
{
    return x ? (const char *)x + (period ? i % period : i) * size : NULL;
}

static double losses(const task *t, const binary_block *b, ptrdiff_t n)
{
    return t->elements->type == ELEMENT_F64 ? t->isa->binary->f64(b, n) : t->isa->binary->f32(b, n);
}

/* Of the n numbers from i on that are too few: beside them weights of 0. */
static double last_losses(const task *t, const binary_block *b, ptrdiff_t i, ptrdiff_t n, ptrdiff_t size)
{
    union {
        f64 f64[BINARY_MULTIPLE];
        f32 f32[BINARY_MULTIPLE];
    } room[7];
    memset(room, 0, sizeof room);
    binary_block last = *b;
    const void **of[5] = {&last.z, &last.t, &last.weight, &last.pos_weight, &last.grad_output};
    for (int k = 0; k < 5; ++k) {
        if (*of[k] == NULL) continue;
        memcpy(&room[k], (const char *)*of[k] + i * size, (size_t)(n * size));
        *of[k] = &room[k];
    }
    if (b->weight == NULL) {
        for (ptrdiff_t k = 0; k < n; ++k)
            if (size == 8) room[2].f64[k] = b->weight_of_all;
            else room[2].f32[k] = (f32)b->weight_of_all;
        last.weight = &room[2];
    }
    last.loss = &room[5], last.grad = &room[6], last.bypass = 0;
    const double sum = losses(t, &last, BINARY_MULTIPLE);
    if (b->loss) memcpy((char *)b->loss + i * size, &room[5], (size_t)(n * size));
    if (b->grad) memcpy((char *)b->grad + i * size, &room[6], (size_t)(n * size));
    return sum;
}

/* The sum of the losses of n numbers from i on. */
static double some(const task *t, ptrdiff_t i, ptrdiff_t n)
{
    const elements *e = t->elements;
    numbers z, targets, grad;
    const ptrdiff_t size = element_size(e->type), wide = element_size(lanes_type(e->type));
    const int is_f64 = e->type == ELEMENT_F64;
    const char *y = (const char *)e->targets + i * (e->integers ? e->integers : size);
    binary_block b = e->block;
    b.z = converted(t, (const char *)e->z + i * size, n, &z);
    if (!e->integers) b.t = converted(t, y, n, &targets);
    else if (is_f64) from_integers_f64(y, e->integers, n, targets.f64), b.t = targets.f64;
    else from_integers_f32(y, e->integers, n, targets.f32), b.t = targets.f32;
    b.weight = weights_at(e->block.weight, i, e->weight_period, wide);
    b.pos_weight = weights_at(e->block.pos_weight, i, e->pos_weight_period, wide);
    b.grad_output = weights_at(e->block.grad_output, i, 0, wide);
    b.loss = e->block.loss ? (char *)e->block.loss + i * wide : NULL;
    b.grad = !e->block.grad ? NULL : e->widen ? (char *)grad.f32 : (char *)e->block.grad + i * size;
    const uintptr_t places = (uintptr_t)(b.loss ? b.loss : b.grad) | (uintptr_t)(b.grad ? b.grad : b.loss);
    b.bypass = t->bypass && !e->widen && places % 64 == 0;
    const ptrdiff_t whole = n - n % BINARY_MULTIPLE;
    double sum = whole ? losses(t, &b, whole) : 0;
    if (n > whole) sum += last_losses(t, &b, whole, n - whole, wide);
    if (b.grad && e->widen) e->narrow(b.grad, (char *)e->block.grad + i * size, n, 0);
    return sum;
}

void by_elements(const task *t)
{
    ptrdiff_t first, last;
    while (take_rows(t, &first, &last))
        for (ptrdiff_t block = first; block < last; ++block) {
            const ptrdiff_t end = (block + 1) * t->elements->at_once;
            const ptrdiff_t stop = end < t->elements->count ? end : t->elements->count;
            compensated sum = {0, 0};
            for (ptrdiff_t i = block * t->elements->at_once; i < stop; i += AT_ONCE)
                compensated_add(&sum, some(t, i, stop - i < AT_ONCE ? stop - i : AT_ONCE));
            t->loss[block] = compensated_value(sum);
        }
    t->isa->fence();
}
