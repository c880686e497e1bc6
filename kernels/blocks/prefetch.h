/* How many bytes ahead of its use memory is asked for. */
#ifndef PREFETCH_H
#define PREFETCH_H

/* Of a row that is read: further than the hardware's prefetcher goes, which stops at the page. */
#define PREFETCH 16384

/* Of the one pass over a row: into the L2 cache from far away, and from there into L1. Asked for all the way at once, a line
 * holds one of the few places for those on their way into L1 for as long as memory takes, which costs a tenth. */
#define PREFETCH_FAR 32768
#define PREFETCH_NEAR 1024
#define LINE 64    /* bytes */

/* Of each class of a tile that is read where it lies: 8 tiles of float32. */
#define TILE_PREFETCH 512

/* Of rows that are written in pieces: a store that waits for its line holds up all that follow. */
#define OUT_PREFETCH 4096

#endif
