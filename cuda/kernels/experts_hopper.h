/* The grouped product on Hopper: blocks that stay and take tile after tile, of three warpgroups. One fills
 * a ring of stages in shared memory, each with 64 elements of the depth: weights by the tensor memory
 * accelerator, rows of tokens gathered by asynchronous copies into the same swizzled lines. Two multiply,
 * each 64 of the 128 rows, and write their part of the result from registers.
 *
 * A stage's two barriers: `full` is passed when all of it is there, `empty` when it has been read. What
 * gathered copies bring is published `lag` stages behind the one that is being fetched, so that some are
 * always under way. Results do not depend on how stages overlap: sums go along the depth in order. */
#ifndef GMOE_EXPERTS_HOPPER_H_
#define GMOE_EXPERTS_HOPPER_H_

#include "experts_element.h"
#include "experts_hopper_params.h"
#include "experts_schedule.h"
#include "hopper.h"

namespace experts {

constexpr int HOPPER_GROUP = 128 /* threads of a warpgroup */, HOPPER_THREADS = 3 * HOPPER_GROUP;
constexpr int HOPPER_CONSUMER_WARPS = 8, HOPPER_LAG = 2;
constexpr int HOPPER_DEPTH = 64; /* of a stage */
constexpr int HOPPER_HALF_BYTES = 64 * hopper::LINE_BYTES;

struct HopperCursor {
  int stage = 0;
  uint32_t parity = 0;

  template <int stages>
  __device__ __forceinline__ void next() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

/* The ring of a tile of 128 rows and so many columns. */
template <int columns>
struct HopperRing {
  static constexpr int stages = HOPPER_STAGES(columns);
  static constexpr int rows_bytes = EXPERTS_TILE_SIDE * hopper::LINE_BYTES,
                       columns_bytes = columns * hopper::LINE_BYTES;
  static_assert(HOPPER_LAG < stages - 1, "a stage is published while others are under way");

  unsigned char *first;

  /* arrivals: at `full`, of threads, besides the bytes. */
  __device__ __forceinline__ explicit HopperRing(uint32_t arrivals) {
    uintptr_t place = reinterpret_cast<uintptr_t>(dynamic_shared_memory<unsigned char>());
    uintptr_t up = (place + hopper::SWIZZLE_BYTES - 1) / hopper::SWIZZLE_BYTES * hopper::SWIZZLE_BYTES;
    first = dynamic_shared_memory<unsigned char>() + (up - place);
    if (threadIdx.x == 0) {
      for (int i = 0; i < stages; i++) {
        hopper::barrier_init(full(i), arrivals);
        hopper::barrier_init(empty(i), HOPPER_CONSUMER_WARPS);
      }
      hopper::barrier_init_done();
    }
    __syncthreads();
  }
  __device__ __forceinline__ unsigned char *rows(int stage) const {
    return first + stage * (rows_bytes + columns_bytes);
  }
  __device__ __forceinline__ unsigned char *weights(int stage) const { return rows(stage) + rows_bytes; }
  __device__ __forceinline__ uint64_t *full(int stage) const {
    return reinterpret_cast<uint64_t *>(first + stages * (rows_bytes + columns_bytes)) + stage;
  }
  __device__ __forceinline__ uint64_t *empty(int stage) const { return full(stage) + stages; }
};

/* The stages that a thread has filled by asynchronous copies and not yet published. */
template <int columns>
struct HopperCopies {
  HopperCursor next;
  int pending = 0;

  __device__ __forceinline__ void commit(const HopperRing<columns> &ring) {
    copy_async_commit();
    if (++pending <= HOPPER_LAG) return;
    copy_async_wait<HOPPER_LAG>();
    publish(ring);
  }
  __device__ __forceinline__ void finish(const HopperRing<columns> &ring) {
    copy_async_wait<0>();
    while (pending > 0) publish(ring);
  }

