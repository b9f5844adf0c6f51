// Floyd-Steinberg error diffusion, and its inverse palette: the nearest palette color of each cell of a grid of colors.
// Results have the bits of gpukmeans/images/dithering.py. Colors are integers in sixteenths of a level, multiplied by
// alpha. Distances for the inverse palette are float32, and each operation is rounded once. A pixel depends on three
// pixels above it and on its left neighbor. ROWS rows are computed together, each two pixels behind the row above, so
// that a CPU computes several chains of dependent operations at a time.

#include "common.h"

// A color, one channel per lane; lanes without a channel are 0.
typedef int32_t color_t __attribute__((vector_size(16), aligned(4), may_alias));

#define LEVEL 16
#define OPAQUE (255 * LEVEL)
#define MAX_COLORS 256
#define ROWS 4 // rows computed together

INLINE int has_alpha(int channels) { return channels % 2 == 0; }

INLINE color_t select(color_t mask, color_t yes, color_t no) { return (mask & yes) | (~mask & no); }
INLINE color_t lower(color_t a, color_t b) { return select(a < b, a, b); }
INLINE color_t higher(color_t a, color_t b) { return select(a > b, a, b); }

// The premultiplied channel, in sixteenths of a level from 0 to 255 * 16, for the product of a channel and alpha from 0
// to 255 * 255. The result is rounded to nearest.
INLINE int32_t premultiplied(int32_t product) { return (2 * LEVEL * product + 255) / 510; }

INLINE color_t load(const int32_t *channels) { return *(const color_t *)channels; }

// Whether any bit of the mask is set.
INLINE int any(color_t mask) {
  int64_t halves[2];
  memcpy(halves, &mask, sizeof halves);
  return (halves[0] | halves[1]) != 0;
}

// The color of a pixel, premultiplied, rounded to nearest.
INLINE color_t level_of(int channels, const uint8_t *pixel) {
  color_t color = {pixel[0]};
  for (int channel = 1; channel < channels; channel++)
    color[channel] = pixel[channel];
  if (!has_alpha(channels))
    return color * LEVEL;
  const int alpha = pixel[channels - 1];
  color[channels - 1] = 255;
  for (int channel = 0; channel < channels; channel++)
    color[channel] = premultiplied(color[channel] * alpha);
  return color;
}

// Widens the range [lowest, highest] of each channel to include the pixels in [start, stop). The value of a color
// channel is its product with alpha, or with 255 if there is no alpha. The value of alpha is its product with 255.
INLINE void extend_range(int channels, const uint8_t *pixels, int64_t start, int64_t stop, int32_t *lowest,
                         int32_t *highest) {
  for (int64_t i = start; i < stop; i++) {
    const uint8_t *pixel = pixels + i * channels;
    const int32_t alpha = has_alpha(channels) ? pixel[channels - 1] : 255;
    for (int channel = 0; channel < channels; channel++) {
      const int is_alpha = has_alpha(channels) && channel == channels - 1;
      const int32_t product = alpha * (is_alpha ? 255 : pixel[channel]);
      lowest[channel] = product < lowest[channel] ? product : lowest[channel];
      highest[channel] = product > highest[channel] ? product : highest[channel];
    }
  }
}

// Widens the range of the premultiplied colors, in sixteenths of a level, to include the pixels in [start, stop).
EXPORT void gpukmeans_dithering_range(int channels, const uint8_t *pixels, int64_t start, int64_t stop,
                                      int32_t *lowest, int32_t *highest) {
  int32_t low[4] = {255 * 255, 255 * 255, 255 * 255, 255 * 255}, high[4] = {0};
  FOR_CHANNELS(channels, extend_range, pixels, start, stop, low, high)
  for (int channel = 0; channel < channels; channel++) {
    lowest[channel] = (int32_t)at_most(lowest[channel], premultiplied(low[channel]));
    highest[channel] = -(int32_t)at_most(-highest[channel], -premultiplied(high[channel]));
  }
}

// An inverse palette. Its cells are an array of the shape `sizes`. A row has the cells along the last channel. With
// alpha, each row ends with one more cell, for opaque pixels. Its center is the center of the cell before it.
struct inverse_palette {
  int32_t lowest[4]; // lowest value of each channel, where its first cell begins
  int32_t sizes[4];  // number of cells along each channel
  int32_t shift;     // binary logarithm of the side of a cell
  int32_t channels;
  int32_t n_colors;
  const float *palette[4]; // (C, K)
  const uint8_t *opaque;   // (K): whether opaque cells may have this color
  uint8_t *cells;
};

