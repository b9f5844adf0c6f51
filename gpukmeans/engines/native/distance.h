// The reference distance of two rows of any width: squared_distance_f32 and squared_distance_f64. Results are equal bit
// by bit to gpukmeans/distance.py. While there are more than 8 squares, the second half of the squares is added to the
// first half. The last 8 or fewer squares are added from left to right. Each operation is rounded once.
#ifndef DISTANCE_REAL // first inclusion: includes this file again for each type
#ifndef GPUKMEANS_DISTANCE_H
#define GPUKMEANS_DISTANCE_H

#include "common.h"

#define SEQUENTIAL_WIDTH 8

// The number of elements of scratch memory for rows of this width: half of the squares and two vectors.
INLINE int64_t distance_scratch(int64_t width) { return (width + 1) / 2 + 16; }

#define DISTANCE_REAL float
#define DISTANCE_NAME(name) name##_f32
#define DISTANCE_VECTOR f32_vector
#include "distance.h"
#define DISTANCE_REAL double
#define DISTANCE_NAME(name) name##_f64
#define DISTANCE_VECTOR f64_vector
#include "distance.h"

#endif
#else

#define DISTANCE_LANES ((int64_t)(sizeof(DISTANCE_VECTOR) / sizeof(DISTANCE_REAL)))
#define DISTANCE_LOAD(from) (*(const DISTANCE_VECTOR *)(from))
#define DISTANCE_STORE(to, values) (*(DISTANCE_VECTOR *)(to) = (values))

// Writes the squares of the differences of two rows, with the second half added to the first `half` squares. One vector
// of zeros follows.
INLINE void DISTANCE_NAME(halved_squares)(const DISTANCE_REAL *x, const DISTANCE_REAL *y, int64_t width, int64_t half,
                                          DISTANCE_REAL *squares) {
  const int64_t pairs = width - half;
  for (int64_t next = 0; next < pairs; next += DISTANCE_LANES) {
    if (pairs < DISTANCE_LANES) {
      for (int64_t i = 0; i < pairs; i++) {
        const DISTANCE_REAL low = x[i] - y[i], high = x[half + i] - y[half + i];
        squares[i] = low * low + high * high;
      }
      break;
    }
    const int64_t i = at_most(next, pairs - DISTANCE_LANES); // the last vector overlaps the one before
    const DISTANCE_VECTOR low = DISTANCE_LOAD(x + i) - DISTANCE_LOAD(y + i);
    const DISTANCE_VECTOR high = DISTANCE_LOAD(x + half + i) - DISTANCE_LOAD(y + half + i);
    DISTANCE_STORE(squares + i, low * low + high * high);
  }
  if (half > pairs) {
    const DISTANCE_REAL middle = x[half - 1] - y[half - 1];
    squares[half - 1] = middle * middle;
  }
  DISTANCE_STORE(squares + half, (DISTANCE_VECTOR){0});
}

INLINE DISTANCE_REAL DISTANCE_NAME(squared_distance_by_halves)(const DISTANCE_REAL *x, const DISTANCE_REAL *y,
                                                               int64_t width, DISTANCE_REAL *squares) {
  int64_t left = (width + 1) / 2;
  DISTANCE_NAME(halved_squares)(x, y, width, left, squares);
  while (left > SEQUENTIAL_WIDTH) {
    const int64_t half = (left + 1) / 2;
    // The last vector may include elements after the last square. They are 0, so they change no bit of a sum. Elements
    // written after the first half are overwritten below.
    for (int64_t i = 0; i < left - half; i += DISTANCE_LANES)
      DISTANCE_STORE(squares + i, DISTANCE_LOAD(squares + i) + DISTANCE_LOAD(squares + half + i));
    DISTANCE_STORE(squares + half, (DISTANCE_VECTOR){0});
    left = half;
  }
  DISTANCE_REAL total = squares[0];
  for (int64_t i = 1; i < left; i++) total += squares[i];
  return total;
}

// Squared distance of rows x and y. `scratch` has distance_scratch(width) elements.
INLINE DISTANCE_REAL DISTANCE_NAME(squared_distance)(const DISTANCE_REAL *x, const DISTANCE_REAL *y, int64_t width,
                                                     DISTANCE_REAL *scratch) {
  if (width <= SEQUENTIAL_WIDTH) {
    DISTANCE_REAL difference = x[0] - y[0], total = difference * difference;
    for (int64_t i = 1; i < width; i++) {
      difference = x[i] - y[i];
      total += difference * difference;
    }
    return total;
  }
  switch (width) { // for frequent widths the compiler makes loops of constant length
  case 16: return DISTANCE_NAME(squared_distance_by_halves)(x, y, 16, scratch);
  case 32: return DISTANCE_NAME(squared_distance_by_halves)(x, y, 32, scratch);
  case 64: return DISTANCE_NAME(squared_distance_by_halves)(x, y, 64, scratch);
  case 128: return DISTANCE_NAME(squared_distance_by_halves)(x, y, 128, scratch);
  default: return DISTANCE_NAME(squared_distance_by_halves)(x, y, width, scratch);
  }
}

#undef DISTANCE_REAL
#undef DISTANCE_NAME
#undef DISTANCE_VECTOR
#undef DISTANCE_LANES
#undef DISTANCE_LOAD
#undef DISTANCE_STORE
#endif
