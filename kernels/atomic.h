/* Numbers that several threads change at once, for GCC and Clang and for MSVC, whose C has no <stdatomic.h> by default.
 * Every operation is sequentially consistent: they are done a few thousand times a second. */
#ifndef ATOMIC_H
#define ATOMIC_H

#include <stddef.h>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>

typedef long flag; /* what the intrinsics take */

/* The value before. */
static inline ptrdiff_t add_to(ptrdiff_t *a, ptrdiff_t n)
{
#if defined(_WIN64)
    return _InterlockedExchangeAdd64((volatile __int64 *)a, n);
#else
    return _InterlockedExchangeAdd((volatile long *)a, n);
#endif
}

static inline void raise_flag(flag *f) { _InterlockedExchange((volatile long *)f, 1); }

static inline int is_raised(flag *f) { return _InterlockedOr((volatile long *)f, 0) != 0; }

static inline ptrdiff_t value_of(ptrdiff_t *a) { return add_to(a, 0); }

#if defined(_M_ARM64)
static inline void let_others_run(void) { __yield(); }
#else
static inline void let_others_run(void) { _mm_pause(); }
#endif

#else

typedef int flag;

static inline ptrdiff_t add_to(ptrdiff_t *a, ptrdiff_t n) { return __atomic_fetch_add(a, n, __ATOMIC_SEQ_CST); }

static inline void raise_flag(flag *f) { __atomic_store_n(f, 1, __ATOMIC_SEQ_CST); }

static inline int is_raised(flag *f) { return __atomic_load_n(f, __ATOMIC_SEQ_CST); }

static inline ptrdiff_t value_of(ptrdiff_t *a) { return __atomic_load_n(a, __ATOMIC_SEQ_CST); }

#if defined(_WIN32) && defined(__aarch64__)
static inline void let_others_run(void) { __builtin_arm_yield(); }
#elif defined(_WIN32)
static inline void let_others_run(void) { __builtin_ia32_pause(); }
#else
#include <sched.h>
static inline void let_others_run(void) { sched_yield(); }
#endif

#endif

/* Until a counter has come so far. Who waits so must know that some thread is at work on it. */
static inline void wait_for(ptrdiff_t *counter, ptrdiff_t value)
{
    while (value_of(counter) < value) let_others_run();
}

#endif
