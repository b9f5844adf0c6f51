// Functions for library.py and threads.py: the hash of the sources, the instruction set of this CPU, and the control
// bits by which a thread sets denormal numbers to zero.
#include "common.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

#ifndef GPUKMEANS_SOURCE_HASH
#error "GPUKMEANS_SOURCE_HASH is not defined; hatch_build.py defines it"
#endif

EXPORT uint64_t gpukmeans_source_hash(void) { return GPUKMEANS_SOURCE_HASH; }

#if defined(__x86_64__) || defined(_M_X64)

INLINE int has_bits(unsigned value, unsigned bits) { return (value & bits) == bits; }

// Whether CPU and system support x86-64-v3 (AVX2, FMA and others). __builtin_cpu_supports would need a run-time library
// that clang on Windows and zig lack.
EXPORT int gpukmeans_supports_v3(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) ||
      !has_bits(c, bit_FMA | bit_MOVBE | bit_OSXSAVE | bit_AVX | bit_F16C | bit_SSE4_2 | bit_POPCNT))
    return 0;
  unsigned saved_low, saved_high; // flags of the registers that the system saves: 2 for SSE, 4 for AVX
  __asm__("xgetbv" : "=a"(saved_low), "=d"(saved_high) : "c"(0));
  if (!has_bits(saved_low, 2 | 4)) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has_bits(b, bit_BMI | bit_AVX2 | bit_BMI2)) return 0;
  return __get_cpuid(0x80000001, &a, &b, &c, &d) && has_bits(c, 1 << 5); // LZCNT
}

// Bits of MXCSR: denormal results become zero, and denormal operands are read as zeros.
#define FLUSH_BITS 0x8040
INLINE uint64_t control_register(void) { return _mm_getcsr(); }
INLINE void set_control_register(uint64_t value) { _mm_setcsr((unsigned)value); }

#else

EXPORT int gpukmeans_supports_v3(void) { return 0; }

#define FLUSH_BITS (UINT64_C(1) << 24)
INLINE uint64_t control_register(void) {
  uint64_t value;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
INLINE void set_control_register(uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }

#endif

// The bits of FLUSH_BITS that are set in this thread, 0 if it computes with denormal numbers.
EXPORT uint64_t gpukmeans_flush_bits(void) { return control_register() & FLUSH_BITS; }

EXPORT void gpukmeans_set_flush_bits(uint64_t bits) {
  set_control_register((control_register() & ~(uint64_t)FLUSH_BITS) | (bits & FLUSH_BITS));
}
