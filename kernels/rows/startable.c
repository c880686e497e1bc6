/* A container's limit on processes, or one on memory, may refuse a thread, and an OpenMP runtime that is refused one
 * ends the process. So threads that do nothing are started first, and as many as could be had are asked of the runtime.
 *
 * Another process may take what was free in between: that is left to chance. */
#if defined(__linux__)
#define _GNU_SOURCE    /* syscall */
#endif
#include "rows/startable.h"

#if defined(_OPENMP) && !defined(_WIN32)

#include <ctype.h>
#include <pthread.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define YIELDS 100000

static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;

struct waiting {
    pthread_mutex_t *gate;    /* closed until all that can be had are there */
    pthread_t thread;
    long id;                  /* the system's, where it has such */
};

static void *wait_at_gate(void *given)
{
    struct waiting *w = given;
#if defined(__linux__)
    w->id = syscall(SYS_gettid);
#endif
    pthread_mutex_lock(w->gate);
    pthread_mutex_unlock(w->gate);
    return NULL;
}

/* A thread is joined a little before the system ceases to count it. */
static void wait_until_uncounted(long id)
{
#if defined(__linux__)
    for (int i = 0; i < YIELDS && syscall(SYS_tgkill, getpid(), id, 0) == 0; i++) sched_yield();
#else
    (void)id;
#endif
}

/* The stack that the runtime gives its threads, from OMP_STACKSIZE: "64M", "512 k", KiB without a unit. 0: not said. */
static size_t stack_size(void)
{
    const char *given = getenv("OMP_STACKSIZE");
    if (given == NULL) return 0;
    char *end;
    const unsigned long long number = strtoull(given, &end, 10);
    while (isspace((unsigned char)*end)) end++;
    const int unit = tolower((unsigned char)*end);
    const int shift = unit == 'b' ? 0 : unit == 'm' ? 20 : unit == 'g' ? 30 : 10;
    return number > (size_t)-1 >> shift ? 0 : (size_t)number << shift;
}

static int started_at_once(int wanted)
{
    struct waiting *all = calloc((size_t)wanted, sizeof *all);
    if (all == NULL) return 0;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) {
        free(all);
        return 0;
    }
    const size_t size = stack_size();
    if (size > 0) (void)pthread_attr_setstacksize(&attributes, size);    /* refused as the runtime is: both go on */
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&gate);
    int started = 0;
    while (started < wanted) {
        struct waiting *w = &all[started];
        w->gate = &gate;
        if (pthread_create(&w->thread, &attributes, wait_at_gate, w) != 0) break;
        started++;
    }
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < started; i++) pthread_join(all[i].thread, NULL);
    for (int i = 0; i < started; i++) wait_until_uncounted(all[i].id);
    pthread_attr_destroy(&attributes);
    free(all);
    return started;
}

int startable(int wanted)
{
    pthread_mutex_lock(&starting);
    return started_at_once(wanted);
}

void have_started(void) { pthread_mutex_unlock(&starting); }

#else

int startable(int wanted) { return wanted; }

void have_started(void) {}

#endif
