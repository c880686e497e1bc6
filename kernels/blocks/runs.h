/* Rows that lie one after the other in memory, in the lanes' type: shorter ways than tile.h has into a tile and out of it,
 * and for results a way without one. unit.h includes this once for each REAL, after near.h. */
#include "blocks/prefetch.h"

/* In parts of 16 bytes. Up to PART - 1 elements past the last row are read, and come to nothing. */
static void NAME_R(tile_run)(const void *from, ptrdiff_t classes, void *tile)
{
    const REAL *x = from;
    REAL *to = tile;
    for (ptrdiff_t i = 0; i < classes; ++i) prefetch((const char *)(x + i * LANES) + PREFETCH);
    for (ptrdiff_t c = 0; c < classes; c += PART) {
        vec v[16 / sizeof(REAL)];
        for (ptrdiff_t i = 0; i < PART; ++i) v[i] = v_load_parts(x + i * classes + c, PART * classes);
        transpose_parts(v);
        for (ptrdiff_t i = 0; i < PART; ++i) v_store_real(to + (c + i) * LANES, v[i]);
    }
}

/* The classes from c on of each row, as PART vectors have them; those that end before a row does are cut where they would
 * leave the last one. */
SIMD void NAME_R(untile_part)(const vec *v, ptrdiff_t classes, ptrdiff_t c, int cuts, REAL *out)
{
    UNROLLED
    for (int part = 0; part < LANES / PART; ++part) {
        UNROLLED
        for (int i = 0; i < PART; ++i) {
            const ptrdiff_t at = (part * PART + i) * classes + c, left = LANES * classes - at;
            if (!cuts || left >= PART) v_store_part_of(out + at, v[i], part);
            else {
                REAL last[16 / sizeof(REAL)];
                v_store_part_of(last, v[i], part);
                for (ptrdiff_t j = 0; j < left; ++j) out[at + j] = last[j];
            }
        }
    }
}

/* From the last classes to the first: what a part writes past its row's end, the next row's first part writes over. */
static void NAME_R(untile_run)(const void *tile, ptrdiff_t classes, void *to)
{
    const REAL *from = tile;
    REAL *out = to;
    for (ptrdiff_t i = 0; i < classes; ++i) prefetch((const char *)(out + i * LANES) + OUT_PREFETCH);
    for (ptrdiff_t c = (classes - 1) / PART * PART; c >= 0; c -= PART) {
        vec v[16 / sizeof(REAL)];
        for (ptrdiff_t i = 0; i < PART; ++i) v[i] = v_load_real(from + (c + i) * LANES);
        transpose_parts(v);
        if (c + PART > classes) NAME_R(untile_part)(v, classes, c, 1, out);
        else NAME_R(untile_part)(v, classes, c, 0, out);
    }
}

/* Results where the logits lie, a vector of them after the other, whatever rows it reaches over: what is one number of a
 * row is picked for each element. e^z once more takes less than the way out of a tile. */

#define INTEGER_f32 int32_t
#define INTEGER_f64 int64_t

static void NAME_R(pattern_of)(ptrdiff_t classes, void *rows, void *class_numbers)
{
    PASTE(INTEGER, REAL) *row = rows;
    REAL *number = class_numbers;
    for (ptrdiff_t i = 0; i < classes * LANES; ++i) {
        row[i] = (PASTE(INTEGER, REAL))(i / classes);
        number[i] = (REAL)(i % classes);
    }
}

SIMD void NAME_R(near_run)(const REAL *x, ptrdiff_t classes, const usual_rows *u, run_pattern of, REAL *out, REAL *hess,
                           int targets, int hessians, int bypass)
{
    const EXP_FRAME f = frame_of(v_set1(0), v_set1(0));
    const vec factors = NAME_R(lanes_of)(u->factor);
    vec ys = factors, values = factors;
    if (targets) ys = NAME_R(classes_of)(u->y), values = NAME_R(lanes_of)(u->value);
    NAME_R(diagonals) d = {factors, factors, factors, factors, factors};
    if (hessians) d = NAME_R(diagonals_of)(u->hess);
    for (ptrdiff_t i = 0; i < classes * LANES; i += LANES) {
        const PASTE(INTEGER, REAL) *rows = (const PASTE(INTEGER, REAL) *)of.rows + i;
        if (!bypass) prefetch((const char *)(out + i) + OUT_PREFETCH);
        const vec e = v_exp_near_whole(v_load_real(x + i), f);
        if (hessians) {
            if (!bypass) prefetch((const char *)(hess + i) + OUT_PREFETCH);
            const NAME_R(diagonals) own = {v_pick(d.unit, rows), v_pick(d.of_e, rows), d.second, v_pick(d.at_top, rows),
                                           v_pick(d.least, rows)};
            const vec diagonal = NAME_R(diagonal)(e, own, 0);
            if (bypass) v_bypass_real(hess + i, diagonal);
            else v_store_real(hess + i, diagonal);
        }
        vec result = v_mul(e, v_pick(factors, rows));
        if (targets) {
            const mask at_y = v_equal(v_pick(ys, rows), v_load_real((const REAL *)of.class_numbers + i));
            result = v_where(at_y, v_pick(values, rows), result);
        }
        if (bypass) v_bypass_real(out + i, result);
        else v_store_real(out + i, result);
    }
}

/* From the logits to their gradients, with diagonals beside them or without, or to a softmax. */
static void NAME_R(near_gradient_run)(const void *x, ptrdiff_t classes, const usual_rows *u, run_pattern of, void *out,
                                      void *hess, int bypass)
{
    if (hess && bypass) NAME_R(near_run)(x, classes, u, of, out, hess, 1, 1, 1);
    else if (hess) NAME_R(near_run)(x, classes, u, of, out, hess, 1, 1, 0);
    else if (u->y && bypass) NAME_R(near_run)(x, classes, u, of, out, NULL, 1, 0, 1);
    else if (u->y) NAME_R(near_run)(x, classes, u, of, out, NULL, 1, 0, 0);
    else if (bypass) NAME_R(near_run)(x, classes, u, of, out, NULL, 0, 0, 1);
    else NAME_R(near_run)(x, classes, u, of, out, NULL, 0, 0, 0);
}

/* As columns_log_softmax. */
static void NAME_R(near_log_softmax_run)(const void *logits, ptrdiff_t classes, const batch *b, run_pattern of,
                                         void *to, int bypass)
{
    const REAL *x = logits;
    REAL *out = to;
    vec l;
    const vec m = NAME_R(lse_of)(b, &l);
    for (ptrdiff_t i = 0; i < classes * LANES; i += LANES) {
        const PASTE(INTEGER, REAL) *rows = (const PASTE(INTEGER, REAL) *)of.rows + i;
        if (!bypass) prefetch((const char *)(out + i) + OUT_PREFETCH);
        const vec result = v_sub(v_sub(v_load_real(x + i), v_pick(m, rows)), v_pick(l, rows));
        if (bypass) v_bypass_real(out + i, result);
        else v_store_real(out + i, result);
    }
}
