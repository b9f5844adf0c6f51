// Assignment of points of few coordinates (D <= 8) to K centers: labels, totals, inertia and the largest squared
// distance.
//
// Points are sorted along a Hilbert curve, and each 64 consecutive points form a small box. The points of a box are
// compared only with the candidates of the box: the centers that a bound of distances, with a margin for rounding, does
// not exclude. A box is skipped if its candidates are unchanged and have not moved. The reference distance, with each
// operation rounded once, decides among the candidates, so results are equal to a comparison with all centers. Sums are
// integers, which may be added in any order.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

// The number of points in a small box, and of small boxes in a large box. few.py has the same numbers.
enum { BOX = 64, FANOUT = 16, MAX_WIDTH = 8 };

// An array of a dtype listed below. Its strides, in elements, are of problems, rows and channels. `data` may be NULL.
struct array {
  const void *data;
  int64_t type;
  int64_t strides[3];
};
enum { FLOAT32, FLOAT64, FLOAT16, BFLOAT16, UINT8, INT8, INT16, INT32, INT64 };

// A pass over points in the given order. Results whose pointer is NULL are not computed. The pass adds to the previous
// totals and inertia.
struct direct_pass {
  struct array x, weights;
  int64_t n_rows, n_clusters, width;
  const int64_t *problems; // (B,)
  const void *centers; // (B, K, D)
  const double *sum_scale; // (B, D)
  const double *lowest; // (B, D)
  const double *weight_scale; // (B,)
  const double *sqdist_scale; // (B,)
  uint64_t *totals; // (B, K, D + 1): D totals of w·(x - lowest), then the total of w
  uint64_t *inertia; // (B,)
  void *worst; // (B,)
  int64_t *labels; // (B, N)
  void *sqdist; // (B, N)
};

// A copy of the points of P problems in spatial order. Each problem has n_small small and n_large large boxes.
struct sorted_points {
  struct array x, weights;
  int64_t n_problems, n_rows, n_small, n_large, width;
  void *sorted; // (P, D, n_small * BOX), padded with copies of the last point
  double *sorted_weights; // (P, n_small * BOX), padded with 0; NULL for weights of 1
  int32_t *rows; // (P, N): the row of the given points at each position of the order
  void *small; // (P, n_small, 2, D): midpoint and half width in each coordinate
  void *large; // (P, n_large, 2, D)
  double *half_diagonal; // (P,): mean half diagonal of the small boxes
  double *heaviest; // (P,): the largest weight, at least 1
  uint8_t *has_absent; // (P,): whether a weight is 0
};

// One pass of the radix sort of the rows of a problem.
struct sort_pass {
  struct sorted_points points;
  int64_t problem, pass;
  void *lines;            // (MAX_WIDTH, MAX_LINES): the grid of the keys
  uint32_t *keys, *to_keys; // (N,)
  int32_t *rows, *to_rows;  // (N,)
  int64_t *positions;       // (N_DIGITS,): counts of digits, then the position of the next key with each digit
};

// A pass of B runs over sorted points. Arrays "by slot" keep the results of earlier calls. Run b uses slot slots[b].
struct sorted_pass {
  struct sorted_points points;
  int64_t n_clusters, capacity; // capacity: length of the longest list that is kept
  int64_t n_slots;
  const int64_t *slot_problems, *problems; // (n_slots,) and (B,)
  int64_t *slots; // (B,); NULL or -1 if `assign` uses no slot
  const void *centers; // (B, K, D)
  const double *sum_scale, *lowest, *weight_scale, *sqdist_scale;
  uint64_t *totals; // by slot (K, D + 1)
  int32_t *labels; // by slot (n_small * BOX,)
  int32_t *lists, *counts; // by slot (n_small, capacity) and (n_small,): candidates; a count of 0: not kept
  uint64_t *box_inertia; // by slot (n_small,)
  void *box_worst; // by slot (n_small,)
  void *last, *origins, *slack; // by slot (K, D), (K, D) and (): last centers; centers and slack of the lists
  double *scales; // by slot (2D + 2,): scales and origin of the last call
  uint8_t *moved; // by slot (K,): whether a center differs from that of the last call
  int32_t *flags; // by slot: VALID, REFRESH, RECOUNT, RESCALE
  uint64_t *total_changes; // by run (K, D + 1): changes of totals; NULL: `totals` is updated directly
  uint64_t *total_results; // (B, K, D + 1)
  uint64_t *inertia; // (B,)
  void *worst; // (B,)
  int64_t *label_results; // (B, N)
  void *sqdist_results; // (B, N)
};
// VALID: the slot has the results of an earlier call. REFRESH: new lists are made. RECOUNT: totals are computed from
// all points. RESCALE: the inertia of all boxes is computed again.
enum { VALID = 1, REFRESH = 2, RECOUNT = 4, RESCALE = 8 };

