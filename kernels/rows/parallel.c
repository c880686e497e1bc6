/* The only file that knows OpenMP. Threads take a few rows at a time, so that one that is kept waiting (by another
 * process, say) holds up no other; each row's result depends on that row alone, so that any number of threads gives
 * the same bits. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L    /* clock_gettime */
#endif
#include "rows/parallel.h"
#include "rows/startable.h"

#include <time.h>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_max_threads(void) { return 0; }
#endif

#define POLL_SECONDS 0.05
#define ASK_AGAIN_SECONDS 1.0

struct schedule {
    ptrdiff_t next, at_once;
    double last_poll;
    int stopped, alone;
};

int openmp_threads(void) { return omp_get_max_threads(); }

static double now(void)
{
    struct timespec t;
#if defined(_WIN32)
    timespec_get(&t, TIME_UTC);
#else
    clock_gettime(CLOCK_MONOTONIC, &t);
#endif
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The thread that called holds Python's thread state: it alone may look for signals. */
static int is_told_to_stop(const task *t)
{
    struct schedule *s = t->schedule;
    if (omp_get_thread_num() != 0 || s->at_once >= t->rows) return 0;
    const double time = now();
    if (time - s->last_poll < POLL_SECONDS && time >= s->last_poll) return 0;
    const int stop = t->poll();
    s->last_poll = now();
    return stop;
}

static int next_rows(const task *t, int stop, ptrdiff_t *first, ptrdiff_t *last)
{
    struct schedule *s = t->schedule;
    s->stopped |= stop;
    const int any = !s->stopped && s->next < t->rows;
    *first = s->next;
    if (any) s->next = t->rows - s->next < s->at_once ? t->rows : s->next + s->at_once;
    *last = s->next;
    return any;
}

/* Sections, and no atomic captures, which MSVC's OpenMP 2.0 has not: one is entered a few thousand times a second. A
 * thread that is alone enters none: after a fork, one that a thread of the parent was in is closed for ever. */
int take_rows(const task *t, ptrdiff_t *first, ptrdiff_t *last)
{
    const int stop = is_told_to_stop(t);
    int any;
    if (t->schedule->alone) return next_rows(t, stop, first, last);
#pragma omp critical(schedule)
    any = next_rows(t, stop, first, last);
    return any;
}

void ran_out_of_memory(const task *t)
{
    if (t->schedule->alone) *t->out_of_memory = 1;
    else {
#pragma omp critical(schedule)
        *t->out_of_memory = 1;
    }
}

#ifdef _OPENMP
/* The runtime keeps a team for each thread that calls: where a call wants no more than that has, nothing is asked. */
static struct {
    int threads;       /* of the last call: a smaller team sends the others home */
    int most;          /* that could be had, when the system refused one */
    double refused;    /* when that was; 0: never */
} team;
#pragma omp threadprivate(team)

/* As many of the threads that are wanted as there can be; *starts: some of them must be started. */
static int threads_at_hand(int wanted, int *starts)
{
    const int there = team.threads > 1 ? team.threads : 1;
    const double time = now();
    if (team.refused > 0 && time < team.refused + ASK_AGAIN_SECONDS && wanted > team.most) wanted = team.most;
    if (wanted <= there) return there;
    const int threads = there + startable(wanted - there);
    if (threads < wanted) {
        team.most = threads;
        team.refused = time;
    }
    *starts = threads > there;
    if (!*starts) have_started();
    return threads;
}
#endif

int run(const task *given, int threads, ptrdiff_t rows_at_once)
{
    task t = *given;
    void (*const work)(const task *) = t.work >= STREAM_READ ? by_streams : t.tiled ? by_tiles : by_rows;
#ifdef _OPENMP
    int starts = 0;
    if (threads > 1 && threads > team.threads) threads = threads_at_hand(threads, &starts);
#else
    threads = 1;
#endif
    struct schedule s = {0, rows_at_once, rows_at_once < t.rows ? now() : 0, 0, threads <= 1};
    t.schedule = &s;
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            if (starts && omp_get_thread_num() == 0) have_started();
            work(&t);
        }
        team.threads = threads;
        return s.stopped;
    }
#endif
    work(&t);
    return s.stopped;
}
