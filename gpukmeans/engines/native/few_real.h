// The kernels of few.c for one type. REAL is float or double, and REAL_INT the integer of the same size. A VECTOR has
// LANES numbers REAL, a MASK has LANES numbers REAL_INT. NAME adds the suffix of the type to a name.

// The lowest and highest values (2, D) of BOX points (D, stride).
static void NAME(range_of_box)(int width, const REAL *points, int64_t stride, REAL *range) {
  for (int channel = 0; channel < width; channel++) {
    const REAL *values = points + channel * stride;
    VECTOR low = V(load)(values), high = low;
    for (int i = LANES; i < BOX; i += LANES) {
      const VECTOR more = V(load)(values + i);
      low = V(select)(more < low, more, low);
      high = V(select)(more > high, more, high);
    }
    range[channel] = low[0];
    range[width + channel] = high[0];
    for (int lane = 1; lane < LANES; lane++) {
      if (low[lane] < range[channel]) range[channel] = low[lane];
      if (high[lane] > range[width + channel]) range[width + channel] = high[lane];
    }
  }
}

// Midpoint and half width (2, D) of a range. The midpoint may be rounded; the half width includes that error.
static void NAME(box_of_range)(int width, const REAL *range, REAL *box) {
  for (int channel = 0; channel < width; channel++) {
    const REAL low = range[channel], high = range[width + channel], middle = low / 2 + high / 2;
    const REAL above = high - middle, below = middle - low;
    box[channel] = middle;
    box[width + channel] = above > below ? above : below;
  }
}

// Memory of a call. `centers` has all centers, `coarse` the candidates of a large box, and `fine` the candidates of a
// small box. Each is an array (D, stride), called listed centers.
struct NAME(workspace) {
  int64_t stride; // a multiple of LANES above K + LANES
  REAL *centers, *coarse, *fine, *sqdist, *roots;
  REAL_INT *excluded;
  int32_t *all_ids, *coarse_ids, *fine_ids;
};

INLINE int64_t NAME(workspace_stride)(int64_t n_clusters) { return (n_clusters + 2 * LANES) / LANES * LANES; }

EXPORT int64_t NAME(gpukmeans_few_workspace_bytes)(int64_t n_clusters, int64_t width) {
  const int64_t stride = NAME(workspace_stride)(n_clusters);
  return stride * ((3 * width + 3) * (int64_t)sizeof(REAL) + 3 * (int64_t)sizeof(int32_t));
}

static struct NAME(workspace) NAME(split_workspace)(void *memory, int64_t n_clusters, int64_t width) {
  struct NAME(workspace) space = {.stride = NAME(workspace_stride)(n_clusters)};
  space.centers = memory;
  space.coarse = space.centers + width * space.stride;
  space.fine = space.coarse + width * space.stride;
  space.sqdist = space.fine + width * space.stride;
  space.roots = space.sqdist + space.stride;
  space.excluded = (REAL_INT *)(space.roots + space.stride);
  space.all_ids = (int32_t *)(space.excluded + space.stride);
  space.coarse_ids = space.all_ids + space.stride;
  space.fine_ids = space.coarse_ids + space.stride;
  for (int32_t id = 0; id < n_clusters; id++) space.all_ids[id] = id;
  return space;
}

// Writes a vector of infinitely far centers after `count` listed centers. They are never the nearest.
INLINE void NAME(pad)(int width, REAL *listed, int64_t stride, int64_t count) {
  for (int channel = 0; channel < width; channel++)
    for (int lane = 0; lane < LANES; lane++) listed[channel * stride + count + lane] = INFINITY;
}

// The centers (K, D) of a run as listed centers (D, stride).
static void NAME(list_all)(int width, const REAL *centers, int64_t n_clusters, struct NAME(workspace) *space) {
  for (int64_t id = 0; id < n_clusters; id++)
    for (int channel = 0; channel < width; channel++)
      space->centers[channel * space->stride + id] = centers[id * width + channel];
  NAME(pad)(width, space->centers, space->stride, n_clusters);
}

