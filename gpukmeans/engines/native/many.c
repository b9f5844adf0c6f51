// Assignment of points of many coordinates: matrix products propose the nearest centers, and the reference distance
// (distance.h) decides.
//
// Points and centers are shifted by an origin near the centers. A product gives v = x·c - |c|²/2 for a point and each
// center of a panel of 16, so |x|² - 2v is the squared distance up to rounding. A center is excluded if |x|² - 2v is
// above the squared distance to another center by more than the rounding errors of both (see `margin`). All other
// centers are compared by the reference distance, and the lowest index is chosen on ties. So no bit of a result depends
// on the product.
//
// Each point has for each panel a lower bound of its distances to the centers of the panel, except its nearest center.
// When centers move, the bound decreases by the largest move of a center of the panel (Hamerly 2010; Ding et al. 2015,
// Yinyang k-means). A panel is skipped if its bound is above the distance to the nearest center of the last call.
//
// Terms of sums are rounded once to fixed point, as in gpukmeans/fixed_point.py. After the first call, only points
// whose labels change are added and subtracted.
#include "distance.h"
#include "propose.h"

#include <stdlib.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#define MAX_ROWS 126         // most rows (points) of a block; a multiple of PROPOSE_ROWS
#define ROW_BYTES (1 << 17)  // most bytes of the shifted coordinates of a block
#define MAX_FOUND 12         // most centers listed for one point as possibly nearest; with more, all are compared
#define ALL_CENTERS (MAX_FOUND + 1)
#define KNOWN_LABELS 1
#define KNOWN_BOUNDS 2
#define POWER_STEPS 3
#define GROUP 256            // rows of a group in seeding, which has one total of w·d²
#define NORM_SUMS 16         // partial sums of a squared norm, which reduce its rounding error

INLINE int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
INLINE int64_t n_panels(int64_t n_clusters) { return (n_clusters + PANEL - 1) / PANEL; }

// The number of rows of a block: as many multiples of PROPOSE_ROWS as fit in ROW_BYTES, at least one, at most MAX_ROWS.
INLINE int64_t block_rows(int64_t width, int64_t size) {
  const int64_t fit = ROW_BYTES / (width * size) / PROPOSE_ROWS * PROPOSE_ROWS;
  return fit < PROPOSE_ROWS ? PROPOSE_ROWS : at_most(fit, MAX_ROWS);
}

INLINE int64_t n_groups(int64_t n_rows) { return (n_rows + GROUP - 1) / GROUP; }

INLINE int bit_length(int64_t value) {
  int bits = 0;
  for (; value; value >>= 1) bits++;
  return bits;
}

// Reserves `size` bytes at `*scratch`, and moves `*scratch` behind them.
INLINE void *take(char **scratch, int64_t size) {
  void *memory = *scratch;
  *scratch += round_up(size, 64);
  return memory;
}

// Whether the mask of a comparison is true in all lanes.
INLINE int all_set(const void *mask) {
#ifdef __AVX__
  return _mm256_movemask_ps(_mm256_loadu_ps(mask)) == 255;
#else
  uint64_t halves[2];
  memcpy(halves, mask, sizeof halves);
  return (halves[0] & halves[1]) == UINT64_MAX;
#endif
}

// The mask as bits. The lowest bit is of the first lane.
INLINE unsigned f32_bits(i32_vector mask) {
#ifdef __AVX__
  return (unsigned)_mm256_movemask_ps(_mm256_loadu_ps((const float *)&mask));
#else
  unsigned bits = 0;
  for (int lane = 0; lane < F32_LANES; lane++) bits |= (unsigned)(mask[lane] & 1) << lane;
  return bits;
#endif
}
INLINE unsigned f64_bits(i64_vector mask) {
#ifdef __AVX__
  return (unsigned)_mm256_movemask_pd(_mm256_loadu_pd((const double *)&mask));
#else
  unsigned bits = 0;
  for (int lane = 0; lane < F64_LANES; lane++) bits |= (unsigned)(mask[lane] & 1) << lane;
  return bits;
#endif
}

