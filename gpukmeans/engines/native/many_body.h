// The kernels of many.c for numbers of type REAL, float or double. many.py has a ctypes.Structure with the layout of
// `struct many`. The `value` of a center for a point is the computed v = x·c - |c|²/2, with x and c relative to the
// origin, so a nearer center has a larger value.

struct NAME(many) {
  // Points (n_rows, width), and their weights, or NULL for weights of 1.
  const REAL *points;
  const double *weights;
  // Centers (n_clusters, width), and the previous centers or NULL. `members` has the center in each of the 16 places of
  // each panel, or -1. `places` has the place of each center.
  const REAL *centers, *centers_before;
  const int32_t *members, *places;
  // Results of `pack`: panels as in propose.h, the origin (width), the largest norm of a center of each panel followed
  // by the largest norm of all panels, the largest move of a center of each panel, and whether each center moved.
  REAL *panels, *origin, *norms;
  float *drifts;
  uint8_t *moved;
  // Nearest centers and squared distances (n_rows), and lower bounds (n_rows, panels) of the distances to the centers
  // of a panel except the nearest center, or NULL. Inputs too if `known` is not 0: results for centers_before.
  int32_t *labels;
  REAL *sqdist;
  float *bounds;
  // A copy of the labels as int64, or NULL.
  int64_t *long_labels;
  // Sums (n_clusters, width) and totals (n_clusters) belong to labels_before, and are updated to labels. If
  // labels_before is NULL, all points are added.
  const int32_t *labels_before;
  const double *lowest, *sum_scales;
  int64_t *sums, *totals;
  char *scratch;
  double weight_scale, sqdist_scale;
  int64_t n_rows, width, n_clusters;
  int64_t known; // 0, KNOWN_LABELS, or KNOWN_BOUNDS for labels and bounds
  // Results: the sum of w·d² in fixed point, the largest d² of a point with weight (-1 without one), and the number of
  // points with weight whose label changed.
  int64_t inertia;
  double largest;
  int64_t n_changed;
};

INLINE REAL NAME(larger)(REAL a, REAL b) { return a > b ? a : b; }
INLINE REAL NAME(smaller)(REAL a, REAL b) { return a < b ? a : b; }
INLINE REAL_VECTOR NAME(vector_at)(const REAL *from) { return *(const REAL_VECTOR *)from; }
INLINE REAL_VECTOR NAME(larger_lanes)(REAL_VECTOR a, REAL_VECTOR b) {
  const MASK_VECTOR mask = a > b;
  return (REAL_VECTOR)((mask & (MASK_VECTOR)a) | (~mask & (MASK_VECTOR)b));
}

// The values of a panel, in registers.
struct NAME(panel_values) {
  REAL_VECTOR vectors[PANEL / LANES];
};

INLINE struct NAME(panel_values) NAME(values_at)(const REAL *from) {
  struct NAME(panel_values) values;
  for (int i = 0; i < PANEL / LANES; i++) values.vectors[i] = NAME(vector_at)(from + i * LANES);
  return values;
}

// The values with -infinity in one place. A negative place changes nothing. A store of one number to memory would be
// slower, because the next load of the whole vector would wait for the store.
INLINE struct NAME(panel_values) NAME(without)(struct NAME(panel_values) values, int place) {
  for (int i = 0; i < PANEL / LANES; i++) {
    MASK_VECTOR lanes = {0};
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = i * LANES + lane;
    const MASK_VECTOR mask = lanes == (MASK_VECTOR){0} + place;
    const MASK_VECTOR lowest = (MASK_VECTOR)((REAL_VECTOR){0} - INFINITY);
    values.vectors[i] = (REAL_VECTOR)((mask & lowest) | (~mask & (MASK_VECTOR)values.vectors[i]));
  }
  return values;
}

INLINE REAL NAME(largest_value)(struct NAME(panel_values) values) {
  REAL_VECTOR largest = values.vectors[0];
  for (int i = 1; i < PANEL / LANES; i++) largest = NAME(larger_lanes)(largest, values.vectors[i]);
  return LARGEST_LANE(largest);
}

// The places of values that are not below the edge, as bits. NaN is not below.
INLINE unsigned NAME(reaching)(struct NAME(panel_values) values, REAL edge) {
  unsigned bits = 0;
  for (int i = 0; i < PANEL / LANES; i++) bits |= BITS(~(values.vectors[i] < edge)) << (i * LANES);
  return bits;
}

INLINE int NAME(any_reaches)(struct NAME(panel_values) values, REAL edge) {
  MASK_VECTOR below = values.vectors[0] < edge;
  for (int i = 1; i < PANEL / LANES; i++) below &= values.vectors[i] < edge;
  return !all_set(&below);
}

// Bounds of rounding errors, with u = epsilon / 2, r = |x - origin|, and s the largest norm of a panel.
struct NAME(rounding) {
  REAL product, absolute, grow, shrink, underflow;
};

