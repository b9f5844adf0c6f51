// The screening product for many coordinates: x·c - |c|²/2 for some points and one panel of centers, with any rounding.
#ifndef GPUKMEANS_PROPOSE_H
#define GPUKMEANS_PROPOSE_H

#include "common.h"

#define PROPOSE_ROWS 6 // points of one call; their sums and the operands of one step fill 16 registers
#define PANEL 16       // centers of a panel

// Writes values (PROPOSE_ROWS, PANEL) for the given rows of points (n, width). A panel consists of parts of two vectors
// of centers. Each part is (width + 1, centers of the part): minus half the squared norms, then the coordinates.
void propose_f32(const float *points, const int32_t *rows, int64_t width, const float *panel, float *values);
void propose_f64(const double *points, const int32_t *rows, int64_t width, const double *panel, double *values);

#endif
