// Squared distances of pairs of rows, for tests of distance.h from Python.
#include "distance.h"

// Writes the squared distance of row i of x and row i of y, each of `width` elements, for i in [start, stop).
EXPORT void gpukmeans_squared_distances_f32(const float *x, const float *y, int64_t width, float *scratch,
                                            float *sqdist, int64_t start, int64_t stop) {
  for (int64_t i = start; i < stop; i++)
    sqdist[i] = squared_distance_f32(x + i * width, y + i * width, width, scratch);
}

EXPORT void gpukmeans_squared_distances_f64(const double *x, const double *y, int64_t width, double *scratch,
                                            double *sqdist, int64_t start, int64_t stop) {
  for (int64_t i = start; i < stop; i++)
    sqdist[i] = squared_distance_f64(x + i * width, y + i * width, width, scratch);
}
