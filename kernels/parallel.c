/* The only file that knows OpenMP. Rows are split evenly and each row's result depends on that row alone, so that any
 * number of threads gives the same bits. */
#include "kernels.h"

#ifdef _OPENMP
#include <omp.h>
#endif

int has_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

void run_rows(const task *t, ptrdiff_t first, ptrdiff_t last, int threads)
{
    row_function *const work = t->work >= STREAM_READ ? by_streams : t->tiled ? by_tiles : by_rows;
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            const ptrdiff_t of = omp_get_num_threads(), id = omp_get_thread_num(), rows = last - first;
            const ptrdiff_t share = rows / of, extra = rows % of;
            const ptrdiff_t begin = first + id * share + (id < extra ? id : extra);
            work(t, begin, begin + share + (id < extra));
        }
        return;
    }
#else
    (void)threads;
#endif
    work(t, first, last);
}
