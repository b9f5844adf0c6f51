// Greedy k-means++ for many coordinates and numbers REAL. many.c includes this file once for each type, after
// many_body.h. The ctypes.Structure in seeding.py has the layout of `struct seeding`.
//
// The potential of a candidate is the total of w·d² with the candidate as one more center, in fixed point. A candidate
// changes only the terms of points to which it is nearer than all centers so far. The triangle inequality, or products
// with the error bound of many.c, exclude other points. A group is GROUP consecutive rows. Sampling skips whole groups
// by their totals. Totals and gains are in fixed-point units.

struct NAME(seeding) {
  // Points, weights, and the candidates as centers. Labels and squared distances are for the nearest center so far.
  struct NAME(many) screen;
  REAL *centers;      // (n_centers, width)
  REAL *least_gaps;   // (n_centers): the squared distance of each center to the nearest candidate
  uint16_t *nearer;   // (n_rows): bit l: candidate l is nearer than the centers so far
  uint16_t *any_nearer; // (groups): bit l: candidate l is nearer to any of the rows
  int64_t *units;     // (groups): totals of w·d²
  REAL *largest;      // (groups): the largest d² of a point with weight, 0 if there is none
  int64_t n_centers;
};

INLINE double NAME(weight_of)(const struct NAME(seeding) *seeding, int64_t row) {
  return seeding->screen.weights ? seeding->screen.weights[row] : 1;
}

INLINE int64_t NAME(units_of)(const struct NAME(seeding) *seeding, int64_t row, REAL sqdist) {
  return to_fixed(sqdist * NAME(weight_of)(seeding, row), seeding->screen.sqdist_scale);
}

INLINE int64_t NAME(group_stop)(const struct NAME(seeding) *seeding, int64_t group) {
  return at_most((group + 1) * GROUP, seeding->screen.n_rows);
}

static void NAME(measure_group)(const struct NAME(seeding) *seeding, int64_t group) {
  REAL largest = 0;
  uint64_t units = 0;
  for (int64_t row = group * GROUP; row < NAME(group_stop)(seeding, group); row++) {
    const REAL sqdist = seeding->screen.sqdist[row];
    units += (uint64_t)NAME(units_of)(seeding, row, sqdist);
    if (sqdist > largest && NAME(weight_of)(seeding, row) != 0) largest = sqdist;
  }
  seeding->largest[group] = largest;
  seeding->units[group] = (int64_t)units;
}

// Totals and largest squared distances of groups [start, stop).
EXPORT void NAME(gpukmeans_seeding_measure)(const struct NAME(seeding) *seeding, int64_t start, int64_t stop) {
  for (int64_t group = start; group < stop; group++) NAME(measure_group)(seeding, group);
}

// Writes the largest squared distance of all groups, and returns their total.
EXPORT int64_t NAME(gpukmeans_seeding_total)(const struct NAME(seeding) *seeding, double *largest) {
  const int64_t groups = n_groups(seeding->screen.n_rows);
  uint64_t total = 0;
  REAL most = 0;
  for (int64_t group = 0; group < groups; group++) {
    total += (uint64_t)seeding->units[group];
    most = NAME(larger)(most, seeding->largest[group]);
  }
  *largest = most;
  return (int64_t)total;
}

// The rows at n positions from 0 to the total - 1. A row fills as many positions as it has units.
static void NAME(draw)(const struct NAME(seeding) *seeding, const int64_t *positions, int64_t n, int64_t *rows) {
  const int64_t n_rows = seeding->screen.n_rows;
  for (int64_t i = 0; i < n; i++) {
    int64_t left = positions[i], group = 0;
    while (group < n_groups(n_rows) - 1 && left >= seeding->units[group]) left -= seeding->units[group++];
    int64_t row = group * GROUP;
    for (; row < n_rows - 1; row++) {
      const int64_t units = NAME(units_of)(seeding, row, seeding->screen.sqdist[row]);
      if (left < units) break;
      left -= units;
    }
    rows[i] = row;
  }
}

// Samples the candidates, and computes their panel and least_gaps.
EXPORT void NAME(gpukmeans_seeding_draw)(const struct NAME(seeding) *seeding, const int64_t *positions, int64_t *rows) {
  const struct NAME(many) *screen = &seeding->screen;
  const int64_t width = screen->width, n = screen->n_clusters;
  REAL *candidates = (REAL *)screen->centers;
  char *scratch = screen->scratch;
  REAL *distance_memory = take(&scratch, distance_scratch(width) * sizeof(REAL));
  NAME(draw)(seeding, positions, n, rows);
  for (int64_t i = 0; i < n; i++)
    memcpy(candidates + i * width, screen->points + rows[i] * width, width * sizeof(REAL));
  NAME(pack)(screen);
  for (int64_t center = 0; center < seeding->n_centers; center++) {
    REAL least = INFINITY;
    for (int64_t i = 0; i < n; i++)
      least = NAME(smaller)(least, NAME(squared_distance)(candidates + i * width, seeding->centers + center * width,
                                                          width, distance_memory));
    seeding->least_gaps[center] = least;
  }
}

// A candidate is not nearer to a point than its nearest center if the distance of this center to the candidate is at
// least twice the distance to the point. Returns the square of this limit, with a margin for rounding errors.
INLINE REAL NAME(excluding_gap)(const struct NAME(rounding) *rounding, REAL sqdist) {
  return 4 * ((sqdist + rounding->underflow) * (rounding->grow + 3 * (rounding->grow - 1)));
}