 private:
  __device__ __forceinline__ void publish(const HopperRing<columns> &ring) {
    hopper::publish_shared();
    hopper::barrier_arrive(ring.full(next.stage));
    next.next<HopperRing<columns>::stages>();
    pending--;
  }
};

/* Adds the products of so many stages to the sums of a warpgroup's 64 rows, 0 or 1. */
template <int columns, bool a_along, bool b_along>
__device__ __forceinline__ void consume(const HopperRing<columns> &ring, HopperCursor &at, int32_t steps, int part,
                                        float (&sums)[columns / 2]) {
  int previous = 0;
#pragma unroll 1
  for (int32_t step = 0; step < steps; step++) {
    hopper::barrier_wait(ring.full(at.stage), at.parity);
    hopper::products_begin();
    uint32_t rows = hopper::place_of(ring.rows(at.stage)) + part * HOPPER_HALF_BYTES;
    uint64_t a = hopper::operand(rows, a_along), b = hopper::operand(hopper::place_of(ring.weights(at.stage)), b_along);
#pragma unroll
    for (int k = 0; k < HOPPER_DEPTH / 16; k++) {
      hopper::multiply<a_along, b_along>(sums, a + k * (hopper::operand_step(a_along) / 16),
                                         b + k * (hopper::operand_step(b_along) / 16));
    }
    hopper::products_commit();
    hopper::products_wait<1>(); /* those of the step before are done: its stage may be filled again */
    __syncwarp();
    if (step > 0 && threadIdx.x % 32 == 0) hopper::barrier_arrive(ring.empty(previous));
    previous = at.stage;
    at.next<HopperRing<columns>::stages>();
  }
  hopper::products_wait<0>();
  __syncwarp();
  if (steps > 0 && threadIdx.x % 32 == 0) hopper::barrier_arrive(ring.empty(previous));
}

/* The weights of a stage: in two halves, so that gates and their ups can lie apart. */
template <int columns, bool along>
__device__ __forceinline__ void load_weights(const ExpertsProduct &p, const HopperMap &map, unsigned char *to,
                                             uint64_t *barrier, int32_t expert, int32_t column_tile, int32_t depth) {
  constexpr int half = columns / 2;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int32_t column = p.halves ? i * (p.columns / 2) + column_tile * half : column_tile * columns + i * half;
    unsigned char *place = to + i * half * hopper::LINE_BYTES;
    if constexpr (along) {
      hopper::load_box(place, map, barrier, depth, column, expert);
    } else {
#pragma unroll
      for (int group = 0; group < half; group += hopper::GROUP_LINES) {
        hopper::load_box(place + group * hopper::LINE_BYTES, map, barrier, column + group, depth, expert);
      }
    }
  }
}

/* Fills the ring for every tile of this block: rows gathered from their tokens. */
template <int columns, bool along>
__device__ __forceinline__ void produce_gathered(const HopperRing<columns> &ring, const ExpertsProduct &p,
                                                 const HopperMap &weights) {
  using X = __nv_bfloat16;
  constexpr int turns = EXPERTS_TILE_SIDE * hopper::LINE_CHUNKS / HOPPER_GROUP;
  HopperCursor at;
  HopperCopies<columns> copies;
  int line = threadIdx.x / hopper::LINE_CHUNKS, chunk = threadIdx.x % hopper::LINE_CHUNKS;
  int32_t row_tiles = *p.tile_count, steps = (p.depth + HOPPER_DEPTH - 1) / HOPPER_DEPTH;
#pragma unroll 1
  for (int64_t t = blockIdx.x; t < static_cast<int64_t>(row_tiles) * p.column_tiles; t += gridDim.x) {
    TilePlace place = tile_place(t, row_tiles, p.column_tiles);
    PlanTile tile = p.tiles[place.row];
    const X *lines[turns];
#pragma unroll
    for (int i = 0; i < turns; i++) {
      int32_t row = tile.first + line + i * (EXPERTS_TILE_SIDE / turns);
      lines[i] = row < tile.end ? address<X>(p.rows, p.row_pair[row] / p.slots, chunk * 8) : nullptr;
    }
#pragma unroll 1
    for (int32_t step = 0; step < steps; step++) {
      hopper::barrier_wait(ring.empty(at.stage), at.parity ^ 1);
      if (threadIdx.x == 0) {
        hopper::barrier_expect(ring.full(at.stage), HopperRing<columns>::columns_bytes);
        load_weights<columns, along>(p, weights, ring.weights(at.stage), ring.full(at.stage), tile.expert, place.column,
                                     step * HOPPER_DEPTH);
      }
      int32_t left = (p.depth - step * HOPPER_DEPTH) / 8 - chunk; /* chunks from this one on */
#pragma unroll
      for (int i = 0; i < turns; i++) {
        bool there = left > 0 && lines[i] != nullptr;
        const X *from = there ? lines[i] + step * HOPPER_DEPTH : static_cast<const X *>(p.rows.data);
        int to = hopper::chunk_place(line + i * (EXPERTS_TILE_SIDE / turns), chunk);
        copy_async(ring.rows(at.stage) + to, from, there ? 16 : 0);
      }
      copies.commit(ring);
      at.next<HopperRing<columns>::stages>();
    }
  }
  copies.finish(ring);
}

/* The same for rows that are sorted already; one thread does it. Rows of other experts that follow a
 * tile's own are read too, and not written. */
template <int columns, bool along>
__device__ __forceinline__ void produce_sorted(const HopperRing<columns> &ring, const ExpertsProduct &p,
                                               const HopperMap &rows, const HopperMap &weights) {
  HopperCursor at;
  int32_t row_tiles = *p.tile_count, steps = (p.depth + HOPPER_DEPTH - 1) / HOPPER_DEPTH;
#pragma unroll 1
  for (int64_t t = blockIdx.x; t < static_cast<int64_t>(row_tiles) * p.column_tiles; t += gridDim.x) {
    TilePlace place = tile_place(t, row_tiles, p.column_tiles);
    PlanTile tile = p.tiles[place.row];
#pragma unroll 1
    for (int32_t step = 0; step < steps; step++) {
      uint64_t *full = ring.full(at.stage);
      hopper::barrier_wait(ring.empty(at.stage), at.parity ^ 1);
      hopper::barrier_expect(full, HopperRing<columns>::rows_bytes + HopperRing<columns>::columns_bytes);
      hopper::load_box(ring.rows(at.stage), rows, full, step * HOPPER_DEPTH, tile.first, 0);
      load_weights<columns, along>(p, weights, ring.weights(at.stage), full, tile.expert, place.column,
                                   step * HOPPER_DEPTH);
      at.next<HopperRing<columns>::stages>();
    }
  }
}

/* Where a thread's sums are: sums[4 j + 2 lower + i] is row `row` + 8 lower of the tile, column 8 j +
 * 2 pair + i. */
struct HopperLane {
  int row, pair;

