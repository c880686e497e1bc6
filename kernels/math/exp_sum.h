/* Sums of e^z in two parts (exp.h, exp_sum_of.h). What is high q is small, so that lanes may round it a few times. What
 * is high must not be rounded where it is most of the sum. Powers of 2 are not, in lanes of their own type, for the few
 * vectors of a chunk. A table's numbers fill a float32: they are added in float64, which costs four operations a vector,
 * or in float32, and then the lanes in which much of the sum lies are added again (rows.h, pass). */
#ifndef EXP_SUM_H
#define EXP_SUM_H

#include "math/exp.h"
#include "math/lane_total.h"
#include "simd/simd.h"

#define EXP_SUM PASTE(exp_sum, REAL)
#define exp_sum_of_none PASTE(exp_sum_of_none, REAL)
#define exp_sum_add PASTE(exp_sum_add, REAL)
#define exp_sum_add_exactly PASTE(exp_sum_add_exactly, REAL)
#define exp_sum_end_chunk PASTE(exp_sum_end_chunk, REAL)
#define exp_sum_end PASTE(exp_sum_end, REAL)
#define exp_sum_store PASTE(exp_sum_store, REAL)
#define CHUNK_VECTORS ((EXP_TABLE ? 4 : 2) * UNROLL) /* at most, whose sums go on in a lane_total */

#define REAL f32
#include "math/exp_sum_of.h"
#undef REAL
#define REAL f64
#include "math/exp_sum_of.h"
#undef REAL

#endif
