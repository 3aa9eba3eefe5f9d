/* Parameters of the kernels for many small experts; ../experts_small_params.go mirrors them. */
#ifndef GMOE_EXPERTS_SMALL_PARAMS_H_
#define GMOE_EXPERTS_SMALL_PARAMS_H_

#include "experts_decode_params.h"

/* Where a token's expert is absent in the table of routing weights: a NaN that no arithmetic gives. */
#define SMALL_ABSENT 0xffc0abcdu

/* The routing as a table, by groups of tokens. */
typedef struct {
  const void *index; /* [T, K] int32 or int64, strides in elements */
  int64_t token_stride, slot_stride;
  int32_t narrow; /* index is int32 */
  int32_t tokens, slots, experts;
  int32_t groups, group_tokens;  /* groups of so many tokens */
  ExpertsMatrix routing;         /* [T, K] float */
  uint32_t *table;               /* [T, E]: the bits of the sum of a token's weights for an expert, or SMALL_ABSENT */
  unsigned char *present;        /* [groups, E]: some token of the group has the expert */
  int32_t *arrived;              /* [groups, column tiles of the last kernel]: parts that are written */
  int32_t column_tiles, reserved;
} SmallTable;

/* h[t, e I + i] = w act(x gate_up_proj[e]^T + bias); 0 where the token does not have the expert. */
typedef struct {
  SmallTable table;
  ExpertsActivation activation;
  ExpertsMatrix x;      /* [T, H], copied 16 bytes at a time, as are the weights */
  ExpertsStack weights; /* [E, Z, H] */
  ExpertsMatrix bias;   /* [E, Z] or none */
  ExpertsMatrix h;      /* [T, E I] */
  int32_t depth, reserved;
} SmallGateUpParams;

/* output = h times all experts' down_proj, one behind the other. */
typedef struct {
  SmallTable table;
  ExpertsMatrix h;       /* [T, E I] */
  ExpertsStack weights;  /* [E, H, I] */
  ExpertsMatrix output;  /* [T, H] */
  float *partial;        /* [parts, T, column_tiles DECODE_SIDE] */
  int32_t columns, intermediate; /* H, I */
  int32_t parts, part;   /* the depth, E I, in parts of so many elements */
  int32_t vector;        /* 16 bytes of the weights can be copied at a time; else 4 */
  int32_t reserved;
} SmallDownParams;

#endif
