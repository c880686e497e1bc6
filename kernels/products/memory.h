/* Memory of a product: panels begin at a cache line, of which an allocation of C's need know nothing. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdint.h>
#include <stdlib.h>

enum { LINE = 64 };

/* NULL where there is none. The pointer that malloc gave stands before the lines. */
static inline char *allocate_lines(size_t bytes)
{
    char *const got = malloc(bytes + 2 * LINE);
    if (got == NULL) return NULL;
    char *const lines = got + 2 * LINE - (uintptr_t)got % LINE;
    ((char **)lines)[-1] = got;
    return lines;
}

static inline void release_lines(char *lines)
{
    if (lines != NULL) free(((char **)lines)[-1]);
}

#endif
