/* The product of bfloat16 factors by AMX's tiles (TDPBF16PS): the sums are float32. Compiled with AMX-BF16 and
 * AVX512-BF16 on, where the compiler knows them. A float32 factor is rounded to bfloat16.
 *
 * A tile is 16 rows of 64 bytes. Four of them are 32 by 32 numbers of the result, two each the rows' and the columns'
 * panels of 32 numbers of the sum: so each tile that is loaded is used twice. */
#if defined(__x86_64__) && defined(__linux__)
#define USE_AVX512
#include "products/product.h"
#include "products/pairs.h"

enum { TILE = 16, SIDE = 2 * TILE };

PACK_PAIRS(pack_rows, bf16, SIDE, store_rows, 0)
PACK_PAIRS(pack_rows, f32, SIDE, store_rows, 0)
PACK_PAIRS(pack_columns, bf16, SIDE, store_pairs, 1)
PACK_PAIRS(pack_columns, f32, SIDE, store_pairs, 1)

/* A compiler that writes tile instructions as assembly takes no account of the memory that they load. */
#define ALL_IS_STORED __asm__ volatile("" ::: "memory")

SIMD void tiles(const char *a, const char *b, ptrdiff_t k, f32 *c, ptrdiff_t stride, int add)
{
    const ptrdiff_t bytes = stride * (ptrdiff_t)sizeof *c;
    f32 *const below = c + TILE * stride;
    ALL_IS_STORED;
    if (add) {
        _tile_loadd(0, c, bytes);
        _tile_loadd(1, c + TILE, bytes);
        _tile_loadd(2, below, bytes);
        _tile_loadd(3, below + TILE, bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (; k > 0; k -= IN_SQUARE, a += 2048, b += 2048) {
        _tile_loadd(4, a, 64);
        _tile_loadd(6, b, 128);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + 64, 128);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 1024, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, bytes);
    _tile_stored(1, c + TILE, bytes);
    _tile_stored(2, below, bytes);
    _tile_stored(3, below + TILE, bytes);
    ALL_IS_STORED;
}

/* Tiles are stored in memory that lies in L1, and go from there past the caches: a store that waits until its line is
 * read costs as much time as the product itself. */
SIMD void tiles_past_caches(const char *a, const char *b, ptrdiff_t k, f32 *c, ptrdiff_t stride)
{
    f32 whole[SIDE * SIDE] __attribute__((aligned(64)));
    tiles(a, b, k, whole, SIDE, 0);
    for (ptrdiff_t i = 0; i < SIDE; ++i) {
        bypass_f32(c + i * stride, load_f32(whole + i * SIDE));
        bypass_f32(c + i * stride + TILE, load_f32(whole + i * SIDE + TILE));
    }
}

static void tiles_at_edge(const char *a, const char *b, ptrdiff_t k, f32 *c, ptrdiff_t stride, ptrdiff_t rows,
                          ptrdiff_t columns, int add)
{
    f32 whole[SIDE * SIDE] = {0};
    const __mmask16 m[2] = {first_16(columns), first_16(columns - TILE)};
    for (ptrdiff_t i = 0; i < rows && add; ++i)
        for (int half = 0; half < 2; ++half)
            store_f32(whole + i * SIDE + half * TILE, _mm512_maskz_loadu_ps(m[half], c + i * stride + half * TILE));
    tiles(a, b, k, whole, SIDE, 1);
    for (ptrdiff_t i = 0; i < rows; ++i)
        for (int half = 0; half < 2; ++half)
            _mm512_mask_storeu_ps(c + i * stride + half * TILE, m[half], load_f32(whole + i * SIDE + half * TILE));
}

static void multiply(const void *a, const void *b, ptrdiff_t k, f32 *c, ptrdiff_t stride, ptrdiff_t rows,
                     ptrdiff_t columns, storing how)
{
    const int in_lines = ((uintptr_t)c | (uintptr_t)stride * sizeof *c) % 64 == 0;
    if (rows < SIDE || columns < SIDE) tiles_at_edge(a, b, k, c, stride, rows, columns, how == ADD);
    else if (how == BYPASS && in_lines) tiles_past_caches(a, b, k, c, stride);
    else {
        for (ptrdiff_t i = 0; i < SIDE; ++i) {
            prefetch(c + i * stride);
            prefetch(c + i * stride + TILE);
            prefetch(c + i * stride + SIDE - 1);
        }
        tiles(a, b, k, c, stride, how == ADD);
    }
}

static void enter(void)
{
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) config = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE},
    };
    _tile_loadconfig(&config);
}

static void leave(void)
{
    _tile_release();
    fence();
}

const product_unit product_amx = {
    .name = "amx",
    .rows = SIDE,
    .columns = SIDE,
    .size = sizeof(bf16),
    .multiple = IN_SQUARE,
    .slice = 2048,
    .whole = 2048,
    .pack_rows = {[ELEMENT_BF16] = pack_rows_bf16, [ELEMENT_F32] = pack_rows_f32},
    .pack_columns = {[ELEMENT_BF16] = pack_columns_bf16, [ELEMENT_F32] = pack_columns_f32},
    .multiply = multiply,
    .enter = enter,
    .leave = leave,
};
#endif