// The largest of the `n_points` values whose weight is not 0, or -1 if there is none. Without weights, it is the
// largest of all values.
INLINE REAL NAME(largest)(const REAL *values, const double *weights, int n_points) {
  REAL largest = -1;
  for (int i = 0; i < n_points; i++) {
    const REAL value = !weights || weights[i] != 0 ? values[i] : -1;
    largest = value > largest ? value : largest;
  }
  return largest;
}

INLINE REAL NAME(largest_of_box)(const REAL *values) {
  VECTOR most = V(load)(values);
  for (int i = LANES; i < BOX; i += LANES) {
    const VECTOR more = V(load)(values + i);
    most = V(select)(more > most, more, most);
  }
  REAL largest = most[0];
  for (int lane = 1; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
  return largest;
}

// The sum of w·d² in fixed-point units. `largest` bounds d² where w is not 0, and `heaviest` bounds w.
INLINE uint64_t NAME(inertia)(const REAL *sqdist, const double *weights, int n_points, double scale, REAL largest,
                              double heaviest) {
  uint64_t sum = 0;
  if (!((double)largest * heaviest * scale < FIXED_SMALL / 2)) {
    for (int i = 0; i < n_points; i++)
      sum += (uint64_t)to_fixed((double)sqdist[i] * (weights ? weights[i] : 1.0), scale);
    return sum;
  }
  double shifted[BOX];
  uint64_t bits[BOX];
  if (weights)
    for (int i = 0; i < n_points; i++) shifted[i] = sqdist[i] * weights[i] * scale + FIXED_ORIGIN;
  else
    for (int i = 0; i < n_points; i++) shifted[i] = sqdist[i] * scale + FIXED_ORIGIN;
  memcpy(bits, shifted, (size_t)n_points * sizeof *bits);
  for (int i = 0; i < n_points; i++) sum += bits[i];
  return sum - (uint64_t)n_points * (uint64_t)FIXED_ORIGIN_BITS;
}

static int NAME(ascending)(const void *one, const void *other) {
  const REAL a = *(const REAL *)one, b = *(const REAL *)other;
  return (a > b) - (a < b);
}

// The grid lines of each channel, which divide a sorted sample of its values into 2**bits parts of equal counts. Equal
// counts keep an outlier from moving all other points into one grid cell.
static void NAME(grid_lines)(const struct array *x, int64_t n_rows, int64_t problem, int width, int bits,
                             REAL lines[][MAX_LINES]) {
  REAL sample[MAX_WIDTH * SAMPLE];
  const int n_lines = (1 << bits) - 1, n_sampled = smaller(n_rows, SAMPLE);
  for (int first = 0; first < n_sampled; first += BOX) {
    int32_t rows[BOX];
    const int count = smaller(n_sampled - first, BOX);
    for (int i = 0; i < count; i++) rows[i] = (int32_t)((first + i) * n_rows / n_sampled);
    READ(x, problem, width, rows, 0, count, sample + first, SAMPLE);
  }
  for (int channel = 0; channel < width; channel++) {
    REAL *values = sample + channel * SAMPLE;
    qsort(values, (size_t)n_sampled, sizeof *values, NAME(ascending));
    for (int line = 0; line < n_lines; line++) lines[channel][line] = values[(int64_t)(line + 1) * n_sampled >> bits];
  }
}

// Grid cells of BOX values: the number of the 2**bits - 1 lines that are at most the value.
static void NAME(grid_cells)(const REAL *values, const REAL *lines, int bits, uint32_t *cells) {
  for (int i = 0; i < BOX; i++) cells[i] = 0;
  for (int bit = bits - 1; bit >= 0; bit--) { // one step for all values, because each step depends on the one before
    const REAL *middle = lines + (1 << bit) - 1;
    for (int i = 0; i < BOX; i++) cells[i] += (uint32_t)(values[i] >= middle[cells[i]]) << bit;
  }
}

// Computes the sort keys of rows [start, stop) of a problem. `start` is a multiple of BOX.
static void NAME(keys)(const struct sorted_points *points, int64_t problem, int64_t start, int64_t stop,
                       REAL lines[][MAX_LINES], uint32_t *keys) {
  const int width = (int)points->width, bits = grid_bits(points->n_rows, width);
  for (int64_t first = start; first < stop; first += BOX) {
    uint32_t cells[MAX_WIDTH][BOX];
    REAL values[MAX_WIDTH * BOX] = {0};
    const int count = smaller(stop - first, BOX);
    READ(&points->x, problem, width, NULL, first, count, values, BOX);
    for (int channel = 0; channel < width; channel++)
      NAME(grid_cells)(values + channel * BOX, lines[channel], bits, cells[channel]);
    curve_keys(width, bits, cells);
    memcpy(keys + first, cells[0], (size_t)count * sizeof *keys);
  }
}

// Writes the sorted rows of problems [start, stop) to `points->rows`. Scratch memory has 12 bytes per row of a problem.
EXPORT int NAME(gpukmeans_few_order)(const struct sorted_points *points, int64_t start, int64_t stop, void *scratch) {
  const int width = (int)points->width;
  const int64_t n_rows = points->n_rows;
  const int bits = grid_bits(n_rows, width);
  uint32_t *keys = scratch, *spare_keys = keys + n_rows;
  int32_t *spare_rows = (int32_t *)(spare_keys + n_rows);
  for (int64_t problem = start; problem < stop; problem++) {
    REAL lines[MAX_WIDTH][MAX_LINES];
    NAME(grid_lines)(&points->x, n_rows, problem, width, bits, lines);
    NAME(keys)(points, problem, 0, n_rows, lines, keys);
    sort_by_key(n_rows, bits * width, keys, points->rows + problem * n_rows, spare_keys, spare_rows);
  }
  return 0;
}

// Computes the sort keys and numbers of rows, for items [start, stop) of BOX rows each. The grid lines must have been
// computed.
EXPORT int NAME(gpukmeans_few_keys)(const struct sort_pass *pass, int64_t start, int64_t stop, void *scratch) {
  (void)scratch;
  const int64_t last = stop * BOX < pass->points.n_rows ? stop * BOX : pass->points.n_rows;
  NAME(keys)(&pass->points, pass->problem, start * BOX, last, pass->lines, pass->keys);
  for (int64_t row = start * BOX; row < last; row++) pass->rows[row] = (int32_t)row;
  return 0;
}

// Computes the grid lines of a problem.
EXPORT int NAME(gpukmeans_few_grid)(const struct sort_pass *pass, int64_t start, int64_t stop, void *scratch) {
  (void)start, (void)stop, (void)scratch;
  const struct sorted_points *points = &pass->points;
  const int width = (int)points->width;
  NAME(grid_lines)(&points->x, points->n_rows, pass->problem, width, grid_bits(points->n_rows, width), pass->lines);
  return 0;
}

// Copies the points of large boxes [start, stop), in sorted order, and computes the large and small boxes. Large boxes
// are numbered through all problems.
EXPORT int NAME(gpukmeans_few_boxes)(const struct sorted_points *points, int64_t start, int64_t stop,
                                     void *scratch) {
  (void)scratch;
  int width = (int)points->width;
  const int64_t n_small = points->n_small, n_large = points->n_large, padded = n_small * BOX;
  for (int64_t item = start; item < stop; item++) {
    const int64_t problem = item / n_large, large = item % n_large;
    const int32_t *rows = points->rows + problem * points->n_rows;
    REAL whole[2 * MAX_WIDTH];
    for (int channel = 0; channel < width; channel++) whole[channel] = INFINITY, whole[width + channel] = -INFINITY;
    for (int64_t box = large * FANOUT; box < (large + 1) * FANOUT && box < n_small; box++) {
      const int64_t first = box * BOX;
      const int count = smaller(points->n_rows - first, BOX);
      REAL *sorted = (REAL *)points->sorted + problem * width * padded + first, range[2 * MAX_WIDTH];
      READ(&points->x, problem, width, rows + first, 0, count, sorted, padded);
      for (int channel = 0; channel < width; channel++)
        for (int i = count; i < BOX; i++) sorted[channel * padded + i] = sorted[channel * padded + count - 1];
      if (points->sorted_weights) {
        double *weights = points->sorted_weights + problem * padded + first;
        read_f64(&points->weights, problem, 1, rows + first, 0, count, weights, BOX);
        for (int i = count; i < BOX; i++) weights[i] = 0;
      }
      NAME(range_of_box)(width, sorted, padded, range);
      NAME(box_of_range)(width, range, (REAL *)points->small + (problem * n_small + box) * 2 * width);
      for (int channel = 0; channel < width; channel++) {
        REAL *low = whole + channel, *high = low + width;
        if (range[channel] < *low) *low = range[channel];
        if (range[width + channel] > *high) *high = range[width + channel];
      }
    }
    NAME(box_of_range)(width, whole, (REAL *)points->large + (problem * n_large + large) * 2 * width);
  }
  return 0;
}

// Computes, for problems [start, stop), the mean half diagonal of small boxes, the largest weight but at least 1, and
// whether a weight is 0.
EXPORT int NAME(gpukmeans_few_summary)(const struct sorted_points *points, int64_t start, int64_t stop,
                                       void *scratch) {
  (void)scratch;
  const int64_t width = points->width, n_small = points->n_small;
  for (int64_t problem = start; problem < stop; problem++) {
    double sum = 0, heaviest = 1;
    int has_absent = 0;
    for (int64_t box = problem * n_small; box < (problem + 1) * n_small; box++) {
      const REAL *half_width = (const REAL *)points->small + (2 * box + 1) * width;
      double sqdiagonal = 0;
      for (int64_t channel = 0; channel < width; channel++)
        sqdiagonal += (double)half_width[channel] * half_width[channel];
      sum += sqrt(sqdiagonal);
    }
    if (points->sorted_weights) {
      const double *weights = points->sorted_weights + problem * n_small * BOX;
      for (int64_t i = 0; i < points->n_rows; i++) {
        heaviest = weights[i] > heaviest ? weights[i] : heaviest;
        has_absent |= weights[i] == 0;
      }
    }
    points->half_diagonal[problem] = sum / (double)n_small;
    points->heaviest[problem] = heaviest;
    points->has_absent[problem] = (uint8_t)has_absent;
  }
  return 0;
}

// An upper bound of the distances that the centers (K, D) move.
static double NAME(farthest_move)(int width, const REAL *from, const REAL *to, int64_t n_clusters) {
  double most = 0;
  for (int64_t id = 0; id < n_clusters; id++) {
    double sqdist = 0;
    for (int channel = 0; channel < width; channel++) {
      const double difference = (double)to[id * width + channel] - (double)from[id * width + channel];
      sqdist += difference * difference;
    }
    most = sqdist > most ? sqdist : most;
  }
  return sqrt(most) * (1 + (width + 8) * 0x1p-52) + sqrt(width * 0x1p-1022);
}

// Compares the centers and scales of runs [start, stop) with the last call of their slots, and sets the flags.
EXPORT int NAME(gpukmeans_few_prepare)(const struct sorted_pass *pass, int64_t start, int64_t stop,
                                       void *scratch) {
  (void)scratch;
  int width = (int)pass->points.width;
  const int64_t n_clusters = pass->n_clusters, size = n_clusters * width;
  for (int64_t run = start; run < stop; run++) {
    const int64_t slot = pass->slots[run];
    const REAL *centers = (const REAL *)pass->centers + run * size;
    REAL *last = (REAL *)pass->last + slot * size, *origins = (REAL *)pass->origins + slot * size;
    REAL *slack = (REAL *)pass->slack + slot;
    uint8_t *moved = pass->moved + slot * n_clusters;
    double scales[2 * MAX_WIDTH + 2], *last_scales = pass->scales + slot * (2 * width + 2);
    memcpy(scales, pass->sum_scale + run * width, width * sizeof *scales);
    memcpy(scales + width, pass->lowest + run * width, width * sizeof *scales);
    scales[2 * width] = pass->weight_scale[run];
    scales[2 * width + 1] = pass->sqdist_scale[run];

    int flags = 0;
    if (!(pass->flags[slot] & VALID)) {
      flags = REFRESH | RECOUNT | RESCALE;
      memset(moved, 1, (size_t)n_clusters);
      *slack = 0;
    } else {
      for (int64_t id = 0; id < n_clusters; id++) {
        moved[id] = 0;
        for (int channel = 0; channel < width; channel++)
          moved[id] |= centers[id * width + channel] != last[id * width + channel];
      }
      if (memcmp(scales, last_scales, (2 * width + 1) * sizeof *scales)) flags |= RECOUNT;
      if (scales[2 * width + 1] != last_scales[2 * width + 1]) flags |= RESCALE;
      if (!(NAME(farthest_move)(width, origins, centers, n_clusters) <= (double)*slack)) {
        const double move = NAME(farthest_move)(width, last, centers, n_clusters);
        const double limit = most_slack * pass->points.half_diagonal[pass->problems[run]];
        *slack = move <= limit ? (REAL)fmin(slack_per_move * move, limit) : 0;
        flags |= REFRESH;
      }
    }
    if (flags & REFRESH) memcpy(origins, centers, (size_t)size * sizeof *centers);
    const int64_t n_totals = n_clusters * (width + 1);
    if (flags & RECOUNT) memset(pass->totals + slot * n_totals, 0, (size_t)n_totals * sizeof *pass->totals);
    memcpy(last, centers, (size_t)size * sizeof *centers);
    memcpy(last_scales, scales, (2 * width + 2) * sizeof *scales);
    pass->flags[slot] = flags;
  }
  return 0;
}

// Computes the results of runs [start, stop) from totals and boxes, and marks their slots as valid.
EXPORT int NAME(gpukmeans_few_finish)(const struct sorted_pass *pass, int64_t start, int64_t stop,
                                      void *scratch) {
  (void)scratch;
  const int64_t n_small = pass->points.n_small, size = pass->n_clusters * (pass->points.width + 1);
  for (int64_t run = start; run < stop; run++) {
    const int64_t slot = pass->slots[run];
    const uint64_t *inertia = pass->box_inertia + slot * n_small;
    const REAL *worst = (const REAL *)pass->box_worst + slot * n_small;
    uint64_t sum = 0;
    REAL largest = worst[0];
    for (int64_t box = 0; box < n_small; box++) {
      sum += inertia[box];
      largest = worst[box] > largest ? worst[box] : largest;
    }
    pass->inertia[run] = sum;
    ((REAL *)pass->worst)[run] = largest;
    memcpy(pass->total_results + run * size, pass->totals + slot * size, (size_t)size * sizeof *pass->totals);
    pass->flags[slot] = VALID;
  }
  return 0;
}

// Chooses the slots of runs [start, stop). A run can get a slot of its problem that no earlier run has got. It gets the
// slot with the nearest last centers, or -1 if none is left. Scratch memory has 8 bytes for each problem and each slot.
EXPORT int NAME(gpukmeans_few_slots)(const struct sorted_pass *pass, int64_t start, int64_t stop, void *scratch) {
  const int64_t n_problems = pass->points.n_problems, size = pass->n_clusters * pass->points.width;
  int64_t *first = scratch, *next = first + n_problems; // a linked list of the slots of each problem
  for (int64_t problem = 0; problem < n_problems; problem++) first[problem] = -1;
  for (int64_t slot = pass->n_slots - 1; slot >= 0; slot--) {
    next[slot] = first[pass->slot_problems[slot]];
    first[pass->slot_problems[slot]] = slot;
  }
  for (int64_t run = start; run < stop; run++) {
    const REAL *centers = (const REAL *)pass->centers + run * size;
    int64_t *nearest = NULL;
    double least = 0;
    for (int64_t *link = &first[pass->problems[run]]; *link >= 0; link = &next[*link]) {
      const REAL *last = (const REAL *)pass->last + *link * size;
      double distance = 0;
      for (int64_t i = 0; i < size; i++) distance += fabs((double)centers[i] - (double)last[i]);
      if (nearest && !(distance < least)) continue;
      nearest = link;
      least = distance;
    }
    pass->slots[run] = nearest ? *nearest : -1;
    if (nearest) *nearest = next[*nearest];
  }
  return 0;
}

#define OF_TYPE(name, width) NAME(name##_##width)
#define WIDTH_NAME(name, width) OF_TYPE(name, width)
#define OF_WIDTH(name) WIDTH_NAME(name, WIDTH)
#define WIDTH 1
#include "few_width.h"
#undef WIDTH
#define WIDTH 2
#include "few_width.h"
#undef WIDTH
#define WIDTH 3
#include "few_width.h"
#undef WIDTH
#define WIDTH 4
#include "few_width.h"
#undef WIDTH
#define WIDTH 5
#include "few_width.h"
#undef WIDTH
#define WIDTH 6
#include "few_width.h"
#undef WIDTH
#define WIDTH 7
#include "few_width.h"
#undef WIDTH
#define WIDTH 8
#include "few_width.h"
#undef WIDTH
#undef OF_WIDTH
#undef WIDTH_NAME
#undef OF_TYPE

#define FOR_WIDTH(name, width, ...)                                                                                    \
  switch (width) {                                                                                                     \
  case 1: NAME(name##_1)(__VA_ARGS__); return 0;                                                                       \
  case 2: NAME(name##_2)(__VA_ARGS__); return 0;                                                                       \
  case 3: NAME(name##_3)(__VA_ARGS__); return 0;                                                                       \
  case 4: NAME(name##_4)(__VA_ARGS__); return 0;                                                                       \
  case 5: NAME(name##_5)(__VA_ARGS__); return 0;                                                                       \
  case 6: NAME(name##_6)(__VA_ARGS__); return 0;                                                                       \
  case 7: NAME(name##_7)(__VA_ARGS__); return 0;                                                                       \
  case 8: NAME(name##_8)(__VA_ARGS__); return 0;                                                                       \
  }                                                                                                                    \
  return 1;

// Computes items [start, stop). An item is a box of BOX rows of a run. Items are in the order of the runs.
EXPORT int NAME(gpukmeans_few_direct)(const struct direct_pass *pass, int64_t start, int64_t stop, void *workspace) {
  FOR_WIDTH(few_direct, pass->width, pass, start, stop, workspace)
}

// Computes items [start, stop). An item is a large box of a run. Items are in the order of the runs.
EXPORT int NAME(gpukmeans_few_measure)(const struct sorted_pass *pass, int64_t start, int64_t stop, void *workspace) {
  FOR_WIDTH(few_measure, pass->points.width, pass, start, stop, workspace)
}

// Computes labels and squared distances, in the given order of the rows. Items are as in `gpukmeans_few_measure`.
EXPORT int NAME(gpukmeans_few_assign)(const struct sorted_pass *pass, int64_t start, int64_t stop, void *workspace) {
  FOR_WIDTH(few_assign, pass->points.width, pass, start, stop, workspace)
}

#undef FOR_WIDTH
