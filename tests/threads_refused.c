/* Preloaded by test_threads.py: a system that lets a process have at most THREADS_ALLOWED threads besides the first. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

struct begun {
    void *(*function)(void *);
    void *argument;
};

static atomic_int alive;

static void *begin(void *given)
{
    struct begun b = *(struct begun *)given;
    free(given);
    void *result = b.function(b.argument);
    alive--;
    return result;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument)
{
    create *real = (create *)dlsym(RTLD_NEXT, "pthread_create");
    struct begun *b = malloc(sizeof *b);
    const int refused = alive++ >= atoi(getenv("THREADS_ALLOWED"));
    b->function = function;
    b->argument = argument;
    const int error = refused ? EAGAIN : real(thread, attributes, begin, b);
    if (error != 0) {
        alive--;
        free(b);
    }
    return error;
}
