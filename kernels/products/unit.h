/* One ISA's float32 product, of factors of 16 bits or float32. A unit defines ISA, and USE_* where it is not the base.
 * All is static but the tables, as in blocks/unit.h. */
#ifndef UNIT_H
#define UNIT_H

#include "products/product.h"
#include "products/registers.h"
#include "products/convert.h"

#define REAL f32
#define ELEMENT f16
#include "products/panels.h"
#undef ELEMENT
#define ELEMENT bf16
#include "products/panels.h"
#undef ELEMENT
#define ELEMENT f32
#include "products/panels.h"
#undef ELEMENT

#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
const product_unit PASTE(product, ISA) = {
    .name = TEXT(ISA),
    .rows = ROWS,
    .columns = COLUMNS,
    .size = sizeof(f32),
    .multiple = 1,
    .slice = 384,    /* of a panel of rows 18 KiB on AVX-512; columns come from L2 */
    .whole = 512,    /* a chunk of rows (linear/chunks.py), for the gradient of a weight */
    .pack_rows = {pack_rows_f16, pack_rows_bf16, pack_rows_f32},
    .pack_columns = {pack_columns_f16, pack_columns_bf16, pack_columns_f32},
    .multiply = multiply,
};

#endif
