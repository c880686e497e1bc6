/* What a machine's memory does at best, beside which a kernel's time is read: reading, copying, combining two,
 * scaling in place, with stores past the caches where the kernels have them (stream). Each as it was fastest on one
 * thread of a Zen 4: reading in eight sums, so that the additions' latency is not what is measured; copying vector
 * by vector (49 to 52 GB/s; with the prefetches of rows.h and eight loads before eight stores 47 to 50); scaling so
 * (57, and 55 vector by vector). */

#define STREAM_STEP (8 * LANES)

SIMD void prefetch_step(const f32 *x)
{
    const ptrdiff_t line = (ptrdiff_t)(64 / sizeof(f32));
    for (ptrdiff_t i = 0; i < STREAM_STEP; i += line) prefetch((const char *)(x + i) + PREFETCH);
}

static double stream_read(const f32 *x, ptrdiff_t n)
{
    vec s[8];
    for (int u = 0; u < 8; ++u) s[u] = v_set1(0);
    for (ptrdiff_t j = 0; j < n; j += STREAM_STEP) {
        prefetch_step(x + j);
        for (int u = 0; u < 8; ++u) s[u] = v_add(s[u], v_load(x + j + u * LANES));
    }
    for (int u = 1; u < 8; ++u) s[0] = v_add(s[0], s[u]);
    return v_sum(s[0]);
}

static void stream_copy(const f32 *x, ptrdiff_t n, f32 *out, int stream)
{
    if (stream)
        for (ptrdiff_t j = 0; j < n; j += LANES) v_stream(out + j, v_load(x + j));
    else
        for (ptrdiff_t j = 0; j < n; j += LANES) v_store(out + j, v_load(x + j));
}

static void stream_combine(const f32 *x, const f32 *q, ptrdiff_t n, f32 *out, int stream)
{
    if (stream)
        for (ptrdiff_t j = 0; j < n; j += LANES) v_stream(out + j, v_add(v_load(x + j), v_load(q + j)));
    else
        for (ptrdiff_t j = 0; j < n; j += LANES) v_store(out + j, v_add(v_load(x + j), v_load(q + j)));
}

static void stream_scale(f32 *x, ptrdiff_t n, double by)
{
    const vec factor = v_set1((f32)by);
    for (ptrdiff_t j = 0; j < n; j += STREAM_STEP) {
        prefetch_step(x + j);
        for (int u = 0; u < 8; ++u) v_store(x + j + u * LANES, v_mul(v_load(x + j + u * LANES), factor));
    }
}

static const stream_functions functions_streams = {stream_read, stream_copy, stream_combine, stream_scale};
