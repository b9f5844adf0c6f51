// Merges pairs of clusters with the least increase of the inertia (Ward 1963). Each call does some of the merges.
//
// `merge` of gpukmeans/refinement.py has the same operations, in float64 and rounded once, so results are equal bit by
// bit. A cluster that is merged into another one is removed. The other clusters get new numbers in the same order, so
// ties are decided in favor of the same cluster. A cluster is stale if its cheapest merge must be computed. The first
// n_fixed clusters of a run are fixed: their centers do not move.
#include <stdlib.h>

#include "distance.h"

// The clusters of B runs. Their number is M at first and K at the end.
struct merging {
  double *centers;   // (B, M, D); up to SEQUENTIAL_WIDTH coordinates (B, D, M)
  double *totals;    // (B, M): weights
  double *costs;     // (B, M): the cost of the cheapest merge of each cluster
  int32_t *partners; // (B, M): the other cluster of that merge
  int32_t *stale;    // (B, M): the stale clusters of each run
  int64_t *n_stale;  // (B,)
  int64_t *n_left;   // (B,): the number of remaining clusters
  int64_t n_all, width, n_clusters, n_fixed;
};

struct pair {
  double cost;
  int32_t first;
};

INLINE int is_by_channel(const struct merging *merging) { return merging->width <= SEQUENTIAL_WIDTH; }

INLINE double *coordinate(const struct merging *merging, int64_t run, int64_t cluster, int64_t channel) {
  double *centers = merging->centers + run * merging->n_all * merging->width;
  return is_by_channel(merging) ? centers + channel * merging->n_all + cluster
                                : centers + cluster * merging->width + channel;
}

// Makes all clusters of runs [start, stop) stale. Returns the number of runs that these kernels cannot merge, because a
// total is negative or a cost could be infinite or NaN.
EXPORT int64_t gpukmeans_merging_start(const struct merging *merging, int64_t start, int64_t stop) {
  const double most = 1e300;
  int64_t n_refused = 0;
  for (int64_t run = start; run < stop; run++) {
    const double *totals = merging->totals + run * merging->n_all;
    double total = 0, sqdist = 0;
    int is_negative = 0;
    for (int64_t cluster = 0; cluster < merging->n_all; cluster++) {
      merging->stale[run * merging->n_all + cluster] = (int32_t)cluster;
      if (cluster < merging->n_fixed) continue;
      total += totals[cluster];
      is_negative |= totals[cluster] < 0;
    }
    for (int64_t channel = 0; channel < merging->width; channel++) {
      double largest = 0;
      for (int64_t cluster = 0; cluster < merging->n_all; cluster++) {
        const double value = fabs(*coordinate(merging, run, cluster, channel));
        largest = value > largest ? value : largest;
        sqdist += 0 * value; // NaN unless the value is finite
      }
      sqdist += 4 * largest * largest;
    }
    merging->n_left[run] = merging->n_all;
    merging->n_stale[run] = merging->n_all > merging->n_clusters ? merging->n_all : 0;
    n_refused += is_negative || !(total * total < most && sqdist < most && total * sqdist < most);
  }
  return n_refused;
}

// Squared distances of a cluster to all remaining clusters.
static void sqdist_to_all(const struct merging *merging, int64_t run, int64_t cluster, double *restrict sqdist,
                          double *scratch) {
  const int64_t n_left = merging->n_left[run], width = merging->width;
  if (!is_by_channel(merging)) {
    const double *own = coordinate(merging, run, cluster, 0), *others = coordinate(merging, run, 0, 0);
    for (int64_t other = 0; other < n_left; other++)
      sqdist[other] = squared_distance_f64(own, others + other * width, width, scratch);
    return;
  }
  for (int64_t channel = 0; channel < width; channel++) {
    const double *restrict others = coordinate(merging, run, 0, channel);
    const double own = others[cluster];
    for (int64_t other = 0; other < n_left; other++) {
      const double difference = own - others[other], square = difference * difference;
      sqdist[other] = channel ? sqdist[other] + square : square;
    }
  }
}

// Replaces squared distances by the costs of merges. A fixed cluster counts as a cluster of infinite weight. The merge
// of two fixed clusters has an infinite cost.
static void to_costs(const struct merging *merging, int64_t run, int64_t cluster, double *restrict costs) {
  const double *restrict totals = merging->totals + run * merging->n_all;
  const int64_t n_left = merging->n_left[run], n_fixed = merging->n_fixed;
  const double own = totals[cluster];
  for (int64_t other = 0; other < n_fixed; other++) costs[other] = cluster < n_fixed ? INFINITY : own * costs[other];
  if (cluster < n_fixed)
    for (int64_t other = n_fixed; other < n_left; other++) costs[other] *= totals[other];
  else
    for (int64_t other = n_fixed; other < n_left; other++) {
      const double total = own + totals[other], cost = own * totals[other] / total * costs[other];
      costs[other] = total > 0 ? cost : 0;
    }
  costs[cluster] = INFINITY;
}

// The index of the lowest of n values, the first on ties. The memory after the values, one vector, is overwritten.
static int64_t first_lowest(double *values, int64_t n) {
  f64_store(values + n, f64_fill(INFINITY));
  f64_vector lowest = f64_load(values);
  for (int64_t i = F64_LANES; i < n; i += F64_LANES) {
    const f64_vector more = f64_load(values + i);
    lowest = f64_select(more < lowest, more, lowest);
  }
  double least = lowest[0];
  for (int lane = 1; lane < F64_LANES; lane++) least = lowest[lane] < least ? lowest[lane] : least;
  int64_t first = 0;
  while (first < n - 1 && values[first] != least) first++;
  return first;
}