INLINE float center_of(const struct inverse_palette *p, int channel, int64_t cell) {
  return (float)(p->lowest[channel] + ((int32_t)cell << p->shift) + (1 << p->shift) / 2);
}

INLINE float square(float value) { return value * value; }

// Squared distances of the palette colors to the cell centers of a row in all channels but the last.
INLINE void distances_to_row(int channels, const struct inverse_palette *p, int64_t row, float *distances) {
  for (int k = 0; k < p->n_colors; k++)
    distances[k] = 0;
  float centers[4];
  for (int channel = channels - 2; channel >= 0; row /= p->sizes[channel--])
    centers[channel] = center_of(p, channel, row % p->sizes[channel]);
  for (int channel = 0; channel < channels - 1; channel++)
    for (int copy = 0; copy < (channels == 2 ? 3 : 1); copy++) // gray with alpha is three equal channels and alpha
      for (int k = 0; k < p->n_colors; k++)
        distances[k] += square(centers[channel] - p->palette[channel][k]);
}

// Writes the palette colors that may be nearest to a cell center of a row, in ascending order, and returns their
// number. The last channel of the centers is from `first` to `last`. A color is left out if its distance to the nearest
// point of this range exceeds the distance of another color to the farther end, because the other color is nearer to
// every center. Rounded distances have this order too, because each rounded operation is monotonic.
INLINE int candidates_of_row(const struct inverse_palette *p, const float *values, float first, float last,
                             const float *distances, int32_t *candidates) {
  float bound = INFINITY;
  for (int k = 0; k < p->n_colors; k++) {
    const float to_first = square(first - values[k]), to_last = square(last - values[k]);
    const float farthest = distances[k] + (to_first > to_last ? to_first : to_last);
    bound = farthest < bound ? farthest : bound;
  }
  int n = 0;
  for (int k = 0; k < p->n_colors; k++) {
    const float outside = values[k] < first ? first - values[k] : values[k] > last ? values[k] - last : 0;
    candidates[n] = k;
    n += distances[k] + square(outside) <= bound;
  }
  return n;
}

INLINE void fill_row(int channels, const struct inverse_palette *p, int64_t row) {
  const float *values = p->palette[channels - 1];
  uint8_t *cells = p->cells + row * p->sizes[channels - 1];
  const int32_t size = p->sizes[channels - 1] - has_alpha(channels);
  float distances[MAX_COLORS];
  int32_t candidates[MAX_COLORS];
  distances_to_row(channels, p, row, distances);
  const float first = center_of(p, channels - 1, 0), last = center_of(p, channels - 1, size - 1);
  const int n_candidates = candidates_of_row(p, values, first, last, distances, candidates);
  for (int32_t start = 0; start < size; start += F32_LANES) {
    f32_vector centers, best = f32_fill(INFINITY);
    i32_vector labels = i32_fill(0);
    for (int lane = 0; lane < F32_LANES; lane++)
      centers[lane] = center_of(p, channels - 1, start + lane);
    for (int i = 0; i < n_candidates; i++) {
      const int32_t k = candidates[i];
      const f32_vector difference = centers - values[k], distance = distances[k] + difference * difference;
      const i32_vector closer = distance < best;
      best = f32_select(closer, distance, best);
      labels = i32_select(closer, i32_fill(k), labels);
    }
    for (int lane = 0; lane < at_most(F32_LANES, size - start); lane++)
      cells[start + lane] = (uint8_t)labels[lane];
  }
  if (!has_alpha(channels))
    return;
  float best = INFINITY;
  for (int k = 0; k < p->n_colors; k++) {
    const float distance = distances[k] + square(last - values[k]);
    if (p->opaque[k] && distance < best) {
      best = distance;
      cells[size] = (uint8_t)k;
    }
  }
}

INLINE void fill_rows(int channels, const struct inverse_palette *p, int64_t start, int64_t stop) {
  for (int64_t row = start; row < stop; row++)
    fill_row(channels, p, row);
}

// Fills the cells of the rows in [start, stop). There is a row for each combination of cells of all channels but the
// last.
EXPORT void gpukmeans_dithering_inverse_palette(const struct inverse_palette *p, int64_t start, int64_t stop) {
  FOR_CHANNELS(p->channels, fill_rows, p, start, stop)
}

