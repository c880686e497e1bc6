#include "rows/place.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rows/parallel.h"

#define VECTOR 64    /* bytes of the widest one */

/* Rows of a batch together stay below this, in bytes of the lanes' type, and so in the L2 cache until they are
 * written; single rows are kept up to the other limit. */
#define BATCH_BYTES (1 << 17)
#define KEPT_BYTES (5 << 17)

/* From malloc, whose addresses are multiples of 16, to that of a vector: every store across two lines would cost
 * twice. */
static char *aligned(char *memory)
{
    const ptrdiff_t over = (ptrdiff_t)((uintptr_t)memory % VECTOR);
    return memory + (VECTOR - over) % VECTOR;
}

/* One number for each class is what float32 lanes do not take, be it a prior or a target weight. */
static int suits_fusion(const task *t)
{
    const row_options *o = &t->options;
    return is_transformed(o) && t->x.type != ELEMENT_F64 && !o->class_prior && t->targets.data &&
           o->label_smoothing == 0 && suits_float32(o->logit_scale, o->softcap);
}

/* What rows are worked on in: those of a distillation in float32 where the two are not of one type. */
static element worked_in(const task *t, int exactly)
{
    if (exactly) return ELEMENT_F64;
    return t->work != DISTILLATION || t->q.type == t->x.type ? t->x.type : lanes_type(t->x.type);
}

void open_place(place *p, const task *t, int exactly)
{
    memset(p, 0, sizeof *p);
    p->queue.next = p->queue.end = p->jobs;
    p->t = t;
    p->fuses = !exactly && suits_fusion(t);
    p->scales = p->fuses && (t->options.logit_scale != 1 || t->options.softcap != 0);
    if (p->scales) p->numbers = transform_numbers_of(t->options.logit_scale, t->options.softcap);
    const int transforms = !p->fuses && is_transformed(&t->options);
    p->x = transforms ? transformed_reader_of(t) : reader_of(t, &t->x, worked_in(t, exactly));
    /* Probabilities are read in the lanes' type, the grad_output of log_softmax_backward and a teacher's logits in the
     * logits', the weights of a logsumexp as they are: 1e-50 has no float32. */
    p->q = reader_of(t, &t->q,
                     t->work == LOG_SOFTMAX_BACKWARD || t->work == DISTILLATION ? p->x.type
                     : t->work == WEIGHTED_LOGSUMEXP                            ? ELEMENT_F64
                                                                                : lanes_type(p->x.type));
    p->out = writer_of(t, p->x.type);
    p->vector = reader_of(t, &t->vector, p->x.type);
    p->hess = p->out;
    write_as(&p->hess, t, &t->hess);
    p->k = t->isa->of[p->x.type];
    p->is_f64 = p->x.type == ELEMENT_F64;
    p->spreads = has_spread(t) && t->options.focal == 0;
    p->spreads_after = has_spread(t) && t->options.focal != 0;
    p->whole = p->x.direct && !p->spreads && !t->long_rows && t->classes <= POLL_EVERY;
    p->lie.left = p->lie.row = t->classes * element_size(p->x.type);
    p->lie.between = p->x.direct && t->dims == 1 ? t->x.row_strides[0] - p->lie.row : 0;
    p->s = subtrahend_of(t, 1);
    const int copies = !(p->x.direct && (p->q.direct || !t->q.data) && (p->out.direct || !t->out.data) &&
                         (p->hess.direct || !t->hess.data) && (p->vector.direct || !t->vector.data));
    const ptrdiff_t row_bytes = t->classes * (p->is_f64 ? 8 : 4);
    const ptrdiff_t stride = (row_bytes + VECTOR - 1) / VECTOR * VECTOR + VECTOR;
    p->most_rows = BATCH_BYTES / stride < BATCH ? BATCH_BYTES / stride : BATCH;
    if (p->most_rows < 1 || !p->x.direct) p->most_rows = 1;
    const int is_quick = t->work == DISTILLATION && p->k->quick_sums;
    if (is_quick) p->most_rows = 2;    /* of one row there are two numbers for each class */
    if (is_quick) p->numbers = transform_numbers_of(1 / t->distilled.temperature, 0);
    const int keeps = (t->work == FORWARD_BACKWARD || t->work == SOFTMAX || is_quick) && row_bytes <= KEPT_BYTES;
    /* On the heap: more than some threads' stacks have. Without memory the rows are left as they are. */
    if (copies) p->buffers = malloc(6 * BLOCK * sizeof(f64));
    if (keeps) p->kept.memory = malloc((size_t)(2 * p->most_rows * stride + VECTOR));
    const int makes_again = (p->scales && t->out.data) || (is_quick && !keeps);
    if (makes_again) p->exps = malloc(2 * (BLOCK + MOST_LANES) * sizeof(f32));
    const int lacks = (copies && !p->buffers) || (keeps && !p->kept.memory) || (makes_again && !p->exps);
    const cursor c = {t, copies ? BLOCK : POLL_EVERY, 0, lacks};
    p->c = c;
    if (p->c.stopped) ran_out_of_memory(t);
    p->kept.stride = stride;
    if (p->kept.memory) {
        p->kept.rows = p->kept.halves[0] = aligned(p->kept.memory);
        p->kept.halves[1] = p->kept.halves[0] + p->most_rows * stride;
    }
    if (p->buffers) {
        p->x.buffer = p->buffers;
        p->q.buffer = p->buffers + BLOCK;
        p->out.buffer = p->buffers + 2 * BLOCK;
        p->hess.buffer = p->buffers + 3 * BLOCK;
        p->vector.buffer = p->buffers + 4 * BLOCK;
        p->out.narrowed = p->hess.narrowed = p->buffers + 5 * BLOCK;
    }
    if (p->buffers && transforms) {
        p->x.raw = p->buffers + 3 * BLOCK;
        p->x.slope = t->options.softcap != 0 ? p->buffers + 4 * BLOCK : NULL;
    }
}

place *exact_place(place *p)
{
    if (!p->exact) {
        p->exact = malloc(sizeof *p->exact);
        if (p->exact) open_place(p->exact, p->t, 1);
        else ran_out_of_memory(p->t);
        if (!p->exact || p->exact->c.stopped) p->c.stopped = 1;
    }
    return p->c.stopped ? NULL : p->exact;
}

void close_place(place *p)
{
    p->t->isa->fence();
    free(p->buffers);
    free(p->kept.memory);
    free(p->exps);
    if (p->exact) close_place(p->exact);
    free(p->exact);
}
