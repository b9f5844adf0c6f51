// Keys of points on a Hilbert curve, and their order by a radix sort.

// Grid lines are quantiles of up to SAMPLE sampled values of a coordinate. MAX_BITS is the largest number of bits of a
// grid coordinate.
enum { SAMPLE = 2048, MAX_BITS = 10, MAX_LINES = 1 << MAX_BITS };

// Bits of each coordinate of the grid: the fewest for at least as many grid cells as points, but at most MAX_BITS, and
// at most 30 for all coordinates together.
static int grid_bits(int64_t n_rows, int width) {
  int bits = 0;
  while (((int64_t)1 << bits) < n_rows) bits++;
  bits = (bits + width - 1) / width;
  if (bits > 30 / width) bits = 30 / width;
  return bits < 1 ? 1 : bits > MAX_BITS ? MAX_BITS : bits;
}

// Replaces the first coordinate of each of BOX grid cells by the index of the cell on the curve, and overwrites the
// other coordinates (Skilling 2004, "Programming the Hilbert curve").
static inline void curve_keys(const int width, int bits, uint32_t cells[][BOX]) {
  uint32_t flips[BOX] = {0}, keys[BOX] = {0};
  for (int bit = bits - 1; bit > 0; bit--) {
    uint32_t lower = (1u << bit) - 1;
    for (int i = 0; i < BOX; i++) cells[0][i] ^= -(cells[0][i] >> bit & 1) & lower;
    for (int channel = 1; channel < width; channel++)
      for (int i = 0; i < BOX; i++) {
        uint32_t is_set = -(cells[channel][i] >> bit & 1);
        uint32_t swapped = (cells[0][i] ^ cells[channel][i]) & lower & ~is_set;
        cells[0][i] ^= (is_set & lower) | swapped;
        cells[channel][i] ^= swapped;
      }
  }
  for (int channel = 1; channel < width; channel++)
    for (int i = 0; i < BOX; i++) cells[channel][i] ^= cells[channel - 1][i];
  for (int bit = bits - 1; bit > 0; bit--)
    for (int i = 0; i < BOX; i++) flips[i] ^= -(cells[width - 1][i] >> bit & 1) & ((1u << bit) - 1);
  for (int bit = bits - 1; bit >= 0; bit--)
    for (int channel = 0; channel < width; channel++)
      for (int i = 0; i < BOX; i++) keys[i] = keys[i] << 1 | ((cells[channel][i] ^ flips[i]) >> bit & 1);
  memcpy(cells[0], keys, sizeof keys);
}

// A radix sort: one stable pass for each digit of the keys, the lowest digit first.
enum { DIGIT_BITS = 11, N_DIGITS = 1 << DIGIT_BITS };

static inline uint32_t digit_of(uint32_t key, int64_t pass) { return key >> (pass * DIGIT_BITS) & (N_DIGITS - 1); }

static void count_digits(const uint32_t *keys, int64_t start, int64_t stop, int64_t pass, int64_t *counts) {
  for (int64_t i = start; i < stop; i++) counts[digit_of(keys[i], pass)]++;
}

// Replaces the counts of digits by the position of the first key with each digit.
static void first_positions(int64_t *counts) {
  int64_t position = 0;
  for (int digit = 0; digit < N_DIGITS; digit++) {
    const int64_t count = counts[digit];
    counts[digit] = position;
    position += count;
  }
}

// Copies keys and rows to the positions of their digits, and increases each position by 1 after use.
static void scatter_digits(const uint32_t *keys, const int32_t *rows, int64_t start, int64_t stop, int64_t pass,
                           int64_t *positions, uint32_t *to_keys, int32_t *to_rows) {
  for (int64_t i = start; i < stop; i++) {
    const int64_t to = positions[digit_of(keys[i], pass)]++;
    to_keys[to] = keys[i];
    to_rows[to] = rows[i];
  }
}

// Sorts `keys`, and writes the rows 0 to n - 1 by ascending key, with equal keys by ascending row. The spare arrays
// have n elements.
static void sort_by_key(int64_t n, int bits, uint32_t *keys, int32_t *rows, uint32_t *spare_keys, int32_t *spare_rows) {
  int64_t positions[N_DIGITS];
  for (int64_t i = 0; i < n; i++) rows[i] = (int32_t)i;
  for (int64_t pass = 0; pass * DIGIT_BITS < bits; pass++) {
    memset(positions, 0, sizeof positions);
    count_digits(keys, 0, n, pass, positions);
    first_positions(positions);
    scatter_digits(keys, rows, 0, n, pass, positions, spare_keys, spare_rows);
    memcpy(keys, spare_keys, (size_t)n * sizeof *keys);
    memcpy(rows, spare_rows, (size_t)n * sizeof *rows);
  }
}

// Counts the digits of keys [start, stop) in one pass of the sort of a large problem.
EXPORT int gpukmeans_few_count_digits(const struct sort_pass *pass, int64_t start, int64_t stop) {
  count_digits(pass->keys, start, stop, pass->pass, pass->positions);
  return 0;
}

EXPORT int gpukmeans_few_scatter_digits(const struct sort_pass *pass, int64_t start, int64_t stop) {
  if (start == 0) first_positions(pass->positions);
  scatter_digits(pass->keys, pass->rows, start, stop, pass->pass, pass->positions, pass->to_keys, pass->to_rows);
  return 0;
}

// The number of passes of the sort for this number of points and coordinates.
EXPORT int64_t gpukmeans_few_sort_passes(int64_t n_rows, int64_t width) {
  return (grid_bits(n_rows, (int)width) * width + DIGIT_BITS - 1) / DIGIT_BITS;
}
