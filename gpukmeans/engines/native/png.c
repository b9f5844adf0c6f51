// The filter types of PNG rows with the least code lengths, and orders of palettes. Residuals are bytes modulo 256, and
// costs and counts are integers, so results are exact and equal to gpukmeans/images/png_rate.py and palette_order.py.

#include "common.h"
#include "png.h"

#define N_FILTERS 5
#define N_BYTES 256
#define MAX_COLORS 256
#define N_TABLES 4 // tables of counts for consecutive bytes, because increments of one entry wait for each other

// The residual of a byte from the bytes around it.
INLINE uint8_t residual_of(int filter, int byte, int left, int above, int above_left) {
  return (uint8_t)(byte - predict(filter, bytes_fill(left), bytes_fill(above), bytes_fill(above_left))[0]);
}

INLINE void filter_row(int filter, const uint8_t *row, const uint8_t *above, int64_t width, uint8_t *residuals) {
  residuals[0] = residual_of(filter, row[0], 0, above[0], 0);
  int64_t x = 1;
  for (; x + BYTE_LANES <= width; x += BYTE_LANES) {
    const bytes_t prediction =
        predict(filter, bytes_load(row + x - 1), bytes_load(above + x), bytes_load(above + x - 1));
    const bytes_t values = (bytes_load(row + x) - prediction) & 255;
    *(narrow_bytes_t *)(residuals + x) = __builtin_convertvector(values, narrow_bytes_t);
  }
  for (; x < width; x++)
    residuals[x] = residual_of(filter, row[x], row[x - 1], above[x], above[x - 1]);
}

static void filter_row_by(int filter, const uint8_t *row, const uint8_t *above, int64_t width,
                          uint8_t *restrict residuals) {
  switch (filter) {
  case 0: filter_row(0, row, above, width, residuals); break;
  case 1: filter_row(1, row, above, width, residuals); break;
  case 2: filter_row(2, row, above, width, residuals); break;
  case 3: filter_row(3, row, above, width, residuals); break;
  default: filter_row(4, row, above, width, residuals);
  }
}

struct filtering {
  int64_t width;
  const uint8_t *rows;    // (H, W)
  const int32_t *lengths; // (256): the cost of each byte; NULL: `filters` is an input
  int32_t *filters;       // (H)
};

// The cost of n bytes. There are four sums, so that an addition does not wait for the one before it.
static int64_t cost_of(const uint8_t *bytes, int64_t n, const int32_t *lengths) {
  int64_t totals[4] = {0}, i = 0;
  for (; i + 4 <= n; i += 4)
    for (int lane = 0; lane < 4; lane++)
      totals[lane] += lengths[bytes[i + lane]];
  for (; i < n; i++)
    totals[0] += lengths[bytes[i]];
  return totals[0] + totals[1] + totals[2] + totals[3];
}

static void count_bytes(const uint8_t *bytes, int64_t n, int64_t (*counts)[N_BYTES]) {
  int64_t i = 0;
  for (; i + N_TABLES <= n; i += N_TABLES)
    for (int table = 0; table < N_TABLES; table++)
      counts[table][bytes[i + table]]++;
  for (; i < n; i++)
    counts[0][bytes[i]]++;
}

// Writes the cheapest filter type of each row in [start, stop), the lowest on ties. If `lengths` is NULL, the given
// filter types are used. Adds the number of residuals and filter types of each value to counts (256). `scratch` has 6
// rows. gpukmeans_png_count with equal weights computes the same counts without tables, in 1.7 to 1.9 times the time
// (images of 256 x 256 and 1920 x 1080, one thread).
EXPORT void gpukmeans_png_filter(const struct filtering *f, int64_t start, int64_t stop, uint8_t *scratch,
                                 int64_t *counts) {
  int64_t tables[N_TABLES][N_BYTES] = {{0}};
  uint8_t *const zeros = scratch + N_FILTERS * f->width;
  memset(zeros, 0, (size_t)f->width);
  for (int64_t y = start; y < stop; y++) {
    const uint8_t *row = f->rows + y * f->width, *above = y ? row - f->width : zeros;
    int64_t least = INT64_MAX;
    for (int filter = 0; filter < N_FILTERS && f->lengths; filter++) {
      uint8_t *residuals = scratch + filter * f->width;
      filter_row_by(filter, row, above, f->width, residuals);
      const int64_t cost = cost_of(residuals, f->width, f->lengths) + f->lengths[filter];
      if (cost < least) {
        least = cost;
        f->filters[y] = filter;
      }
    }
    const int filter = f->filters[y];
    uint8_t *chosen = scratch + filter * f->width;
    if (!f->lengths)
      filter_row_by(filter, row, above, f->width, chosen);
    count_bytes(chosen, f->width, tables);
    tables[0][filter]++;
  }
  for (int value = 0; value < N_BYTES; value++)
    for (int table = 0; table < N_TABLES; table++)
      counts[value] += tables[table][value];
}

