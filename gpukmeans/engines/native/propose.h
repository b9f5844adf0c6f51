// Products for many coordinates: x·c - |c|²/2 for PROPOSE_ROWS points and a panel of PANEL centers, in any order of
// additions.
#ifndef GPUKMEANS_PROPOSE_H
#define GPUKMEANS_PROPOSE_H

#include "common.h"

#define PROPOSE_ROWS 6 // points of one call; their sums, two vectors of centers and one coordinate fit in 16 registers
#define PANEL 16       // centers of a panel

// Writes the products (PROPOSE_ROWS, PANEL) of the given rows of points (n, width) to `values`. A panel consists of
// parts, each for as many centers as two vectors have lanes. A part is an array (width + 1, centers of the part): first
// minus half the squared norms, then the coordinates.
void propose_f32(const float *points, const int32_t *rows, int64_t width, const float *panel, float *values);
void propose_f64(const double *points, const int32_t *rows, int64_t width, const double *panel, double *values);

#endif
