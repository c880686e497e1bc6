/* Compiled with the flags of blocks/unit_avx512.c. */
#if defined(__x86_64__) || defined(_M_X64)    /* nothing in the arm64 half of a universal build */
#define ISA avx512
#define USE_AVX512
#include "products/unit.h"
#endif