// Filters the rows in [start, stop) by given filter types. Adds 1 to counts (33, 256) for each residual: at the weight
// of its block of 8 x 8 bytes, 0 to 32, and its value. Filter types have the weight 16. `scratch` has 2 rows.
EXPORT void gpukmeans_png_count(const struct filtering *f, const uint8_t *weights, int64_t start, int64_t stop,
                                uint8_t *scratch, int64_t *counts) {
  uint8_t *const zeros = scratch + f->width;
  memset(zeros, 0, (size_t)f->width);
  for (int64_t y = start; y < stop; y++) {
    const uint8_t *row = f->rows + y * f->width, *of_row = weights + y / 8 * ((f->width + 7) / 8);
    filter_row_by(f->filters[y], row, y ? row - f->width : zeros, f->width, scratch);
    for (int64_t x = 0; x < f->width; x++)
      counts[of_row[x / 8] * N_BYTES + scratch[x]]++;
    counts[16 * N_BYTES + f->filters[y]]++;
  }
}

// Adds 1 to `counts` (K, K), at the indices of a pixel and of its neighbor, for the right and the lower neighbor of
// each pixel in the rows [start, stop) of an image (H, W).
EXPORT void gpukmeans_png_adjacency(const uint8_t *indices, int64_t height, int64_t width, int64_t n_colors,
                                    int64_t start, int64_t stop, uint32_t *counts) {
  for (int64_t y = start; y < stop; y++) {
    const uint8_t *row = indices + y * width;
    for (int64_t x = 0; x + 1 < width; x++)
      counts[row[x] * n_colors + row[x + 1]]++;
    for (int64_t x = 0; x < width && y + 1 < height; x++)
      counts[row[x] * n_colors + row[x + width]]++;
  }
}

// Writes table[byte] to `values` for each byte in [start, stop). The table has 256 entries.
EXPORT void gpukmeans_png_map(const uint8_t *bytes, int64_t start, int64_t stop, const uint8_t *table,
                              uint8_t *values) {
  for (int64_t i = start; i < stop; i++)
    values[i] = table[bytes[i]];
}

struct pair {
  int64_t count;
  uint8_t first, second;
};

// Sorts n pairs by descending count with a stable radix sort, one byte in each pass. Returns the array with the result,
// which is `pairs` or `others`.
static struct pair *sorted_pairs(struct pair *pairs, struct pair *others, int64_t n) {
  int64_t highest = 0;
  for (int64_t i = 0; i < n; i++)
    highest = pairs[i].count > highest ? pairs[i].count : highest;
  for (int shift = 0; shift < 56 && highest >> shift; shift += 8) {
    int64_t places[257] = {0};
    for (int64_t i = 0; i < n; i++)
      places[256 - (pairs[i].count >> shift & 255)]++;
    for (int digit = 1; digit < 257; digit++)
      places[digit] += places[digit - 1];
    for (int64_t i = 0; i < n; i++)
      others[places[255 - (pairs[i].count >> shift & 255)]++] = pairs[i];
    struct pair *sorted = others;
    others = pairs;
    pairs = sorted;
  }
  return pairs;
}

EXPORT int64_t gpukmeans_png_chain_bytes(int64_t n_colors) {
  return n_colors * (n_colors - 1) * (int64_t)sizeof(struct pair);
}

// A greedy Hamiltonian path over symmetric counts (K, K), K from 2 to 256. Pairs of colors become neighbors by
// descending count. A pair is skipped if one of its colors has two neighbors already, or if both are ends of one chain.
// `scratch` has gpukmeans_png_chain_bytes.
EXPORT void gpukmeans_png_chain(const int64_t *counts, int64_t n_colors, void *scratch, int64_t *order) {
  struct pair *pairs = scratch;
  int64_t n_pairs = 0;
  for (int64_t a = 0; a < n_colors; a++)
    for (int64_t b = a + 1; b < n_colors; b++)
      pairs[n_pairs++] = (struct pair){counts[a * n_colors + b], (uint8_t)a, (uint8_t)b};
  pairs = sorted_pairs(pairs, pairs + n_pairs, n_pairs);
  int links[MAX_COLORS][2], n_links[MAX_COLORS] = {0}, other_end[MAX_COLORS]; // valid for ends of chains
  for (int color = 0; color < n_colors; color++)
    other_end[color] = color;
  for (int64_t i = 0, n = 0; n < n_colors - 1 && i < n_pairs; i++) {
    const int a = pairs[i].first, b = pairs[i].second;
    if (n_links[a] == 2 || n_links[b] == 2 || other_end[a] == b)
      continue;
    links[a][n_links[a]++] = b;
    links[b][n_links[b]++] = a;
    const int end_a = other_end[a], end_b = other_end[b];
    other_end[end_a] = end_b;
    other_end[end_b] = end_a;
    n++;
  }
  int color = 0, previous = -1;
  while (n_links[color] == 2)
    color++;
  for (int64_t place = 0; place < n_colors; place++) {
    order[place] = color;
    const int next = links[color][0] != previous ? links[color][0] : links[color][n_links[color] - 1];
    previous = color;
    color = next;
  }
}