struct NAME(weighing) {
  const struct NAME(seeding) *seeding;
  struct NAME(block) block;
  uint64_t gains[PANEL];
  uint16_t any_nearer; // of the group
};

INLINE void NAME(win)(struct NAME(weighing) *weighing, int64_t row, int64_t candidate, REAL sqdist) {
  const struct NAME(seeding) *seeding = weighing->seeding;
  const uint16_t bit = (uint16_t)(1u << candidate);
  seeding->nearer[row] |= bit;
  weighing->any_nearer |= bit;
  weighing->gains[candidate] += (uint64_t)NAME(units_of)(seeding, row, sqdist);
  weighing->gains[candidate] -= (uint64_t)NAME(units_of)(seeding, row, seeding->screen.sqdist[row]);
}

INLINE void NAME(weigh_pair)(struct NAME(weighing) *weighing, int64_t row, int64_t candidate) {
  const struct NAME(many) *screen = &weighing->seeding->screen;
  const REAL sqdist = NAME(sqdist_to)(screen, &weighing->block, row, candidate);
  if (sqdist < screen->sqdist[row]) NAME(win)(weighing, row, candidate, sqdist);
}

static void NAME(weigh_by_products)(struct NAME(weighing) *weighing, const int32_t *rows, int64_t n, int64_t first) {
  const struct NAME(many) *screen = &weighing->seeding->screen;
  struct NAME(block) *block = &weighing->block;
  const struct NAME(rounding) *rounding = &block->rounding;
  for (int64_t from = 0; from < n; from += PROPOSE_ROWS) {
    int32_t shifted[PROPOSE_ROWS] = {0};
    const int64_t used = at_most(PROPOSE_ROWS, n - from);
    for (int64_t i = 0; i < used; i++) {
      shifted[i] = (int32_t)i;
      NAME(shift)(screen, block, first + rows[from + i], i);
    }
    NAME(propose_panel)(screen, block, shifted, 0);
    for (int64_t i = 0; i < used; i++) {
      const int64_t row = first + rows[from + i];
      const struct NAME(panel_values) values = NAME(values_at)(block->values + i * PANEL);
      const REAL margin = NAME(margin)(rounding, block->norms[i], screen->norms[0]);
      const int finite = margin < REAL_MAX / 16 * rounding->product;
      const REAL own = screen->sqdist[row] * rounding->grow + rounding->underflow;
      const REAL edge = finite ? (block->sqnorms[i] - own) / 2 - margin : -INFINITY;
      if (!NAME(any_reaches)(values, edge)) continue;
      for (unsigned left = NAME(reaching)(values, edge); left; left &= left - 1) {
        const int candidate = __builtin_ctz(left);
        if (candidate < screen->n_clusters) NAME(weigh_pair)(weighing, row, candidate);
      }
    }
  }
}

// Adds the change of the total of groups [start, stop) that each candidate would cause to gains (PANEL). Sets the bits
// of `nearer` and `any_nearer`.
EXPORT void NAME(gpukmeans_seeding_weigh)(const struct NAME(seeding) *seeding, int64_t start, int64_t stop,
                                          char *scratch, int64_t *gains) {
  const struct NAME(many) *screen = &seeding->screen;
  struct NAME(weighing) weighing = {.seeding = seeding, .block = NAME(block_of)(screen, &scratch)};
  const struct NAME(rounding) rounding = weighing.block.rounding;
  const REAL *least_gaps = seeding->least_gaps;
  for (int64_t group = start; group < stop; group++) {
    const int64_t first = group * GROUP, n = NAME(group_stop)(seeding, group) - first;
    const int32_t *labels = screen->labels + first;
    int32_t rows[GROUP];
    int64_t n_near = 0;
    weighing.any_nearer = 0;
    memset(seeding->nearer + first, 0, n * sizeof *seeding->nearer);
    for (int64_t i = 0; i < n; i++) {
      rows[n_near] = (int32_t)i;
      n_near += !(least_gaps[labels[i]] > NAME(excluding_gap)(&rounding, screen->sqdist[first + i]));
    }
    NAME(weigh_by_products)(&weighing, rows, n_near, first);
    seeding->any_nearer[group] = weighing.any_nearer;
  }
  for (int64_t i = 0; i < PANEL; i++) gains[i] = (int64_t)((uint64_t)gains[i] + weighing.gains[i]);
}

// Updates labels, squared distances and totals of groups [start, stop) for a candidate that becomes the next center.
EXPORT void NAME(gpukmeans_seeding_take)(const struct NAME(seeding) *seeding, int64_t candidate, int64_t start,
                                         int64_t stop, char *scratch) {
  const struct NAME(many) *screen = &seeding->screen;
  const struct NAME(block) block = NAME(block_of)(screen, &scratch);
  const uint16_t bit = (uint16_t)(1u << candidate);
  for (int64_t group = start; group < stop; group++) {
    if (!(seeding->any_nearer[group] & bit)) continue;
    for (int64_t row = group * GROUP; row < NAME(group_stop)(seeding, group); row++) {
      if (!(seeding->nearer[row] & bit)) continue;
      screen->sqdist[row] = NAME(sqdist_to)(screen, &block, row, candidate);
      screen->labels[row] = (int32_t)seeding->n_centers;
    }
    NAME(measure_group)(seeding, group);
  }
}
