/* Parameters of the experts' kernels; ../experts_params.go mirrors them. Strides count
 * elements. An address of 0 is a tensor that is not there. Every size of an axis fits 32 bits,
 * offsets do not. */
#ifndef GMOE_EXPERTS_PARAMS_H_
#define GMOE_EXPERTS_PARAMS_H_

#include "plan_params.h"

/* Element (i, j) is data[i*row + j*column]. */
typedef struct {
  void *data;
  int64_t row, column;
} ExpertsMatrix;

/* Element (i, j) of expert e is data[e*expert + i*row + j*column]. */
typedef struct {
  void *data;
  int64_t expert, row, column;
} ExpertsStack;

/* How the activation reads z, and what it is. */
typedef struct {
  int32_t kind;         /* GMOE_ACTIVATION_* */
  int32_t gated;        /* z has a gate and an up for each column of h */
  int32_t interleaved;  /* which alternate; else all gates come first */
  int32_t intermediate; /* I */
  float alpha, limit;
} ExpertsActivation;

/* For every tile of the plan: result[r, n] = sum over d of rows[r, d] weights[e][n, d]. */
typedef struct {
  const PlanTile *tiles;
  const int32_t *tile_count;
  const int32_t *row_pair; /* with it, rows are those of the rows' tokens; 0: the rows themselves */
  ExpertsMatrix rows;
  ExpertsStack weights; /* row: along n, column: along d */
  int32_t columns;      /* of n */
  int32_t depth;        /* of d */
  int32_t slots;        /* K */
  int32_t column_tiles;
  int32_t halves;         /* a tile has gates in one half of its columns, their ups in the other */
  int32_t rows_vector;    /* 16 bytes of the rows can be copied at a time */
  int32_t weights_vector; /* and of the weights */
  int32_t group;          /* on Hopper: row tiles that are visited for a column before the next; */
  int32_t backwards;      /* and from the last tile to the first */
  int32_t reserved;
  ExpertsMatrix rows_scale;    /* of float8_e4m3fn: [rows or tokens, ceil(depth / 128)] float; column 1 */
  ExpertsStack weights_scale;  /* [E, ceil(columns / 128), ceil(depth / 128)] float */
} ExpertsProduct;

/* z = x gate_up_proj^T + bias and h = act(z). */
typedef struct {
  ExpertsProduct product;
  ExpertsActivation activation;
  ExpertsMatrix bias;           /* [E, Z] or none */
  ExpertsMatrix pre_activation; /* [rows, Z] or none */
  ExpertsMatrix h;              /* [rows, I] */
} ExpertsGateUpParams;

/* y = rows weights^T + bias: the down projection, and dx of each row from dz. */
typedef struct {
  ExpertsProduct product;
  ExpertsMatrix bias;   /* [E, columns] or none */
  ExpertsMatrix output; /* [rows, columns] */
} ExpertsProjectParams;

/* dh = dy down_proj, and from it dz, w h and the parts of <h, dh>. A depth of 0 means that
 * only w h is wanted. */
typedef struct {
  ExpertsProduct product;
  ExpertsActivation activation;
  const int32_t *row_pair;
  ExpertsMatrix weights;        /* [T, K] float: w */
  ExpertsMatrix pre_activation; /* [rows, Z] */
  ExpertsMatrix dz;             /* [rows, Z] or none */
  ExpertsMatrix wh;             /* [rows, I] or none */
  float *partial;               /* [rows, column_tiles] or none */
} ExpertsActivationGradientParams;

/* gradient[e] = a^T b over the rows of e; zeros when it has none. */
typedef struct {
  const int32_t *offset;
  const int32_t *row_pair;
  ExpertsMatrix a, b; /* [rows, M], [rows, N] */
  ExpertsStack gradient;
  int32_t m, n;
  int32_t slots, experts;
  int32_t a_of_tokens, b_of_tokens; /* it has a row for each token, not for each row */
  int32_t a_vector, b_vector;
  int32_t m_tiles, n_tiles;
  int32_t backwards, reserved; /* on Hopper: from the last expert to the first */
} ExpertsWeightGradientParams;

/* gradient[e] = the sum over the rows of e of source, times w if there are weights. */
typedef struct {
  const int32_t *offset;
  const int32_t *row_pair;
  ExpertsMatrix source;   /* [rows, columns], or [T, columns] with weights */
  ExpertsMatrix weights;  /* [T, K] float, or none */
  ExpertsMatrix gradient; /* [E, columns] */
  int32_t columns;
  int32_t slots, experts, reserved;
} ExpertsBiasGradientParams;

/* output[t] = the sum in slot order of a token's rows, times w if there are weights. */
typedef struct {
  const int32_t *pair_row;
  ExpertsMatrix rows;    /* [rows, H] */
  ExpertsMatrix weights; /* [T, K] float, or none */
  ExpertsMatrix output;  /* [T, H] */
  int32_t tokens, hidden, slots, reserved;
} ExpertsCombineParams;

/* The gradient of w: <h, dh> + <down_bias[e], dy>; 0 where the slot's expert is absent. */
typedef struct {
  const int32_t *pair_row;
  const int32_t *offset;
  const float *partial;      /* [rows, parts] */
  ExpertsMatrix down_bias;   /* [E, H] or none */
  ExpertsMatrix grad_output; /* [T, H] */
  ExpertsMatrix gradient;    /* [T, K] float */
  int32_t pairs, slots, experts, hidden, parts, reserved;
} ExpertsRoutingGradientParams;

#endif
