/* The machine's memory at its fastest, by the kernels' own threads and shares, in float32 whatever the elements
 * were. The rows of STREAM_ROW elements lie end to end (native.stream sees to that), so that a thread's share is one
 * block. */
#include "rows/parallel.h"

static void run_share(const task *t, ptrdiff_t first, ptrdiff_t last)
{
    const stream_functions *f = t->isa->streams;
    const ptrdiff_t at = first * STREAM_ROW, n = (last - first) * STREAM_ROW;
    const f32 *x = (const f32 *)t->x.data, *q = (const f32 *)t->q.data;
    f32 *out = (f32 *)t->out.data;
    if (t->work == STREAM_READ) t->loss[first] = f->read(x + at, n);
    else if (t->work == STREAM_COPY) f->copy(x + at, n, out + at, t->bypass);
    else if (t->work == STREAM_COMBINE) f->combine(x + at, q + at, n, out + at, t->bypass);
    else f->scale(out + at, n, 1);
}

void by_streams(const task *t)
{
    ptrdiff_t first, last;
    while (take_rows(t, &first, &last)) run_share(t, first, last);
    t->isa->fence();
}
