// The body of propose_f32 and propose_f64, which propose.h declares. propose.c includes this file once for each type,
// with the macros PROPOSE (name of the function), REAL, REAL_VECTOR and LANES. Every sum is a separate variable, so
// that it stays in a register.
#define ROW(r) const REAL *point##r = points + rows[r] * width
#define START(r) REAL_VECTOR low##r = c_low, high##r = c_high
#define ADD(r) low##r += point##r[d] * c_low, high##r += point##r[d] * c_high
#define STORE(r) *(REAL_VECTOR *)(values + r * PANEL) = low##r, *(REAL_VECTOR *)(values + r * PANEL + LANES) = high##r

void PROPOSE(const REAL *points, const int32_t *rows, int64_t width, const REAL *panel, REAL *values) {
  ROW(0); ROW(1); ROW(2); ROW(3); ROW(4); ROW(5);
  for (int64_t center = 0; center < PANEL; center += 2 * LANES, values += 2 * LANES) {
    REAL_VECTOR c_low = *(const REAL_VECTOR *)panel, c_high = *(const REAL_VECTOR *)(panel + LANES);
    START(0); START(1); START(2); START(3); START(4); START(5);
    panel += 2 * LANES;
    for (int64_t d = 0; d < width; d++, panel += 2 * LANES) {
      c_low = *(const REAL_VECTOR *)panel, c_high = *(const REAL_VECTOR *)(panel + LANES);
      ADD(0); ADD(1); ADD(2); ADD(3); ADD(4); ADD(5);
    }
    STORE(0); STORE(1); STORE(2); STORE(3); STORE(4); STORE(5);
  }
}

#undef ROW
#undef START
#undef ADD
#undef STORE
