/* Memory of others that is about to be written for the first time: in large pages, if the system has them for the asking.
 * It clears each page when that is first touched, and for small ones takes longer than a kernel does. */
#ifndef LARGE_PAGES_H
#define LARGE_PAGES_H

#include <stddef.h>
#include <stdint.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define LARGE_PAGE ((uintptr_t)1 << 21)
#define WORTH_LARGE_PAGES (2 * LARGE_PAGE)

static inline void ask_for_large_pages(void *data, size_t bytes)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes < WORTH_LARGE_PAGES) return;
    const uintptr_t from = ((uintptr_t)data + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1);
    const uintptr_t to = ((uintptr_t)data + bytes) & ~(LARGE_PAGE - 1);
    if (to > from) (void)madvise((void *)from, to - from, MADV_HUGEPAGE); /* refused: the pages are small */
#else
    (void)data, (void)bytes;
#endif
}

#endif
