// Greedy k-means++ for few coordinates and numbers REAL. few.c includes this file once for each type, after few_real.h.
//
// A candidate is compared with the points of a box only if it may be nearer to a point than all centers so far. The
// bound is the reference distance of the candidate to its nearest position in the box. In each coordinate the
// difference to this position is at most the difference to any point of the box. Rounding keeps the order of
// differences, squares and sums. So the bound is at most the reference distance to every point of the box, without a
// margin.
//
// Points of weight 0 change no total. They have a squared distance of -1, so that no candidate is nearer.

// One bit for each of FANOUT boxes with the ranges (2, D, FANOUT). A bit is 1 if the squared distance of the point (D)
// to a position in the box is below the number of this box in `most` (FANOUT).
INLINE unsigned NAME(boxes_in_reach)(const int width, const REAL *ranges, const REAL *most, const REAL *point) {
  unsigned bits = 0;
  for (int i = 0; i < FANOUT; i += LANES) {
    VECTOR sqdist = {0};
    for (int channel = 0; channel < width; channel++) {
      const VECTOR below = V(load)(ranges + channel * FANOUT + i) - point[channel];
      const VECTOR above = point[channel] - V(load)(ranges + (width + channel) * FANOUT + i);
      VECTOR outside = V(select)(above > below, above, below);
      outside = V(select)(outside > 0, outside, V(fill)(0));
      sqdist = channel ? sqdist + outside * outside : outside * outside;
    }
    const MASK reached = sqdist < V(load)(most + i);
    for (int lane = 0; lane < LANES; lane++) bits |= (unsigned)(reached[lane] & 1) << (i + lane);
  }
  return bits;
}

// Writes the squared distances of the points of a box to their nearest center, with one more center, to `nearest`.
// Returns whether the new center is nearer to any point.
INLINE int NAME(nearer_in_box)(const int width, const REAL *points, int64_t stride, const REAL *center,
                               const REAL *sqdist, REAL *nearest) {
  MASK any = {0};
  for (int i = 0; i < BOX; i += LANES) {
    VECTOR difference = V(load)(points + i) - center[0], total = difference * difference;
    for (int channel = 1; channel < width; channel++) {
      difference = V(load)(points + channel * stride + i) - center[channel];
      total += difference * difference;
    }
    const VECTOR before = V(load)(sqdist + i);
    const MASK nearer = total < before;
    any |= nearer;
    V(store)(nearest + i, V(select)(nearer, total, before));
  }
  REAL_INT found = 0;
  for (int lane = 0; lane < LANES; lane++) found |= any[lane];
  return found != 0;
}

INLINE double NAME(seeding_weight)(const struct seeding_boxes *seeding, int64_t place) {
  return seeding->points.sorted_weights ? seeding->points.sorted_weights[place] : 1;
}

INLINE int64_t NAME(seeding_units)(const struct seeding_boxes *seeding, REAL sqdist, int64_t place) {
  return to_fixed(sqdist * NAME(seeding_weight)(seeding, place), seeding->scale);
}

// Computes the ranges, places and squared distances of boxes [start, stop), of FANOUT boxes each.
EXPORT int NAME(gpukmeans_few_seeding_start)(const struct seeding_boxes *seeding, int64_t start, int64_t stop,
                                             const void *memory) {
  const struct sorted_points *points = &seeding->points;
  const int width = (int)points->width;
  const int64_t padded = points->n_small * BOX;
  const REAL *given = memory;
  for (int64_t large = start; large < stop; large++) {
    REAL *large_ranges = (REAL *)seeding->large_ranges + large / FANOUT * 2 * width * FANOUT + large % FANOUT;
    REAL *small_ranges = (REAL *)seeding->small_ranges + large * 2 * width * FANOUT, largest = -1;
    for (int64_t box = large * FANOUT; box < at_most((large + 1) * FANOUT, points->n_small); box++) {
      REAL range[2 * MAX_WIDTH], most = -1;
      double heaviest = 1;
      NAME(range_of_box)(width, (const REAL *)points->sorted + box * BOX, padded, range);
      for (int i = 0; i < 2 * width; i++) {
        REAL *whole = large_ranges + i * FANOUT;
        small_ranges[i * FANOUT + box % FANOUT] = range[i];
        if (box % FANOUT == 0 || (i < width ? range[i] < *whole : range[i] > *whole)) *whole = range[i];
      }
      for (int64_t place = box * BOX; place < (box + 1) * BOX; place++) {
        const double weight = NAME(seeding_weight)(seeding, place);
        REAL sqdist = -1;
        if (place < points->n_rows) {
          const int32_t row = points->rows[place];
          seeding->places[row] = (int32_t)place;
          if (weight != 0) sqdist = given[row];
        }
        ((REAL *)seeding->sqdist)[place] = sqdist;
        most = sqdist > most ? sqdist : most;
        heaviest = weight > heaviest ? weight : heaviest;
      }
      ((REAL *)seeding->small_most)[box] = most;
      seeding->heaviest[box] = heaviest;
      largest = most > largest ? most : largest;
    }
    ((REAL *)seeding->large_most)[large] = largest;
  }
  return 0;
}

