/* The only file that knows CPUs: which ISA units this one can run. */
#include <string.h>

#include "blocks/blocks.h"

#if defined(HAVE_X86_UNITS) && (defined(__x86_64__) || defined(_M_X64))

#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
static void cpuid(int leaf, int out[4]) { __cpuidex(out, leaf, 0); }
static uint64_t xcr0(void) { return _xgetbv(0); }
#else
#include <cpuid.h>
static void cpuid(int leaf, int out[4]) { __cpuid_count(leaf, 0, out[0], out[1], out[2], out[3]); }
static uint64_t xcr0(void)
{
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}
#endif

enum { BASE, AVX2, AVX512 };

static int all(unsigned int flags, unsigned int wanted) { return (flags & wanted) == wanted; }

/* CPUID says what the CPU has, XCR0 what the operating system saves on a switch: both must hold. */
static int level(void)
{
    int leaf[4];
    cpuid(0, leaf);
    if (leaf[0] < 7) return BASE;
    cpuid(1, leaf);
    const unsigned int fma = 1u << 12, popcnt = 1u << 23, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    if (!all((unsigned int)leaf[2], fma | popcnt | osxsave | avx | f16c)) return BASE;
    if (!all((unsigned int)xcr0(), 0x6)) return BASE;
    cpuid(7, leaf);
    const unsigned int avx2 = 1u << 5, f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    if (!all((unsigned int)leaf[1], avx2)) return BASE;
    return all((unsigned int)leaf[1], f | dq | bw | vl) && all((unsigned int)xcr0(), 0xe6) ? AVX512 : AVX2;
}

const isa_table *isa_select(const char *name)
{
    /* Asked once: on a virtual machine a CPUID goes through the hypervisor, and three of them take as long as a small
     * call. Two threads may both ask, and find the same. */
    static int known = -1;
    if (known < 0) known = level();
    if (!strcmp(name, "avx512") && known >= AVX512) return &isa_avx512;
    if (!strcmp(name, "avx2") && known >= AVX2) return &isa_avx2;
    return strcmp(name, "base") ? NULL : &isa_base;
}

#else

const isa_table *isa_select(const char *name) { return strcmp(name, "base") ? NULL : &isa_base; }

#endif
