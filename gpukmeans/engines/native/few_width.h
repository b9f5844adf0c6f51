// The kernels of few_real.h whose inner loops run over the coordinates, for points of WIDTH coordinates.

// Writes the ids and coordinates of the listed centers that may be nearest to a point of a box, and returns their
// number. The other centers stay excluded until a center moves farther than `slack`.
//
// Let b be the center nearest to the midpoint m of a box, and c another center. The points x of the box differ from m
// by at most h in each coordinate. |x - c|² - |x - b|² is linear in x, so in the box it is at least |m - c|² - |m - b|²
// minus twice the sum of h·|c - b| over the coordinates (equivalent to the test of Kanungo et al. 2002, section 3). If
// this bound is above 0, c is nearest to no point of the box. If both centers may move by s, |x - c| - |x - b| may
// decrease by 2s, so the bound must be above 2s(|x - c| + |x - b|). This product is at most 2s·t with
// t = |m - c| + |m - b| + 2|h|.
//
// Let u be REAL_EPS. All terms of the bound on |m - c|² are positive, so the rounding errors of the bound, of |m - c|²
// and of h are together below (D + 8)u of |m - c|². The two compared distances of x have relative errors below
// (D/2 + 2)u, so after the moves they must differ by (D/2 + 2)u of (|x - c| + |x - b|)². Before the moves a difference
// of (D/2 + 2)u times t(t + 2s) suffices. If c is excluded, 2s·t is below |m - c|², and t² is at most
// 4(|m - c|² + |m - b|² + 2|h|²). So (7D/2 + 18)u of |m - c|², (2D + 8)u of |m - b|² and (4D + 16)u of |h|² suffice;
// `rounding` is more than each of these factors. Below the smallest normal number, the error of an operation is at most
// that number.
static int64_t OF_WIDTH(candidates)(const REAL *listed, const int32_t *ids, int64_t count,
                                    const REAL *box, REAL slack, struct NAME(workspace) *space, REAL *kept,
                                    int32_t *kept_ids) {
  const int64_t stride = space->stride;
  const REAL rounding = (4 * WIDTH + 32) * REAL_EPS;
  REAL *sqdist = space->sqdist;
  VECTOR lowest = V(fill)(INFINITY);
  for (int64_t j = 0; j < count; j += LANES) {
    VECTOR difference = V(load)(listed + j) - box[0], total = difference * difference;
    for (int channel = 1; channel < WIDTH; channel++) {
      difference = V(load)(listed + channel * stride + j) - box[channel];
      total += difference * difference;
    }
    V(store)(sqdist + j, total);
    lowest = V(select)(total < lowest, total, lowest);
  }
  REAL best = lowest[0];
  for (int lane = 1; lane < LANES; lane++) best = lowest[lane] < best ? lowest[lane] : best;
  int64_t nearest = 0;
  while (nearest < count - 1 && sqdist[nearest] != best) nearest++;

  REAL own[WIDTH], reach[WIDTH], sqdiagonal = 0;
  for (int channel = 0; channel < WIDTH; channel++) {
    const REAL half_width = box[WIDTH + channel];
    own[channel] = listed[channel * stride + nearest];
    reach[channel] = 2 * half_width;
    sqdiagonal += half_width * half_width;
  }
  REAL limit = best + rounding * (best + sqdiagonal) + 8 * WIDTH * REAL_TINY;
  if (!(limit < REAL_HUGE)) limit = INFINITY;
  slack *= 2;
  limit += slack * (SQRT(best) + 2 * SQRT(sqdiagonal));
  if (slack > 0)
    for (int64_t j = 0; j < count; j++) space->roots[j] = SQRT(sqdist[j]);
  for (int64_t j = 0; j < count; j += LANES) {
    VECTOR bound = V(fill)(limit);
    for (int channel = 0; channel < WIDTH; channel++) {
      const VECTOR apart = V(load)(listed + channel * stride + j) - own[channel];
      bound += (VECTOR)((MASK)apart & REAL_INT_MAX) * reach[channel];
    }
    if (slack > 0) bound += V(load)(space->roots + j) * slack;
    // The comparison is false for the NaN of an overflow, because such a center must stay.
    *(MASK *)(space->excluded + j) = V(load)(sqdist + j) * (1 - rounding) > bound;
  }
  int64_t n_kept = 0; // without a branch: the next center overwrites an excluded center
  for (int64_t j = 0; j < count; j++) {
    kept_ids[n_kept] = ids[j];
    for (int channel = 0; channel < WIDTH; channel++) kept[channel * stride + n_kept] = listed[channel * stride + j];
    n_kept += 1 + space->excluded[j];
  }
  NAME(pad)(WIDTH, kept, stride, n_kept);
  return n_kept;
}

