/* The only file that knows CPUs: which ISA units this one can run. */
#if defined(__linux__)
#define _DEFAULT_SOURCE    /* syscall */
#endif
#include <string.h>

#include "blocks/blocks.h"
#include "products/product.h"

#if defined(HAVE_X86_UNITS) && (defined(__x86_64__) || defined(_M_X64))

#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
static void cpuid_of(int leaf, int subleaf, int out[4]) { __cpuidex(out, leaf, subleaf); }
static uint64_t xcr0(void) { return _xgetbv(0); }
#else
#include <cpuid.h>
static void cpuid_of(int leaf, int subleaf, int out[4])
{
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}
static uint64_t xcr0(void)
{
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}
#endif

#if defined(HAVE_AMX_UNIT)
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { BASE, AVX2, AVX512 };

static void cpuid(int leaf, int out[4]) { cpuid_of(leaf, 0, out); }

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

/* Asked once: on a virtual machine a CPUID goes through the hypervisor, and three of them take as long as a small call.
 * Two threads may both ask, and find the same. */
static int known_level(void)
{
    static int known = -1;
    if (known < 0) known = level();
    return known;
}

const isa_table *isa_select(const char *name)
{
    if (!strcmp(name, "avx512") && known_level() >= AVX512) return &isa_avx512;
    if (!strcmp(name, "avx2") && known_level() >= AVX2) return &isa_avx2;
    return strcmp(name, "base") ? NULL : &isa_base;
}

static int has_avx512_bf16(void)
{
    int leaf[4];
    if (known_level() < AVX512) return 0;
    cpuid_of(7, 1, leaf);
    return all((unsigned int)leaf[0], 1u << 5);
}

int pairs_are_fast(void)
{
    int leaf[4];
    char vendor[13] = {0};
    cpuid(0, leaf);
    memcpy(vendor, &leaf[1], 4), memcpy(vendor + 4, &leaf[3], 4), memcpy(vendor + 8, &leaf[2], 4);
    return strcmp(vendor, "GenuineIntel") != 0;
}

/* Linux gives a process the tiles, 8 KiB more for each thread on a switch, only when it asks. It refuses where a thread's
 * stack for signals is too small for them. */
static int has_amx(void)
{
#if defined(HAVE_AMX_UNIT)
    enum { REQUEST_STATE = 0x1023, TILES = 18 };
    const unsigned int bf16_tiles = 1u << 22, tiles = 1u << 24;
    int leaf[4];
    cpuid(7, leaf);
    if (!all((unsigned int)leaf[3], bf16_tiles | tiles) || !all((unsigned int)xcr0(), 3u << 17)) return 0;
    return syscall(SYS_arch_prctl, REQUEST_STATE, TILES) == 0;
#else
    return 0;
#endif
}

const product_unit *product_unit_named(const char *name)
{
#if defined(HAVE_AVX512_BF16_UNIT)
    static int bf16 = -1, amx = -1;
    if (bf16 < 0) bf16 = has_avx512_bf16();
    if (bf16 && !strcmp(name, "avx512_bf16")) return &product_avx512_bf16;
#if defined(HAVE_AMX_UNIT)
    if (bf16 && !strcmp(name, "amx")) {
        if (amx < 0) amx = has_amx();
        return amx ? &product_amx : NULL;
    }
#endif
#endif
    if (!strcmp(name, "avx512") && known_level() >= AVX512) return &product_avx512;
    if (!strcmp(name, "avx2") && known_level() >= AVX2) return &product_avx2;
    return strcmp(name, "base") ? NULL : &product_base;
}

convert_function *converter(const char *isa, element from, element to)
{
    if (!strcmp(isa, "avx512") && known_level() >= AVX512) return converters_avx512[from][to];
    if (!strcmp(isa, "avx2") && known_level() >= AVX2) return converters_avx2[from][to];
    return strcmp(isa, "base") ? NULL : converters_base[from][to];
}

#else

/* Every AArch64 CPU runs the NEON unit. */
#if defined(HAVE_NEON_UNITS) && (defined(__aarch64__) || defined(_M_ARM64))
#define WITH_NEON(name, neon, base) (!strcmp(name, "neon") ? (neon) : !strcmp(name, "base") ? (base) : NULL)
#else
#define WITH_NEON(name, neon, base) (!strcmp(name, "base") ? (base) : NULL)
#endif

const isa_table *isa_select(const char *name) { return WITH_NEON(name, &isa_neon, &isa_base); }
const product_unit *product_unit_named(const char *name) { return WITH_NEON(name, &product_neon, &product_base); }
int pairs_are_fast(void) { return 0; }
convert_function *converter(const char *isa, element from, element to)
{
    return WITH_NEON(isa, converters_neon[from][to], converters_base[from][to]);
}

#endif
