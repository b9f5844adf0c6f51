// Rate-distortion optimization of an indexed image. gpukmeans/images/rate_distortion.py defines J, e and R, and has
// equal results. All results are integers. Points are premultiplied colors: below 2^8 without alpha, below 2^16 with
// alpha. The weights of R sum to 2^16. The blur has the weights [1 4 6 4 1] in each direction.

#include "common.h"
#include "png.h"

// Three or four coordinates of a color; lanes without a coordinate are 0.
typedef int32_t point_t __attribute__((vector_size(16), aligned(4), may_alias));
typedef int16_t narrow_point_t __attribute__((vector_size(8), aligned(2), may_alias));

#define DIMS 4
#define MAX_COLORS 256
#define WHOLE 256 // sum of the weights of the blur
#define MARGIN 2  // pixels that the blur includes on each side

INLINE int has_alpha(int channels) { return channels % 2 == 0; }

INLINE point_t point_of(int channels, const uint8_t *pixel) {
  const int grey = channels <= 2;
  const point_t color = {pixel[0], pixel[grey ? 0 : 1], pixel[grey ? 0 : 2], has_alpha(channels) ? 255 : 0};
  return color * (has_alpha(channels) ? pixel[channels - 1] : 1);
}

// The blur in one direction, at most 16 times the largest magnitude of the arguments.
INLINE point_t blurred(point_t a, point_t b, point_t c, point_t d, point_t e) { return a + e + 4 * (b + d) + 6 * c; }

// ---- Cells of colors ----

// Twice the number of the cell of a color, plus 1 if the color is opaque. A cell has a side of 4 levels, or of 8 levels
// with alpha.
INLINE int32_t cell_of(int channels, const uint8_t *pixel) {
  const point_t point = point_of(channels, pixel);
  if (!has_alpha(channels))
    return ((point[0] >> 2) | (point[1] >> 2) << 6 | (point[2] >> 2) << 12) * 2 + 1;
  int32_t cell = 0;
  for (int axis = 0; axis < DIMS; axis++)
    cell |= (int32_t)((uint32_t)(point[axis] + 127) / 255 >> 3) << 5 * axis;
  return cell * 2 + (pixel[channels - 1] == 255);
}

INLINE void mark_cells(int channels, const uint8_t *pixels, int64_t start, int64_t stop, uint8_t *used) {
  for (int64_t i = start; i < stop; i++)
    used[cell_of(channels, pixels + i * channels)] = 1;
}

// Sets used[cell_of(pixel)] to 1 for the pixels in [start, stop). `used` has 2^19 entries, with alpha 2^21.
EXPORT void gpukmeans_optimizing_mark_cells(int channels, const uint8_t *pixels, int64_t start, int64_t stop,
                                            uint8_t *used) {
  FOR_CHANNELS(channels, mark_cells, pixels, start, stop, used)
}

INLINE void number_cells(int channels, const uint8_t *pixels, int64_t start, int64_t stop, const int32_t *numbers,
                         int32_t *index) {
  for (int64_t i = start; i < stop; i++)
    index[i] = numbers[cell_of(channels, pixels + i * channels)];
}

// Writes the number of the cell of each pixel in [start, stop). `numbers` has as many entries as `used` above.
EXPORT void gpukmeans_optimizing_number_cells(int channels, const uint8_t *pixels, int64_t start, int64_t stop,
                                              const int32_t *numbers, int32_t *index) {
  FOR_CHANNELS(channels, number_cells, pixels, start, stop, numbers, index)
}

struct nearest {
  int64_t n_colors;
  int32_t n, unit;
  const int32_t *centers;  // (M, 4), twice the centers in levels
  const uint8_t *opaque;   // (M)
  const int32_t *points;   // (4, 256), twice the points of the palette
  const uint8_t *excluded; // (256): colors that are excluded from opaque cells
  uint8_t *lists;          // (M, n)
};

#define FAR (INT64_C(1) << 50)

// The rank of a color: its squared distance to a center, times 256, plus its index. A rank is below 2^28, with alpha
// below 2^45. An excluded color has the distance FAR.
INLINE void opaque_ranks(const struct nearest *p, const int32_t *center, int64_t *ranks) {
  int32_t distances[MAX_COLORS];
  for (int k = 0; k < MAX_COLORS; k++)
    distances[k] = 0;
  for (int axis = 0; axis < 3; axis++)
    for (int k = 0; k < MAX_COLORS; k++) {
      const int32_t difference = center[axis] - p->points[axis * MAX_COLORS + k];
      distances[k] += difference * difference;
    }
  for (int k = 0; k < MAX_COLORS; k++)
    ranks[k] = (int64_t)distances[k] * 256 + k;
}

INLINE void alpha_ranks(const struct nearest *p, const int32_t *center, int opaque, int64_t *ranks) {
  for (int k = 0; k < MAX_COLORS; k++)
    ranks[k] = 0;
  for (int axis = 0; axis < DIMS; axis++)
    for (int k = 0; k < MAX_COLORS; k++) {
      const int64_t difference = center[axis] * p->unit - p->points[axis * MAX_COLORS + k];
      ranks[k] += difference * difference;
    }
  for (int k = 0; k < MAX_COLORS; k++)
    ranks[k] = (opaque && p->excluded[k] ? FAR : ranks[k]) * 256 + k;
}

// Writes the `n` lowest ranks in ascending order. On entry, `lowest` has the ranks of any n different colors. Their
// largest rank is an upper bound.
INLINE void lowest_ranks(const int64_t *ranks, int64_t n_colors, int n, int64_t *lowest) {
  int64_t bound = 0;
  for (int i = 0; i < n; i++) {
    const int64_t rank = ranks[lowest[i] & 255];
    bound = rank > bound ? rank : bound;
    lowest[i] = INT64_MAX;
  }
  for (int64_t k = 0; k < n_colors; k++) {
    if (ranks[k] > bound || ranks[k] >= lowest[n - 1])
      continue;
    int place = n - 1;
    for (; place > 0 && lowest[place - 1] > ranks[k]; place--)
      lowest[place] = lowest[place - 1];
    lowest[place] = ranks[k];
  }
}

