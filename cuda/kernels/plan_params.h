/* Parameters of the plan's kernels; ../plan_params.go mirrors them. */
#ifndef GMOE_PLAN_PARAMS_H_
#define GMOE_PLAN_PARAMS_H_

#include <stdint.h>

enum {
  PLAN_MAX_EXPERTS = 512,
  PLAN_TILE_ROWS = 128, /* most rows of a tile */
  PLAN_SPAN_ROWS = 256, /* and of a span, which two blocks of a cluster multiply */
  PLAN_WARPS = 8        /* of a block of count, scan and scatter */
};

/* Rows [first, end) of one expert: what a block multiplies at a time. */
typedef struct {
  int32_t expert, first, end;
} PlanTile;

/* The dispatch of tokens to experts. The present (token, slot) pairs, sorted by expert and,
 * within one, by token and slot, are the rows 0, 1, ... that all else is indexed by. The pairs
 * are cut into chunks that are counted and placed independently of one another. */
typedef struct {
  const void *index; /* [T, K] int32 or int64, strides in elements */
  int64_t token_stride, slot_stride;
  int32_t narrow; /* index is int32 */
  int32_t slots;  /* K */
  int32_t pairs;  /* T*K */
  int32_t experts;
  int32_t chunk;  /* pairs of a chunk */
  int32_t chunks;
  int32_t *before;     /* [E, chunks]: rows of the expert in a chunk, then in those before it */
  int32_t *totals;     /* [E]: rows of each expert */
  int32_t *offset;     /* [E+1]: the rows of expert e are offset[e] to offset[e+1] */
  int32_t *row_pair;   /* [rows]: token*K + slot */
  int32_t *pair_row;   /* [T*K]: the row of a pair; -1 when its expert is absent */
  PlanTile *tiles;     /* sorted by row */
  int32_t *tile_count; /* [1] */
  PlanTile *spans;     /* the rows once more, cut into spans; or none */
  int32_t *span_count; /* [1] */
} PlanParams;

#endif
