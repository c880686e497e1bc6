/* Plain C: SSE2 on x86-64, NEON on arm64 (simd/base.h). */
#define ISA base
#include "blocks/unit.h"
