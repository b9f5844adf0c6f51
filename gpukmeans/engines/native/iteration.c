// The steps of an iteration of Lloyd's algorithm after the pass over the points: centers move to means, and runs end.
//
// gpukmeans/lloyd.py and gpukmeans/moments.py do the same operations in float64, each rounded once, so results are
// equal bit by bit. The Python files need about fifty short tensor operations, which take longer than a pass over few
// points.
#include "distance.h"

// Moments of B runs and their scales. Only `sums` and `totals` have strides, in elements. Other arrays are contiguous.
struct moments {
  const int64_t *sums, *totals, *inertia;                // (B, K, D), (B, K), (B,)
  const double *sum_scale, *weight_scale, *sqdist_scale; // (B, D), (B,), (B,)
  const double *lowest, *highest;                        // (B, D)
  const void *worst;                                     // (B,), in the type of centers
  int64_t sum_strides[3], total_strides[2], is_double, n_clusters, width, n_fixed;
};

struct move {
  struct moments moments;
  const void *centers;        // (B, K, D)
  const double *total_weight; // (B,)
  const uint8_t *going;       // (B,)
  const int64_t *n_iter;      // (B,)
  void *target;               // (B, K, D): means, or previous centers for ended runs and empty or fixed clusters
  double *sqshift, *bound;    // (B,): largest squared move of a center; bound of the next squared distances of points
  double *scale;              // (B,): the fixed-point scale for the bound
  int64_t *n_iter_result;     // (B,)
  uint8_t *going_result;      // (B,): whether any center moves
};

struct decision {
  struct moments moments;
  const uint8_t *going;                      // (B,)
  const double *bound, *inertia, *lowest;    // (B,): `bound` of the move, inertia before it, lowest inertia so far
  const int64_t *stalled;                    // (B,): iterations since the lowest inertia
  const uint8_t *unresolved;                 // (B,)
  double *inertia_result, *lowest_result;    // (B,)
  int64_t *stalled_result;                   // (B,)
  uint8_t *going_result, *unresolved_result; // (B,): `unresolved` becomes 1 if the scale was too coarse
};

INLINE double real_at(const void *values, int64_t is_double, int64_t i) {
  return is_double ? ((const double *)values)[i] : (double)((const float *)values)[i];
}

INLINE int64_t total_at(const struct moments *moments, int64_t run, int64_t cluster) {
  return moments->totals[run * moments->total_strides[0] + cluster * moments->total_strides[1]];
}

INLINE double worst_sqdist(const struct moments *moments, int64_t run) {
  return real_at(moments->worst, moments->is_double, run);
}

// The largest fixed-point scale for terms whose total is at most `largest_total`, as in gpukmeans/fixed_point.py.
static double finest_scale(double largest_total) {
  enum { TOTAL_BITS = 61, MAX_EXPONENT = 1000 };
  if (largest_total == 0) return 1;
  int bits;
  frexp(largest_total, &bits);
  const int exponent = TOTAL_BITS - bits;
  return ldexp(1, exponent > MAX_EXPONENT ? MAX_EXPONENT : exponent < -MAX_EXPONENT ? -MAX_EXPONENT : exponent);
}

// Whether a cluster that is not fixed is empty, and a point with weight has a positive distance to its nearest center.
static int misses_a_cluster(const struct moments *moments, int64_t run) {
  int is_empty = 0;
  for (int64_t cluster = moments->n_fixed; cluster < moments->n_clusters; cluster++)
    is_empty |= !total_at(moments, run, cluster);
  return is_empty && worst_sqdist(moments, run) > 0;
}

