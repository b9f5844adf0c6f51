// Distinct colors of 8-bit pixels with their counts, and look-up of the row of a color in a list of colors. Pixels (N,
// C) of three or four channels are partitioned by their first two channels. The other channels of a pixel are its rest.
// A part has the rests of its pixels, one or two bytes per pixel, and a table counts the rests of each part. Colors are
// in lexicographic order without a sort, because parts and rests are. For look-up there is a set with one bit for each
// color. The row of a color is the number of set bits before its own bit. All arithmetic is on integers.

#include "common.h"

// The number of values of two channels together.
#define PAIRS 65536
#define WORDS (PAIRS / 64)

// The rest of a pixel: the channels after the first two, or all channels if there are only one or two.
INLINE uint32_t rest_of(int channels, const uint8_t *pixel) {
  const uint8_t *rest = channels < 3 ? pixel : pixel + 2;
  return channels % 2 ? rest[0] : rest[0] * 256u + rest[1];
}

INLINE uint32_t load_rest(int channels, const void *rests, int64_t i) {
  if (channels < 3)
    return rest_of(channels, (const uint8_t *)rests + i * channels); // the rests are the pixels
  return channels % 2 ? ((const uint8_t *)rests)[i] : ((const uint16_t *)rests)[i];
}

INLINE void store_rest(int channels, void *rests, int64_t i, uint32_t rest) {
  if (channels % 2)
    ((uint8_t *)rests)[i] = (uint8_t)rest;
  else
    ((uint16_t *)rests)[i] = (uint16_t)rest;
}

INLINE void add_part_sizes(int channels, const uint8_t *pixels, int64_t start, int64_t stop, uint32_t (*sizes)[256]) {
  for (int64_t i = start; i < stop; i++)
    sizes[pixels[i * channels]][pixels[i * channels + 1]]++;
}

// Adds the pixels in [start, stop), of three or four channels, to the sizes (256, 256) of the parts.
EXPORT void gpukmeans_colors_part_sizes(int channels, const uint8_t *pixels, int64_t start, int64_t stop,
                                        uint32_t (*sizes)[256]) {
  if (channels == 3)
    add_part_sizes(3, pixels, start, stop, sizes);
  else
    add_part_sizes(4, pixels, start, stop, sizes);
}

INLINE void partition(int channels, const uint8_t *pixels, int64_t start, int64_t stop, uint32_t (*places)[256],
                      void *rests, int64_t n_pixels) {
  for (int64_t i = start; i < stop; i++) {
    const uint8_t *pixel = pixels + i * channels;
    const uint32_t place = places[pixel[0]][pixel[1]]++;
    if (place < n_pixels) // false only if another thread has changed pixels since the parts were counted
      store_rest(channels, rests, place, rest_of(channels, pixel));
  }
}

// Appends the rests of the pixels in [start, stop) to their parts: uint8 for three channels, uint16 for four. `places`
// (256, 256) has the place of the next rest of each part, at first the start of the part, and is updated.
EXPORT void gpukmeans_colors_partition(int channels, const uint8_t *pixels, int64_t start, int64_t stop,
                                       uint32_t (*places)[256], void *rests, int64_t n_pixels) {
  if (channels == 3)
    partition(3, pixels, start, stop, places, rests, n_pixels);
  else
    partition(4, pixels, start, stop, places, rests, n_pixels);
}

// The number of pixels of a part for each rest, a bit for each rest that occurs, and a bit for each nonzero word of
// these bits.
struct part_counts {
  uint32_t n_pixels[PAIRS];
  uint64_t rests[WORDS];
  uint64_t words[WORDS / 64];
};

// A pass over the parts in several calls. A call may end within a part.
struct color_scan {
  const void *rests;        // with one or two channels, the pixels themselves, in a single part
  const uint32_t *ends;     // the end of each part
  struct part_counts *part; // counts of the part that is not finished; at first zero
  uint8_t *colors;          // (M, C) to write, or null
  int64_t *counts;          // (M,) to write, or null
  int64_t part_number;      // the number of the part that is not finished
  int64_t n_colors;         // the number of colors of the finished parts
};