INLINE struct NAME(rounding) NAME(rounding_of)(int64_t width) {
  const REAL unit = REAL_EPSILON / 2;
  // The relative error of the reference distance, in units of u, is 3 for each square and 1 for each of at most
  // 7 + log2(width) additions.
  const REAL written = (REAL)(12 + bit_length(width)) * unit;
  return (struct NAME(rounding)){
      // The error of |x|² - 2v. The sums of the product have an error of width + 2 units of 2rs + s² (Higham 2002,
      // section 3.1). The sums of norms add fewer units, because each norm is summed in NORM_SUMS parts. The shift and
      // the last operations add 8 units. The two compared distances add their own errors. 1 % covers higher orders.
      .product = (REAL)1.01 * ((REAL)(width + width / NORM_SUMS + 12) * unit + 2 * written),
      .absolute = (REAL)(width + 12) * 2 * REAL_MIN,
      .grow = 1 + written + 4 * unit,
      .shrink = 1 - written - 4 * unit,
      .underflow = (REAL)width * REAL_MIN, // squares below the smallest normal number
  };
}

// The error bound of a value v, which is half of the error of |x|² - 2v. It includes the rounding errors of the two
// reference distances that are compared.
INLINE REAL NAME(margin)(const struct NAME(rounding) *rounding, REAL norm, REAL norm_of_panel) {
  const REAL sum = norm + norm_of_panel;
  return (rounding->product * (sum * sum) + rounding->absolute) / 2;
}

// A float that is at most the distance. It is 0 for NaN and for distances that are not above FLT_MIN.
INLINE float NAME(round_down)(REAL distance) {
  const REAL limited = distance < FLT_MAX ? distance : FLT_MAX;
  return distance > FLT_MIN ? (float)limited * (1 - 2 * FLT_EPSILON) : 0;
}

// An upper bound of the distance to a center whose reference squared distance is at most `sqdist`.
INLINE float NAME(upper_bound)(const struct NAME(rounding) *rounding, REAL sqdist) {
  const REAL distance = SQRT(sqdist + rounding->underflow) * rounding->grow;
  return distance < (REAL)0x1p120 ? (float)distance * (1 + 2 * FLT_EPSILON) + FLT_MIN : INFINITY;
}

// A lower bound of the distance to a center whose reference squared distance is `sqdist`.
INLINE float NAME(lower_bound_of)(const struct NAME(rounding) *rounding, REAL sqdist) {
  return NAME(round_down)(SQRT(NAME(larger)(sqdist - rounding->underflow, 0)) * rounding->shrink);
}

// A lower bound of the distances to centers whose values are at most `value`.
INLINE float NAME(lower_bound)(REAL sqnorm, REAL value, REAL margin) {
  return NAME(round_down)(SQRT(NAME(larger)(sqnorm - 2 * (value + margin), 0)) * (1 - 4 * REAL_EPSILON));
}

// A block of points: the shifted coordinates and norms of the points whose products are needed.
struct NAME(block) {
  struct NAME(rounding) rounding;
  REAL *shifted, *sqnorms, *norms, *distance_scratch;
  REAL values[PROPOSE_ROWS * PANEL];
};

INLINE struct NAME(block) NAME(block_of)(const struct NAME(many) *many, char **scratch) {
  const int64_t rows = block_rows(many->width, sizeof(REAL));
  return (struct NAME(block)){
      .rounding = NAME(rounding_of)(many->width),
      .shifted = take(scratch, rows * many->width * sizeof(REAL)),
      .sqnorms = take(scratch, rows * sizeof(REAL)),
      .norms = take(scratch, rows * sizeof(REAL)),
      .distance_scratch = take(scratch, distance_scratch(many->width) * sizeof(REAL)),
  };
}

INLINE REAL NAME(sqdist_to)(const struct NAME(many) *many, const struct NAME(block) *block, int64_t row, int64_t center) {
  return NAME(squared_distance)(many->points + row * many->width, many->centers + center * many->width, many->width,
                                block->distance_scratch);
}

// Writes the shifted coordinates and the norm of a point to row `to` of the block.
INLINE void NAME(shift)(const struct NAME(many) *many, const struct NAME(block) *block, int64_t row, int64_t to) {
  const int64_t width = many->width;
  const REAL *restrict point = many->points + row * width, *restrict origin = many->origin;
  REAL *restrict shifted = block->shifted + to * width;
  REAL_VECTOR sums = {0}, more = {0};
  int64_t d = 0;
  for (; d + 2 * LANES <= width; d += 2 * LANES) {
    const REAL_VECTOR first = NAME(vector_at)(point + d) - NAME(vector_at)(origin + d);
    const REAL_VECTOR second = NAME(vector_at)(point + d + LANES) - NAME(vector_at)(origin + d + LANES);
    *(REAL_VECTOR *)(shifted + d) = first, *(REAL_VECTOR *)(shifted + d + LANES) = second;
    sums += first * first, more += second * second;
  }
  sums += more;
  REAL sqnorm = 0;
  for (; d < width; d++) {
    shifted[d] = point[d] - origin[d];
    sqnorm += shifted[d] * shifted[d];
  }
  sqnorm += SUM_OF_LANES(sums);
  block->sqnorms[to] = sqnorm;
  block->norms[to] = SQRT(sqnorm);
}

