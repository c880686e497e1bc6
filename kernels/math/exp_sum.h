/* Sums of e^z in its two parts (exp.h, exp_sum_of.h), as exact as a row can show. high goes into a lane_total at once,
 * where it is not rounded. high q is smaller: lanes may add it up and round it over a chunk of classes, after which it
 * goes there, too. That takes a few operations a vector more than adding e^z in lanes: blocks.h, G, says where it is
 * done. */
#ifndef EXP_SUM_H
#define EXP_SUM_H

#include "math/exp.h"
#include "math/lane_total.h"
#include "simd/simd.h"

#define EXP_SUM PASTE(exp_sum, REAL)
#define exp_sum_of_none PASTE(exp_sum_of_none, REAL)
#define exp_sum_add PASTE(exp_sum_add, REAL)
#define exp_sum_end_chunk PASTE(exp_sum_end_chunk, REAL)
#define taken PASTE(taken, REAL)
#define exp_sum_total PASTE(exp_sum_total, REAL)
#define exp_sum_store PASTE(exp_sum_store, REAL)
#define are_alike PASTE(are_alike, REAL)
#define next_large PASTE(next_large, REAL)
#define sum_of_lanes PASTE(sum_of_lanes, REAL)
#define CHUNK_VECTORS (4 * UNROLL) /* at most, whose sums go on in a lane_total */

#define REAL f32
#include "math/exp_sum_of.h"
#undef REAL
#define REAL f64
#include "math/exp_sum_of.h"
#undef REAL

#endif