INLINE void add_rest(struct part_counts *part, uint32_t rest) {
  if (!part->n_pixels[rest]++) {
    part->rests[rest / 64] |= UINT64_C(1) << rest % 64;
    part->words[rest / 4096] |= UINT64_C(1) << rest / 64 % 64;
  }
}

INLINE void write_color(int channels, uint8_t *color, int64_t part_number, uint32_t rest) {
  if (channels >= 3) {
    *color++ = (uint8_t)(part_number >> 8);
    *color++ = (uint8_t)part_number;
  }
  if (channels % 2 == 0)
    *color++ = (uint8_t)(rest >> 8);
  *color = (uint8_t)rest;
}

// Clears the lowest set bit of a word that is not 0, and returns the number of this bit.
INLINE uint32_t next_bit(uint64_t *word) {
  const uint32_t bit = (uint32_t)__builtin_ctzll(*word);
  *word &= *word - 1;
  return bit;
}

// Writes the colors of a part in ascending order, and sets its counts to zero.
INLINE void finish_part(int channels, struct color_scan *scan) {
  struct part_counts *part = scan->part;
  for (uint32_t group = 0; group < (channels % 2 ? 1 : WORDS / 64); group++) {
    while (part->words[group]) {
      const uint32_t word = group * 64 + next_bit(part->words + group);
      while (part->rests[word]) {
        const uint32_t rest = word * 64 + next_bit(part->rests + word);
        if (scan->colors) {
          write_color(channels, scan->colors + scan->n_colors * channels, scan->part_number, rest);
          scan->counts[scan->n_colors] = part->n_pixels[rest];
        }
        scan->n_colors++;
        part->n_pixels[rest] = 0;
      }
    }
  }
  scan->part_number++;
}

INLINE void count(int channels, struct color_scan *scan, int64_t start, int64_t stop) {
  for (int64_t i = start; i < stop;) {
    const int64_t end = at_most(scan->ends[scan->part_number], stop);
    for (; i < end; i++)
      add_rest(scan->part, load_rest(channels, scan->rests, i));
    if (i == scan->ends[scan->part_number])
      finish_part(channels, scan);
  }
}

EXPORT int64_t gpukmeans_colors_part_counts_bytes(void) { return sizeof(struct part_counts); }

// Counts the colors of the parts that end in (start, stop], in lexicographic order.
EXPORT void gpukmeans_colors_count(int channels, struct color_scan *scan, int64_t start, int64_t stop) {
  FOR_CHANNELS(channels, count, scan, start, stop)
}

// 64 consecutive codes: a bit for each code that is a color, and the number of colors with lower codes.
struct code_group {
  uint64_t members;
  int64_t n_below;
};

// Colors (M, C) in lexicographic order. A code is an integer of the first three channels, one byte for each, the first
// channel highest; the groups cover all codes. With four channels, the colors of one code differ in alpha, and `firsts`
// has the first row of each code and, last, M.
struct color_rows {
  const uint8_t *colors;
  int64_t n_colors;
  struct code_group *groups; // at first zero
  int32_t *firsts;           // (M + 1)
};

// The code of a color: its first bytes as an integer, the first byte highest. There are no shifts, because for shifts
// gcc emits an instruction that waits for the previous value of a register, which is of the previous pixel.
INLINE uint32_t code_of(int64_t channels, const uint8_t *color) {
  uint32_t code = 0;
  for (int64_t channel = 0; channel < channels; channel++)
    code = code * 256 + color[channel];
  return code;
}

INLINE void add_member(struct code_group *groups, uint32_t code, int64_t n_below) {
  struct code_group *group = groups + code / 64;
  if (!group->members)
    group->n_below = n_below;
  group->members |= UINT64_C(1) << code % 64;
}