INLINE void NAME(propose_panel)(const struct NAME(many) *many, struct NAME(block) *block, const int32_t *rows, int64_t panel) {
  const REAL *centers = many->panels + panel * PANEL * (many->width + 1);
  NAME(propose)(block->shifted, rows, many->width, centers, block->values);
}

// Prefetches rows of the next block into the caches while the CPU computes a product.
INLINE void NAME(fetch_rows)(const struct NAME(many) *many, int64_t row) {
  const int64_t size = at_most(PROPOSE_ROWS, many->n_rows - row) * many->width * (int64_t)sizeof(REAL);
  if (size > 0) fetch(many->points + row * many->width, size);
}

// The nearest of all centers by the reference distance.
static void NAME(compare_all)(const struct NAME(many) *many, const struct NAME(block) *block, int64_t row) {
  REAL best = INFINITY;
  int32_t label = 0;
  for (int64_t center = 0; center < many->n_clusters; center++) {
    const REAL sqdist = NAME(sqdist_to)(many, block, row, center);
    if (sqdist < best) best = sqdist, label = (int32_t)center;
  }
  many->sqdist[row] = best;
  many->labels[row] = label;
}

// Centers that may be nearest to a point. `highs` are their values plus the margins. The functions below keep in `low`
// the largest value minus margin of all centers so far. A center whose entry of `highs` is below `low` is not nearest.
struct NAME(found) {
  int32_t count;
  int32_t centers[MAX_FOUND];
  REAL highs[MAX_FOUND];
};

INLINE void NAME(drop_excluded)(struct NAME(found) *found, REAL low) {
  int32_t kept = 0;
  for (int32_t i = 0; i < found->count; i++)
    if (found->highs[i] >= low) found->centers[kept] = found->centers[i], found->highs[kept++] = found->highs[i];
  found->count = kept;
}

// Adds the centers of a panel that may be nearest, and returns the new `low`. With more than MAX_FOUND centers in
// total, sets `count` to ALL_CENTERS.
static __attribute__((noinline)) REAL NAME(find)(struct NAME(found) *found, const REAL *values, const int32_t *members,
                                                 REAL margin, REAL low) {
  const struct NAME(panel_values) all = NAME(values_at)(values);
  low = NAME(larger)(NAME(largest_value)(all) - margin, low);
  for (unsigned left = NAME(reaching)(all, low - margin); left; left &= left - 1) {
    const int i = __builtin_ctz(left);
    if (members[i] < 0) continue;
    if (found->count == MAX_FOUND) NAME(drop_excluded)(found, low);
    if (found->count == MAX_FOUND) {
      found->count = ALL_CENTERS;
      return low;
    }
    found->centers[found->count] = members[i], found->highs[found->count++] = values[i] + margin;
  }
  return low;
}

INLINE void NAME(compare_found)(const struct NAME(many) *many, const struct NAME(block) *block, const struct NAME(found) *found,
                                REAL low, int64_t row) {
  if (found->count == ALL_CENTERS) {
    NAME(compare_all)(many, block, row);
    return;
  }
  REAL best = INFINITY;
  int32_t label = INT32_MAX;
  for (int32_t i = 0; i < found->count; i++) {
    if (found->highs[i] < low) continue;
    const int32_t center = found->centers[i];
    const REAL sqdist = NAME(sqdist_to)(many, block, row, center);
    if (sqdist < best || (sqdist == best && center < label)) best = sqdist, label = center;
  }
  many->sqdist[row] = best;
  many->labels[row] = label;
}

// Rows of a block that are compared with a panel. Each array has one entry per row, so that loops use vectors.
struct NAME(compared) {
  int32_t *rows;            // numbers of the rows in the block
  REAL *norms, *sqnorms;    // norms of the rows, and their squares
  REAL *reaches;            // the value of the nearest center so far, up to rounding
  REAL *margins, *edges;    // a center is excluded if its value is below the edge: `reaches` minus the margin
  REAL *largest;            // the largest value of a center of the panel that is not the nearest one
  float *limits;            // upper limit of the lower bound, from a center that was the nearest one
};

INLINE struct NAME(compared) NAME(compared_of)(int64_t n_rows, char **scratch) {
  return (struct NAME(compared)){
      .rows = take(scratch, (n_rows + PROPOSE_ROWS) * sizeof(int32_t)),
      .norms = take(scratch, n_rows * sizeof(REAL)),
      .sqnorms = take(scratch, n_rows * sizeof(REAL)),
      .reaches = take(scratch, n_rows * sizeof(REAL)),
      .margins = take(scratch, n_rows * sizeof(REAL)),
      .edges = take(scratch, n_rows * sizeof(REAL)),
      .largest = take(scratch, n_rows * sizeof(REAL)),
      .limits = take(scratch, n_rows * sizeof(float)),
  };
}

// Lists all rows of a block in `compared`.
INLINE void NAME(compare_all_rows)(struct NAME(compared) *compared, const struct NAME(block) *block, int64_t n_rows) {
  compared->norms = block->norms, compared->sqnorms = block->sqnorms;
  for (int64_t i = 0; i < n_rows; i++) compared->rows[i] = (int32_t)i;
}