// The slack of a list is the distance by which centers may move before the list must be renewed. It is slack_per_move
// times the last move of the centers, at most most_slack times the mean half diagonal of the small boxes, because long
// lists cost more than new ones. If the last move exceeds this limit, the slack is 0.
static const double slack_per_move = 4.0, most_slack = 0.15;

// Greedy k-means++ over the boxes of one problem. Each SEEDING_GROUP consecutive rows, in the given order, are a group
// with a total of w·d². Random draws use the prefix sums of these totals, as in gpukmeans/engines/native/seeding.py.
enum { SEEDING_GROUP = 256 };
struct seeding_boxes {
  struct sorted_points points;
  void *candidates;                   // (n_candidates, D)
  void *sqdist;                       // (n_small * BOX,): to the nearest center so far; -1 for weight 0 and padding
  int32_t *places;                    // (N,): the position of each row in the order of the points
  void *small_ranges, *large_ranges;  // (.., 2, D, FANOUT): lowest and highest values of FANOUT boxes
  void *small_most, *large_most;      // (.., FANOUT): the largest value of `sqdist` in each box
  double *heaviest;                   // (n_small,): the largest weight of each box, at least 1
  uint64_t *units;                    // the fixed-point total of each group, for `scale`
  double scale;
  int64_t n_candidates;
};

static inline float float_of_half(uint16_t half) {
  uint32_t exponent = half >> 10 & 31, fraction = half & 1023, sign = (uint32_t)(half >> 15) << 31, bits;
  if (!exponent) return (sign ? -1.0f : 1.0f) * ((float)fraction * 0x1p-24f);
  bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static inline float float_of_bfloat16(uint16_t high) {
  uint32_t bits = (uint32_t)high << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

#define VALUE(value) (value)
#define READ_CASE(code, type, convert, real)                                                                           \
  case code: {                                                                                                         \
    const type *from = (const type *)array->data + problem * array->strides[0];                                        \
    for (int i = 0; i < count; i++) {                                                                                  \
      const type *row = from + (rows ? rows[i] : first + i) * array->strides[1];                                       \
      for (int channel = 0; channel < width; channel++)                                                                \
        to[channel * stride + i] = (real)convert(row[channel * array->strides[2]]);                                    \
    }                                                                                                                  \
    break;                                                                                                             \
  }
// Reads `count` rows of a problem, at most BOX, into `to` (width, stride): the given `rows`, or the rows from `first`
// on if `rows` is NULL. All channels of a row are read at once, because unordered rows are in different cache lines.
#define DEFINE_READ(name, real)                                                                                        \
  static void name(const struct array *array, int64_t problem, int width, const int32_t *rows, int64_t first,          \
                   int count, real *to, int64_t stride) {                                                              \
    switch (array->type) {                                                                                             \
      READ_CASE(FLOAT32, float, VALUE, real)                                                                           \
      READ_CASE(FLOAT64, double, VALUE, real)                                                                          \
      READ_CASE(FLOAT16, uint16_t, float_of_half, real)                                                                \
      READ_CASE(BFLOAT16, uint16_t, float_of_bfloat16, real)                                                           \
      READ_CASE(UINT8, uint8_t, VALUE, real)                                                                           \
      READ_CASE(INT8, int8_t, VALUE, real)                                                                             \
      READ_CASE(INT16, int16_t, VALUE, real)                                                                           \
      READ_CASE(INT32, int32_t, VALUE, real)                                                                           \
      READ_CASE(INT64, int64_t, VALUE, real)                                                                           \
    }                                                                                                                  \
  }
DEFINE_READ(read_f32, float)
DEFINE_READ(read_f64, double)

static inline int smaller(int64_t a, int64_t b) { return (int)(a < b ? a : b); }

#include "few_order.h"

#define REAL float
#define REAL_INT int32_t
#define REAL_INT_MAX INT32_MAX
#define REAL_EPS 0x1p-23f
#define REAL_TINY 0x1p-126f
#define REAL_HUGE 0x1p126f
#define VECTOR f32_vector
#define MASK i32_vector
#define LANES F32_LANES
#define V(name) f32_##name
#define MASK_SELECT i32_select
#define SQRT sqrtf
#define READ read_f32
#define NAME(name) name##_f32
#include "few_real.h"
#include "few_seeding.h"
#undef REAL
#undef REAL_INT
#undef REAL_INT_MAX
#undef REAL_EPS
#undef REAL_TINY
#undef REAL_HUGE
#undef VECTOR
#undef MASK
#undef LANES
#undef V
#undef MASK_SELECT
#undef SQRT
#undef READ
#undef NAME

#define REAL double
#define REAL_INT int64_t
#define REAL_INT_MAX INT64_MAX
#define REAL_EPS 0x1p-52
#define REAL_TINY 0x1p-1022
#define REAL_HUGE 0x1p1022
#define VECTOR f64_vector
#define MASK i64_vector
#define LANES F64_LANES
#define V(name) f64_##name
#define MASK_SELECT i64_select
#define SQRT sqrt
#define READ read_f64
#define NAME(name) name##_f64
#include "few_real.h"
#include "few_seeding.h"