// Writes the `n` colors nearest to each cell in [start, stop), equally near colors by ascending index. The nearest
// color replaces excluded colors. The colors of a cell give an upper bound for the next cell.
EXPORT void gpukmeans_optimizing_nearest(const struct nearest *p, int64_t start, int64_t stop) {
  int64_t ranks[MAX_COLORS], lowest[MAX_COLORS];
  for (int i = 0; i < p->n; i++)
    lowest[i] = i;
  for (int64_t cell = start; cell < stop; cell++) {
    if (p->unit == 1)
      opaque_ranks(p, p->centers + cell * DIMS, ranks);
    else
      alpha_ranks(p, p->centers + cell * DIMS, p->opaque[cell], ranks);
    lowest_ranks(ranks, p->n_colors, p->n, lowest);
    for (int i = 0; i < p->n; i++)
      p->lists[cell * p->n + i] = (uint8_t)(lowest[i] < FAR * 256 ? lowest[i] : lowest[0]);
  }
}

// ---- Contrast ----

INLINE int32_t magnitude(int32_t number) { return number < 0 ? -number : number; }

INLINE void add_differences(int channels, const uint8_t *pixels, int64_t height, int64_t width, int64_t start,
                            int64_t stop, int64_t *sums) {
  const int64_t stride = width * channels;
  for (int64_t y = start * 8; y < stop * 8 && y < height; y++) {
    const uint8_t *row = pixels + y * stride, *above = y ? row - stride : row;
    int64_t *of_row = sums + y / 8 * ((width + 7) / 8);
    for (int64_t x = 0; x < width; x += 8) {
      const int64_t end = at_most(x + 8, width) * channels;
      int32_t sum = 0;
      for (int64_t i = x * channels; i < end; i++)
        sum += magnitude(row[i] - above[i]);
      for (int64_t i = (x ? x : 1) * channels; i < end; i++)
        sum += magnitude(row[i] - row[i - channels]);
      of_row[x / 8] += sum;
    }
  }
}

// Adds, for each 8 x 8 block in the rows of blocks [start, stop), the absolute differences of its pixels from their
// left and upper neighbors.
EXPORT void gpukmeans_optimizing_differences(int channels, const uint8_t *pixels, int64_t height, int64_t width,
                                             int64_t start, int64_t stop, int64_t *sums) {
  FOR_CHANNELS(channels, add_differences, pixels, height, width, start, stop, sums)
}

// ---- Errors and correlations ----

struct picture {
  int64_t height, width;
  int32_t channels, n_colors;
  int32_t share;          // weight of the blurred error, 0 to WHOLE
  int32_t unused;
  const uint8_t *pixels;  // (H, W, C)
  const uint8_t *indices; // (H, W)
  const int32_t *points;  // (256, 4): the palette, or zeros
};

INLINE void fill_points(int channels, const struct picture *p, int64_t y, point_t *row) {
  for (int64_t x = 0; x < p->width; x++) {
    const int64_t i = y * p->width + x;
    row[x] = point_of(channels, p->pixels + i * channels) - *(const point_t *)(p->points + p->indices[i] * DIMS);
  }
}

// The errors of a row: the points of its pixels minus the points of their palette colors. Rows outside of the image
// have errors of 0.
static void fill_row(const struct picture *p, int64_t y, point_t *row) {
  if (y < 0 || y >= p->height)
    memset(row, 0, (size_t)p->width * sizeof *row);
  else
    FOR_CHANNELS(p->channels, fill_points, p, y, row)
}

// Errors of five rows, each with a margin, and then the sum of these rows by the weights of the blur. Row y of the
// image is row `y mod 5` of the window.
struct window {
  point_t *rows;
  int64_t stride;
};

INLINE point_t *window_row(const struct window *w, int64_t y) { return w->rows + (y + 5) % 5 * w->stride + MARGIN; }

INLINE point_t *window_sum(const struct window *w) { return w->rows + 5 * w->stride + MARGIN; }

// A window in scratch memory of 6 (W + 4) points, with the rows from `start - 2` to `start + 1`.
static struct window open_window(const struct picture *p, int64_t start, point_t *scratch) {
  const struct window window = {scratch, p->width + 2 * MARGIN};
  memset(scratch, 0, 6 * (size_t)window.stride * sizeof *scratch);
  for (int64_t y = start - MARGIN; y < start + MARGIN; y++)
    fill_row(p, y, window_row(&window, y));
  return window;
}

// Moves the window to the rows from y - 2 to y + 2, and computes their sum.
static void advance(const struct picture *p, const struct window *w, int64_t y) {
  fill_row(p, y + MARGIN, window_row(w, y + MARGIN));
  const point_t *a = window_row(w, y - 2), *b = window_row(w, y - 1), *c = window_row(w, y);
  const point_t *d = window_row(w, y + 1), *e = window_row(w, y + 2);
  point_t *sum = window_sum(w);
  for (int64_t x = 0; x < p->width; x++)
    sum[x] = blurred(a[x], b[x], c[x], d[x], e[x]);
}

// One coordinate of R·e at x. The magnitude is at most 2^16 times the largest error, so below 2^32.
INLINE int64_t correlated(const struct picture *p, const point_t *sums, const point_t *row, int64_t x, int axis) {
  const point_t blur = blurred(sums[x - 2], sums[x - 1], sums[x], sums[x + 1], sums[x + 2]);
  return (int64_t)p->share * blur[axis] + (int64_t)((WHOLE - p->share) * WHOLE) * row[x][axis];
}

