/* Contiguous numbers of one type to another, rounded once, to nearest even. */

/* Bytes: rows that are widened block by block are worked on between two of them. */
#define CONVERT_AHEAD 8192

/* Large results bypass the caches, from the first vector on that lies at a multiple of its size. */
#define CONVERT(FROM, TO)                                                                  \
    static void convert_##FROM##_##TO(const void *from, void *to, ptrdiff_t n, int bypass) \
    {                                                                                      \
        const FROM *x = from;                                                              \
        TO *out = to;                                                                      \
        const ptrdiff_t first = (ptrdiff_t)(-(uintptr_t)to / sizeof *out % LANES_f32);     \
        if (bypass && n >= LANES_f32 && (uintptr_t)to % sizeof *out == 0) {                \
            if (first > 0) store_part_##TO(out, first, load_part_##FROM(x, first, 0));     \
            for (n -= first, x += first, out += first; n >= LANES_f32;                     \
                 n -= LANES_f32, x += LANES_f32, out += LANES_f32)                         \
                bypass_##TO(out, load_##FROM(x));                                          \
            if (bypass == BYPASS_FENCED) fence();                                          \
        }                                                                                  \
        for (; n >= LANES_f32; n -= LANES_f32, x += LANES_f32, out += LANES_f32) {         \
            prefetch((const char *)x + CONVERT_AHEAD);                                     \
            store_##TO(out, load_##FROM(x));                                               \
        }                                                                                  \
        if (n > 0) store_part_##TO(out, n, load_part_##FROM(x, n, 0));                     \
    }

CONVERT(f32, f16)
CONVERT(f32, bf16)
CONVERT(f16, f32)
CONVERT(bf16, f32)

convert_function *const PASTE(converters, ISA)[4][4] = {
    [ELEMENT_F16] = {[ELEMENT_F32] = convert_f16_f32},
    [ELEMENT_BF16] = {[ELEMENT_F32] = convert_bf16_f32},
    [ELEMENT_F32] = {[ELEMENT_F16] = convert_f32_f16, [ELEMENT_BF16] = convert_f32_bf16},
};