// Arguments of error diffusion.
struct diffusion {
  int32_t lowest[4];      // origin of the inverse palette; the palette and target colors are relative to it
  int32_t span[4];        // highest target color; targets are clamped to [0, span]
  int32_t sizes[4];       // numbers of cells of the inverse palette
  int32_t shift;          // binary logarithm of the side of a cell
  int32_t limit;          // spacing of the palette; an error e beyond it becomes (e + limit) / 2
  int32_t strength;       // of the errors, in 256ths
  int32_t channels;
  int64_t width;
  const color_t *palette; // (256)
  const uint8_t *cells;   // the nearest palette color of each cell
  const uint8_t *pixels;  // (H, W, C)
  const uint8_t *nearest; // (H, W): nearest colors; pixels within a level of them are not dithered
  uint8_t *indices;       // (H, W): the result
  color_t *errors;        // (W + 1): of the row above, replaced from the left; at first 0. The last is always 0
};

// The errors that the next pixel of a row receives from the left and from above left.
struct row_errors {
  color_t left, above_left;
};

INLINE int32_t cell_of(int channels, const struct diffusion *d, color_t target, int opaque) {
  const color_t axes = target >> d->shift;
  const int last = channels - 1;
  int32_t cell = 0;
  for (int channel = 0; channel < last; channel++)
    cell = cell * d->sizes[channel] + axes[channel];
  return cell * d->sizes[last] + (has_alpha(channels) && opaque ? d->sizes[last] - 1 : axes[last]);
}

INLINE void diffuse_pixel(int channels, const struct diffusion *d, int64_t i, color_t *above, struct row_errors *row) {
  const uint8_t *pixel = d->pixels + i * channels;
  const int opaque = pixel[channels - 1] == 255;
  const color_t color = level_of(channels, pixel) - load(d->lowest);
  const color_t difference = color - d->palette[d->nearest[i]];
  const int visible = !has_alpha(channels) || pixel[channels - 1] > 0;
  const int dithered = visible && any((difference > LEVEL) | (difference < -LEVEL));
  // A stored error is 2 * 256 times the error to diffuse, and 7, 3, 5 and 1 are sixteenths, so the divisor is 2^13.
  const color_t received = 7 * row->left + (3 * above[1] + 5 * above[0] + row->above_left);
  color_t target = color + (received >> 13);
  target = lower(higher(target, (color_t){0}), load(d->span));
  if (has_alpha(channels)) {
    const int32_t alpha = opaque ? OPAQUE : target[channels - 1];
    target = lower(target, (color_t){0} + alpha);
    target[channels - 1] = alpha;
  }
  const int chosen = d->cells[cell_of(channels, d, target, opaque)];
  const color_t error = target - d->palette[chosen];
  const color_t limit = (color_t){0} + d->limit;
  row->above_left = above[0];
  row->left = (error + lower(higher(error, -limit), limit)) * (dithered ? d->strength : 0);
  above[0] = row->left;
  d->indices[i] = (uint8_t)(dithered ? chosen : d->nearest[i]);
}

// Computes one pixel of each row top + r for r in [first, last): the pixel at t - 2 r.
INLINE void diffuse_step(int channels, const struct diffusion *d, int64_t top, int64_t t, int64_t first, int64_t last,
                         struct row_errors *rows) {
  for (int64_t row = first; row < last; row++) {
    const int64_t x = t - 2 * row;
    diffuse_pixel(channels, d, (top + row) * d->width + x, d->errors + x, rows + row);
  }
}

INLINE void diffuse(int channels, const struct diffusion *d, int64_t start, int64_t stop) {
  for (int64_t top = start; top < stop; top += ROWS) {
    struct row_errors rows[ROWS] = {0};
    const int64_t n_rows = at_most(ROWS, stop - top);
    for (int64_t t = 0; t < d->width + 2 * (n_rows - 1); t++) {
      const int64_t first = t < d->width ? 0 : (t - d->width) / 2 + 1, last = at_most(t / 2 + 1, n_rows);
      if (first == 0 && last == ROWS)
        diffuse_step(channels, d, top, t, 0, ROWS, rows); // unrolled
      else
        diffuse_step(channels, d, top, t, first, last, rows);
    }
  }
}

// Computes the indices of the rows in [start, stop). The rows above must have been computed, because `errors` has the
// errors that they diffuse.
EXPORT void gpukmeans_dithering_diffuse(const struct diffusion *d, int64_t start, int64_t stop) {
  FOR_CHANNELS(d->channels, diffuse, d, start, stop)
}
