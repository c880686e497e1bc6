/* Compiled with AVX2, FMA and F16C on. */
#define ISA avx2
#define USE_AVX2
#include "unit.h"
