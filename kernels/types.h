/* The element types, and what an argument of a call is to C: an array of rows, or index targets. */
#ifndef TYPES_H
#define TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef float f32;
typedef double f64;
typedef struct {
    uint16_t bits;
} f16;
typedef struct {
    uint16_t bits;
} bf16;

typedef enum { ELEMENT_F16, ELEMENT_BF16, ELEMENT_F32, ELEMENT_F64 } element;

static inline ptrdiff_t element_size(element type) { return type == ELEMENT_F64 ? 8 : type == ELEMENT_F32 ? 4 : 2; }

/* The type of the lanes that an element type is worked on in. */
static inline element lanes_type(element type) { return type == ELEMENT_F64 ? ELEMENT_F64 : ELEMENT_F32; }

#define MAX_DIMS 64    /* NumPy's own limit */

/* One array of rows; the class axis has its own stride, the shape of the others is the task's. Strides are in bytes. */
typedef struct {
    char *data; /* NULL: absent */
    element type;
    int swapped; /* the other byte order */
    ptrdiff_t class_stride;
    ptrdiff_t row_strides[MAX_DIMS];
} array;

/* Index targets of any integer type, one per row, contiguous. */
typedef struct {
    const void *data; /* NULL: the targets are probabilities */
    int size; /* 1, 2, 4, 8 bytes; negative where signed */
    int has_ignored;
    int64_t ignored; /* its 64 bits */
} index_targets;

#endif
