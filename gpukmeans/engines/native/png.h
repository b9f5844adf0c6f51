// Predictions of bytes by the filter types of PNG (ISO/IEC 15948, 9.2): 0 none, 1 left, 2 above, 3 average, 4 Paeth.
// Each byte is in a 16-bit lane, so that sums of bytes do not overflow.
#ifndef GPUKMEANS_PNG_H
#define GPUKMEANS_PNG_H

#include "common.h"

#define BYTE_LANES (VECTOR_BYTES / 2)
typedef uint8_t narrow_bytes_t __attribute__((vector_size(BYTE_LANES), aligned(1), may_alias));
typedef VECTOR_OF(int16_t) bytes_t;

INLINE bytes_t bytes_load(const uint8_t *from) {
  return __builtin_convertvector(*(const narrow_bytes_t *)from, bytes_t);
}
INLINE bytes_t bytes_fill(int value) { return (bytes_t){0} + (int16_t)value; }
INLINE bytes_t bytes_select(bytes_t mask, bytes_t yes, bytes_t no) { return (mask & yes) | (~mask & no); }
INLINE bytes_t bytes_magnitude(bytes_t values) {
  const bytes_t sign = values >> 15;
  return (values ^ sign) - sign;
}

INLINE bytes_t predict_paeth(bytes_t left, bytes_t above, bytes_t above_left) {
  const bytes_t from_left = above - above_left, from_above = left - above_left;
  const bytes_t by_left = bytes_magnitude(from_left), by_above = bytes_magnitude(from_above);
  const bytes_t by_both = bytes_magnitude(from_left + from_above);
  const bytes_t others = bytes_select(by_above <= by_both, above, above_left);
  return bytes_select((by_left <= by_above) & (by_left <= by_both), left, others);
}

INLINE bytes_t predict(int filter, bytes_t left, bytes_t above, bytes_t above_left) {
  switch (filter) {
  case 1: return left;
  case 2: return above;
  case 3: return (left + above) >> 1;
  case 4: return predict_paeth(left, above, above_left);
  default: return bytes_fill(0);
  }
}

#endif