// Computes the listed center nearest to each of `n_points` points (D, points_stride), the first on ties. Writes its
// reference squared distance and its id. Reads and writes a multiple of 2 LANES points.
static void OF_WIDTH(nearest)(const REAL *points, int64_t points_stride, int n_points, const REAL *listed,
                              int64_t stride, const int32_t *ids, int64_t count, REAL *sqdist, REAL_INT *labels) {
  for (int i = 0; i < n_points; i += 2 * LANES) { // two chains of comparisons, because each depends on the one before
    VECTOR x0[WIDTH], x1[WIDTH], best0 = V(fill)(INFINITY), best1 = best0;
    MASK label0 = {0}, label1 = {0};
    for (int channel = 0; channel < WIDTH; channel++) {
      x0[channel] = V(load)(points + channel * points_stride + i);
      x1[channel] = V(load)(points + channel * points_stride + i + LANES);
    }
    for (int64_t j = 0; j < count; j++) {
      VECTOR difference0 = x0[0] - listed[j], total0 = difference0 * difference0;
      VECTOR difference1 = x1[0] - listed[j], total1 = difference1 * difference1;
      for (int channel = 1; channel < WIDTH; channel++) {
        const REAL center = listed[channel * stride + j];
        difference0 = x0[channel] - center;
        total0 += difference0 * difference0;
        difference1 = x1[channel] - center;
        total1 += difference1 * difference1;
      }
      const MASK closer0 = total0 < best0, closer1 = total1 < best1, id = (MASK){0} + ids[j];
      best0 = V(select)(closer0, total0, best0);
      best1 = V(select)(closer1, total1, best1);
      label0 = MASK_SELECT(closer0, id, label0);
      label1 = MASK_SELECT(closer1, id, label1);
    }
    V(store)(sqdist + i, best0);
    V(store)(sqdist + i + LANES, best1);
    *(MASK *)(labels + i) = label0;
    *(MASK *)(labels + i + LANES) = label1;
  }
}

// Fixed-point terms of one point: w·(x - lowest) in each coordinate, then w.
static void OF_WIDTH(terms)(const REAL *point, int64_t stride, double weight, const double *lowest,
                            const double *scale, double weight_scale, uint64_t *terms) {
  for (int channel = 0; channel < WIDTH; channel++)
    terms[channel] = (uint64_t)to_fixed(((double)point[channel * stride] - lowest[channel]) * weight, scale[channel]);
  terms[WIDTH] = (uint64_t)to_fixed(weight, weight_scale);
}

