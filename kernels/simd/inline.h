/* How vector operations and block functions are declared, and how a template's names get their type. */
#ifndef INLINE_H
#define INLINE_H

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
/* Left to itself GCC passes as arguments the flags that are constants where a function is inlined. */
#if defined(__GNUC__)
#define SIMD static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define SIMD static __forceinline
#else
#define SIMD static inline
#endif

/* What is rarely called, and is not to be copied into its callers. */
#if defined(__GNUC__)
#define NOT_INLINED __attribute__((noinline))
#elif defined(_MSC_VER)
#define NOT_INLINED __declspec(noinline)
#else
#define NOT_INLINED
#endif

/* Before a loop whose trips must each be of constants, since it names parts of a vector. */
#if defined(__GNUC__)
#define UNROLLED _Pragma("GCC unroll 16")
#else
#define UNROLLED
#endif

#endif