// Adds the terms of e·R·e of the pixels of each 8 x 8 block to `energies`. The rows [start, stop) are whole blocks. A
// pixel adds less than 2^50.
EXPORT void gpukmeans_optimizing_energy(const struct picture *p, int64_t start, int64_t stop, void *scratch,
                                        int64_t *energies) {
  const struct window window = open_window(p, start, scratch);
  for (int64_t y = start; y < stop; y++) {
    advance(p, &window, y);
    const point_t *sums = window_sum(&window), *row = window_row(&window, y);
    int64_t *of_row = energies + y / 8 * ((p->width + 7) / 8);
    for (int64_t left = 0; left < p->width; left += 8) {
      int64_t total = 0;
      for (int64_t x = left; x < at_most(left + 8, p->width); x++)
        for (int axis = 0; axis < DIMS; axis++)
          total += row[x][axis] * correlated(p, sums, row, x, axis);
      of_row[left / 8] += total;
    }
  }
}

struct normal_equations {
  int64_t *half;     // (K, K): sums of R over pairs of a pixel and a later pixel, by their indices
  int64_t *diagonal; // (K): sums of R of a pixel with itself, by its index
  uint64_t *values;  // (256, 4): sums of R times the image, by index
};

INLINE void add_pairs(int64_t *weights, const uint8_t *others, int64_t first, int64_t last, const int32_t *blur) {
  for (int64_t x = first; x <= last; x++)
    weights[others[x]] += blur[x];
}

// Adds the terms of the rows in [start, stop) to the normal equations. The points of the picture must be zeros.
EXPORT void gpukmeans_optimizing_normal_equations(const struct picture *p, int64_t start, int64_t stop, void *scratch,
                                                  const struct normal_equations *n) {
  const struct window window = open_window(p, start, scratch);
  const int32_t blur[5] = {1, 4, 6, 4, 1};
  int32_t weights[3][5]; // by the offset in rows, 0 to 2, and in columns, -2 to 2
  for (int y = 0; y < 3; y++)
    for (int x = 0; x < 5; x++)
      weights[y][x] = p->share * blur[y + 2] * blur[x];
  const int64_t own_weight = weights[0][2] + (WHOLE - p->share) * WHOLE;
  for (int64_t y = start; y < stop; y++) {
    advance(p, &window, y);
    const point_t *sums = window_sum(&window), *row = window_row(&window, y);
    const int n_below = p->share ? (int)at_most(MARGIN, p->height - 1 - y) : -1;
    for (int64_t x = 0; x < p->width; x++) {
      const uint8_t *own = p->indices + y * p->width + x;
      for (int axis = 0; axis < DIMS; axis++)
        n->values[*own * DIMS + axis] += (uint64_t)correlated(p, sums, row, x, axis);
      n->diagonal[*own] += own_weight;
      int64_t *of_own = n->half + (int64_t)*own * p->n_colors;
      const int64_t first = -at_most(MARGIN, x), last = at_most(MARGIN, p->width - 1 - x);
      if (n_below >= 0)
        add_pairs(of_own, own, 1, last, weights[0] + 2);
      for (int below = 1; below <= n_below; below++)
        add_pairs(of_own, own + below * p->width, first, last, weights[below] + 2);
    }
  }
}

INLINE int64_t floor_division(int64_t a, int64_t b) { return a / b - (a % b < 0); } // b > 0

// Coordinate descent on the levels (K, n_levels) of the `changing` colors, for the normal equations a (K, K) with
// residuals (K, 3). It stops after n_rounds rounds, or after a round that changes no level.
EXPORT void gpukmeans_optimizing_descend(const int64_t *a, int64_t n_colors, const int64_t *changing, int64_t n_changing,
                                         int n_levels, int unit, int n_rounds, int64_t *residuals, int64_t *levels) {
  int changed = 1;
  for (int round = 0; round < n_rounds && changed; round++) {
    changed = 0;
    for (int64_t i = 0; i < n_changing; i++) {
      const int64_t k = changing[i], weight = a[k * n_colors + k] * unit;
      int64_t steps[3];
      int moves = 0;
      for (int axis = 0; axis < 3; axis++) {
        if (axis >= n_levels) { // gray: equal coordinates
          steps[axis] = steps[0];
          continue;
        }
        int64_t *level = levels + k * n_levels + axis;
        int64_t new = *level + floor_division(2 * residuals[k * 3 + axis] + weight, 2 * weight);
        new = new < 0 ? 0 : at_most(new, 255);
        steps[axis] = (new - *level) * unit;
        moves |= new != *level;
        *level = new;
      }
      changed |= moves;
      for (int64_t other = 0; other < n_colors && moves; other++)
        for (int axis = 0; axis < 3; axis++)
          residuals[other * 3 + axis] -= a[other * n_colors + k] * steps[axis];
    }
  }
}

// ---- The sweep ----

// Lanes of the colors tried for a pixel: 8 colors of its cell, the colors of its 4 neighbors, and its old color in the
// other lanes.
#define LANES 16
#define BELOW 8
#define ABOVE 9
#define RIGHT 10
#define LEFT 11
#define OLD 12

typedef uint64_t words_t __attribute__((vector_size(LANES), may_alias));

// Four doubles, and the mask of their comparison.
typedef double quad_t __attribute__((vector_size(32), aligned(8), may_alias));
typedef int64_t quad_mask_t __attribute__((vector_size(32), aligned(8), may_alias));
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (quad_mask_t){__VA_ARGS__})
#endif

struct sweep {
  int64_t height, width;
  int32_t channels, share;
  int64_t price;              // at most 2^39, with alpha 2^47: J is below 2^61, or 2^62 if per_byte > 1
  const uint8_t *pixels;      // (H, W, C): only alpha is read
  const int32_t *cells;       // (H, W): the number of the cell of each pixel
  const uint8_t *lists;       // (M, 8): colors tried in each cell
  uint8_t *indices;           // (H + 2, W + 2), or (H + 2, B + 2) bytes that each have several indices
  void *errors;               // (H + 4, W + 4, 4), int16, or int32 with alpha
  const int32_t *points;      // (256, 4): the palette
  const uint8_t *translucent; // (256): colors that are excluded from opaque pixels; NULL: none
  const int32_t *filters;     // (H): filter types; NULL: `lengths` are by pairs of neighbors
  const int32_t *lengths;     // (256), by residual, or (256, 256), by the index to the left and the index
  const uint8_t *weights;     // (ceil(H / 8), ceil(W / 8)): 16 times the factors of lengths; NULL: all 16
  int64_t bit;                // factor of the error part of J
  int32_t per_byte, n_colors; // pixels in a byte: 1, 2, 4 or 8. From 2 on, all 256 values of a byte are tried
};

