// Keys of points on a Hilbert curve, and their order by a radix sort.

// Values of a coordinate whose quantiles are the grid lines, and the most bits of a coordinate of the grid.
enum { SAMPLE = 2048, MAX_BITS = 10, MAX_LINES = 1 << MAX_BITS };

// Bits of each coordinate of the grid: about 8 grid cells or more for each small box, at most 30 bits in all.
static int grid_bits(int64_t n_rows, int width) {
  int bits = 0;
  while (((int64_t)1 << bits) < n_rows) bits++;
  bits = (bits + width - 1) / width;
  if (bits > 30 / width) bits = 30 / width;
  return bits < 1 ? 1 : bits > MAX_BITS ? MAX_BITS : bits;
}

// Indices on the curve of BOX grid cells, in place of their first coordinates: Skilling (2004), "Programming the
// Hilbert curve".
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

// The rows 0 to n - 1 by ascending key, equal keys by ascending row. Spare memory is as long as keys and rows.
static void sort_by_key(int64_t n, int bits, uint32_t *keys, int32_t *rows, uint32_t *spare_keys, int32_t *spare_rows) {
  enum { MAX_DIGIT = 11 };
  int n_passes = (bits + MAX_DIGIT - 1) / MAX_DIGIT, digit = (bits + n_passes - 1) / n_passes;
  uint32_t mask = (1u << digit) - 1, starts[1 << MAX_DIGIT];
  for (int64_t i = 0; i < n; i++) rows[i] = (int32_t)i;
  for (int pass = 0; pass < n_passes; pass++) {
    int shift = pass * digit;
    uint32_t start = 0;
    memset(starts, 0, sizeof starts);
    for (int64_t i = 0; i < n; i++) starts[keys[i] >> shift & mask]++;
    for (uint32_t value = 0; value <= mask; value++) {
      uint32_t count = starts[value];
      starts[value] = start;
      start += count;
    }
    for (int64_t i = 0; i < n; i++) {
      uint32_t to = starts[keys[i] >> shift & mask]++;
      spare_keys[to] = keys[i];
      spare_rows[to] = rows[i];
    }
    memcpy(keys, spare_keys, (size_t)n * 4);
    memcpy(rows, spare_rows, (size_t)n * 4);
  }
}