// Writes the mean (D) of a cluster, clipped to the range of the points.
static void mean_of_cluster(const struct moments *moments, int64_t run, int64_t cluster, double *mean) {
  const int64_t *sums = moments->sums + run * moments->sum_strides[0] + cluster * moments->sum_strides[1];
  const double weight = (double)total_at(moments, run, cluster) / moments->weight_scale[run];
  for (int64_t channel = 0; channel < moments->width; channel++) {
    const int64_t i = run * moments->width + channel;
    const double low = moments->lowest[i], high = moments->highest[i];
    const double value = (double)sums[channel * moments->sum_strides[2]] / moments->sum_scale[i] / weight + low;
    mean[channel] = value < low ? low : value > high ? high : value;
  }
}

// Moves the centers of runs [start, stop). Returns the number of runs with an empty cluster that must be relocated. If
// this number is not 0, nothing is written, because this kernel does not relocate. Scratch memory has 3 D doubles.
EXPORT int64_t gpukmeans_move(const struct move *move, int64_t start, int64_t stop, double *scratch) {
  const struct moments *moments = &move->moments;
  const int64_t n_clusters = moments->n_clusters, width = moments->width, is_double = moments->is_double;
  double *from = scratch, *to = from + width, *squares = to + width;
  int64_t n_missing = 0;
  for (int64_t run = start; run < stop; run++) n_missing += move->going[run] && misses_a_cluster(moments, run);
  if (n_missing) return n_missing;
  for (int64_t run = start; run < stop; run++) {
    double most = 0, most_of_used = 0;
    int moves = 0;
    for (int64_t cluster = 0; cluster < n_clusters; cluster++) {
      const int64_t first = (run * n_clusters + cluster) * width, total = total_at(moments, run, cluster);
      for (int64_t channel = 0; channel < width; channel++)
        to[channel] = from[channel] = real_at(move->centers, is_double, first + channel);
      if (move->going[run] && cluster >= moments->n_fixed && total) mean_of_cluster(moments, run, cluster, to);
      for (int64_t channel = 0; channel < width; channel++) {
        if (is_double)
          ((double *)move->target)[first + channel] = to[channel];
        else
          to[channel] = ((float *)move->target)[first + channel] = (float)to[channel];
        moves |= to[channel] != from[channel];
      }
      const double sqshift = squared_distance_f64(to, from, width, squares);
      most = sqshift > most ? sqshift : most;
      if (total > 0) most_of_used = sqshift > most_of_used ? sqshift : most_of_used;
    }
    move->sqshift[run] = most;
    move->bound[run] = 2 * (worst_sqdist(moments, run) + most_of_used);
    move->scale[run] = finest_scale(move->total_weight[run] * move->bound[run]);
    move->n_iter_result[run] = move->n_iter[run] + (move->going[run] != 0);
    move->going_result[run] = (uint8_t)moves;
  }
  return 0;
}

// Decides from the moments after the move which of the runs [start, stop) continue. A run ends after `patience` stalled
// iterations. It also ends if its inertia decreases by at most `tol` times the inertia before and no cluster must be
// relocated. The scale was too coarse if the largest squared distance is positive and `too_coarse` times this distance
// is below the bound.
EXPORT void gpukmeans_decide(const struct decision *decision, int64_t start, int64_t stop, double tol, int64_t patience,
                             double too_coarse) {
  const struct moments *moments = &decision->moments;
  for (int64_t run = start; run < stop; run++) {
    const double before = decision->inertia[run], lowest = decision->lowest[run];
    const double inertia = (double)moments->inertia[run] / moments->sqdist_scale[run];
    const double worst = worst_sqdist(moments, run);
    const int64_t stalled = inertia < lowest ? 0 : decision->stalled[run] + 1;
    const int settled =
        stalled >= patience || (before - inertia <= tol * before && !misses_a_cluster(moments, run));
    decision->inertia_result[run] = decision->going[run] ? inertia : before;
    decision->lowest_result[run] = inertia < lowest ? inertia : lowest;
    decision->stalled_result[run] = stalled;
    decision->going_result[run] = decision->going[run] && !settled;
    const int is_coarse = decision->going[run] && worst > 0 && worst * too_coarse < decision->bound[run];
    decision->unresolved_result[run] = decision->unresolved[run] || is_coarse;
  }
}