static void OF_WIDTH(few_direct)(const struct direct_pass *pass, int64_t start, int64_t stop,
                                 void *memory) {
  enum { RETRY = 15 };
  const int64_t n_boxes = (pass->n_rows + BOX - 1) / BOX, n_clusters = pass->n_clusters, size = n_clusters * WIDTH;
  struct NAME(workspace) space = NAME(split_workspace)(memory, n_clusters, WIDTH);
  int64_t last_run = -1;
  int skip = 0;
  for (int64_t item = start; item < stop; item++) {
    const int64_t run = item / n_boxes, row = item % n_boxes * BOX, problem = pass->problems[run];
    const int n_points = smaller(pass->n_rows - row, BOX);
    if (run != last_run) NAME(list_all)(WIDTH, (const REAL *)pass->centers + run * size, n_clusters, &space);
    last_run = run;

    REAL points[WIDTH * BOX], sqdist[BOX];
    REAL_INT labels[BOX];
    double weights[BOX], heaviest = 1;
    READ(&pass->x, problem, WIDTH, NULL, row, n_points, points, BOX);
    for (int channel = 0; channel < WIDTH; channel++)
      for (int i = n_points; i < BOX; i++) points[channel * BOX + i] = points[channel * BOX + n_points - 1];
    const REAL *listed = space.centers;
    const int32_t *ids = space.all_ids;
    int64_t count = n_clusters;
    // Consecutive rows are often points near each other, as in an image or in sorted colors. If more than half of
    // the centers are left for a box, the next RETRY boxes are compared with all centers without this test.
    if (n_points >= BOX / 2 && n_clusters > 8 && !skip--) {
      REAL range[2 * WIDTH], box[2 * WIDTH];
      NAME(range_of_box)(WIDTH, points, BOX, range);
      NAME(box_of_range)(WIDTH, range, box);
      count = OF_WIDTH(candidates)(listed, ids, count, box, 0, &space, space.fine, space.fine_ids);
      listed = space.fine;
      ids = space.fine_ids;
      skip = 2 * count > n_clusters ? RETRY : 0;
    }
    OF_WIDTH(nearest)(points, BOX, n_points, listed, space.stride, ids, count, sqdist, labels);

    if (pass->labels)
      for (int i = 0; i < n_points; i++) pass->labels[run * pass->n_rows + row + i] = labels[i];
    if (pass->sqdist)
      memcpy((REAL *)pass->sqdist + run * pass->n_rows + row, sqdist, (size_t)n_points * sizeof *sqdist);
    if (!pass->totals) continue;
    const double *weights_or_none = NULL;
    if (pass->weights.data) {
      read_f64(&pass->weights, problem, 1, NULL, row, n_points, weights, BOX);
      weights_or_none = weights;
      for (int i = 0; i < n_points; i++) heaviest = weights[i] > heaviest ? weights[i] : heaviest;
    }
    const REAL largest = NAME(largest)(sqdist, weights_or_none, n_points);
    REAL *worst = (REAL *)pass->worst + run;
    *worst = largest > *worst ? largest : *worst;
    pass->inertia[run] += NAME(inertia)(sqdist, weights_or_none, n_points, pass->sqdist_scale[run], largest, heaviest);
    for (int i = 0; i < n_points; i++) {
      uint64_t terms[WIDTH + 1], *totals = pass->totals + (run * n_clusters + labels[i]) * (WIDTH + 1);
      OF_WIDTH(terms)(points + i, BOX, weights_or_none ? weights[i] : 1.0, pass->lowest + run * WIDTH,
                  pass->sum_scale + run * WIDTH, pass->weight_scale[run], terms);
      for (int part = 0; part <= WIDTH; part++) totals[part] += terms[part];
    }
  }
}

// Writes the candidates of a small box to the workspace, from the stored list or from a new one. Returns their number.
// `*is_still` is 1 if the list is the list of the last call and none of its centers has moved. The coordinates of a
// stored list are not written if `*is_still` is 1.
static int64_t OF_WIDTH(list_of_box)(const struct sorted_pass *pass, int64_t slot, int64_t problem,
                                     int64_t box, int64_t *n_coarse, struct NAME(workspace) *space, const int32_t **ids,
                                     int *is_still) {
  const struct sorted_points *points = &pass->points;
  const int64_t n_small = points->n_small, stride = space->stride;
  const uint8_t *moved = pass->moved + slot * pass->n_clusters;
  const int refresh = pass->flags[slot] & REFRESH;
  int32_t *list = pass->lists + (slot * n_small + box) * pass->capacity, *count = pass->counts + slot * n_small + box;
  int64_t length = *count;
  int still = 1;
  if (length && !refresh) {
    for (int64_t j = 0; j < length; j++) still &= !moved[list[j]];
    *ids = list;
    if (!(*is_still = still))
      for (int channel = 0; channel < WIDTH; channel++)
        for (int64_t j = 0; j < length; j++)
          space->fine[channel * stride + j] = space->centers[channel * stride + list[j]];
    return length;
  }
  // A list that was too long to be stored is computed in each call. It is for a slack of 0, so it is valid only for
  // this call and is not stored even if it is short enough.
  const REAL slack = refresh ? ((const REAL *)pass->slack)[slot] : 0;
  if (*n_coarse < 0) {
    const int64_t large = problem * points->n_large + box / FANOUT;
    *n_coarse = OF_WIDTH(candidates)(space->centers, space->all_ids, pass->n_clusters,
                                 (const REAL *)points->large + large * 2 * WIDTH, slack, space, space->coarse,
                                 space->coarse_ids);
  }
  const int64_t n_fine = OF_WIDTH(candidates)(space->coarse, space->coarse_ids, *n_coarse,
                                          (const REAL *)points->small + (problem * n_small + box) * 2 * WIDTH, slack,
                                          space, space->fine, space->fine_ids);
  const int fits = refresh && n_fine <= pass->capacity;
  const int same = fits && n_fine == length && !memcmp(list, space->fine_ids, (size_t)n_fine * sizeof *list);
  if (fits && !same) memcpy(list, space->fine_ids, (size_t)n_fine * sizeof *list);
  *count = fits ? (int32_t)n_fine : 0;
  if (same)
    for (int64_t j = 0; j < n_fine; j++) still &= !moved[list[j]];
  *is_still = same && still;
  *ids = space->fine_ids;
  return n_fine;
}

