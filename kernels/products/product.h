/* A product of two matrices, out[m, n] (+)= the sum over k of a[m, k] b[n, k], as a linear cross-entropy needs three.
 *
 * Decisions
 *
 * A. Both factors are copied as they are used ("packed") into panels: what a unit's kernel reads, in the order in which
 *    it reads it. Panels are padded with zeros on both sides, so that a kernel knows no edges but those of its result,
 *    and a 16-bit factor is widened (or a float32 one rounded) on the way. So a layout costs nothing but its copying.
 * B. The shorter side of the result is kept: its panels are packed once, by all threads, and read by all. The longer
 *    side is cut into blocks, and a share of work packs one of them and multiplies it with all that is kept. So of a
 *    vocabulary each number is read and packed once.
 * C. What is kept is at most KEPT bytes, twice: of a long sum a part (a stage), and while it is multiplied the next one
 *    is packed. Within a stage a share works in slices of the sum (the unit's `slice`), so that a panel lies in L1 and
 *    what it is multiplied with in L2.
 * D. Shares are taken in one order, and a share waits only for earlier ones, which others have taken: so there are no
 *    barriers, and any number of threads may take part, late or not at all. Each sum is added up in one order that
 *    knows nothing of threads: any number of them gives the same bits.
 * E. A product is cut into parts: what is streamed where that is wide, else a long sum, whose parts' results are added at
 *    the end. A thread begins with a part of its own while there are such, and packs for itself what it reads: on cores
 *    that share no cache, it is what another core has packed that is slow to read.
 * F. A result of 16 bits whose sums are one slice long is rounded on its way out of the cache, and is nowhere in memory
 *    as float32. Of longer sums each slice is added to float32, which takes no longer than to read what is there. */
#ifndef PRODUCT_H
#define PRODUCT_H

#include "types.h"

/* One factor: the rows or the columns of the result by the numbers that are summed. One of the strides is 1. */
typedef struct {
    const char *data;
    element type;
    ptrdiff_t across, along;    /* in elements: from row to row, and along the sum */
} factor;

/* Copies n of a factor's rows, k numbers of each, into panels that follow each other, and fills them up with zeros. */
typedef void pack_function(const void *from, ptrdiff_t across, ptrdiff_t along, ptrdiff_t n, ptrdiff_t k, void *to);

/* BYPASS: the caches, where c lies so that whole lines can be written; nobody reads it soon. */
typedef enum { STORE, ADD, BYPASS } storing;

/* What one ISA does: the inner part of a product. */
typedef struct {
    const char *name;
    ptrdiff_t rows, columns;    /* of the result, by one call of multiply: the widths of the panels */
    ptrdiff_t size;             /* bytes of a number in a panel */
    ptrdiff_t multiple;         /* panels are filled up to this many numbers of the sum */
    ptrdiff_t slice;            /* of the sum, at a time, at most */
    ptrdiff_t whole;            /* numbers of a sum that is one slice, at most: nothing is read and added to again */
    pack_function *pack_rows[4], *pack_columns[4];    /* of each element type, or NULL */
    /* c[rows, columns] (+)= a panel times a panel, k numbers long; c may end before the panels do. */
    void (*multiply)(const void *a, const void *b, ptrdiff_t k, f32 *c, ptrdiff_t stride, ptrdiff_t rows,
                     ptrdiff_t columns, storing how);
    void (*enter)(void), (*leave)(void);    /* around a thread's share of the work, or NULL */
} product_unit;

/* n contiguous numbers, rounded once. bypass: the caches, with the result; a fence follows, or is the caller's to make. */
enum { BYPASS_FENCED = 1, BYPASS_UNFENCED = 2 };
typedef void convert_function(const void *from, void *to, ptrdiff_t n, int bypass);

extern const product_unit product_base, product_avx2, product_avx512, product_neon, product_avx512_bf16, product_amx;
extern convert_function *const converters_base[4][4], *const converters_avx2[4][4], *const converters_avx512[4][4],
                                                                                        *const converters_neon[4][4];

/* dispatch.c: NULL where the build lacks the unit, or this machine does not run it. */
const product_unit *product_unit_named(const char *name);
int pairs_are_fast(void);    /* whether VDPBF16PS takes less time than two float32 products: not so on Intel's CPUs */
convert_function *converter(const char *isa, element from, element to);

typedef struct product product;
struct product {
    const product_unit *unit;
    ptrdiff_t rows, columns, depth;
    factor a, b;    /* IN  (rows, depth), (columns, depth) */
    f32 *out;       /* OUT (rows, columns) */
    char *rounded;  /* OUT the same of 16 bits, or NULL: then `depth` is at most its `whole`, and out is NULL */
    convert_function *round;    /* to these */
    ptrdiff_t stride;    /* of the result's rows, in elements */
    int add;             /* to what is there */

    /* product.c's, from plan_product on */
    ptrdiff_t parts;
    product *part;          /* (parts,) */
    f32 *partial;           /* (parts - 1, rows, columns) of a sum, those of all parts but the first; or NULL */
    ptrdiff_t begun;        /* parts that threads have begun with */
    ptrdiff_t merged;       /* shares of adding up that are taken */

    /* of each part */
    int keeps_rows;
    storing first_storing;    /* of the first slice of a sum */
    int round_bypass;
    ptrdiff_t slice, kept_width, stage_depth, block_width;
    ptrdiff_t stages_deep, stages, packs, blocks;
    char *kept[2];
    ptrdiff_t *packed;      /* (stages,) shares of packing that are done */
    ptrdiff_t *progress;    /* (blocks,) stages that are done */
    ptrdiff_t taken;        /* shares of it */
};

/* How many shares of work there are, for so many threads; -1 where there is no memory for it. */
ptrdiff_t plan_product(product *p, int threads);
void release_product(product *p);

/* The bytes of its own that a thread needs; its work on as many shares as it asks for. `at` is the part that it is at,
 * and begins as -1. */
size_t scratch_of(const product *p);
void do_shares(product *p, ptrdiff_t number, ptrdiff_t *at, char *scratch);

#endif
