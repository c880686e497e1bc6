/* Compiled with AVX-512 F, DQ, BW and VL on. */
#if defined(__x86_64__) || defined(_M_X64)    /* nothing in the arm64 half of a universal build */
#define ISA avx512
#define USE_AVX512
#include "blocks/unit.h"
#endif