  __device__ __forceinline__ HopperLane()
      : row((threadIdx.x / 32 - 4) * 16 + threadIdx.x % 32 / 4), pair(threadIdx.x % 4) {}
};

/* Multiplies the rows of every tile of the plan with the weight of its expert, and calls
 * epilogue(tile, column_tile, sums) in each of the threads that multiply. */
template <int columns, bool gathered, bool along, class Epilogue>
__device__ __forceinline__ void hopper_product(const ExpertsProduct &p, const HopperMap &rows, const HopperMap &weights,
                                               const Epilogue &epilogue) {
  HopperRing<columns> ring(gathered ? HOPPER_GROUP + 1 : 1);
  if (threadIdx.x < HOPPER_GROUP) {
    hopper::registers_give<HOPPER_PRODUCER_REGISTERS>();
    if constexpr (gathered) {
      produce_gathered<columns, along>(ring, p, weights);
    } else if (threadIdx.x == 0) {
      produce_sorted<columns, along>(ring, p, rows, weights);
    }
    return;
  }
  hopper::registers_take<HOPPER_CONSUMER_REGISTERS>();
  HopperCursor at;
  int part = threadIdx.x / HOPPER_GROUP - 1;
  int32_t row_tiles = *p.tile_count, steps = (p.depth + HOPPER_DEPTH - 1) / HOPPER_DEPTH;
#pragma unroll 1
  for (int64_t t = blockIdx.x; t < static_cast<int64_t>(row_tiles) * p.column_tiles; t += gridDim.x) {
    TilePlace place = tile_place(t, row_tiles, p.column_tiles);
    PlanTile tile = p.tiles[place.row];
    float sums[columns / 2];
#pragma unroll
    for (int i = 0; i < columns / 2; i++) sums[i] = 0.0f;
    consume<columns, true, along>(ring, at, steps, part, sums);
    epilogue(tile, place.column, sums);
  }
}

/* --- what epilogues are made of --- */

__device__ __forceinline__ uint32_t pack(float low, float high) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(low))) |
         static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
}
__device__ __forceinline__ float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

/* Four neighbouring lanes exchange words: word i of lane l becomes word l of lane i. Of 32 columns in pairs, as
 * sums are, each lane then has 8 neighbours, 16 bytes; and the other way round. */
__device__ __forceinline__ void exchange(uint32_t (&w)[4]) {
  constexpr uint32_t all = 0xffffffffu;
  bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
  uint32_t a = __shfl_xor_sync(all, odd ? w[0] : w[1], 1), b = __shfl_xor_sync(all, odd ? w[2] : w[3], 1);
  w[0] = odd ? a : w[0], w[1] = odd ? w[1] : a, w[2] = odd ? b : w[2], w[3] = odd ? w[3] : b;
  a = __shfl_xor_sync(all, high ? w[0] : w[2], 2), b = __shfl_xor_sync(all, high ? w[1] : w[3], 2);
  w[0] = high ? a : w[0], w[2] = high ? w[2] : a, w[1] = high ? b : w[1], w[3] = high ? w[3] : b;
}

/* Writes 32 columns in pairs, from `first` on, of those that are less than `end`. All lanes come, also
 * those without a line. */
__device__ __forceinline__ void store_pairs(__nv_bfloat16 *line, int32_t first, int32_t end, uint32_t (&w)[4]) {
  exchange(w);
  int32_t column = first + threadIdx.x % 4 * 8;
  if (line != nullptr && column < end) {
    *reinterpret_cast<uint4 *>(line + column) = make_uint4(w[0], w[1], w[2], w[3]);
  }
}
__device__ __forceinline__ void load_pairs(const __nv_bfloat16 *line, int32_t first, int32_t end, uint32_t (&w)[4]) {
  int32_t column = first + threadIdx.x % 4 * 8;
  uint4 v = make_uint4(0, 0, 0, 0);
  if (line != nullptr && column < end) v = *reinterpret_cast<const uint4 *>(line + column);
  w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
  exchange(w);
}

}  // namespace experts

#endif