// Computes the cheapest merges of items [start, stop). An item is a stale cluster of a run. Items are in the order of
// the runs. Scratch memory has M + distance_scratch(D) doubles and a vector.
EXPORT void gpukmeans_merging_cheapest(const struct merging *merging, int64_t start, int64_t stop, double *scratch) {
  double *costs = scratch, *squares = costs + merging->n_all + F64_LANES;
  int64_t run = 0, first = 0; // the first item of the run
  for (int64_t item = start; item < stop; item++) {
    while (item - first >= merging->n_stale[run]) first += merging->n_stale[run++];
    const int64_t at = run * merging->n_all, cluster = merging->stale[at + item - first];
    sqdist_to_all(merging, run, cluster, costs, squares);
    to_costs(merging, run, cluster, costs);
    const int64_t partner = first_lowest(costs, merging->n_left[run]);
    merging->costs[at + cluster] = costs[partner];
    merging->partners[at + cluster] = (int32_t)partner;
  }
}

static int by_cost_then_index(const void *one, const void *other) {
  const struct pair *a = one, *b = other;
  return a->cost != b->cost ? (a->cost > b->cost) - (a->cost < b->cost) : (a->first > b->first) - (a->first < b->first);
}

// Writes the pairs of clusters that are each other's cheapest partner, the cheapest pair first, and returns their
// number. Equal costs may leave no such pair. Then the only pair is the cheapest merge of all.
static int64_t mutual_pairs(const struct merging *merging, int64_t run, struct pair *pairs) {
  const double *costs = merging->costs + run * merging->n_all;
  const int32_t *partners = merging->partners + run * merging->n_all;
  int64_t n_pairs = 0;
  int32_t cheapest = 0;
  for (int32_t cluster = 0; cluster < merging->n_left[run]; cluster++) {
    if (costs[cluster] < costs[cheapest]) cheapest = cluster;
    if (cluster < partners[cluster] && partners[partners[cluster]] == cluster)
      pairs[n_pairs++] = (struct pair){costs[cluster], cluster};
  }
  if (n_pairs == 0) pairs[n_pairs++] = (struct pair){costs[cheapest], cheapest};
  qsort(pairs, (size_t)n_pairs, sizeof *pairs, by_cost_then_index);
  return n_pairs;
}

// Merges the second cluster of a pair into the first. Returns whether the merge would move a fixed cluster.
static int merge_pair(const struct merging *merging, int64_t run, int64_t first, int64_t second) {
  double *totals = merging->totals + run * merging->n_all;
  const double total = totals[first] + totals[second], fraction = total > 0 ? totals[second] / total : 0;
  if (second < merging->n_fixed) return 1;
  for (int64_t channel = 0; channel < merging->width; channel++) {
    double *to = coordinate(merging, run, first, channel);
    *to += fraction * (*coordinate(merging, run, second, channel) - *to);
  }
  totals[first] = total;
  return 0;
}

// Removes the clusters whose state is GONE. A remaining cluster becomes stale if its state or the state of its partner
// is not SAME.
enum { SAME = 0, CHANGED = 1, GONE = 2 };
static void remove_gone(const struct merging *merging, int64_t run, const uint8_t *states, int32_t *numbers) {
  const int64_t at = run * merging->n_all;
  double *totals = merging->totals + at, *costs = merging->costs + at;
  int32_t *partners = merging->partners + at, *stale = merging->stale + at, n_left = 0;
  int64_t n_stale = 0;
  for (int64_t cluster = 0; cluster < merging->n_left[run]; cluster++) {
    if (states[cluster] == GONE) continue;
    if (states[cluster] != SAME || states[partners[cluster]] != SAME) stale[n_stale++] = n_left;
    for (int64_t channel = 0; channel < merging->width; channel++)
      *coordinate(merging, run, n_left, channel) = *coordinate(merging, run, cluster, channel);
    totals[n_left] = totals[cluster];
    costs[n_left] = costs[cluster];
    partners[n_left] = partners[cluster];
    numbers[cluster] = n_left++;
  }
  for (int32_t cluster = 0; cluster < n_left; cluster++) // the other partners are computed again
    if (states[partners[cluster]] == SAME) partners[cluster] = numbers[partners[cluster]];
  merging->n_left[run] = n_left;
  merging->n_stale[run] = n_left > merging->n_clusters ? n_stale : 0;
}

// Merges the cheapest pairs of runs [start, stop), at most a quarter of the necessary merges, rounded up. Rounding
// errors could choose a merge that moves a fixed cluster. Returns the number of runs with such a merge; their results
// are undefined. Scratch memory has 24 bytes for each of M clusters.
EXPORT int64_t gpukmeans_merging_merge(const struct merging *merging, int64_t start, int64_t stop, char *scratch) {
  const int64_t n_all = merging->n_all;
  struct pair *pairs = (struct pair *)scratch;
  int32_t *numbers = (int32_t *)(pairs + n_all);
  uint8_t *states = (uint8_t *)(numbers + n_all);
  int64_t n_refused = 0;
  for (int64_t run = start; run < stop; run++) {
    const int64_t needed = merging->n_left[run] - merging->n_clusters;
    if (needed <= 0) continue;
    const int64_t n_merges = at_most(mutual_pairs(merging, run, pairs), (needed + 3) / 4);
    memset(states, SAME, (size_t)merging->n_left[run]);
    int is_refused = 0;
    for (int64_t i = 0; i < n_merges; i++) {
      const int64_t first = pairs[i].first, second = merging->partners[run * n_all + first];
      is_refused |= merge_pair(merging, run, first, second);
      states[first] = CHANGED;
      states[second] = GONE;
    }
    n_refused += is_refused;
    remove_gone(merging, run, states, numbers);
  }
  return n_refused;
}