INLINE point_t load_point(int alpha, const void *points, int64_t i) {
  if (alpha)
    return ((const point_t *)points)[i];
  return __builtin_convertvector(((const narrow_point_t *)points)[i], point_t);
}

INLINE void store_point(int alpha, void *points, int64_t i, point_t point) {
  if (alpha)
    ((point_t *)points)[i] = point;
  else
    ((narrow_point_t *)points)[i] = __builtin_convertvector(point, narrow_point_t);
}

// Writes the errors (H + 4, W + 4, 4) of the rows in [start, stop) of a picture.
EXPORT void gpukmeans_optimizing_errors(const struct picture *p, int64_t start, int64_t stop, void *scratch,
                                        void *errors) {
  point_t *row = scratch;
  for (int64_t y = start; y < stop; y++) {
    const int64_t first = (y + MARGIN) * (p->width + 2 * MARGIN) + MARGIN;
    fill_row(p, y, row);
    for (int64_t x = 0; x < p->width; x++)
      store_point(has_alpha(p->channels), errors, first + x, row[x]);
  }
}

// Sums, by the weights of the blur, of the two rows above and the two rows below the row at `errors`. Each row has n
// numbers. Without alpha a sum is at most 2550.
#define DEFINE_ADD_ROWS(name, number)                                                                                  \
  static void name(const number *errors, int64_t n, number *restrict sums) {                                           \
    for (int64_t i = 0; i < n; i++)                                                                                    \
      sums[i] = (number)(errors[i - 2 * n] + errors[i + 2 * n] + 4 * (errors[i - n] + errors[i + n]));                 \
  }
DEFINE_ADD_ROWS(add_narrow_rows, int16_t)
DEFINE_ADD_ROWS(add_rows, int32_t)

// The blur, for the pixels of row y, of the errors of the four rows around it. It is at most 2^24.
INLINE void blur_others(int alpha, const struct sweep *s, int64_t y, void *sums, point_t *blurs) {
  const int64_t stride = s->width + 2 * MARGIN, first = (y + MARGIN) * stride * DIMS;
  if (alpha)
    add_rows((const int32_t *)s->errors + first, stride * DIMS, sums);
  else
    add_narrow_rows((const int16_t *)s->errors + first, stride * DIMS, sums);
  for (int64_t x = 0; x < s->width; x++)
    blurs[x] = blurred(load_point(alpha, sums, x), load_point(alpha, sums, x + 1), load_point(alpha, sums, x + 2),
                       load_point(alpha, sums, x + 3), load_point(alpha, sums, x + 4));
}

// For each color tried: residuals of a pixel and of the pixels whose prediction depends on it. Each of these pixels has
// its own code lengths.
struct residuals {
  int n;
  const int32_t *lengths[4];
  uint16_t terms[4][LANES];
};

// The filter types of a row and of the row below, and the weights of their blocks. Without blocks there is one weight.
struct rows {
  int own, below;
  const uint8_t *weights, *weights_below;
  int64_t mask; // for the numbers of blocks: -1, or 0 if there is one weight
};

static struct rows rows_at(const struct sweep *s, int64_t y) {
  static const uint8_t one[1] = {16};
  const int64_t n_blocks = (s->width + 7) / 8;
  const int has_below = y + 1 < s->height;
  return (struct rows){
      .own = s->filters ? s->filters[y] : 0,
      .below = s->filters && has_below ? s->filters[y + 1] : 0,
      .weights = s->weights ? s->weights + y / 8 * n_blocks : one,
      .weights_below = s->weights ? s->weights + (y + has_below) / 8 * n_blocks : one,
      .mask = s->weights ? -1 : 0,
  };
}

INLINE int weight_at(const struct rows *rows, const uint8_t *weights, int64_t x) { return weights[x >> 3 & rows->mask]; }

#define N_WEIGHTS 33

// Values that are equal for all pixels of a call.
struct constants {
  int64_t apart, weight; // factors of a pixel's squared error in J: without the blur, and in total
  // For each color, the part of J that depends on this color alone. Without alpha, `colors` has it as a double after
  // the three coordinates.
  int64_t norms[MAX_COLORS];
  double colors[MAX_COLORS][DIMS];
  int32_t lengths[N_WEIGHTS][MAX_COLORS]; // of residuals, by weight
};


INLINE void store_residuals(struct residuals *residuals, int term, int part, bytes_t values) {
  *(bytes_t *)(residuals->terms[term] + part * BYTE_LANES) = values & 255;
}

// The residuals that depend on the color of a pixel. All other residuals are equal for each color tried, so they do not
// change which J is the least.
INLINE void fill_residuals(const struct sweep *s, const struct constants *c, const struct rows *rows, int64_t x,
                           const uint8_t *at, const uint8_t *tried_lanes, struct residuals *residuals) {
  const uint8_t *above = at - s->width - 2, *under = at + s->width + 2;
  const int own = rows->own, below = rows->below, has_right = x + 1 < s->width;
  const int32_t *const here = c->lengths[weight_at(rows, rows->weights, x)];
  const int32_t *const right = c->lengths[weight_at(rows, rows->weights, x + has_right)];
  const int32_t *const under_here = c->lengths[weight_at(rows, rows->weights_below, x)];
  const int32_t *const under_right = c->lengths[weight_at(rows, rows->weights_below, x + has_right)];
  for (int part = 0; part < LANES / BYTE_LANES; part++) {
    const bytes_t tried = bytes_load(tried_lanes + part * BYTE_LANES);
    int n = 0;
    const bytes_t from_here = predict(own, bytes_fill(at[-1]), bytes_fill(above[0]), bytes_fill(above[-1]));
    residuals->lengths[n] = here;
    store_residuals(residuals, n++, part, tried - from_here);
    if (has_right && own != 0 && own != 2) {
      const bytes_t from_left = predict(own, tried, bytes_fill(above[1]), bytes_fill(above[0]));
      residuals->lengths[n] = right;
      store_residuals(residuals, n++, part, bytes_fill(at[1]) - from_left);
    }
    if (below >= 2) {
      const bytes_t lower = predict(below, bytes_fill(under[-1]), tried, bytes_fill(at[-1]));
      residuals->lengths[n] = under_here;
      store_residuals(residuals, n++, part, bytes_fill(under[0]) - lower);
    }
    if (has_right && below == 4) {
      const bytes_t diagonal = predict(below, bytes_fill(under[0]), bytes_fill(at[1]), tried);
      residuals->lengths[n] = under_right;
      store_residuals(residuals, n++, part, bytes_fill(under[1]) - diagonal);
    }
    residuals->n = n;
  }
}

