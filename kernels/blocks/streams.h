/* What a machine's memory does at best, beside which a kernel's time is read: reading, copying, combining two,
 * scaling in place, with stores that bypass the caches where the kernels have them. Each in the way that was fastest
 * on one thread: reading in eight sums, so that the additions' latency is not what is measured; copying vector by
 * vector, and without the prefetches of rows.h; scaling eight vectors at a time. */
#ifndef STREAMS_H
#define STREAMS_H

#include "blocks/blocks.h"
#include "blocks/prefetch.h"
#include "simd/simd.h"

#define STREAM_STEP (8 * LANES_f32)

SIMD void prefetch_step(const f32 *x)
{
    const ptrdiff_t line = (ptrdiff_t)(64 / sizeof(f32));
    for (ptrdiff_t i = 0; i < STREAM_STEP; i += line) prefetch((const char *)(x + i) + PREFETCH);
}

static double stream_read(const f32 *x, ptrdiff_t n)
{
    vec_f32 s[8];
    for (int u = 0; u < 8; ++u) s[u] = v_set1_f32(0);
    for (ptrdiff_t j = 0; j < n; j += STREAM_STEP) {
        prefetch_step(x + j);
        for (int u = 0; u < 8; ++u) s[u] = v_add_f32(s[u], load_f32(x + j + u * LANES_f32));
    }
    for (int u = 1; u < 8; ++u) s[0] = v_add_f32(s[0], s[u]);
    return v_sum_f32(s[0]);
}

static void stream_copy(const f32 *x, ptrdiff_t n, f32 *out, int bypass)
{
    if (bypass)
        for (ptrdiff_t j = 0; j < n; j += LANES_f32) bypass_f32(out + j, load_f32(x + j));
    else
        for (ptrdiff_t j = 0; j < n; j += LANES_f32) store_f32(out + j, load_f32(x + j));
}

static void stream_combine(const f32 *x, const f32 *q, ptrdiff_t n, f32 *out, int bypass)
{
    if (bypass)
        for (ptrdiff_t j = 0; j < n; j += LANES_f32) bypass_f32(out + j, v_add_f32(load_f32(x + j), load_f32(q + j)));
    else
        for (ptrdiff_t j = 0; j < n; j += LANES_f32) store_f32(out + j, v_add_f32(load_f32(x + j), load_f32(q + j)));
}

static void stream_scale(f32 *x, ptrdiff_t n, double by)
{
    const vec_f32 factor = v_set1_f32((f32)by);
    for (ptrdiff_t j = 0; j < n; j += STREAM_STEP) {
        prefetch_step(x + j);
        for (int u = 0; u < 8; ++u)
            store_f32(x + j + u * LANES_f32, v_mul_f32(load_f32(x + j + u * LANES_f32), factor));
    }
}

static const stream_functions functions_streams = {stream_read, stream_copy, stream_combine, stream_scale};

#endif
