/* The short way of by_tiles.c (blocks/near.h): tiles of a task without anything unusual, a few at a time. */
#ifndef USUAL_TILES_H
#define USUAL_TILES_H

#include "blocks/blocks.h"
#include "rows/losses.h"
#include "rows/task.h"

#define GROUP 4    /* tiles, whose logarithms and divisions fill each other's waits */

typedef struct {
    int64_t y[MOST_LANES];
    double own[MOST_LANES], v[MOST_LANES], scale[MOST_LANES], factor[MOST_LANES], value[MOST_LANES], loss[MOST_LANES];
    double least[MOST_LANES];
    tile_hessians hess;
} usual_arrays;

typedef struct {
    const task *t;
    const block_functions *k;
    ptrdiff_t tiles;                        /* of a group */
    ptrdiff_t row[GROUP], rows[GROUP];      /* the first of each, and how many */
    char *x[GROUP];                         /* the tiles; one for all where nothing of them is needed afterwards */
    run_pattern pattern;                    /* where logits and results lie in runs, else NULL */
    int in_run[GROUP];
    usual_rows u[GROUP];
    batch b[GROUP];
    usual_arrays of[GROUP];
} usual_tiles;

/* Targets that are classes, or none; an ignored one that float64 tells from every other. */
int is_usual(const task *t);

/* How many tiles of so many bytes a group is of, and how many of these are kept. */
ptrdiff_t tiles_of_group(const task *t, ptrdiff_t tile_bytes, ptrdiff_t *kept);

void open_usual(usual_tiles *w, const task *t, ptrdiff_t tiles, ptrdiff_t kept, char *memory, ptrdiff_t tile_bytes);

/* Logits and results lie in runs: two tiles of memory more spare the way out of a tile. */
void find_pattern(usual_tiles *w, char *memory, ptrdiff_t tile_bytes);

/* Tile i holds these rows: their sums. */
void sum_usual(usual_tiles *w, ptrdiff_t i, ptrdiff_t row, ptrdiff_t rows);

/* Tile i, after k->near_numbers: its losses and statistics, and its results, where they belong or, nonzero, in the
 * tile. */
int end_usual(usual_tiles *w, ptrdiff_t i);

#endif
