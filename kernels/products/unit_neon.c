/* Compiled with the compiler's own flags: every AArch64 CPU has NEON. */
#if defined(__aarch64__) || defined(_M_ARM64)    /* nothing in the x86-64 half of a universal build */
#define ISA neon
#define USE_NEON
#include "products/unit.h"
#endif
