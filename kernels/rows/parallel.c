/* The only file that knows OpenMP; where there is none, threads of others take part. Each takes a few rows at a time,
 * so that one that is kept waiting (by another process, say) holds up no other; each row's result depends on that row
 * alone, so that any number of threads gives the same bits. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L    /* clock_gettime */
#endif
#include "rows/parallel.h"
#include "rows/startable.h"

#include <time.h>

#ifdef _OPENMP
#include <omp.h>

int openmp_threads(void) { return omp_get_max_threads(); }
#else
int openmp_threads(void) { return 0; }
#endif

#define POLL_SECONDS 0.05
#define ASK_AGAIN_SECONDS 1.0

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

static void poll_now_and_then(const task *t)
{
    schedule *s = t->schedule;
    if (t->poll == NULL || s->at_once >= t->rows) return;
    const double time = now();
    if (time - s->last_poll < POLL_SECONDS && time >= s->last_poll) return;
    if (t->poll()) stop(s);
    s->last_poll = now();
}

/* Without a lock, which a fork might leave closed for ever in the child. */
int take_rows(const task *t, ptrdiff_t *first, ptrdiff_t *last)
{
    schedule *s = t->schedule;
    poll_now_and_then(t);
    if (is_raised(&s->stopped)) return 0;
    *first = add_to(&s->next, s->at_once);
    if (*first >= t->rows) return 0;
    *last = t->rows - *first < s->at_once ? t->rows : *first + s->at_once;
    return 1;
}

void ran_out_of_memory(const task *t) { raise_flag(&t->schedule->out_of_memory); }

int was_out_of_memory(schedule *s) { return is_raised(&s->out_of_memory); }

void stop(schedule *s) { raise_flag(&s->stopped); }

/* A thread takes so many elements at a time: few enough that none waits long for the last of the others, and that
 * signals, which are looked at in between, are soon seen at the slowest layout, too (byte-swapped with the class axis
 * first, in the base unit). */
enum {
    MOST_AT_ONCE = 1 << 19,
    ROW_COST = 16,    /* a row of one class takes as long as so many classes do */
    MULTIPLE = 64     /* rows: of every tile */
};

ptrdiff_t rows_at_once(const task *t, int threads)
{
    if (t->work >= PRODUCT) return 1;
    const ptrdiff_t cost = t->classes + ROW_COST, share = t->rows / (8 * (ptrdiff_t)threads);
    const ptrdiff_t most = MOST_AT_ONCE / cost, least = LEAST_AT_ONCE / cost > 1 ? LEAST_AT_ONCE / cost : 1;
    ptrdiff_t rows = share < most ? share : most;
    if (rows < least) rows = least;
    return rows > MULTIPLE ? rows - rows % MULTIPLE : rows;
}

void begin(task *t, schedule *s, ptrdiff_t rows_at_once)
{
    s->next = 0;
    s->at_once = rows_at_once;
    s->stopped = s->out_of_memory = 0;
    s->last_poll = rows_at_once < t->rows ? now() : 0;
    t->schedule = s;
}

void take_part(const task *t)
{
    if (t->work >= ADD_BIAS) by_biases(t);
    else if (t->work == ELEMENTS) by_elements(t);
    else if (t->work >= PRODUCT) by_products(t);
    else if (t->work >= STREAM_READ) by_streams(t);
    else if (t->tiled) by_tiles(t);
    else by_rows(t);
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

static void run_on_team(const task *t, int threads, int starts)
{
#pragma omp parallel num_threads(threads)
    {
        const int called = omp_get_thread_num() == 0;
        task own = *t;
        if (!called) own.poll = NULL;    /* it has no thread state of Python's, without which there are no signals */
        if (starts && called) have_started();
        take_part(&own);
    }
    team.threads = threads;
}
#endif

void run(const task *t, int threads)
{
#ifdef _OPENMP
    int starts = 0;
    if (threads > 1 && threads > team.threads) threads = threads_at_hand(threads, &starts);
    if (threads > 1) {
        run_on_team(t, threads, starts);
        return;
    }
#else
    (void)threads;    /* those of others take part by themselves */
#endif
    take_part(t);
}
