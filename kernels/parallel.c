/* The only file that knows OpenMP. Threads take a few rows at a time, so that one that is kept waiting (by another process, say)
 * holds up no other; each row's result depends on that row alone, so that any number of threads gives the same bits. */
#include <time.h>

#include "kernels.h"

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

#define POLL_SECONDS 0.05

struct schedule {
    ptrdiff_t next, at_once;
    double last_poll;
    int stopped;
};

int has_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

static double now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The thread that called holds Python's thread state: it alone may look for signals. */
static void poll_if_due(const task *t)
{
    struct schedule *s = t->schedule;
    if (omp_get_thread_num() != 0) return;
    const double time = now();
    if (time - s->last_poll < POLL_SECONDS && time >= s->last_poll) return;
    if (t->poll()) {
#pragma omp atomic write
        s->stopped = 1;
    }
    s->last_poll = now();
}

int take_rows(const task *t, ptrdiff_t *first, ptrdiff_t *last)
{
    struct schedule *s = t->schedule;
    ptrdiff_t begin;
    int stopped;
#pragma omp atomic read
    stopped = s->stopped;
    if (!stopped && s->at_once < t->rows) {
        poll_if_due(t);
#pragma omp atomic read
        stopped = s->stopped;
    }
    if (stopped) return 0;
#pragma omp atomic capture
    { begin = s->next; s->next += s->at_once; }
    if (begin >= t->rows) return 0;
    *first = begin;
    *last = t->rows - begin < s->at_once ? t->rows : begin + s->at_once;
    return 1;
}

int run(const task *given, int threads, ptrdiff_t rows_at_once)
{
    task t = *given;
    struct schedule s = {0, rows_at_once, rows_at_once < t.rows ? now() : 0, 0};
    void (*const work)(const task *) = t.work >= STREAM_READ ? by_streams : t.tiled ? by_tiles : by_rows;
    t.schedule = &s;
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        work(&t);
        return s.stopped;
    }
#else
    (void)threads;
#endif
    work(&t);
    return s.stopped;
}