// The number of colors with lower codes, or -1 if no color has this code.
INLINE int64_t rank_of(const struct code_group *groups, uint32_t code) {
  const struct code_group *group = groups + code / 64;
  const uint64_t up_to_code = group->members << (63 - code % 64);
  return up_to_code >> 63 ? group->n_below + __builtin_popcountll(up_to_code) - 1 : -1;
}

INLINE int index_colors(int channels, struct color_rows *rows) {
  int64_t n_codes = 0;
  for (int64_t row = 0; row < rows->n_colors; row++) {
    const uint8_t *color = rows->colors + row * channels;
    if (row > 0 && memcmp(color - channels, color, (size_t)channels) >= 0)
      return 0;
    const uint32_t code = code_of(at_most(channels, 3), color);
    if (channels == 4 && row > 0 && code == code_of(3, color - channels))
      continue;
    if (channels == 4)
      rows->firsts[n_codes] = (int32_t)row;
    add_member(rows->groups, code, n_codes++);
  }
  if (channels == 4)
    rows->firsts[n_codes] = (int32_t)rows->n_colors;
  return 1;
}

// Fills the groups and `firsts`. Returns whether the colors are distinct and in lexicographic order.
EXPORT int gpukmeans_colors_index(int channels, struct color_rows *rows) {
  int ordered = 0;
  FOR_CHANNELS(channels, ordered = index_colors, rows)
  return ordered;
}

// The row of the color with this alpha in the rows [first, stop), or -1. There is at least one row.
INLINE int64_t row_of_alpha(const uint8_t *colors, int64_t first, int64_t stop, uint8_t alpha) {
  if (colors[4 * (stop - 1) + 3] == alpha) // the most frequent case: opaque pixels have the highest alpha
    return stop - 1;
  for (int64_t n = stop - first; n > 1; n -= n / 2) // the row, if any, is in [first, first + n)
    first += (n / 2) & -(int64_t)(colors[4 * (first + n / 2) + 3] <= alpha); // without a branch
  return colors[4 * first + 3] == alpha ? first : -1;
}

INLINE int64_t row_of(int channels, const struct color_rows *rows, const uint8_t *pixel) {
  const int64_t rank = rank_of(rows->groups, code_of(at_most(channels, 3), pixel));
  if (channels < 4 || rank < 0)
    return rank;
  return row_of_alpha(rows->colors, rows->firsts[rank], rows->firsts[rank + 1], pixel[3]);
}

INLINE int64_t look_up(int channels, const struct color_rows *rows, const uint8_t *pixels, int64_t start, int64_t stop,
                       int32_t *found) {
  int64_t n_missing = 0;
  for (int64_t i = start; i < stop; i++) {
    const int64_t row = row_of(channels, rows, pixels + i * channels);
    n_missing += row < 0;
    found[i] = (int32_t)row;
  }
  return n_missing;
}

// Rows of the colors of the pixels in [start, stop), -1 for colors not in the list. Returns the number of such pixels.
EXPORT int64_t gpukmeans_colors_look_up(int channels, const struct color_rows *rows, const uint8_t *pixels,
                                        int64_t start, int64_t stop, int32_t *found) {
  int64_t n_missing = 0;
  FOR_CHANNELS(channels, n_missing = look_up, rows, pixels, start, stop, found)
  return n_missing;
}

INLINE void map_values(int channels, const struct color_rows *rows, const uint8_t *pixels, int64_t start, int64_t stop,
                       const uint8_t *values, uint8_t *mapped) {
  for (int64_t i = start; i < stop; i++) {
    const int64_t row = row_of(channels, rows, pixels + i * channels);
    mapped[i] = row < 0 ? 0 : values[row];
  }
}

// The value of the color of each pixel in [start, stop), from `values` (M,); 0 for colors that are not in the list.
EXPORT void gpukmeans_colors_map_values(int channels, const struct color_rows *rows, const uint8_t *pixels,
                                        int64_t start, int64_t stop, const uint8_t *values, uint8_t *mapped) {
  FOR_CHANNELS(channels, map_values, rows, pixels, start, stop, values, mapped)
}
