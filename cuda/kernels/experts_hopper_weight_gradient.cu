/* The gradients of the weights on Hopper; see experts_weight_gradient.cu. The depth is the rows of an expert,
 * as many as it has: both operands lie across it, and rows of tokens are gathered. */
#include "experts_hopper.h"

using namespace experts;

namespace {

using X = __nv_bfloat16;

__device__ __forceinline__ int64_t gradient_tiles(const ExpertsWeightGradientParams &p) {
  return static_cast<int64_t>(p.experts) * p.m_tiles * p.n_tiles;
}

/* A tile of an expert's gradient, with the rows to sum over. */
struct GradientTile {
  int32_t expert, first_row, rows, m, n;

  __device__ __forceinline__ GradientTile(const ExpertsWeightGradientParams &p, int64_t t, int columns) {
    if (p.backwards) t = gradient_tiles(p) - 1 - t;
    int64_t of_expert = static_cast<int64_t>(p.m_tiles) * p.n_tiles;
    expert = static_cast<int32_t>(t / of_expert);
    TilePlace place = tile_place(t % of_expert, p.m_tiles, p.n_tiles);
    first_row = p.offset[expert], rows = p.offset[expert + 1] - first_row;
    m = place.row * HOPPER_ROWS, n = place.column * columns;
  }
};

/* One line, a row of the depth, of each group of 64 elements of a side. */
template <int side>
__device__ __forceinline__ void copy_line(unsigned char *to, int line, int chunk, const X *row, int32_t first,
                                          int32_t end, const void *any) {
#pragma unroll
  for (int group = 0; group < side / 64; group++) {
    int32_t column = first + group * 64 + chunk * 8;
    bool there = row != nullptr && column < end;
    copy_async(to + group * HOPPER_HALF_BYTES + hopper::chunk_place(line, chunk), there ? row + column : any,
               there ? 16 : 0);
  }
}

template <class Tile>
__device__ __forceinline__ void produce(const HopperRing<Tile, 1> &ring, const ExpertsWeightGradientParams &p) {
  constexpr int at_once = HOPPER_GROUP / hopper::LINE_CHUNKS, turns = Tile::depth / at_once;
  HopperCursor at;
  HopperCopies<Tile, 1> copies;
  int chunk = threadIdx.x % hopper::LINE_CHUNKS;
#pragma unroll 1
  for (int64_t t = blockIdx.x; t < gradient_tiles(p); t += gridDim.x) {
    GradientTile tile(p, t, Tile::columns);
    int32_t stages = Tile::stages_of(tile.rows);
#pragma unroll 1
    for (int32_t step = 0; step < stages; step++) {
      int32_t tokens[turns]; /* asked for before the wait */
#pragma unroll
      for (int i = 0; i < turns; i++) {
        int32_t row = step * Tile::depth + threadIdx.x / hopper::LINE_CHUNKS + i * at_once;
        tokens[i] = row < tile.rows ? p.row_pair[tile.first_row + row] / p.slots : -1;
      }
      hopper::barrier_wait(ring.empty(at.stage), at.parity ^ 1);
#pragma unroll
      for (int i = 0; i < turns; i++) {
        int line = threadIdx.x / hopper::LINE_CHUNKS + i * at_once;
        int32_t row = tile.first_row + step * Tile::depth + line;
        bool there = tokens[i] >= 0;
        const X *a = there ? address<X>(p.a, p.a_of_tokens ? tokens[i] : row, 0) : nullptr;
        const X *b = there ? address<X>(p.b, p.b_of_tokens ? tokens[i] : row, 0) : nullptr;
        copy_line<HOPPER_ROWS>(ring.rows(at.stage), line, chunk, a, tile.m, p.m, p.a.data);
        copy_line<Tile::columns>(ring.weights(at.stage), line, chunk, b, tile.n, p.n, p.b.data);
      }
      copies.commit(ring);
      at.next<Tile::stages>();
    }
  }
  copies.finish(ring);
}

/* Writes 64 rows of a gradient from its row m and column n on. */
template <int sums_of_thread>
__device__ __forceinline__ void write(const ExpertsWeightGradientParams &p, int32_t expert, int32_t m, int32_t n,
                                      const float (&sums)[sums_of_thread]) {
  HopperLane lane;
  X *gradient = static_cast<X *>(p.gradient.data) + expert * p.gradient.expert;
#pragma unroll
  for (int lower = 0; lower < 2; lower++) {
    int32_t row = m + lane.row + 8 * lower;
    X *line = row < p.m ? gradient + row * p.gradient.row : nullptr;
#pragma unroll
    for (int first = 0; first < 2 * sums_of_thread; first += 32) {
      uint32_t values[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float *v = sums + first / 2 + 4 * i + 2 * lower;
        values[i] = pack(v[0], v[1]);
      }
      store_pairs(line, n + first, p.n, values);
    }
  }
}

template <class Tile>
__device__ __forceinline__ void weight_gradient(const ExpertsWeightGradientParams &p) {
  HopperRing<Tile, 1> ring(HOPPER_GROUP);
  if (threadIdx.x < HOPPER_GROUP) {
    hopper::registers_give<HOPPER_PRODUCER_REGISTERS(Tile::columns)>();
    produce<Tile>(ring, p);
    return;
  }
  hopper::registers_take<HOPPER_CONSUMER_REGISTERS(Tile::columns)>();
  HopperCursor at;
  int part = threadIdx.x / HOPPER_GROUP - 1, others = part;
  HopperTurn<Tile, 1> turn(ring, part);
#pragma unroll 1
  for (int64_t t = blockIdx.x; t < gradient_tiles(p); t += gridDim.x) {
    GradientTile tile(p, t, Tile::columns);
    int32_t stages = Tile::stages_of(tile.rows);
    if (Tile::ping_pong && others++ % 2 != 0) {
      at.skip<Tile::stages>(stages);
      continue;
    }
    float low[Tile::sums], high[Tile::sums];
    multiply_tile<Tile, false, false>(ring, at, stages, turn, false, low, high);
    int32_t m = Tile::ping_pong ? tile.m : tile.m + part * HOPPER_HALF_ROWS;
    write(p, tile.expert, m, tile.n, low);
    write(p, tile.expert, Tile::ping_pong ? m + HOPPER_HALF_ROWS : m, Tile::ping_pong ? tile.n : tile.n + Tile::block,
          high);
  }
}

}  // namespace

GMOE_KERNEL(gmoe_experts_hopper_weight_gradient_256, ExpertsWeightGradientParams, HOPPER_THREADS) {
  weight_gradient<HopperWide>(p);
}
GMOE_KERNEL(gmoe_experts_hopper_weight_gradient_128, ExpertsWeightGradientParams, HOPPER_THREADS) {
  weight_gradient<HopperPingPong<128>>(p);
}
