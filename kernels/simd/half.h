/* The two 16-bit formats, one value at a time: for the base unit, and for rows/layout.c. */
#ifndef HALF_H
#define HALF_H

#include <string.h>

#include "types.h"

static inline f32 bits_to_f32(uint32_t bits)
{
    f32 a;
    memcpy(&a, &bits, sizeof a);
    return a;
}
static inline uint32_t f32_to_bits(f32 a)
{
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    return bits;
}

static inline f32 bf16_to_f32(bf16 h) { return bits_to_f32((uint32_t)h.bits << 16); }

static inline bf16 f32_to_bf16(f32 a)    /* to nearest even */
{
    const uint32_t bits = f32_to_bits(a);
    bf16 h = {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
    if (a != a) h.bits = 0x7fc0;
    return h;
}

static inline f32 f16_to_f32(f16 h)
{
    const uint32_t sign = (uint32_t)(h.bits & 0x8000) << 16, magnitude = h.bits & 0x7fff;
    if (magnitude >= 0x7c00) return bits_to_f32(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);    /* inf, NaN */
    /* Exponent and mantissa in place are the value times 2^-112, subnormals too: one exact product restores it. */
    const f32 a = bits_to_f32(magnitude << 13) * 0x1p112f;
    return bits_to_f32(sign | f32_to_bits(a));
}

static inline f16 f32_to_f16(f32 a)    /* to nearest even */
{
    const uint32_t bits = f32_to_bits(a), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    f16 h;
    if (magnitude > 0x7f800000) h.bits = (uint16_t)(sign | 0x7e00);
    else if (magnitude >= 0x477ff000) h.bits = (uint16_t)(sign | 0x7c00);    /* 65520 and above round to inf */
    /* below 2^-14: adding 1/2 leaves the subnormal's bits, rounded, at the bottom */
    else if (magnitude < 0x38800000) {
        const uint32_t sum = f32_to_bits(bits_to_f32(magnitude) + 0.5f);
        h.bits = (uint16_t)(sign | (sum - 0x3f000000));
    } else h.bits = (uint16_t)(sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
    return h;
}

#endif
