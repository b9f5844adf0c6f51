// Products that propose which centers may be nearest. Their error bound in many_body.h holds for every order of
// additions, with or without fused multiply-adds. So this file, and no other, may be compiled with fused multiply-adds.
#include "propose.h"

#define REAL float
#define REAL_VECTOR f32_vector
#define LANES F32_LANES
#define PROPOSE propose_f32
#include "propose_body.h"
#undef REAL
#undef REAL_VECTOR
#undef LANES
#undef PROPOSE

#define REAL double
#define REAL_VECTOR f64_vector
#define LANES F64_LANES
#define PROPOSE propose_f64
#include "propose_body.h"
