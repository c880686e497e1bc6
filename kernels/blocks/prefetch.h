/* How many bytes ahead of its use memory is asked for. */
#ifndef PREFETCH_H
#define PREFETCH_H

#include <stddef.h>
#include <stdint.h>

/* Of a row that is read: further than the hardware's prefetcher goes, which stops at the page. */
#define PREFETCH 16384

/* Of the one pass over a row: into the L2 cache from far away, and from there into L1. Asked for all the way at once, a line
 * holds one of the few places for those on their way into L1 for as long as memory takes, which costs a tenth. */
#define PREFETCH_FAR 32768
#define PREFETCH_NEAR 1024
#define LINE 64    /* bytes */

/* Where the rows after a block's own lie, in bytes: how much of its row there is from the block on, how long a row is, and
 * what lies between two. Columns of a wide matrix have most of it in between, which nobody is going to read. */
typedef struct {
    ptrdiff_t left, row, between;
} lie_of_rows;

/* How far ahead is asked from each byte of a block, so as to skip what lies between rows: up to the turn, and past it. */
typedef struct {
    ptrdiff_t turn, before, after;
} ahead;

static inline ahead ahead_of(ptrdiff_t distance, lie_of_rows l)
{
    if (!l.between) { /* which most rows have: without a division */
        const ahead straight = {PTRDIFF_MAX, distance, distance};
        return straight;
    }
    const ptrdiff_t ends = distance < l.left ? 0 : 1 + (distance - l.left) / l.row;
    const ahead found = {l.left + ends * l.row - distance, distance + ends * l.between,
                         distance + (ends + 1) * l.between};
    return found;
}

static inline ptrdiff_t ahead_from(ahead a, ptrdiff_t byte) { return byte < a.turn ? a.before : a.after; }

/* Into the L2 cache, and from there into L1. */
typedef struct {
    ahead far, near;
} two_aheads;

static inline two_aheads aheads_of(lie_of_rows l, ptrdiff_t near)
{
    const two_aheads found = {ahead_of(PREFETCH_FAR, l), ahead_of(near, l)};
    return found;
}

typedef struct {
    ptrdiff_t far, near;
} two_distances;

static inline two_distances aheads_from(const two_aheads *a, ptrdiff_t byte)
{
    const two_distances found = {ahead_from(a->far, byte), ahead_from(a->near, byte)};
    return found;
}

/* Where rows follow each other. */
static const two_aheads straight_on = {{PTRDIFF_MAX, PREFETCH_FAR, PREFETCH_FAR},
                                       {PTRDIFF_MAX, PREFETCH_NEAR, PREFETCH_NEAR}};

/* Of each class of a tile that is read where it lies: 8 tiles of float32. */
#define TILE_PREFETCH 512

/* Of rows that are written in pieces: a store that waits for its line holds up all that follow. */
#define OUT_PREFETCH 4096

#endif