// Computes the totals of w·d² of groups [start, stop). A group is SEEDING_GROUP consecutive rows in the given order.
EXPORT int NAME(gpukmeans_few_seeding_measure)(const struct seeding_boxes *seeding, int64_t start, int64_t stop) {
  for (int64_t group = start; group < stop; group++) {
    const int64_t last = at_most((group + 1) * SEEDING_GROUP, seeding->points.n_rows);
    uint64_t units = 0;
    for (int64_t row = group * SEEDING_GROUP; row < last; row++) {
      const int64_t place = seeding->places[row];
      units += (uint64_t)NAME(seeding_units)(seeding, ((const REAL *)seeding->sqdist)[place], place);
    }
    seeding->units[group] = units;
  }
  return 0;
}

// Writes the largest squared distance of a point with weight, and returns the total of w·d².
EXPORT int64_t NAME(gpukmeans_few_seeding_total)(const struct seeding_boxes *seeding, double *largest) {
  const int64_t n_groups = (seeding->points.n_rows + SEEDING_GROUP - 1) / SEEDING_GROUP;
  uint64_t total = 0;
  REAL most = 0;
  for (int64_t group = 0; group < n_groups; group++) total += seeding->units[group];
  for (int64_t large = 0; large < seeding->points.n_large; large++) {
    const REAL value = ((const REAL *)seeding->large_most)[large];
    most = value > most ? value : most;
  }
  *largest = most;
  return (int64_t)total;
}

// Samples the candidates: the points at positions from 0 to the total - 1. In the given order, each row fills as many
// positions as it has units.
EXPORT void NAME(gpukmeans_few_seeding_draw)(const struct seeding_boxes *seeding, const int64_t *positions) {
  const struct sorted_points *points = &seeding->points;
  const int64_t n_rows = points->n_rows, n_groups = (n_rows + SEEDING_GROUP - 1) / SEEDING_GROUP;
  for (int64_t i = 0; i < seeding->n_candidates; i++) {
    int64_t left = positions[i], group = 0;
    while (group < n_groups - 1 && left >= (int64_t)seeding->units[group]) left -= (int64_t)seeding->units[group++];
    int64_t row = group * SEEDING_GROUP;
    for (; row < n_rows - 1; row++) {
      const int64_t place = seeding->places[row];
      const int64_t units = NAME(seeding_units)(seeding, ((const REAL *)seeding->sqdist)[place], place);
      if (left < units) break;
      left -= units;
    }
    for (int64_t channel = 0; channel < points->width; channel++)
      ((REAL *)seeding->candidates)[i * points->width + channel] =
          ((const REAL *)points->sorted)[channel * points->n_small * BOX + seeding->places[row]];
  }
}

// The change of the total of a box that a candidate would cause.
INLINE uint64_t NAME(gain_in_box)(const int width, const struct seeding_boxes *seeding, const REAL *center, int64_t box) {
  const struct sorted_points *points = &seeding->points;
  const int64_t first = box * BOX;
  const REAL *sqdist = (const REAL *)seeding->sqdist + first, most = ((const REAL *)seeding->small_most)[box];
  const double *weights = points->sorted_weights ? points->sorted_weights + first : NULL;
  const int n_points = smaller(points->n_rows - first, BOX);
  REAL nearest[BOX];
  if (!NAME(nearer_in_box)(width, (const REAL *)points->sorted + first, points->n_small * BOX, center, sqdist, nearest))
    return 0;
  return NAME(inertia)(nearest, weights, n_points, seeding->scale, most, seeding->heaviest[box]) -
         NAME(inertia)(sqdist, weights, n_points, seeding->scale, most, seeding->heaviest[box]);
}