// The largest lane and the sum of the lanes, by shuffles. Through memory, loads would wait for the stores of lanes.
#ifdef __AVX__
INLINE __m128 f32_halves_of(f32_vector vector, int half) {
  return half ? _mm256_extractf128_ps((__m256)vector, 1) : _mm256_castps256_ps128((__m256)vector);
}
INLINE float f32_largest_lane(f32_vector vector) {
  __m128 lanes = _mm_max_ps(f32_halves_of(vector, 0), f32_halves_of(vector, 1));
  lanes = _mm_max_ps(lanes, _mm_movehl_ps(lanes, lanes));
  return _mm_cvtss_f32(_mm_max_ss(lanes, _mm_shuffle_ps(lanes, lanes, 1)));
}
INLINE float f32_sum_of_lanes(f32_vector vector) {
  __m128 lanes = _mm_add_ps(f32_halves_of(vector, 0), f32_halves_of(vector, 1));
  lanes = _mm_add_ps(lanes, _mm_movehl_ps(lanes, lanes));
  return _mm_cvtss_f32(_mm_add_ss(lanes, _mm_shuffle_ps(lanes, lanes, 1)));
}
#else
INLINE float f32_largest_lane(f32_vector vector) {
  float largest = vector[0];
  for (int lane = 1; lane < F32_LANES; lane++) largest = vector[lane] > largest ? vector[lane] : largest;
  return largest;
}
INLINE float f32_sum_of_lanes(f32_vector vector) {
  float sum = vector[0];
  for (int lane = 1; lane < F32_LANES; lane++) sum += vector[lane];
  return sum;
}
#endif
INLINE double f64_largest_lane(f64_vector vector) {
  double largest = vector[0];
  for (int lane = 1; lane < F64_LANES; lane++) largest = vector[lane] > largest ? vector[lane] : largest;
  return largest;
}
INLINE double f64_sum_of_lanes(f64_vector vector) {
  double sum = vector[0];
  for (int lane = 1; lane < F64_LANES; lane++) sum += vector[lane];
  return sum;
}

// Begins to load a range of memory into caches.
INLINE void fetch(const void *from, int64_t size) {
  for (int64_t at = 0; at < size; at += 64) __builtin_prefetch((const char *)from + at);
}

// Lower bounds after the centers of each panel have moved by at most `drifts`.
INLINE f32_vector moved_bounds(f32_vector bounds, f32_vector drifts) {
  const f32_vector moved = bounds - drifts;
  return f32_select(moved > 0, moved * (1 - 2 * FLT_EPSILON), f32_fill(0));
}

INLINE float round_up_to_f32(double value) {
  return value < 0x1p120 ? (float)value * (1 + 2 * FLT_EPSILON) + FLT_MIN : INFINITY;
}

// The coordinate of a center along a direction.
struct projection {
  double along;
  int32_t center;
};

static int compare_projections(const void *a, const void *b) {
  const double first = ((const struct projection *)a)->along, second = ((const struct projection *)b)->along;
  return (first > second) - (first < second);
}

#define REAL float
#define NAME(name) name##_f32
#define LANES F32_LANES
#define REAL_VECTOR f32_vector
#define MASK_VECTOR i32_vector
#define BITS f32_bits
#define LARGEST_LANE f32_largest_lane
#define SUM_OF_LANES f32_sum_of_lanes
#define REAL_EPSILON FLT_EPSILON
#define REAL_MIN FLT_MIN
#define REAL_MAX FLT_MAX
#define SQRT sqrtf
#include "many_body.h"
#include "seeding_body.h"
#undef REAL
#undef NAME
#undef LANES
#undef REAL_VECTOR
#undef MASK_VECTOR
#undef BITS
#undef LARGEST_LANE
#undef SUM_OF_LANES
#undef REAL_EPSILON
#undef REAL_MIN
#undef REAL_MAX
#undef SQRT

#define REAL double
#define NAME(name) name##_f64
#define LANES F64_LANES
#define REAL_VECTOR f64_vector
#define MASK_VECTOR i64_vector
#define BITS f64_bits
#define LARGEST_LANE f64_largest_lane
#define SUM_OF_LANES f64_sum_of_lanes
#define REAL_EPSILON DBL_EPSILON
#define REAL_MIN DBL_MIN
#define REAL_MAX DBL_MAX
#define SQRT sqrt
#include "many_body.h"
#include "seeding_body.h"