// Computes margins and edges. Repeats the last row in `rows`, because each product has PROPOSE_ROWS rows.
static __attribute__((noinline)) void NAME(set_edges)(const struct NAME(compared) *compared, const struct NAME(rounding) *rounding,
                            REAL norm_of_panel, int64_t count) {
  const struct NAME(rounding) copy = *rounding;
  const REAL *restrict norms = compared->norms, *restrict reaches = compared->reaches;
  REAL *restrict margins = compared->margins, *restrict edges = compared->edges;
  for (int64_t i = 0; i < count; i++) {
    margins[i] = NAME(margin)(&copy, norms[i], norm_of_panel);
    edges[i] = margins[i] < REAL_MAX / 16 * copy.product ? reaches[i] - margins[i] : -INFINITY;
  }
  for (int i = 0; i < PROPOSE_ROWS && count; i++) compared->rows[count + i] = compared->rows[count - 1];
}

// Computes the nearest centers of rows [start, stop) without labels of an earlier call.
static void NAME(find_nearest)(const struct NAME(many) *many, int64_t start, int64_t stop, char *scratch) {
  struct NAME(block) block = NAME(block_of)(many, &scratch);
  const int64_t n = stop - start, panels = n_panels(many->n_clusters);
  struct NAME(compared) all = NAME(compared_of)(n, &scratch);
  REAL *lows = all.reaches;
  struct NAME(found) *found = take(&scratch, n * sizeof *found);
  for (int64_t i = 0; i < n; i++) {
    NAME(shift)(many, &block, start + i, i);
    const REAL magnitude = block.norms[i] + many->norms[panels];
    // Below this limit every partial sum of a product is finite.
    const int finite = magnitude * magnitude < REAL_MAX / 16;
    lows[i] = finite ? -INFINITY : INFINITY, found[i].count = finite ? 0 : ALL_CENTERS;
  }
  NAME(compare_all_rows)(&all, &block, n);
  for (int64_t panel = 0; panel < panels; panel++) {
    const int32_t *members = many->members + panel * PANEL;
    NAME(set_edges)(&all, &block.rounding, many->norms[panel], n);
    for (int64_t from = 0; from < n; from += PROPOSE_ROWS) {
      NAME(propose_panel)(many, &block, all.rows + from, panel);
      if (panel == 0) NAME(fetch_rows)(many, stop + from);
      for (int64_t row = from; row < at_most(from + PROPOSE_ROWS, n); row++) {
        const REAL *values = block.values + (row - from) * PANEL;
        if (NAME(any_reaches)(NAME(values_at)(values), all.edges[row]) && found[row].count != ALL_CENTERS)
          lows[row] = NAME(find)(&found[row], values, members, all.margins[row], lows[row]);
      }
    }
  }
  for (int64_t i = 0; i < n; i++) NAME(compare_found)(many, &block, &found[i], lows[i], start + i);
}

// Rows of a block whose products with each panel are needed.
struct NAME(needed) {
  int32_t *counts; // number of rows for each panel
  int16_t *rows;   // (panels, rows of a block): numbers of these rows in the block
};

// Decreases the lower bounds of a row by the moves of the centers. Adds the row to the list of each panel whose bound
// is not above `upper`. Returns whether the row was added to any list.
INLINE int NAME(move_bounds)(float *bounds, const float *drifts, int64_t panels, float upper,
                             const struct NAME(needed) *needed, int64_t row, int64_t n_rows) {
  int any = 0;
  for (int64_t panel = 0; panel < panels; panel += F32_LANES) {
    f32_vector moved;
    const int count = (int)at_most(F32_LANES, panels - panel);
    if (count == F32_LANES) {
      moved = moved_bounds(f32_load(bounds + panel), f32_load(drifts + panel));
      f32_store(bounds + panel, moved);
    } else {
      float own[F32_LANES] = {0};
      memcpy(own, bounds + panel, count * sizeof(float));
      moved = moved_bounds(f32_load(own), f32_load(drifts + panel));
      memcpy(bounds + panel, &moved, count * sizeof(float));
    }
    const i32_vector skipped = moved > upper;
    if (all_set(&skipped)) continue;
    for (int i = 0; i < count; i++)
      if (!skipped[i]) {
        needed->rows[(panel + i) * n_rows + needed->counts[panel + i]++] = (int16_t)row;
        any = 1;
      }
  }
  return any;
}

// Compares the nearest center so far with the centers of a panel whose values are not below the edge. Updates the label
// and the squared distance of the row. Returns the values of the panel, with -infinity for the new nearest center. If
// the old nearest center is in this panel and was replaced, `limit` becomes a lower bound of its distance.
INLINE struct NAME(panel_values) NAME(decide)(const struct NAME(many) *many, const struct NAME(block) *block, int64_t row,
                                              int64_t panel, struct NAME(panel_values) values, REAL edge, float *limit) {
  const int32_t *members = many->members + panel * PANEL;
  const int32_t label = many->labels[row], place = many->places[label];
  const int is_own = place / PANEL == panel;
  const REAL sqdist = many->sqdist[row];
  REAL best = sqdist;
  int32_t nearest = label;
  int nearest_at = -1;
  unsigned left = NAME(reaching)(values, edge);
  if (is_own) left &= ~(1u << place % PANEL), values = NAME(without)(values, place % PANEL);
  for (; left; left &= left - 1) {
    const int i = __builtin_ctz(left);
    if (members[i] < 0) continue;
    const REAL other = NAME(sqdist_to)(many, block, row, members[i]);
    if (other < best || (other == best && members[i] < nearest)) best = other, nearest = members[i], nearest_at = i;
  }
  if (nearest == label) return values;
  many->labels[row] = nearest;
  many->sqdist[row] = best;
  if (!many->bounds) return values;
  *limit = NAME(lower_bound_of)(&block->rounding, sqdist); // for the center that is no longer nearest
  if (!is_own) {
    float *bound = many->bounds + row * n_panels(many->n_clusters) + place / PANEL;
    if (*limit < *bound) *bound = *limit;
    *limit = INFINITY;
  }
  return NAME(without)(values, nearest_at);
}

