/* Which block multiplies what, and which part of a weight a tile reads. Plain functions, which
 * tests also call on the host. */
#ifndef GMOE_EXPERTS_SCHEDULE_H_
#define GMOE_EXPERTS_SCHEDULE_H_

#include "simt.h"

namespace experts {

enum {
  EXPERTS_THREADS = 256,  /* of a block that multiplies */
  EXPERTS_TILE_SIDE = 128 /* rows and columns of a tile of a result */
};

struct TilePlace {
  int32_t row, column;
};

/* Tile number t of row_tiles x column_tiles. Blocks that run at the same time take a group of
 * few row tiles and the columns one after another, so that both operands are read from the
 * L2 cache again before they leave it. */
__host__ __device__ inline TilePlace tile_place(int64_t t, int32_t row_tiles, int32_t column_tiles,
                                                int32_t group_rows = 8) {
  int64_t group = t / (static_cast<int64_t>(group_rows) * column_tiles);
  int32_t first = static_cast<int32_t>(group) * group_rows;
  int32_t rows = row_tiles - first < group_rows ? row_tiles - first : group_rows;
  int32_t within = static_cast<int32_t>(t - group * group_rows * column_tiles);
  return {first + within % rows, within / rows};
}

/* The columns of a weight that a tile multiplies, from its column n on.
 *
 * In halves, as gate_up_proj has when its gates come first, a tile has 64 gates and then their
 * 64 ups, so that a block has all that the activation needs. Otherwise, and when gates and ups
 * alternate, columns are as they come. */
struct ColumnRun {
  int32_t first; /* of the weight */
  int32_t count; /* columns that follow, in this half of the tile and of the weight; not below 0 */
};

__host__ __device__ inline ColumnRun column_run(bool halves, int32_t columns, int32_t tile, int32_t n) {
  constexpr int32_t half_side = EXPERTS_TILE_SIDE / 2;
  int32_t first = tile * EXPERTS_TILE_SIDE + n, limit = columns, start = 0;
  if (halves) {
    first = tile * half_side + n % half_side;
    limit = columns / 2;
    start = n < half_side ? 0 : limit;
  }
  return {start + first, first < limit ? limit - first : 0};
}

/* Where the gate and the up of a column of h are in z. Without gates, gate is z itself. */
struct GateUpPlace {
  int32_t gate, up;
};

__host__ __device__ inline GateUpPlace gate_up_place(bool gated, bool interleaved, int32_t intermediate,
                                                     int32_t column) {
  if (!gated) return {column, column};
  if (interleaved) return {2 * column, 2 * column + 1};
  return {column, intermediate + column};
}

}  // namespace experts

#endif
