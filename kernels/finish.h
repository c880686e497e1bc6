/* From what was added up over a row to what its loss and gradient are made of, for a vector of rows. */

SIMD void finish_as(batch *b, ptrdiff_t rows, int targets)
{
    const vec_f64 one = v_set1_f64(1);
    for (ptrdiff_t i = 0; i < rows; i += LANES_f64) {
        const exp_frame_f64 f = frame_of_f64(load_f64(b->shift + i), load_f64(b->k + i));
        const vec_f64 top = v_exp_f64(load_f64(b->max + i), f);
        vec_f64 above = load_f64(b->sum + i), target = one;
        if (targets) {
            target = v_exp_f64(load_f64(b->z + i), f);
            above = v_fma_f64(load_f64(b->own + i), target, above);
        }
        const vec_f64 rest = v_add_f64(load_f64(b->base + i), v_div_f64(above, top));
        const vec_f64 share = v_div_f64(one, v_add_f64(one, rest));
        store_f64(b->top + i, top);
        store_f64(b->rest + i, rest);
        store_f64(b->log_sum + i, v_log1p_f64(rest));
        store_f64(b->share + i, share);
        if (targets) store_f64(b->p + i, v_mul_f64(v_div_f64(target, top), share));
    }
}

static void finish(batch *b, ptrdiff_t rows, int targets)
{
    if (targets) finish_as(b, rows, 1);
    else finish_as(b, rows, 0);
}