// Writes the lower bounds of a panel for the rows that were compared with the panel.
static __attribute__((noinline)) void NAME(set_bounds)(const struct NAME(many) *many, const struct NAME(compared) *compared,
                             const struct NAME(rounding) *rounding, int64_t start, int64_t panel, int64_t count) {
  const int64_t panels = n_panels(many->n_clusters);
  const REAL finite_below = REAL_MAX / 16 * rounding->product;
  const REAL *restrict sqnorms = compared->sqnorms, *restrict margins = compared->margins;
  const REAL *restrict largest = compared->largest;
  float *restrict limits = compared->limits;
  for (int64_t i = 0; i < count; i++) {
    const float bound = NAME(lower_bound)(sqnorms[i], largest[i], margins[i]);
    const float known = margins[i] < finite_below ? bound : 0;
    limits[i] = limits[i] < known ? limits[i] : known;
  }
  for (int64_t i = 0; i < count; i++) many->bounds[(start + compared->rows[i]) * panels + panel] = limits[i];
}

// The entry of `reaches` for a point with squared distance `sqdist` to its nearest center so far.
INLINE REAL NAME(reach_of)(const struct NAME(rounding) *rounding, REAL sqnorm, REAL sqdist) {
  return (sqnorm - sqdist * rounding->grow - rounding->underflow) / 2;
}

// Writes the rows that must still be compared with a panel. Comparisons with earlier panels have decreased the upper
// bounds of some rows, so these rows may be excluded now. Returns the number of rows.
INLINE int64_t NAME(compare_needed)(const struct NAME(many) *many, const struct NAME(compared) *compared,
                                    const struct NAME(block) *block, const int16_t *rows, int64_t n_rows,
                                    const float *bounds, const REAL *sqdist, const float *uppers) {
  const int64_t panels = n_panels(many->n_clusters);
  int64_t count = 0;
  for (int64_t next = 0; next < n_rows; next++) {
    const int16_t row = rows[next];
    const REAL sqnorm = block->sqnorms[row];
    compared->rows[count] = row;
    compared->norms[count] = block->norms[row], compared->sqnorms[count] = sqnorm;
    compared->reaches[count] = NAME(reach_of)(&block->rounding, sqnorm, sqdist[row]);
    count += bounds[row * panels] <= uppers[row];
  }
  return count;
}

// Compares the rows in `compared` with a panel, and updates labels, squared distances and bounds.
INLINE void NAME(follow_panel)(const struct NAME(many) *many, struct NAME(block) *block,
                               const struct NAME(compared) *compared, int64_t start, int64_t panel, int64_t count,
                               int64_t next_block, float *uppers) {
  const int has_bounds = many->bounds != NULL;
  NAME(set_edges)(compared, &block->rounding, many->norms[panel], count);
  for (int64_t from = 0; from < count; from += PROPOSE_ROWS) {
    NAME(propose_panel)(many, block, compared->rows + from, panel);
    if (panel == 0) NAME(fetch_rows)(many, next_block + from);
    for (int64_t i = from; i < at_most(from + PROPOSE_ROWS, count); i++) {
      const int64_t row = compared->rows[i];
      struct NAME(panel_values) values = NAME(values_at)(block->values + (i - from) * PANEL);
      float limit = INFINITY;
      if (NAME(any_reaches)(values, compared->edges[i])) {
        values = NAME(decide)(many, block, start + row, panel, values, compared->edges[i], &limit);
        const REAL sqdist = many->sqdist[start + row];
        compared->reaches[i] = NAME(reach_of)(&block->rounding, block->sqnorms[row], sqdist);
        if (has_bounds) uppers[row] = NAME(upper_bound)(&block->rounding, sqdist);
      }
      if (!has_bounds) continue;
      compared->largest[i] = NAME(largest_value)(values);
      compared->limits[i] = limit;
    }
  }
  if (has_bounds) NAME(set_bounds)(many, compared, &block->rounding, start, panel, count);
}