INLINE void add_lengths(int n, const struct residuals *residuals, int32_t *bits) {
  for (int lane = 0; lane < LANES; lane++) {
    if (lane > OLD) {
      bits[lane] = bits[OLD];
      continue;
    }
    bits[lane] = 0;
    for (int term = 0; term < n; term++)
      bits[lane] += residuals->lengths[term][residuals->terms[term][lane]];
  }
}

INLINE void add_lengths_of_residuals(const struct sweep *s, const struct constants *c, const struct rows *rows,
                                     int64_t x, const uint8_t *at, const uint8_t *tried, int32_t *bits) {
  struct residuals residuals;
  fill_residuals(s, c, rows, x, at, tried, &residuals);
  switch (residuals.n) {
  case 1: add_lengths(1, &residuals, bits); break;
  case 2: add_lengths(2, &residuals, bits); break;
  case 3: add_lengths(3, &residuals, bits); break;
  default: add_lengths(4, &residuals, bits);
  }
}

// Adds the code lengths of the two pairs of a pixel: with its left neighbor and with its right neighbor.
INLINE void add_lengths_of_pairs(const struct sweep *s, const struct rows *rows, int64_t x, const uint8_t *at,
                                 const uint8_t *tried, int32_t *bits) {
  const int32_t *own = s->lengths + at[-1] * MAX_COLORS, *right = s->lengths + at[1];
  const int weight = weight_at(rows, rows->weights, x);
  const int right_weight = x + 1 < s->width ? weight_at(rows, rows->weights, x + 1) : 0;
  for (int lane = 0; lane < LANES; lane++)
    bits[lane] = (own[tried[lane]] * weight >> 4) + (right[tried[lane] * MAX_COLORS] * right_weight >> 4);
}

static void prepare(const struct sweep *s, struct constants *c) {
  c->apart = (WHOLE - s->share) * WHOLE;
  c->weight = c->apart + 36 * s->share;
  for (int k = 0; k < MAX_COLORS; k++) {
    const int32_t *point = s->points + k * DIMS;
    c->norms[k] = 0;
    for (int axis = 0; axis < DIMS; axis++)
      c->norms[k] += s->bit * c->weight * point[axis] * point[axis];
    for (int axis = 0; axis < 3; axis++)
      c->colors[k][axis] = point[axis];
    c->colors[k][3] = (double)c->norms[k];
  }
  for (int weight = 0; weight < N_WEIGHTS && s->filters; weight++)
    for (int residual = 0; residual < MAX_COLORS; residual++)
      c->lengths[weight][residual] = s->lengths[residual] * weight / 16;
}

// The color of the least J. Lanes of this J have the mask -1. On ties it is the old color, or else the lowest index.
INLINE int choose(const int64_t *is_least, const uint8_t *tried) {
  if (is_least[OLD])
    return tried[OLD];
  int best = 256;
  for (int lane = 0; lane < OLD; lane++) {
    const int color = tried[lane] | (int)(~is_least[lane] & 256);
    best = color < best ? color : best;
  }
  return best;
}

// The color of the least J with alpha. Parts of J are at most 2^53 times `bit`, and their sum is below 2^61.
INLINE int best_with_alpha(const struct sweep *s, const struct constants *c, point_t blur, point_t error,
                           point_t old_point, const uint8_t *tried, const int32_t *bits) {
  int64_t slope[DIMS], totals[LANES], least = INT64_MAX;
  for (int axis = 0; axis < DIMS; axis++)
    slope[axis] = -2 * s->bit * (s->share * (int64_t)blur[axis] + c->apart * error[axis] + c->weight * old_point[axis]);
  for (int lane = 0; lane <= OLD; lane++) {
    const int32_t *point = s->points + tried[lane] * DIMS;
    totals[lane] = c->norms[tried[lane]] + s->price * bits[lane];
    for (int axis = 0; axis < DIMS; axis++)
      totals[lane] += slope[axis] * point[axis];
    least = at_most(least, totals[lane]);
  }
  for (int lane = 0; lane <= OLD; lane++)
    totals[lane] = -(totals[lane] == least);
  return choose(totals, tried);
}

