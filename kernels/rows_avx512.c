/* Compiled with AVX-512 F, DQ, BW and VL on. */
#define ISA avx512
#define USE_AVX512
#include "unit.h"