// Computes the nearest centers of rows [start, stop) from the labels of the previous centers.
static void NAME(follow_nearest)(const struct NAME(many) *many, int64_t start, int64_t stop, char *scratch) {
  struct NAME(block) block = NAME(block_of)(many, &scratch);
  const struct NAME(rounding) rounding = block.rounding;
  const int64_t n = stop - start, panels = n_panels(many->n_clusters);
  struct NAME(needed) needed = {take(&scratch, panels * sizeof(int32_t)), take(&scratch, panels * n * sizeof(int16_t))};
  struct NAME(compared) compared = NAME(compared_of)(n, &scratch);
  float *uppers = take(&scratch, n * sizeof(float));
  const int knows_bounds = many->known == KNOWN_BOUNDS;
  REAL *sqdist = many->sqdist + start;
  for (int64_t i = 0; i < n; i++) {
    const int32_t label = many->labels[start + i];
    if (many->moved[label]) sqdist[i] = NAME(sqdist_to)(many, &block, start + i, label);
    if (!knows_bounds) NAME(shift)(many, &block, start + i, i);
  }
  if (knows_bounds) {
    memset(needed.counts, 0, panels * sizeof(int32_t));
    for (int64_t i = 0; i < n; i++) uppers[i] = NAME(upper_bound)(&rounding, sqdist[i]);
    for (int64_t i = 0; i < n; i++)
      if (NAME(move_bounds)(many->bounds + (start + i) * panels, many->drifts, panels, uppers[i], &needed, i, n))
        NAME(shift)(many, &block, start + i, i);
  } else {
    NAME(compare_all_rows)(&compared, &block, n);
    for (int64_t i = 0; i < n; i++) compared.reaches[i] = NAME(reach_of)(&rounding, block.sqnorms[i], sqdist[i]);
  }
  for (int64_t panel = 0; panel < panels; panel++) {
    int64_t count = n;
    if (knows_bounds)
      count = NAME(compare_needed)(many, &compared, &block, needed.rows + panel * n, needed.counts[panel],
                                   many->bounds + start * panels + panel, sqdist, uppers);
    NAME(follow_panel)(many, &block, &compared, start, panel, count, stop, uppers);
  }
}

// Adds the terms of rows [start, stop) to `many->inertia`, and updates `many->largest`.
static void NAME(add_distances)(struct NAME(many) *many, int64_t start, int64_t stop) {
  const double scale = many->sqdist_scale;
  uint64_t inertia = (uint64_t)many->inertia;
  double largest = many->largest;
  if (many->weights) {
    for (int64_t row = start; row < stop; row++) {
      const double weight = many->weights[row], sqdist = many->sqdist[row];
      inertia += (uint64_t)to_fixed(sqdist * weight, scale);
      if (weight != 0 && sqdist > largest) largest = sqdist;
    }
  } else {
    REAL_VECTOR lanes = (REAL_VECTOR){0} - 1;
    int64_t row = start;
    for (; row + LANES <= stop; row += LANES) lanes = NAME(larger_lanes)(lanes, NAME(vector_at)(many->sqdist + row));
    REAL most = LARGEST_LANE(lanes);
    for (; row < stop; row++) most = NAME(larger)(most, many->sqdist[row]);
    largest = most > largest ? most : largest;
    if (most * scale < FIXED_SMALL)
      for (row = start; row < stop; row++) inertia += (uint64_t)small_to_fixed(many->sqdist[row], scale);
    else
      for (row = start; row < stop; row++) inertia += (uint64_t)to_fixed(many->sqdist[row], scale);
  }
  many->inertia = (int64_t)inertia;
  many->largest = largest;
}

// Fixed-point terms (width) of w·(x - lowest) of one point.
INLINE void NAME(sum_terms)(const struct NAME(many) *many, const REAL *restrict point, double weight,
                            int64_t *restrict terms) {
  const double *restrict lowest = many->lowest, *restrict scales = many->sum_scales;
  const int64_t width = many->width;
  int64_t large = 0;
  for (int64_t d = 0; d < width; d++) {
    const double term = ((double)point[d] - lowest[d]) * weight;
    large |= fabs(term * scales[d]) < FIXED_SMALL ? 0 : 1;
    terms[d] = small_to_fixed(term, scales[d]);
  }
  if (large)
    for (int64_t d = 0; d < width; d++) terms[d] = to_fixed(((double)point[d] - lowest[d]) * weight, scales[d]);
}

// Adds a point to the sums of its label, and subtracts it from the sums of its previous label.
static void NAME(add_row)(const struct NAME(many) *many, int64_t row, int64_t *restrict terms) {
  const int64_t width = many->width;
  const int32_t label = many->labels[row], before = many->labels_before ? many->labels_before[row] : -1;
  const double weight = many->weights ? many->weights[row] : 1;
  NAME(sum_terms)(many, many->points + row * width, weight, terms);
  const int64_t units = to_fixed(weight, many->weight_scale);
  int64_t *restrict to = many->sums + label * width;
  for (int64_t d = 0; d < width; d++) to[d] = (int64_t)((uint64_t)to[d] + (uint64_t)terms[d]);
  many->totals[label] = (int64_t)((uint64_t)many->totals[label] + (uint64_t)units);
  if (before < 0) return;
  int64_t *restrict from = many->sums + before * width;
  for (int64_t d = 0; d < width; d++) from[d] = (int64_t)((uint64_t)from[d] - (uint64_t)terms[d]);
  many->totals[before] = (int64_t)((uint64_t)many->totals[before] - (uint64_t)units);
}