// The color of the least J without alpha. Parts of J are integers of at most 2^42. With a price of at most 2^39 the
// sums of the parts are below 2^53, so doubles are exact.
INLINE int best_opaque(const struct sweep *s, const struct constants *c, point_t blur, point_t error,
                       point_t old_point, const uint8_t *tried, const int32_t *bits) {
  const point_t target = s->share * blur + (int32_t)c->apart * error + (int32_t)c->weight * old_point;
  const double factor = -2 * (double)s->bit, price = (double)s->price;
  const quad_t slope = __builtin_convertvector(target, quad_t) * (quad_t){factor, factor, factor, 0} + (quad_t){0, 0, 0, 1};
  quad_t totals[LANES / 4];
  quad_t lowest = {INFINITY, INFINITY, INFINITY, INFINITY};
  for (int lane = 0; lane < LANES; lane += 4) {
    quad_t terms[4];
    for (int i = 0; i < 4; i++)
      terms[i] = *(const quad_t *)c->colors[tried[lane + i]] * slope;
    const quad_t first = SHUFFLE(terms[0], terms[1], 0, 4, 2, 6) + SHUFFLE(terms[0], terms[1], 1, 5, 3, 7);
    const quad_t second = SHUFFLE(terms[2], terms[3], 0, 4, 2, 6) + SHUFFLE(terms[2], terms[3], 1, 5, 3, 7);
    const point_t lengths = {bits[lane], bits[lane + 1], bits[lane + 2], bits[lane + 3]};
    const quad_t total = SHUFFLE(first, second, 0, 1, 4, 5) + SHUFFLE(first, second, 2, 3, 6, 7) +
                         price * __builtin_convertvector(lengths, quad_t);
    totals[lane / 4] = total;
    const quad_mask_t lower = total < lowest;
    lowest = (quad_t)(((quad_mask_t)total & lower) | ((quad_mask_t)lowest & ~lower));
  }
  const double low = lowest[0] < lowest[1] ? lowest[0] : lowest[1], high = lowest[2] < lowest[3] ? lowest[2] : lowest[3];
  const quad_t least = (quad_t){0} + (low < high ? low : high);
  int64_t is_least[LANES] __attribute__((aligned(32)));
  for (int i = 0; i < LANES / 4; i++)
    *(quad_mask_t *)(is_least + 4 * i) = totals[i] == least;
  return choose(is_least, tried);
}

// Changes the pixel at x of a row to the color of the least J. Terms of J that do not depend on the point P of the new
// color are left out. The error part of J is weight * |P|² - 2 (R·e + weight * P_old)·P.
INLINE void change_pixel(int alpha, const struct sweep *s, const struct constants *c, int64_t y,
                         const struct rows *rows, int64_t x, const point_t *blurs) {
  const int64_t stride = s->width + 2;
  uint8_t *at = s->indices + (y + 1) * stride + x + 1;
  const int old = at[0], opacity = alpha ? s->pixels[(y * s->width + x + 1) * s->channels - 1] : 255;
  if (opacity == 0)
    return;
  uint64_t of_cell;
  memcpy(&of_cell, s->lists + (int64_t)s->cells[y * s->width + x] * 8, 8);
  const uint64_t right = x + 1 < s->width ? at[1] : old, left = x > 0 ? at[-1] : old;
  const uint64_t under = y + 1 < s->height ? at[stride] : old, above = y > 0 ? at[-stride] : old;
  const uint64_t around = under | above << 8 | right << 16 | left << 24;
  uint8_t tried[LANES] __attribute__((aligned(LANES)));
  *(words_t *)tried = (words_t){of_cell, around | (uint64_t)old * UINT64_C(0x0101010100000000)};
  if (opacity == 255 && s->translucent)
    for (int lane = 0; lane < OLD; lane++)
      tried[lane] = s->translucent[tried[lane]] ? (uint8_t)old : tried[lane];

  int32_t bits[LANES];
  if (s->filters)
    add_lengths_of_residuals(s, c, rows, x, at, tried, bits);
  else
    add_lengths_of_pairs(s, rows, x, at, tried, bits);

  const int64_t i = (y + MARGIN) * (s->width + 2 * MARGIN) + x + MARGIN;
  const point_t error = load_point(alpha, s->errors, i), old_point = *(const point_t *)(s->points + old * DIMS);
  const point_t blur = blurs[x] + 6 * blurred(load_point(alpha, s->errors, i - 2), load_point(alpha, s->errors, i - 1),
                                              error, load_point(alpha, s->errors, i + 1),
                                              load_point(alpha, s->errors, i + 2));
  const int best = alpha ? best_with_alpha(s, c, blur, error, old_point, tried, bits)
                         : best_opaque(s, c, blur, error, old_point, tried, bits);
  if (best == old)
    return;
  at[0] = (uint8_t)best;
  store_point(alpha, s->errors, i, error + old_point - *(const point_t *)(s->points + best * DIMS));
}

INLINE void sweep_rows(int alpha, const struct sweep *s, int64_t top, int64_t start, int64_t stop, point_t *scratch) {
  point_t *blurs = scratch, *sums = scratch + s->width;
  struct constants constants;
  prepare(s, &constants);
  for (int64_t y = top + 3 * start; y < top + 3 * stop; y += 3) {
    const struct rows rows = rows_at(s, y);
    blur_others(alpha, s, y, sums, blurs);
    for (int64_t left = 0; left < 3; left++)
      for (int64_t x = left; x < s->width; x += 3)
        change_pixel(alpha, s, &constants, y, &rows, x, blurs);
  }
}

// ---- The sweep of bytes of several pixels ----

#define N_VALUES 256
#define MAX_PER_BYTE 8

// Values that are equal for all bytes of a call.
struct byte_constants {
  int64_t apart;           // factor of a pixel's squared error in J, without the blur
  int64_t correlations[3]; // factors of the product of the errors of two pixels of a row, by distance
  // For each value of a byte, the part of J that depends on this byte alone. The last byte of a row has its own
  // `last_norms`, because some of its pixels may be outside of the image.
  int64_t norms[N_VALUES], last_norms[N_VALUES];
  int64_t prices[2 * N_VALUES], falling[2 * N_VALUES]; // of residuals r modulo 256, and of -r
  int64_t points[DIMS][16];                            // points times -2 * bit
};

INLINE int color_in(int per_byte, int byte, int pixel) {
  const int bits = 8 / per_byte;
  return byte >> (8 - bits * (pixel + 1)) & ((1 << bits) - 1);
}

static void fill_norms(const struct sweep *s, const struct byte_constants *c, int n_pixels, int64_t *norms) {
  for (int value = 0; value < N_VALUES; value++) {
    norms[value] = 0;
    for (int a = 0; a < n_pixels; a++)
      for (int b = a > 2 ? a - 2 : 0; b <= a; b++) {
        const int32_t *first = s->points + color_in(s->per_byte, value, a) * DIMS;
        const int32_t *second = s->points + color_in(s->per_byte, value, b) * DIMS;
        for (int axis = 0; axis < DIMS; axis++)
          norms[value] += s->bit * (a == b ? 1 : 2) * c->correlations[a - b] * first[axis] * second[axis];
      }
  }
}

