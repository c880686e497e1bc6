/* The blocks of a row, one after the other, with a look for signals now and then where rows are long.
 *
 *   for (block b = {0, 0}; next_block(&c, &b);)    visits them */
#ifndef CURSOR_H
#define CURSOR_H

#include "rows/task.h"

#define BLOCK 2048              /* classes; one such block of float32 and its result stay in L1 */
#define POLL_EVERY (1 << 20)    /* classes between polls: Ctrl-C is seen within moments at the slowest layout, too */

typedef struct {
    ptrdiff_t at, n;
} block;

typedef struct {
    const task *t;
    ptrdiff_t most;    /* classes that are taken at a time where the whole row may be */
    ptrdiff_t since_poll;
    int stopped;
} cursor;

static inline int next_of(cursor *c, block *b, ptrdiff_t size)
{
    const task *t = c->t;
    b->at += b->n;
    if (t->long_rows && (c->since_poll += b->n) >= POLL_EVERY) {
        c->since_poll = 0;
        c->stopped = c->stopped || t->poll();
    }
    if (c->stopped || b->at >= t->classes) return 0;
    b->n = t->classes - b->at < size ? t->classes - b->at : size;
    return 1;
}

static inline int next_block(cursor *c, block *b) { return next_of(c, b, BLOCK); }

/* For what takes the row at a time where nothing is copied: a row whose stores bypass the caches then has two partial
 * lines and not two a block. */
static inline int next_whole(cursor *c, block *b) { return next_of(c, b, c->most); }

#endif
