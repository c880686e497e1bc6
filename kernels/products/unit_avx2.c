/* Compiled with the flags of blocks/unit_avx2.c. */
#if defined(__x86_64__) || defined(_M_X64)    /* nothing in the arm64 half of a universal build */
#define ISA avx2
#define USE_AVX2
#include "products/unit.h"
#endif