static void prepare_bytes(const struct sweep *s, struct byte_constants *c) {
  const int row[3] = {6, 4, 1};
  c->apart = (WHOLE - s->share) * WHOLE;
  for (int distance = 0; distance < 3; distance++)
    c->correlations[distance] = 6 * row[distance] * s->share + (distance ? 0 : c->apart);
  const int n_last = (int)(s->width % s->per_byte);
  fill_norms(s, c, s->per_byte, c->norms);
  fill_norms(s, c, n_last ? n_last : s->per_byte, c->last_norms);
  for (int residual = 0; residual < 2 * N_VALUES; residual++) {
    c->prices[residual] = s->price * s->lengths[residual & 255];
    c->falling[residual] = s->price * s->lengths[-residual & 255];
  }
  for (int color = 0; color < 16; color++)
    for (int axis = 0; axis < DIMS; axis++)
      c->points[axis][color] = -2 * s->bit * s->points[color * DIMS + axis];
}

// Adds the price of the residual of a byte for each value of one of its neighbors. `place` is this neighbor: 0 left, 1
// above, 2 above left.
static void add_price(const struct byte_constants *c, int64_t *restrict totals, int byte, int filter, int place,
                      int left, int above, int above_left) {
  if (filter == 0 || (filter == 1 && place != 0) || (filter == 2 && place != 1) || (filter == 3 && place == 2))
    return; // the residual does not depend on the value
  if (filter != 3 && filter != 4) {
    for (int value = 0; value < N_VALUES; value++)
      totals[value] += c->falling[N_VALUES - byte + value];
    return;
  }
  uint16_t residuals[N_VALUES];
  for (int value = 0; value < N_VALUES; value += BYTE_LANES) {
    bytes_t tried;
    for (int lane = 0; lane < BYTE_LANES; lane++)
      tried[lane] = (int16_t)(value + lane);
    const bytes_t prediction = predict(filter, place == 0 ? tried : bytes_fill(left),
                                       place == 1 ? tried : bytes_fill(above),
                                       place == 2 ? tried : bytes_fill(above_left));
    *(bytes_t *)(residuals + value) = (bytes_fill(byte) - prediction) & 255;
  }
  for (int value = 0; value < N_VALUES; value++)
    totals[value] += c->prices[residuals[value]];
}

// For each value of a byte, the part of J that depends on it: its norm, the sums of the factors of its two halves, and
// the prices of residuals.
static void fill_totals(const struct byte_constants *c, int64_t n_bytes, int64_t x, int own, int below,
                        const uint8_t *at, const int64_t *norms, int64_t (*sums)[16], int64_t *restrict totals) {
  const uint8_t *above = at - n_bytes - 2, *under = at + n_bytes + 2;
  const int has_right = x + 1 < n_bytes;
  const bytes_t left = bytes_fill(at[-1]);
  const int here = predict(own, left, bytes_fill(above[0]), bytes_fill(above[-1]))[0];
  const int64_t *prices = c->prices + N_VALUES - here;
  for (int high = 0; high < 16; high++)
    for (int low = 0; low < 16; low += F64_LANES) {
      const int value = 16 * high + low;
      const i64_vector halves = i64_load(sums[1] + low) + sums[0][high];
      i64_store(totals + value, i64_load(norms + value) + i64_load(prices + value) + halves);
    }
  if (has_right)
    add_price(c, totals, at[1], own, 0, 0, above[1], above[0]);
  add_price(c, totals, under[0], below, 1, under[-1], 0, at[-1]);
  if (has_right)
    add_price(c, totals, under[1], below, 2, under[0], at[1], 0);
}

// For each pixel of a byte and each color, the linear term of J, and whether the color is excluded. Returns whether any
// color is excluded.
INLINE int fill_factors(int alpha, int per_byte, const struct sweep *s, const struct byte_constants *c, int64_t y,
                        int64_t x, int n_pixels, int old, const point_t *blurs, int64_t (*factors)[16],
                        int64_t (*excluded)[16]) {
  int excludes = 0;
  const int n_digits = 1 << (8 / per_byte);
  for (int pixel = 0; pixel < per_byte; pixel++) {
    const int64_t column = x * per_byte + pixel;
    const int own = color_in(per_byte, old, pixel), is_inside = pixel < n_pixels;
    const int opacity = !is_inside ? 0 : alpha ? s->pixels[(y * s->width + column + 1) * s->channels - 1] : 255;
    for (int color = 0; color < n_digits; color++) {
      const int is_excluded = color != own && (opacity == 0 || color >= s->n_colors ||
                                               (opacity == 255 && s->translucent && s->translucent[color]));
      excluded[pixel][color] = is_excluded;
      excludes |= is_excluded;
      factors[pixel][color] = 0;
    }
    if (!is_inside)
      continue;
    const int64_t i = (y + MARGIN) * (s->width + 2 * MARGIN) + column + MARGIN;
    const point_t error = load_point(alpha, s->errors, i);
    const point_t blur = blurs[column] +
                         6 * blurred(load_point(alpha, s->errors, i - 2), load_point(alpha, s->errors, i - 1), error,
                                     load_point(alpha, s->errors, i + 1), load_point(alpha, s->errors, i + 2));
    int64_t slope[DIMS];
    for (int axis = 0; axis < DIMS; axis++)
      slope[axis] = s->share * (int64_t)blur[axis] + c->apart * error[axis];
    for (int other = pixel > 2 ? pixel - 2 : 0; other < n_pixels && other <= pixel + 2; other++) {
      const int32_t *point = s->points + color_in(per_byte, old, other) * DIMS;
      const int64_t correlation = c->correlations[other < pixel ? pixel - other : other - pixel];
      for (int axis = 0; axis < DIMS; axis++)
        slope[axis] += correlation * point[axis];
    }
    for (int axis = 0; axis < (alpha ? DIMS : 3); axis++)
      for (int color = 0; color < n_digits; color++)
        factors[pixel][color] += slope[axis] * c->points[axis][color];
  }
  return excludes;
}