// Adds the terms of the points of a box to the totals of their labels, and subtracts them from the totals of their
// previous labels if these were counted.
static void OF_WIDTH(count_points)(const REAL *points, int64_t stride, int n_points, const double *weights,
                                   const double *lowest, const double *scale, double weight_scale,
                                   const REAL_INT *labels, const int32_t *old_labels, int were_counted,
                                   uint64_t *totals) {
  for (int i = 0; i < n_points; i++) {
    if (were_counted && labels[i] == old_labels[i]) continue;
    uint64_t terms[WIDTH + 1], *to = totals + (int64_t)labels[i] * (WIDTH + 1);
    OF_WIDTH(terms)(points + i, stride, weights ? weights[i] : 1.0, lowest, scale, weight_scale, terms);
    for (int part = 0; part <= WIDTH; part++) to[part] += terms[part];
    if (!were_counted) continue;
    uint64_t *from = totals + (int64_t)old_labels[i] * (WIDTH + 1);
    for (int part = 0; part <= WIDTH; part++) from[part] -= terms[part];
  }
}

static void OF_WIDTH(few_measure)(const struct sorted_pass *pass, int64_t start, int64_t stop,
                                  void *memory) {
  const struct sorted_points *sorted = &pass->points;
  const int64_t n_small = sorted->n_small, padded = n_small * BOX, n_clusters = pass->n_clusters;
  const int64_t size = n_clusters * WIDTH;
  struct NAME(workspace) space = NAME(split_workspace)(memory, n_clusters, WIDTH);
  int64_t last_run = -1;
  for (int64_t item = start; item < stop; item++) {
    const int64_t run = item / sorted->n_large, large = item % sorted->n_large;
    const int64_t problem = pass->problems[run], slot = pass->slots[run];
    const double *scale = pass->sum_scale + run * WIDTH, *lowest = pass->lowest + run * WIDTH;
    const double sqdist_scale = pass->sqdist_scale[run], heaviest = sorted->heaviest[problem];
    uint64_t *totals = pass->total_changes ? pass->total_changes + run * n_clusters * (WIDTH + 1)
                                           : pass->totals + slot * n_clusters * (WIDTH + 1);
    const int recount = pass->flags[slot] & RECOUNT, recompute = pass->flags[slot] & (RECOUNT | RESCALE);
    if (run != last_run) NAME(list_all)(WIDTH, (const REAL *)pass->centers + run * size, n_clusters, &space);
    last_run = run;
    int64_t n_coarse = -1;
    for (int64_t box = large * FANOUT; box < (large + 1) * FANOUT && box < n_small; box++) {
      const int32_t *ids;
      int is_still;
      const int64_t count = OF_WIDTH(list_of_box)(pass, slot, problem, box, &n_coarse, &space, &ids, &is_still);
      if (is_still && !recompute) continue;
      if (is_still && ids != space.fine_ids) // the coordinates were not listed
        for (int channel = 0; channel < WIDTH; channel++)
          for (int64_t j = 0; j < count; j++)
            space.fine[channel * space.stride + j] = space.centers[channel * space.stride + ids[j]];

      const REAL *points = (const REAL *)sorted->sorted + problem * WIDTH * padded + box * BOX;
      const double *weights = sorted->sorted_weights ? sorted->sorted_weights + problem * padded + box * BOX : NULL;
      const int n_points = smaller(sorted->n_rows - box * BOX, BOX);
      int32_t *old_labels = pass->labels + slot * padded + box * BOX;
      REAL sqdist[BOX];
      REAL_INT labels[BOX];
      OF_WIDTH(nearest)(points, padded, BOX, space.fine, space.stride, ids, count, sqdist, labels);

      REAL largest = NAME(largest_of_box)(sqdist); // includes padding, which are copies of the last point
      if (sorted->has_absent[problem]) largest = NAME(largest)(sqdist, weights, n_points);
      ((REAL *)pass->box_worst)[slot * n_small + box] = largest;
      uint64_t *inertia = pass->box_inertia + slot * n_small + box;
      if (n_points == BOX) // a constant length is faster
        *inertia = NAME(inertia)(sqdist, weights, BOX, sqdist_scale, largest, heaviest);
      else
        *inertia = NAME(inertia)(sqdist, weights, n_points, sqdist_scale, largest, heaviest);
      REAL_INT changed = 0;
      for (int i = 0; i < BOX; i++) changed |= labels[i] ^ old_labels[i];
      if (!changed && !recount) continue;
      OF_WIDTH(count_points)(points, padded, n_points, weights, lowest, scale, pass->weight_scale[run], labels,
                         old_labels, !recount, totals);
      for (int i = 0; i < BOX; i++) old_labels[i] = (int32_t)labels[i];
    }
  }
}