// Updates the points of one box for a candidate that becomes a center.
INLINE void NAME(take_in_box)(const int width, const struct seeding_boxes *seeding, const REAL *center, int64_t box) {
  const struct sorted_points *points = &seeding->points;
  const int64_t first = box * BOX;
  REAL *sqdist = (REAL *)seeding->sqdist + first, nearest[BOX];
  if (!NAME(nearer_in_box)(width, (const REAL *)points->sorted + first, points->n_small * BOX, center, sqdist, nearest))
    return;
  for (int i = 0; i < smaller(points->n_rows - first, BOX); i++) {
    if (!(nearest[i] < sqdist[i])) continue;
    const uint64_t change = (uint64_t)NAME(seeding_units)(seeding, nearest[i], first + i) -
                            (uint64_t)NAME(seeding_units)(seeding, sqdist[i], first + i);
    // Other threads add to the same groups, whose rows are in other boxes.
    __atomic_fetch_add(seeding->units + points->rows[first + i] / SEEDING_GROUP, change, __ATOMIC_RELAXED);
  }
  memcpy(sqdist, nearest, sizeof nearest);
  ((REAL *)seeding->small_most)[box] = NAME(largest_of_box)(nearest);
}

INLINE const REAL *NAME(ranges_at)(const int width, const void *ranges, int64_t panel) {
  return (const REAL *)ranges + panel * 2 * width * FANOUT;
}

// Adds the change of the total that each candidate would cause to `gains`, for items [start, stop). An item is FANOUT
// large boxes.
INLINE void NAME(seeding_weigh)(const int width, const struct seeding_boxes *seeding, int64_t start, int64_t stop,
                                uint64_t *gains) {
  const REAL *large_most = seeding->large_most, *small_most = seeding->small_most;
  for (int64_t item = start; item < stop; item++)
    for (int64_t i = 0; i < seeding->n_candidates; i++) {
      const REAL *center = (const REAL *)seeding->candidates + i * width;
      unsigned reached = NAME(boxes_in_reach)(width, NAME(ranges_at)(width, seeding->large_ranges, item),
                                              large_most + item * FANOUT, center);
      for (; reached; reached &= reached - 1) {
        const int64_t large = item * FANOUT + __builtin_ctz(reached);
        unsigned boxes = NAME(boxes_in_reach)(width, NAME(ranges_at)(width, seeding->small_ranges, large),
                                              small_most + large * FANOUT, center);
        for (; boxes; boxes &= boxes - 1)
          gains[i] += NAME(gain_in_box)(width, seeding, center, large * FANOUT + __builtin_ctz(boxes));
      }
    }
}

// Updates the points of items [start, stop) for a candidate that becomes a center.
INLINE void NAME(seeding_take)(const int width, const struct seeding_boxes *seeding, int64_t start, int64_t stop,
                               int64_t candidate) {
  const REAL *center = (const REAL *)seeding->candidates + candidate * width, *small_most = seeding->small_most;
  REAL *large_most = seeding->large_most;
  for (int64_t item = start; item < stop; item++) {
    unsigned reached = NAME(boxes_in_reach)(width, NAME(ranges_at)(width, seeding->large_ranges, item),
                                            large_most + item * FANOUT, center);
    for (; reached; reached &= reached - 1) {
      const int64_t large = item * FANOUT + __builtin_ctz(reached);
      const REAL *most = small_most + large * FANOUT;
      unsigned boxes =
          NAME(boxes_in_reach)(width, NAME(ranges_at)(width, seeding->small_ranges, large), most, center);
      for (; boxes; boxes &= boxes - 1)
        NAME(take_in_box)(width, seeding, center, large * FANOUT + __builtin_ctz(boxes));
      REAL largest = -1;
      for (int i = 0; i < FANOUT; i++) largest = most[i] > largest ? most[i] : largest;
      large_most[large] = largest;
    }
  }
}

#define FOR_WIDTH(function, width, ...)                                                                                \
  switch (width) {                                                                                                     \
  case 1: function(1, __VA_ARGS__); return 0;                                                                          \
  case 2: function(2, __VA_ARGS__); return 0;                                                                          \
  case 3: function(3, __VA_ARGS__); return 0;                                                                          \
  case 4: function(4, __VA_ARGS__); return 0;                                                                          \
  case 5: function(5, __VA_ARGS__); return 0;                                                                          \
  case 6: function(6, __VA_ARGS__); return 0;                                                                          \
  case 7: function(7, __VA_ARGS__); return 0;                                                                          \
  case 8: function(8, __VA_ARGS__); return 0;                                                                          \
  }                                                                                                                    \
  return 1;

EXPORT int NAME(gpukmeans_few_seeding_weigh)(const struct seeding_boxes *seeding, int64_t start, int64_t stop,
                                             uint64_t *gains) {
  FOR_WIDTH(NAME(seeding_weigh), seeding->points.width, seeding, start, stop, gains)
}

EXPORT int NAME(gpukmeans_few_seeding_take)(const struct seeding_boxes *seeding, int64_t start, int64_t stop,
                                            int64_t candidate) {
  FOR_WIDTH(NAME(seeding_take), seeding->points.width, seeding, start, stop, candidate)
}

#undef FOR_WIDTH