INLINE int64_t highest_of(const int64_t *row, int64_t n) {
  int64_t highest = row[0];
  for (int64_t i = 1; i < n; i++)
    highest = row[i] > highest ? row[i] : highest;
  return highest;
}

// The color with the highest value among the colors that are not placed, the lowest index on ties.
INLINE int64_t unplaced_of(const int64_t *values, const uint8_t *placed, int64_t n) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; i++)
    if (!placed[i] && (best < 0 || values[i] > values[best]))
      best = i;
  return best;
}

// Modified Zeng order over counts (K, K), K from 2 to 256 (see palette_order.py). The next color is the color with the
// most pairs with the placed colors. It is placed at the left or right end, by the sum of its pairs weighted by place.
EXPORT void gpukmeans_png_grow(const int64_t *counts, int64_t n_colors, int64_t *order) {
  int64_t totals[MAX_COLORS], both_sides[2 * MAX_COLORS], left = MAX_COLORS, right = MAX_COLORS;
  uint8_t placed[MAX_COLORS] = {0};
  for (int64_t color = 0; color < n_colors; color++)
    totals[color] = highest_of(counts + color * n_colors, n_colors);
  for (int64_t n = 0; n < n_colors; n++) {
    const int64_t color = unplaced_of(totals, placed, n_colors), weight = right - left - 1;
    const int64_t *row = counts + color * n_colors;
    int64_t leftward = 0;
    for (int64_t place = left; place < right; place++)
      leftward += (weight - 2 * (place - left)) * row[both_sides[place]];
    both_sides[leftward > 0 ? --left : right++] = color;
    placed[color] = 1;
    for (int64_t other = 0; other < n_colors; other++)
      totals[other] = (n ? totals[other] : 0) + row[other];
  }
  memcpy(order, both_sides + left, (size_t)n_colors * sizeof *order);
}

// Writes the number of adjacent pixels to `frequencies` (256) for each difference, modulo 256, of the places of their
// colors in an order (K). `counts` (K, K) has the number of adjacent pixels for each pair of colors.
EXPORT void gpukmeans_png_differences(const int64_t *counts, int64_t n_colors, const int64_t *order,
                                      int64_t *frequencies) {
  memset(frequencies, 0, N_BYTES * sizeof *frequencies);
  for (int64_t a = 0; a < n_colors; a++) {
    const int64_t *row = counts + order[a] * n_colors;
    for (int64_t b = 0; b < n_colors; b++)
      frequencies[(a - b) & 255] += row[order[b]];
  }
}

// An order of colors, and the place of each color.
struct order {
  const int64_t *counts, *lengths;
  int64_t n_colors, *colors;
  int64_t places[256];
};

INLINE int64_t distance_of(int64_t a, int64_t b) { return a < b ? b - a : a - b; }

// Swaps the colors at two adjacent places. Returns the change of the total cost. The cost of a pair of colors is its
// count times the code length of the distance of the two places.
static int64_t swap_colors(struct order *o, int64_t place, int64_t other_place) {
  const int64_t color = o->colors[place], other = o->colors[other_place];
  const int64_t *of_color = o->counts + color * o->n_colors, *of_other = o->counts + other * o->n_colors;
  int64_t change = 0;
  for (int64_t at = 0; at < o->n_colors; at++) {
    const int64_t k = o->colors[at];
    const int64_t longer = o->lengths[distance_of(at, other_place)] - o->lengths[distance_of(at, place)];
    change += at == place || at == other_place ? 0 : (of_color[k] - of_other[k]) * longer;
  }
  o->colors[place] = other;
  o->colors[other_place] = color;
  o->places[color] = other_place;
  o->places[other] = place;
  return change;
}

// Moves one color after another, in the initial order, by up to `reach` places to the place with the least total cost,
// as `swap_colors` defines the cost.
EXPORT void gpukmeans_png_refine(const int64_t *counts, int64_t n_colors, int64_t reach, const int64_t *lengths,
                                 int64_t *colors) {
  struct order o = {.counts = counts, .lengths = lengths, .n_colors = n_colors, .colors = colors};
  int64_t turns[256];
  for (int64_t place = 0; place < n_colors; place++) {
    turns[place] = colors[place];
    o.places[colors[place]] = place;
  }
  for (int64_t i = 0; i < n_colors; i++) {
    const int64_t color = turns[i], start = o.places[color];
    int64_t best = 0, best_place = start;
    for (int64_t step = -1; step <= 1; step += 2) {
      int64_t change = 0, place = start;
      for (int64_t n = 0; n < reach && place + step >= 0 && place + step < n_colors; n++, place += step) {
        change += swap_colors(&o, place, place + step);
        if (change < best) {
          best = change;
          best_place = place + step;
        }
      }
      for (; place != start; place -= step)
        swap_colors(&o, place, place - step);
    }
    const int64_t step = best_place > start ? 1 : -1;
    for (int64_t place = start; place != best_place; place += step)
      swap_colors(&o, place, place + step);
  }
}