static void NAME(add_rows)(struct NAME(many) *many) {
  enum { AHEAD = 16 }; // number of points that are prefetched into the caches before they are added
  char *scratch = many->scratch;
  int64_t *terms = take(&scratch, many->width * sizeof(int64_t)), next[AHEAD];
  int n_next = 0;
  many->n_changed = 0;
  for (int64_t row = 0; row < many->n_rows; row++) {
    if (many->labels_before && many->labels[row] == many->labels_before[row]) continue;
    if (many->weights && many->weights[row] == 0) continue;
    many->n_changed++;
    fetch(many->points + row * many->width, many->width * sizeof(REAL));
    next[n_next++] = row;
    if (n_next < AHEAD) continue;
    for (n_next = AHEAD; n_next; n_next--) NAME(add_row)(many, next[AHEAD - n_next], terms);
  }
  for (int i = 0; i < n_next; i++) NAME(add_row)(many, next[i], terms);
}

// The origin: the median of up to 15 centers in each coordinate, which a few far centers do not change much.
static void NAME(set_origin)(const struct NAME(many) *many) {
  enum { SAMPLE = 15 };
  const int64_t n = at_most(many->n_clusters, SAMPLE);
  for (int64_t d = 0; d < many->width; d++) {
    REAL sorted[SAMPLE] = {0};
    for (int64_t i = 0; i < n; i++) {
      const REAL value = many->centers[i * many->n_clusters / n * many->width + d];
      int64_t at = i;
      for (; at > 0 && sorted[at - 1] > value; at--) sorted[at] = sorted[at - 1];
      sorted[at] = value;
    }
    many->origin[d] = sorted[n / 2];
  }
}

// Computes origin, panels, norms, drifts and moved from the centers.
static void NAME(pack)(const struct NAME(many) *many) {
  const int64_t width = many->width, panels = n_panels(many->n_clusters), part = 2 * LANES;
  const REAL slack = 1 + (REAL)(width + 16) * REAL_EPSILON;
  NAME(set_origin)(many);
  REAL all = 0;
  memset(many->drifts, 0, round_up(panels, F32_LANES) * sizeof(float));
  memset(many->panels, 0, panels * PANEL * (width + 1) * sizeof(REAL));
  for (int64_t panel = 0; panel < panels; panel++) {
    REAL largest = 0;
    for (int64_t i = 0; i < PANEL; i++) {
      REAL *column = many->panels + (panel * PANEL + i / part * part) * (width + 1) + i % part;
      const int32_t center = many->members[panel * PANEL + i];
      if (center < 0) {
        column[0] = -INFINITY;
        continue;
      }
      const REAL *from = many->centers + center * width;
      double sums[NORM_SUMS] = {0}, sqnorm = 0, sqmove = 0;
      for (int64_t d = 0; d < width; d++) {
        const REAL shifted = from[d] - many->origin[d];
        column[(d + 1) * part] = shifted;
        sums[d % NORM_SUMS] += (double)shifted * shifted;
      }
      for (int j = 0; j < NORM_SUMS; j++) sqnorm += sums[j];
      column[0] = (REAL)(-sqnorm / 2);
      largest = NAME(larger)(largest, (REAL)sqrt(sqnorm) * slack);
      if (!many->centers_before) {
        many->moved[center] = 1;
        continue;
      }
      const REAL *before = many->centers_before + center * width;
      int moved = 0;
      for (int64_t d = 0; d < width; d++) {
        const double move = (double)from[d] - before[d];
        moved |= move != 0;
        sqmove += move * move;
      }
      many->moved[center] = (uint8_t)moved;
      if (!moved) continue;
      const float drift = round_up_to_f32(sqrt(sqmove) * 1.000001);
      many->drifts[panel] = drift > many->drifts[panel] ? drift : many->drifts[panel];
    }
    many->norms[panel] = largest;
    all = NAME(larger)(all, largest);
  }
  many->norms[panels] = all;
}

// Sorts the centers in places [start, stop) of `order` by their projections on the direction of largest variance, which
// the power method approximates.
static void NAME(sort_along_extent)(const struct NAME(many) *many, int32_t *order, int64_t start, int64_t stop,
                                    char *scratch) {
  const int64_t width = many->width;
  double *mean = take(&scratch, width * sizeof(double)), *direction = take(&scratch, width * sizeof(double));
  double *next = take(&scratch, width * sizeof(double));
  struct projection *projections = take(&scratch, (stop - start) * sizeof *projections);
  memset(mean, 0, width * sizeof(double));
  for (int64_t i = start; i < stop; i++)
    for (int64_t d = 0; d < width; d++) mean[d] += many->centers[order[i] * width + d] / (double)(stop - start);
  double farthest = -1;
  for (int64_t i = start; i < stop; i++) {
    double sqdist = 0;
    for (int64_t d = 0; d < width; d++) {
      next[d] = many->centers[order[i] * width + d] - mean[d];
      sqdist += next[d] * next[d];
    }
    if (sqdist > farthest) farthest = sqdist, memcpy(direction, next, width * sizeof(double));
  }
  for (int step = 0; step <= POWER_STEPS; step++) {
    double length = 0;
    memset(next, 0, width * sizeof(double));
    for (int64_t i = start; i < stop; i++) {
      const REAL *center = many->centers + order[i] * width;
      double product = 0;
      for (int64_t d = 0; d < width; d++) product += (center[d] - mean[d]) * direction[d];
      projections[i - start] = (struct projection){isfinite(product) ? product : 0, order[i]};
      for (int64_t d = 0; d < width; d++) next[d] += (center[d] - mean[d]) * product;
    }
    for (int64_t d = 0; d < width; d++) length += next[d] * next[d];
    for (int64_t d = 0; d < width; d++) direction[d] = next[d] / sqrt(length);
  }
  qsort(projections, stop - start, sizeof *projections, compare_projections);
  for (int64_t i = start; i < stop; i++) order[i] = projections[i - start].center;
}

