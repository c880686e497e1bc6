/* Where the rows of an array lie, and copies of one block for arrays that a block function can't read in place. */
#ifndef LAYOUT_H
#define LAYOUT_H

#include "rows/task.h"
#include "types.h"

/* A block of the array is contiguous, aligned and in native order as it lies. */
int is_direct(const task *t, const array *a);

/* Each row begins where the one before it ends. */
int lie_in_a_run(const task *t, const array *a);

/* Native, and every element at a multiple of its size. */
int is_aligned(const task *t, const array *a);

static inline char *row_of(const task *t, const array *a, ptrdiff_t row)
{
    char *p = a->data;
    for (int d = t->dims - 1; d > 0; --d) {
        p += row % t->shape[d] * a->row_strides[d];
        row /= t->shape[d];
    }
    return t->dims ? p + row * a->row_strides[0] : p;
}

/* Where each of the rows begins, from that one on. */
void rows_of(const task *t, const array *a, ptrdiff_t row, ptrdiff_t rows, char **to);

/* n elements at `from` or `to`, in the array's stride and byte order, to and from a contiguous native buffer. */
void gather(const array *a, const char *from, ptrdiff_t n, void *buffer);
void scatter(const array *a, const void *buffer, ptrdiff_t n, char *to);

/* One element in native order, widened exactly; and one rounded once. */
double get_element(element type, const void *at);
void set_element(element type, void *at, double value);

/* n contiguous elements elsewhere: widened exactly, to float64; rounded once, from float64 or float32. */
void widen_elements(element type, const void *from, ptrdiff_t n, f64 *to);
void narrow_elements(element from_type, const void *from, element type, ptrdiff_t n, void *to);

#endif
