/* Parameters of the experts' kernels for few tokens, and what their launches must know;
 * ../experts_decode_params.go mirrors them. Weights and rows can be copied 16 bytes at a time along the
 * depth of a product: every size there, address and stride is a multiple of 16 bytes. */
#ifndef GMOE_EXPERTS_DECODE_PARAMS_H_
#define GMOE_EXPERTS_DECODE_PARAMS_H_

#include "experts_params.h"

enum {
  DECODE_MAX_PAIRS = 1024,       /* T*K: each block sorts them for itself */
  DECODE_LINE_BYTES = 128,       /* of a stage, along the depth */
  DECODE_SIDE = 128,             /* rows of a weight that a block multiplies at once, if it does not cut the depth */
  DECODE_RING_BYTES = 72 * 1024, /* dynamic shared memory, so that */
  DECODE_BLOCKS = 2              /* fit a multiprocessor */
};

/* The routing, and where the first kernel leaves the plan for the second. */
typedef struct {
  const void *index; /* [T, K] int32 or int64, strides in elements */
  int64_t token_stride, slot_stride;
  int32_t narrow; /* index is int32 */
  int32_t tokens, slots, experts;
  int32_t *offset; /* [E+1]: the rows of expert e are offset[e] to offset[e+1] */
  int32_t *pair_row; /* [T*K]: the row of a pair; -1 when its expert is absent */
  int32_t *arrived; /* [column tiles of the second kernel]: its blocks that have written their part */
  int32_t column_tiles, reserved;
} DecodePlan;

/* h = act(x gate_up_proj^T + bias), a row for each present pair, sorted by expert. */
typedef struct {
  DecodePlan plan;
  ExpertsActivation activation;
  ExpertsMatrix x; /* [T, H] */
  ExpertsStack weights; /* [E, Z, H] */
  ExpertsMatrix bias; /* [E, Z] or none */
  ExpertsMatrix h; /* [rows, I] */
  int32_t depth, reserved;
  ExpertsMatrix x_scale; /* of float8_e4m3fn: [T, ceil(H / 128)] float, column 1 */
  ExpertsStack weights_scale; /* [E, ceil(Z / 128), ceil(H / 128)] float */
} DecodeGateUpParams;

/* output[t] = the sum in slot order of w (h down_proj^T + bias). The depth is cut into parts, whose sums are
 * added in their order. */
typedef struct {
  DecodePlan plan;
  ExpertsMatrix h; /* [rows, I] */
  ExpertsStack weights; /* [E, H, I] */
  ExpertsMatrix bias; /* [E, H] or none */
  ExpertsMatrix routing; /* [T, K] float */
  ExpertsMatrix output; /* [T, H] */
  float *partial; /* [parts, T*K, column_tiles DECODE_SIDE] */
  int32_t columns, depth; /* H, I */
  int32_t parts;
  int32_t part; /* elements of the depth in one */
  ExpertsMatrix h_scale; /* of float8_e4m3fn: [rows, ceil(I / 128)] float, column 1 */
  ExpertsStack weights_scale; /* [E, ceil(H / 128), ceil(I / 128)] float */
} DecodeDownParams;

#endif