static void OF_WIDTH(few_assign)(const struct sorted_pass *pass, int64_t start, int64_t stop,
                                 void *memory) {
  const struct sorted_points *sorted = &pass->points;
  const int64_t n_small = sorted->n_small, padded = n_small * BOX, n_clusters = pass->n_clusters;
  struct NAME(workspace) space = NAME(split_workspace)(memory, n_clusters, WIDTH);
  const int64_t size = n_clusters * WIDTH;
  int64_t last_run = -1;
  int is_current = 0; // whether the stored labels belong to these centers
  for (int64_t item = start; item < stop; item++) {
    const int64_t run = item / sorted->n_large, large = item % sorted->n_large;
    const int64_t problem = pass->problems[run], slot = pass->slots ? pass->slots[run] : -1;
    const REAL *centers = (const REAL *)pass->centers + run * size;
    if (run != last_run) {
      NAME(list_all)(WIDTH, centers, n_clusters, &space);
      is_current = slot >= 0 && pass->flags[slot] & VALID &&
                   !memcmp(centers, (const REAL *)pass->last + slot * size, (size_t)size * sizeof *centers);
    }
    last_run = run;
    int64_t n_coarse = -1;
    for (int64_t box = large * FANOUT; box < (large + 1) * FANOUT && box < n_small; box++) {
      const REAL *points = (const REAL *)sorted->sorted + problem * WIDTH * padded + box * BOX;
      REAL sqdist[BOX];
      REAL_INT labels[BOX];
      if (is_current) {
        for (int i = 0; i < BOX; i++) {
          const REAL *center = centers + (labels[i] = pass->labels[slot * padded + box * BOX + i]) * WIDTH;
          REAL difference = points[i] - center[0];
          sqdist[i] = difference * difference;
          for (int channel = 1; channel < WIDTH; channel++) {
            difference = points[channel * padded + i] - center[channel];
            sqdist[i] += difference * difference;
          }
        }
      } else {
        if (n_coarse < 0)
          n_coarse = OF_WIDTH(candidates)(space.centers, space.all_ids, n_clusters,
                                      (const REAL *)sorted->large + (problem * sorted->n_large + large) * 2 * WIDTH, 0,
                                      &space, space.coarse, space.coarse_ids);
        const int64_t count = OF_WIDTH(candidates)(space.coarse, space.coarse_ids, n_coarse,
                                               (const REAL *)sorted->small + (problem * n_small + box) * 2 * WIDTH, 0,
                                               &space, space.fine, space.fine_ids);
        OF_WIDTH(nearest)(points, padded, BOX, space.fine, space.stride, space.fine_ids, count, sqdist, labels);
      }
      const int n_points = smaller(sorted->n_rows - box * BOX, BOX);
      const int32_t *rows = sorted->rows + problem * sorted->n_rows + box * BOX;
      for (int i = 0; i < n_points; i++) {
        pass->label_results[run * sorted->n_rows + rows[i]] = labels[i];
        ((REAL *)pass->sqdist_results)[run * sorted->n_rows + rows[i]] = sqdist[i];
      }
    }
  }
}
