// Common definitions of all kernels: exported names, vectors as wide as the registers, and rounding to fixed point.
//
// Kernels are GNU C for gcc and clang. Each operation is rounded once, because the build compiles all files except
// propose.c without fused multiply-adds. The checks below stop the build if a compiler option would change results.
#ifndef GPUKMEANS_COMMON_H
#define GPUKMEANS_COMMON_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__) && !defined(__clang__)
#error "the kernels need gcc or clang"
#endif
#if FLT_EVAL_METHOD != 0
#error "float and double operations must be rounded to their own precision"
#endif
#ifdef __FAST_MATH__
#error "-ffast-math changes results"
#endif

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))

// Vectors as wide as the registers of the target, because wider vectors are many times slower. Addresses of loads and
// stores need the alignment of an element only.
#ifdef __AVX__
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define F32_LANES (VECTOR_BYTES / 4)
#define F64_LANES (VECTOR_BYTES / 8)
#define VECTOR_OF(element) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(element)), may_alias)) element
typedef VECTOR_OF(float) f32_vector;
typedef VECTOR_OF(int32_t) i32_vector; // also the mask of a comparison of f32_vector: -1 where it holds, else 0
typedef VECTOR_OF(double) f64_vector;
typedef VECTOR_OF(int64_t) i64_vector; // also the mask of a comparison of f64_vector

INLINE f32_vector f32_load(const float *from) { return *(const f32_vector *)from; }
INLINE f64_vector f64_load(const double *from) { return *(const f64_vector *)from; }
INLINE i64_vector i64_load(const int64_t *from) { return *(const i64_vector *)from; }
INLINE void f32_store(float *to, f32_vector values) { *(f32_vector *)to = values; }
INLINE void f64_store(double *to, f64_vector values) { *(f64_vector *)to = values; }
INLINE void i64_store(int64_t *to, i64_vector values) { *(i64_vector *)to = values; }

INLINE f32_vector f32_fill(float value) { return (f32_vector){0} + value; }
INLINE i32_vector i32_fill(int32_t value) { return (i32_vector){0} + value; }
INLINE f64_vector f64_fill(double value) { return (f64_vector){0} + value; }

// Each lane is `yes` where the mask is -1, and `no` where it is 0. Compilers would turn ?: into branches.
INLINE i32_vector i32_select(i32_vector mask, i32_vector yes, i32_vector no) { return (mask & yes) | (~mask & no); }
INLINE i64_vector i64_select(i64_vector mask, i64_vector yes, i64_vector no) { return (mask & yes) | (~mask & no); }
INLINE f32_vector f32_select(i32_vector mask, f32_vector yes, f32_vector no) {
  return (f32_vector)i32_select(mask, (i32_vector)yes, (i32_vector)no);
}
INLINE f64_vector f64_select(i64_vector mask, f64_vector yes, f64_vector no) {
  return (f64_vector)i64_select(mask, (i64_vector)yes, (i64_vector)no);
}

INLINE int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

// Calls the function with the number of channels of an image, 1 to 4, as a constant.
#define FOR_CHANNELS(channels, function, ...)                                                                          \
  switch (channels) {                                                                                                  \
  case 1: function(1, __VA_ARGS__); break;                                                                             \
  case 2: function(2, __VA_ARGS__); break;                                                                             \
  case 3: function(3, __VA_ARGS__); break;                                                                             \
  case 4: function(4, __VA_ARGS__); break;                                                                             \
  }

// term * scale rounded to an integer, ties to even, as in gpukmeans/fixed_point.py. The scale is a power of two, so the
// product is exact. Totals are added in uint64_t: a partial sum may exceed int64_t even where the total fits, and
// unsigned addition wraps around.
INLINE int64_t to_fixed(double term, double scale) { return (int64_t)rint(term * scale); }

// `to_fixed` for |term * scale| < FIXED_SMALL. The addition rounds the product to an integer, which is in the lowest
// bits of the sum. Compilers vectorize the addition, but may call `rint` for each element.
#define FIXED_SMALL 0x1p51
#define FIXED_ORIGIN 0x1.8p52
#define FIXED_ORIGIN_BITS INT64_C(0x4338000000000000)
INLINE int64_t small_to_fixed(double term, double scale) {
  const double shifted = term * scale + FIXED_ORIGIN;
  int64_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  return bits - FIXED_ORIGIN_BITS;
}

#endif
