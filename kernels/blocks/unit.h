/* One ISA unit: the block functions for every element type, and their table. A unit defines ISA, and USE_* where it is
 * not the base. Everything but the table is static: of two external copies of an inline function the linker keeps one,
 * which might be the AVX-512 one for a caller on a CPU without. */
#ifndef UNIT_H
#define UNIT_H

#include "blocks/binary.h"
#include "blocks/blocks.h"
#include "blocks/complete.h"
#include "blocks/scan.h"
#include "blocks/streams.h"
#include "blocks/transform_f64.h"
#include "math/exp_sum.h"
#include "math/lane_total.h"
#include "math/split_weight.h"
#include "simd/simd.h"

#if EXP_TABLE_f32    /* of lanes whose e^z has one */
#define QUICK_FUNCTIONS NAME(quick_sums), NAME(quick_mixture), NAME(quick_gradient)
#else
#define QUICK_FUNCTIONS NULL, NULL, NULL
#endif

#define BLOCK_FUNCTIONS                                 \
    {LANES,                                             \
     EXP_SCALE,                                         \
     NAME(fill),                                        \
     NAME(max),                                         \
     NAME(sum),                                         \
     NAME(pass),                                        \
     NAME(arriving),                                    \
     NAME(spread),                                      \
     NAME(gradient),                                    \
     NAME(log_softmax),                                 \
     NAME(log_softmax_backward),                        \
     NAME(top),                                         \
     NAME(place),                                       \
     NAME(above),                                       \
     NAME(look),                                        \
     NAME(log_probs_gradient),                          \
     NAME(weighted_max),                                \
     NAME(weighted_sum),                                \
     NAME(hessian),                                     \
     NAME(vector_at_top),                               \
     NAME(vector_sum),                                  \
     NAME(hessian_product),                             \
     PASTE(columns_hessian, REAL),                      \
     DISTILLED(distilled_sums),                         \
     DISTILLED(distilled_terms),                        \
     DISTILLED(distilled_gradient),                     \
     QUICK_FUNCTIONS,                                   \
     NAME(transformed_sum),                             \
     NAME(tile_rows),                                   \
     NAME(tile_columns),                                \
     NAME(untile_rows),                                 \
     NAME(untile_columns),                              \
     PASTE(columns_max, REAL),                          \
     PASTE(columns_sum, REAL),                          \
     PASTE(columns_spread, REAL),                       \
     PASTE(columns_gradient, REAL),                     \
     PASTE(columns_log_softmax, REAL),                  \
     PASTE(columns_look, REAL),                         \
     PASTE(near_sums, REAL),                            \
     PASTE(near_numbers, REAL),                         \
     PASTE(near_gradient, REAL),                        \
     PASTE(tile_run, REAL),                             \
     PASTE(untile_run, REAL),                           \
     PASTE(pattern_of, REAL),                           \
     EXP_TABLE ? PASTE(near_gradient_run, REAL) : NULL, \
     PASTE(near_log_softmax_run, REAL)}

/* These take float64 alone (rows/distillation.c). */
#define DISTILLED(function) NULL

#define REAL f32
#include "blocks/columns.h"
#include "blocks/columns_look.h"
#include "blocks/hessian_columns.h"
#include "blocks/near.h"
#include "blocks/runs.h"

#define ELEMENT f16
#include "blocks/vectors.h"
#include "blocks/hessians.h"
#include "blocks/rows.h"
#include "blocks/beside.h"
#include "blocks/numbers.h"
#include "blocks/weighted.h"
#include "blocks/transformed.h"
#include "blocks/tile.h"
#if EXP_TABLE_f32
#include "blocks/distilled_quick.h"
#endif
static const block_functions functions_f16 = BLOCK_FUNCTIONS;
#undef ELEMENT

#define ELEMENT bf16
#include "blocks/vectors.h"
#include "blocks/hessians.h"
#include "blocks/rows.h"
#include "blocks/beside.h"
#include "blocks/numbers.h"
#include "blocks/weighted.h"
#include "blocks/transformed.h"
#include "blocks/tile.h"
#if EXP_TABLE_f32
#include "blocks/distilled_quick.h"
#endif
static const block_functions functions_bf16 = BLOCK_FUNCTIONS;
#undef ELEMENT

#define ELEMENT f32
#include "blocks/vectors.h"
#include "blocks/hessians.h"
#include "blocks/rows.h"
#include "blocks/beside.h"
#include "blocks/numbers.h"
#include "blocks/weighted.h"
#include "blocks/transformed.h"
#include "blocks/tile.h"
#if EXP_TABLE_f32
#include "blocks/distilled_quick.h"
#endif
static const block_functions functions_f32 = BLOCK_FUNCTIONS;
#undef ELEMENT

#undef QUICK_FUNCTIONS
#define QUICK_FUNCTIONS NULL, NULL, NULL
#undef DISTILLED
#define DISTILLED(function) NAME(function)
#undef REAL
#define REAL f64
#include "blocks/columns.h"
#include "blocks/columns_look.h"
#include "blocks/hessian_columns.h"
#include "blocks/near.h"
#include "blocks/runs.h"

#define ELEMENT f64
#include "blocks/vectors.h"
#include "blocks/hessians.h"
#include "blocks/rows.h"
#include "blocks/beside.h"
#include "blocks/numbers.h"
#include "blocks/weighted.h"
#include "blocks/distilled.h"
#include "blocks/tile.h"
#define transformed_sum_f64 NULL
static const block_functions functions_f64 = BLOCK_FUNCTIONS;

#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
const isa_table PASTE(isa, ISA) = {TEXT(ISA),
                                   fence,
                                   scan,
                                   tally,
                                   complete,
                                   transform,
                                   {&functions_f16, &functions_bf16, &functions_f32, &functions_f64},
                                   &functions_streams,
                                   &functions_binary};

#endif