// For each half of a byte and each of its 16 values, the sum of the numbers (8, 16) of its pixels and their colors.
INLINE void add_halves(int per_byte, int64_t (*numbers)[16], int64_t (*sums)[16]) {
  const int bits = 8 / per_byte, n = per_byte / 2;
  for (int half = 0; half < 2; half++)
    for (int value = 0; value < 16; value++) {
      sums[half][value] = 0;
      for (int i = 0; i < n; i++)
        sums[half][value] += numbers[half * n + i][value >> (4 - bits * (i + 1)) & ((1 << bits) - 1)];
    }
}

// Sets the totals of values that contain an excluded color to the highest number.
static void exclude_values(int64_t (*excluded)[16], int64_t *totals) {
  const i64_vector zeros = {0};
  for (int high = 0; high < 16; high++)
    for (int low = 0; low < 16; low += F64_LANES) {
      int64_t *total = totals + 16 * high + low;
      const i64_vector n_excluded = i64_load(excluded[1] + low) + excluded[0][high];
      i64_store(total, i64_select(n_excluded > zeros, zeros + INT64_MAX, i64_load(total)));
    }
}

// The lowest total. There are four vectors of lowest values, so that a comparison does not wait for the one before it.
static int64_t lowest_of(const int64_t *totals) {
  i64_vector lowest[4];
  for (int i = 0; i < 4; i++)
    lowest[i] = i64_load(totals + i * F64_LANES);
  for (int value = 0; value < N_VALUES; value += 4 * F64_LANES)
    for (int i = 0; i < 4; i++) {
      const i64_vector some = i64_load(totals + value + i * F64_LANES);
      lowest[i] = i64_select(some < lowest[i], some, lowest[i]);
    }
  int64_t least = INT64_MAX;
  for (int i = 0; i < 4; i++)
    for (int lane = 0; lane < F64_LANES; lane++)
      least = at_most(lowest[i][lane], least);
  return least;
}

// Changes the byte at x of a row to the value of the least J.
INLINE void change_byte(int alpha, int per_byte, const struct sweep *s, const struct byte_constants *c,
                        int64_t n_bytes, int64_t y, int64_t x, int own, int below, const point_t *blurs) {
  uint8_t *at = s->indices + (y + 1) * (n_bytes + 2) + x + 1;
  const int old = at[0], n_pixels = (int)at_most(per_byte, s->width - x * per_byte);
  int64_t factors[MAX_PER_BYTE][16], is_excluded[MAX_PER_BYTE][16], sums[2][16], excluded[2][16], totals[N_VALUES];
  const int excludes = fill_factors(alpha, per_byte, s, c, y, x, n_pixels, old, blurs, factors, is_excluded);
  add_halves(per_byte, factors, sums);
  if (excludes)
    add_halves(per_byte, is_excluded, excluded);
  const int64_t *norms = n_pixels < per_byte ? c->last_norms : c->norms;
  fill_totals(c, n_bytes, x, own, below, at, norms, sums, totals);
  if (excludes)
    exclude_values(excluded, totals);
  const int64_t least = lowest_of(totals);
  if (least == totals[old])
    return;
  int best = 0;
  while (totals[best] != least)
    best++;
  at[0] = (uint8_t)best;
  for (int pixel = 0; pixel < n_pixels; pixel++) {
    const int64_t i = (y + MARGIN) * (s->width + 2 * MARGIN) + x * per_byte + pixel + MARGIN;
    store_point(alpha, s->errors, i,
                load_point(alpha, s->errors, i) + *(const point_t *)(s->points + color_in(per_byte, old, pixel) * DIMS) -
                    *(const point_t *)(s->points + color_in(per_byte, best, pixel) * DIMS));
  }
}

INLINE void sweep_bytes(int alpha, int per_byte, const struct sweep *s, int64_t top, int64_t start, int64_t stop,
                        point_t *scratch) {
  const int64_t n_bytes = (s->width + per_byte - 1) / per_byte;
  point_t *blurs = scratch, *sums = scratch + s->width;
  struct byte_constants constants;
  prepare_bytes(s, &constants);
  for (int64_t y = top + 3 * start; y < top + 3 * stop; y += 3) {
    const int own = s->filters[y], below = y + 1 < s->height ? s->filters[y + 1] : 0;
    blur_others(alpha, s, y, sums, blurs);
    for (int64_t left = 0; left < 2; left++)
      for (int64_t x = left; x < n_bytes; x += 2)
        change_byte(alpha, per_byte, s, &constants, n_bytes, y, x, own, below, blurs);
  }
}

// Changes the bytes of rows top + 3 i for i in [start, stop). These rows do not depend on each other. The first pass
// over a row changes every third byte, or every second byte if a byte has several pixels. The next pass changes their
// right neighbors, and so on. `scratch` has 2 (W + 4) points.
EXPORT void gpukmeans_optimizing_sweep(const struct sweep *s, int64_t top, int64_t start, int64_t stop, void *scratch) {
  switch (s->per_byte * 2 + has_alpha(s->channels)) {
  case 2: sweep_rows(0, s, top, start, stop, scratch); break;
  case 3: sweep_rows(1, s, top, start, stop, scratch); break;
  case 4: sweep_bytes(0, 2, s, top, start, stop, scratch); break;
  case 5: sweep_bytes(1, 2, s, top, start, stop, scratch); break;
  case 8: sweep_bytes(0, 4, s, top, start, stop, scratch); break;
  case 9: sweep_bytes(1, 4, s, top, start, stop, scratch); break;
  case 16: sweep_bytes(0, 8, s, top, start, stop, scratch); break;
  default: sweep_bytes(1, 8, s, top, start, stop, scratch);
  }
}
