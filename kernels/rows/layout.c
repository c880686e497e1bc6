#include "rows/layout.h"

#include <string.h>

#include "simd/half.h"

int lie_in_a_run(const task *t, const array *a)
{
    return t->dims == 1 && a->row_strides[0] == t->classes * element_size(a->type);
}

int is_aligned(const task *t, const array *a)
{
    const ptrdiff_t size = element_size(a->type);
    if (a->swapped || a->class_stride % size || (uintptr_t)a->data % (uintptr_t)size) return 0;
    for (int d = 0; d < t->dims; ++d)
        if (a->row_strides[d] % size) return 0;
    return 1;
}

int is_direct(const task *t, const array *a)
{
    return is_aligned(t, a) && (a->class_stride == element_size(a->type) || t->classes == 1);
}

void rows_of(const task *t, const array *a, ptrdiff_t row, ptrdiff_t rows, char **to)
{
    to[0] = row_of(t, a, row);
    for (ptrdiff_t i = 1; i < rows; ++i) to[i] = t->dims == 1 ? to[i - 1] + a->row_strides[0] : row_of(t, a, row + i);
}

static void swap_bytes(unsigned char *p, ptrdiff_t size)
{
    for (ptrdiff_t i = 0; i < size / 2; ++i) {
        const unsigned char byte = p[i];
        p[i] = p[size - 1 - i];
        p[size - 1 - i] = byte;
    }
}

/* memcpy of a constant size is one load or store, aligned or not. */
static void copy(char *to, ptrdiff_t to_stride, const char *from, ptrdiff_t from_stride, ptrdiff_t n, ptrdiff_t size)
{
    for (ptrdiff_t i = 0; i < n; ++i, to += to_stride, from += from_stride) {
        if (size == 2) memcpy(to, from, 2);
        else if (size == 4) memcpy(to, from, 4);
        else memcpy(to, from, 8);
    }
}

void gather(const array *a, const char *from, ptrdiff_t n, void *buffer)
{
    const ptrdiff_t size = element_size(a->type);
    copy(buffer, size, from, a->class_stride, n, size);
    for (ptrdiff_t i = 0; a->swapped && i < n; ++i) swap_bytes((unsigned char *)buffer + i * size, size);
}

void scatter(const array *a, const void *buffer, ptrdiff_t n, char *to)
{
    const ptrdiff_t size = element_size(a->type);
    copy(to, a->class_stride, buffer, size, n, size);
    for (ptrdiff_t i = 0; a->swapped && i < n; ++i) swap_bytes((unsigned char *)to + i * a->class_stride, size);
}

double get_element(element type, const void *at)
{
    switch (type) {
    case ELEMENT_F16: return (double)f16_to_f32(*(const f16 *)at);
    case ELEMENT_BF16: return (double)bf16_to_f32(*(const bf16 *)at);
    case ELEMENT_F32: return (double)*(const f32 *)at;
    default: return *(const f64 *)at;
    }
}

void set_element(element type, void *at, double value)
{
    switch (type) {
    case ELEMENT_F16: *(f16 *)at = f32_to_f16((f32)value); break;
    case ELEMENT_BF16: *(bf16 *)at = f32_to_bf16((f32)value); break;
    case ELEMENT_F32: *(f32 *)at = (f32)value; break;
    default: *(f64 *)at = value;
    }
}

#define WIDEN(TYPE, WIDENED) \
    for (ptrdiff_t i = 0; i < n; ++i) to[i] = (f64)WIDENED(((const TYPE *)from)[i])
#define NARROW(TYPE, NARROWED) \
    for (ptrdiff_t i = 0; i < n; ++i) ((TYPE *)to)[i] = NARROWED((f32)((const f64 *)from)[i])

void widen_elements(element type, const void *from, ptrdiff_t n, f64 *to)
{
    switch (type) {
    case ELEMENT_F16: WIDEN(f16, f16_to_f32); break;
    case ELEMENT_BF16: WIDEN(bf16, bf16_to_f32); break;
    case ELEMENT_F32: WIDEN(f32, ); break;
    default: memcpy(to, from, (size_t)n * sizeof *to);
    }
}

void narrow_elements(element from_type, const void *from, element type, ptrdiff_t n, void *to)
{
    const ptrdiff_t size = element_size(type);
    if (from_type == ELEMENT_F32)
        for (ptrdiff_t i = 0; i < n; ++i) set_element(type, (char *)to + i * size, (double)((const f32 *)from)[i]);
    else switch (type) {
        case ELEMENT_F16: NARROW(f16, f32_to_f16); break;
        case ELEMENT_BF16: NARROW(bf16, f32_to_bf16); break;
        case ELEMENT_F32: NARROW(f32, ); break;
        default: memcpy(to, from, (size_t)n * sizeof(f64));
        }
}

static int merges(const array *a, int outer, int inner, ptrdiff_t inner_size)
{
    return !a->data || a->row_strides[outer] == inner_size * a->row_strides[inner];
}

void coalesce(task *t)
{
    array *arrays[] = {&t->x, &t->q, &t->out, &t->hess, &t->vector};
    const int count = sizeof arrays / sizeof *arrays;
    int last = -1;    /* the last kept dimension */
    for (int d = 0; d < t->dims; ++d) {
        const ptrdiff_t size = t->shape[d];
        if (size == 1) continue;
        int merged = last >= 0;
        for (int i = 0; merged && i < count; ++i) merged = merges(arrays[i], last, d, size);
        if (merged) t->shape[last] *= size;
        else t->shape[++last] = size;
        for (int i = 0; i < count; ++i) arrays[i]->row_strides[last] = arrays[i]->row_strides[d];
    }
    t->dims = last + 1;
}