// Orders centers by recursive halving, so that the centers of a panel are near each other. The results of an
// assignment do not depend on this order.
static void NAME(group)(const struct NAME(many) *many, int32_t *order, int64_t start, int64_t stop) {
  if (stop - start <= PANEL) return;
  NAME(sort_along_extent)(many, order, start, stop, many->scratch);
  const int64_t middle = start + round_up((stop - start) / 2, PANEL);
  NAME(group)(many, order, start, middle);
  NAME(group)(many, order, middle, stop);
}

static void NAME(assign)(struct NAME(many) *many) {
  const int64_t rows = block_rows(many->width, sizeof(REAL));
  many->inertia = 0, many->largest = -1;
  for (int64_t start = 0; start < many->n_rows; start += rows) {
    const int64_t stop = at_most(start + rows, many->n_rows);
    if (many->known)
      NAME(follow_nearest)(many, start, stop, many->scratch);
    else
      NAME(find_nearest)(many, start, stop, many->scratch);
    NAME(add_distances)(many, start, stop);
    if (many->long_labels)
      for (int64_t row = start; row < stop; row++) many->long_labels[row] = many->labels[row];
  }
}

EXPORT void NAME(gpukmeans_many_pack)(const struct NAME(many) *many) { NAME(pack)(many); }

// Computes labels, squared distances, bounds and results.
EXPORT void NAME(gpukmeans_many_assign)(struct NAME(many) *many) { NAME(assign)(many); }

// Updates sums and totals, and counts the changed labels.
EXPORT void NAME(gpukmeans_many_add)(struct NAME(many) *many) { NAME(add_rows)(many); }

// Runs over small problems. Pointers in `shared` to data of a problem or run are to problem 0 or run 0. Results whose
// pointer is NULL are not computed. The kernel adds to the previous sums and totals.
struct NAME(many_runs) {
  struct NAME(many) shared;
  const int64_t *problems;                     // (B,)
  const double *weight_scales, *sqdist_scales; // (B,)
  int64_t *inertia;                            // (B,)
  REAL *largest;                               // (B,)
};

// Computes runs [start, stop) by `pack`, `assign` and `add_rows`, without labels of an earlier call.
EXPORT void NAME(gpukmeans_many_runs)(const struct NAME(many_runs) *runs, int64_t start, int64_t stop) {
  for (int64_t run = start; run < stop; run++) {
    struct NAME(many) many = runs->shared;
    const int64_t n = many.n_rows, width = many.width, clusters = many.n_clusters, problem = runs->problems[run];
    many.points += problem * n * width;
    many.centers += run * clusters * width;
    if (many.weights) many.weights += problem * n;
    if (many.long_labels) {
      many.long_labels += run * n;
      many.sqdist += run * n;
    }
    if (many.sums) many.sqdist_scale = runs->sqdist_scales[run];
    NAME(pack)(&many);
    NAME(assign)(&many);
    if (!many.sums) continue;
    many.lowest += run * width;
    many.sum_scales += run * width;
    many.weight_scale = runs->weight_scales[run];
    many.sums += run * clusters * width;
    many.totals += run * clusters;
    NAME(add_rows)(&many);
    runs->inertia[run] = many.inertia;
    runs->largest[run] = (REAL)many.largest;
  }
}

// The size of `scratch` in bytes, which is enough for every kernel of this file.
EXPORT int64_t NAME(gpukmeans_many_scratch)(int64_t width, int64_t n_clusters) {
  const int64_t rows = block_rows(width, sizeof(REAL)), panels = n_panels(n_clusters);
  const int64_t shared = rows * (width + 2) * sizeof(REAL) + width * 8;
  const int64_t find = rows * sizeof(struct NAME(found)), follow = panels * (4 + 2 * rows) + rows * 4;
  const int64_t compared = rows * (6 * sizeof(REAL) + 8) + PROPOSE_ROWS * 4;
  const int64_t group = 3 * width * sizeof(double) + n_clusters * sizeof(struct projection);
  const int64_t assign = shared + compared + (find > follow ? find : follow);
  return (assign > group ? assign : group) + 24 * 64;
}

// Permutes `order` (n_clusters), the numbers of the centers, so that the centers of a panel are near each other.
EXPORT void NAME(gpukmeans_many_group)(const struct NAME(many) *many, int32_t *order) {
  NAME(group)(many, order, 0, many->n_clusters);
}
