/* One ISA unit: the block functions for every element type, and their table. A unit defines ISA, and USE_* where it is
 * not the base. Everything but the table is static: of two external copies of an inline function the linker keeps one,
 * which might be the AVX-512 one for a caller on a CPU without. */
#include <math.h>

#include "anchor.h"
#include "compensated.h"
#include "log.h"
#include "simd.h"

#define REAL f32
#include "exp.h"
#include "columns.h"
#define ELEMENT f16
#include "rows.h"
#include "tile.h"
static const block_functions functions_f16 = BLOCK_FUNCTIONS;
#undef ELEMENT
#define ELEMENT bf16
#include "rows.h"
#include "tile.h"
static const block_functions functions_bf16 = BLOCK_FUNCTIONS;
#undef ELEMENT
#define ELEMENT f32
#include "rows.h"
#include "tile.h"
static const block_functions functions_f32 = BLOCK_FUNCTIONS;
#include "streams.h"
#undef ELEMENT
#undef REAL

#define REAL f64
#include "exp.h"
#include "columns.h"
#include "finish.h"
#define ELEMENT f64
#include "rows.h"
#include "tile.h"
static const block_functions functions_f64 = BLOCK_FUNCTIONS;

#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
const isa_table PASTE(isa, ISA) = {TEXT(ISA), fence, finish,
                                   {&functions_f16, &functions_bf16, &functions_f32, &functions_f64},
                                   &functions_streams};
