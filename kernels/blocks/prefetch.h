/* How many bytes ahead of its use memory is asked for. */
#ifndef PREFETCH_H
#define PREFETCH_H

/* Of a row that is read: further than the hardware's prefetcher goes, which stops at the page. */
#define PREFETCH 16384

/* Of each class of a tile that is read where it lies: 8 tiles of float32. */
#define TILE_PREFETCH 512

/* Of rows that are written in pieces: a store that waits for its line holds up all that follow. */
#define OUT_PREFETCH 4096

#endif
