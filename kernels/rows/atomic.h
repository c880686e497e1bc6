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

#else

typedef int flag;

static inline ptrdiff_t add_to(ptrdiff_t *a, ptrdiff_t n) { return __atomic_fetch_add(a, n, __ATOMIC_SEQ_CST); }

static inline void raise_flag(flag *f) { __atomic_store_n(f, 1, __ATOMIC_SEQ_CST); }

static inline int is_raised(flag *f) { return __atomic_load_n(f, __ATOMIC_SEQ_CST); }

#endif

#endif
