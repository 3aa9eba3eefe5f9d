/* The grouped product on Hopper: blocks that stay and take tile after tile, of three warpgroups. One fills
 * a ring of stages in shared memory, each with 128 bytes of the depth: weights by the tensor memory
 * accelerator, rows of tokens gathered by asynchronous copies into the same swizzled lines. Two multiply
 * and write their part of the result from registers.
 *
 * Blocks come in clusters of two, which take a span of up to 256 rows of one expert. With more than 128 rows
 * each has a tile of them and both the same columns: each fetches half of the weights for both. With
 * fewer, both have the same rows and neighbouring columns, so that neither is idle.
 *
 * A stage's two barriers: `full` is passed when all of it is there, `empty` when both blocks have read it. What
 * gathered copies bring is published `lag` stages behind the one that is being fetched, so that some are
 * always under way. Results do not depend on how stages overlap, on tiles or on their order: sums go along
 * the depth in order.
 *
 * In float8_e4m3fn a stage is one block of the depth. Its products have sums of their own, which are multiplied by the
 * scales of the row's block and of the weight's and added to those of the tile: 64 rows and half of the columns at
 * a time, for which a warpgroup has the registers. While one adds, the other one's products run. */
#ifndef GMOE_EXPERTS_HOPPER_H_
#define GMOE_EXPERTS_HOPPER_H_

#include "experts_element.h"
#include "experts_hopper_params.h"
#include "experts_schedule.h"
#include "float8.h"
#include "hopper.h"

namespace experts {

constexpr int HOPPER_GROUP = 128 /* threads of a warpgroup */, HOPPER_THREADS = 3 * HOPPER_GROUP;
constexpr int HOPPER_CLUSTER = 2 /* blocks */, HOPPER_LAG = 2;
constexpr int HOPPER_ROWS = 128 /* of a tile */, HOPPER_HALF_ROWS = 64 /* of a product of a warpgroup */;
constexpr int HOPPER_SLICES = 4; /* products of a stage, along its depth */
constexpr int HOPPER_HALF_BYTES = HOPPER_HALF_ROWS * hopper::LINE_BYTES;

/* A tile of 128 rows. Wide: both warpgroups work on it, each on 64 of the rows; of a tile with no more than 64
 * rows, each on half of the columns. Ping-pong: each has a tile of its own, and while one writes the
 * other multiplies. Either way a thread has sums of two blocks of 64 rows. */
template <int columns_, bool ping_pong_, class X_ = __nv_bfloat16>
struct HopperTile {
  using X = X_;
  static constexpr bool scaled = sizeof(X) == 1;
  static constexpr int depth = hopper::LINE_BYTES / sizeof(X); /* of a stage */
  static constexpr int chunk = hopper::CHUNK_BYTES / sizeof(X); /* elements of a chunk */
  static constexpr int columns = columns_;
  static constexpr bool ping_pong = ping_pong_;
  static constexpr int stages = HOPPER_STAGES(columns);
  static constexpr int rows_bytes = HOPPER_ROWS * hopper::LINE_BYTES, columns_bytes = columns * hopper::LINE_BYTES;
  static constexpr int scale_bytes = scaled ? HOPPER_SCALE_BYTES : 0;
  static constexpr int stage_bytes = rows_bytes + columns_bytes + scale_bytes;
  static constexpr int block = ping_pong ? columns : columns / 2; /* columns of a block of sums */
  static constexpr int sums = block / 2;                          /* of them, that a thread has */
  static constexpr int readers = ping_pong ? 4 : 8;               /* warps that read a stage */
  static constexpr int box = HOPPER_BOX(columns);                 /* columns that are fetched at a time */
  static_assert(HOPPER_LAG < stages - 1, "a stage is published while others are under way");
  __host__ __device__ static int32_t stages_of(int32_t steps) { return (steps + depth - 1) / depth; }
};
using HopperWide = HopperTile<256, false>;
template <int columns>
using HopperPingPong = HopperTile<columns, true>;
using HopperScaled = HopperTile<256, false, Float8>;
static_assert(HopperScaled::depth == float8::BLOCK, "a stage has one scale of each row");

struct HopperCursor {
  int stage = 0;
  uint32_t parity = 0;

  template <int stages>
  __device__ __forceinline__ void next() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  template <int stages>
  __device__ __forceinline__ void skip(int32_t steps) {
    int32_t to = stage + steps;
    stage = to % stages, parity ^= to / stages & 1;
  }
};

/* The ring of a tile, filled for so many blocks at once. */
template <class Tile, int blocks>
struct HopperRing {
  unsigned char *first;

  /* arrivals: at `full`, of threads, besides the bytes. */
  __device__ __forceinline__ explicit HopperRing(uint32_t arrivals) {
    uintptr_t place = reinterpret_cast<uintptr_t>(dynamic_shared_memory<unsigned char>());
    uintptr_t up = (place + hopper::SWIZZLE_BYTES - 1) / hopper::SWIZZLE_BYTES * hopper::SWIZZLE_BYTES;
    first = dynamic_shared_memory<unsigned char>() + (up - place);
    if (threadIdx.x == 0) {
      for (int i = 0; i < Tile::stages; i++) {
        hopper::barrier_init(full(i), arrivals);
        hopper::barrier_init(empty(i), Tile::readers * blocks);
      }
      for (int part = 0; part < 2; part++) hopper::barrier_init(turn(part), Tile::readers);
      hopper::barrier_init_done();
    }
    meet();
  }
  /* All threads of all blocks: before the first of them reaches for another block, and after the last has. */
  __device__ __forceinline__ void meet() const {
    if constexpr (blocks > 1) {
      __syncwarp();
      hopper::cluster_sync();
    } else {
      __syncthreads();
    }
  }
  __device__ __forceinline__ unsigned char *rows(int stage) const { return first + stage * Tile::stage_bytes; }
  __device__ __forceinline__ unsigned char *weights(int stage) const { return rows(stage) + Tile::rows_bytes; }
  /* Of the tile's 128 rows, then of the four quarters of its columns: gates and their ups take turns. */
  __device__ __forceinline__ float *scales(int stage) const {
    return reinterpret_cast<float *>(weights(stage) + Tile::columns_bytes);
  }
  __device__ __forceinline__ uint64_t *full(int stage) const {
    return reinterpret_cast<uint64_t *>(rows(Tile::stages)) + stage;
  }
  __device__ __forceinline__ uint64_t *empty(int stage) const { return full(stage) + Tile::stages; }
  __device__ __forceinline__ uint64_t *turn(int part) const { return full(2 * Tile::stages + part); }

  /* A warp has read this stage. */
  __device__ __forceinline__ void release(int stage) const {
    __syncwarp();
    uint32_t lane = threadIdx.x % 32;
    if constexpr (blocks > 1) {
      if (lane < blocks) hopper::barrier_arrive_at(empty(stage), lane);
    } else {
      if (lane == 0) hopper::barrier_arrive(empty(stage));
    }
  }
};

/* The stages that a thread has filled by asynchronous copies and not yet published. */
template <class Tile, int blocks>
struct HopperCopies {
  HopperCursor next;
  int pending = 0;

  __device__ __forceinline__ void commit(const HopperRing<Tile, blocks> &ring) {
    copy_async_commit();
    if (++pending <= HOPPER_LAG) return;
    copy_async_wait<HOPPER_LAG>();
    publish(ring);
  }
  __device__ __forceinline__ void finish(const HopperRing<Tile, blocks> &ring) {
    copy_async_wait<0>();
    while (pending > 0) publish(ring);
  }

 private:
  __device__ __forceinline__ void publish(const HopperRing<Tile, blocks> &ring) {
    hopper::publish_shared();
    hopper::barrier_arrive(ring.full(next.stage));
    next.next<Tile::stages>();
    pending--;
  }
};

/* Whose turn it is, of two warpgroups that have tiles of their own: one begins when the other has seen all
 * stages of the tile before. Who came earlier could take a stage for full that will be filled once more
 * before it is his: of a barrier's phases only the parity is known. */
template <class Tile, int blocks>
struct HopperTurn {
  const HopperRing<Tile, blocks> &ring;
  int part;
  uint32_t parity;

  __device__ __forceinline__ HopperTurn(const HopperRing<Tile, blocks> &ring, int part)
      : ring(ring), part(part), parity(part == 0) {} /* the first one need not wait */
  __device__ __forceinline__ void wait() {
    if constexpr (Tile::ping_pong) {
      hopper::barrier_wait(ring.turn(part), parity);
      parity ^= 1;
    }
  }
  __device__ __forceinline__ void pass() const {
    if constexpr (Tile::ping_pong) {
      __syncwarp();
      if (threadIdx.x % 32 == 0) hopper::barrier_arrive(ring.turn(1 - part));
    }
  }
};

/* Goes through the stages of a tile: multiply(rows, weights, slice) adds the product of a slice, with the
 * places of both operands in shared memory. */
template <class Tile, int blocks, class Multiply>
__device__ __forceinline__ void consume(const HopperRing<Tile, blocks> &ring, HopperCursor &at, int32_t stages,
                                        HopperTurn<Tile, blocks> &turn, const Multiply &multiply) {
  int previous = 0;
  turn.wait();
#pragma unroll 1
  for (int32_t step = 0; step < stages; step++) {
    hopper::barrier_wait(ring.full(at.stage), at.parity);
    hopper::products_begin();
    uint32_t rows = hopper::place_of(ring.rows(at.stage)), weights = hopper::place_of(ring.weights(at.stage));
#pragma unroll
    for (int slice = 0; slice < HOPPER_SLICES; slice++) multiply(rows, weights, slice);
    hopper::products_commit();
    hopper::products_wait<1>(); /* those of the step before are done: its stage may be filled again */
    if (step > 0) ring.release(previous);
    previous = at.stage;
    at.next<Tile::stages>();
  }
  turn.pass();
  hopper::products_wait<0>();
  if (stages > 0) ring.release(previous);
}

/* An operand of a slice, of 64 rows or of columns. */
template <bool along>
__device__ __forceinline__ uint64_t slice_of(uint32_t place, int slice) {
  return hopper::operand(place, along) + slice * (hopper::operand_step(along) / 16);
}

/* A tile of all its rows, or of no more than 64. */
template <class Tile, bool a_along, bool b_along, int blocks>
__device__ __forceinline__ void multiply_tile(const HopperRing<Tile, blocks> &ring, HopperCursor &at, int32_t stages,
                                              HopperTurn<Tile, blocks> &turn, bool half, float (&low)[Tile::sums],
                                              float (&high)[Tile::sums]) {
#pragma unroll
  for (int i = 0; i < Tile::sums; i++) low[i] = high[i] = 0.0f;
  if (half) {
    uint32_t columns = Tile::ping_pong ? 0 : turn.part * Tile::block * hopper::LINE_BYTES;
    consume(ring, at, stages, turn, [&](uint32_t rows, uint32_t weights, int slice) {
      hopper::multiply<a_along, b_along>(low, slice_of<a_along>(rows, slice),
                                         slice_of<b_along>(weights + columns, slice));
    });
  } else if constexpr (Tile::ping_pong) {
    consume(ring, at, stages, turn, [&](uint32_t rows, uint32_t weights, int slice) {
      uint64_t b = slice_of<b_along>(weights, slice);
      hopper::multiply<a_along, b_along>(low, slice_of<a_along>(rows, slice), b);
      hopper::multiply<a_along, b_along>(high, slice_of<a_along>(rows + HOPPER_HALF_BYTES, slice), b);
    });
  } else {
    consume(ring, at, stages, turn, [&](uint32_t rows, uint32_t weights, int slice) {
      hopper::multiply<a_along, b_along>(low, high, slice_of<a_along>(rows + turn.part * HOPPER_HALF_BYTES, slice),
                                         slice_of<b_along>(weights, slice));
    });
  }
  hopper::settle(low);
  hopper::settle(high);
}

/* sums += part times the scales of its rows, and of both halves of its columns. */
template <int sums_of_thread>
__device__ __forceinline__ void add_scaled(float (&sums)[sums_of_thread], const float (&part)[sums_of_thread],
                                           const float (&rows)[2], const float *columns) {
  const float scales[2][2] = {{rows[0] * columns[0], rows[0] * columns[1]},
                              {rows[1] * columns[0], rows[1] * columns[1]}};
#pragma unroll
  for (int i = 0; i < sums_of_thread; i++) {
    sums[i] = fmaf(part[i], scales[i / 2 % 2][i / (sums_of_thread / 2)], sums[i]);
  }
}

/* The products of a stage with a block of its columns. */
template <int sums_of_thread>
__device__ __forceinline__ void multiply_block(float (&part)[sums_of_thread], uint32_t rows, uint32_t weights) {
  hopper::products_begin();
#pragma unroll
  for (int slice = 0; slice < HOPPER_SLICES; slice++) {
    hopper::multiply_e4m3(part, slice_of<true>(rows, slice), slice_of<true>(weights, slice), slice > 0);
  }
  hopper::products_commit();
  hopper::products_wait<0>();
  hopper::settle(part);
}

/* multiply_tile with scales, of 64 rows: the first warpgroup's or the other's. Of a tile with no more than 64 rows the
 * second one only gives the stages back. */
template <class Tile, int blocks>
__device__ __forceinline__ void multiply_scaled(const HopperRing<Tile, blocks> &ring, HopperCursor &at, int32_t stages,
                                                int part, bool idle, float (&low)[Tile::sums],
                                                float (&high)[Tile::sums]) {
  static_assert(!Tile::ping_pong, "both warpgroups see every stage");
  if (idle) {
#pragma unroll 1
    for (int32_t step = 0; step < stages; step++) {
      hopper::barrier_wait(ring.full(at.stage), at.parity);
      ring.release(at.stage);
      at.template next<Tile::stages>();
    }
    return;
  }
  float sums[Tile::sums] = {};
#pragma unroll
  for (int i = 0; i < Tile::sums; i++) low[i] = high[i] = 0.0f;
  int row = part * HOPPER_HALF_ROWS + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll 1
  for (int32_t step = 0; step < stages; step++) {
    hopper::barrier_wait(ring.full(at.stage), at.parity);
    uint32_t rows = hopper::place_of(ring.rows(at.stage)) + part * HOPPER_HALF_BYTES;
    uint32_t weights = hopper::place_of(ring.weights(at.stage));
    multiply_block(sums, rows, weights);
    const float *scales = ring.scales(at.stage), *columns = scales + HOPPER_ROWS;
    const float of_rows[2] = {scales[row], scales[row + 8]}, of_high[2] = {columns[2], columns[3]};
    add_scaled(low, sums, of_rows, columns);
    multiply_block(sums, rows, weights + Tile::block * hopper::LINE_BYTES);
    ring.release(at.stage);
    add_scaled(high, sums, of_rows, of_high);
    at.template next<Tile::stages>();
  }
}

/* What a block multiplies: rows [first, end) of an expert and a tile of columns, which may be the one behind
 * the last. */
struct HopperItem {
  int32_t expert, first, end, column;
  bool together; /* the cluster's blocks multiply different rows with the same weights */
  bool none; /* neither block has anything */

  __device__ __forceinline__ bool half() const { return end - first <= HOPPER_HALF_ROWS; }
};

__device__ __forceinline__ HopperItem hopper_item(const ExpertsProduct &p, int64_t t, int32_t spans, uint32_t rank) {
  TilePlace place = tile_place(t, spans, p.column_tiles, p.group);
  PlanTile span = p.tiles[place.row];
  if (span.end - span.first <= HOPPER_ROWS) {
    int32_t column = HOPPER_CLUSTER * place.column;
    return {span.expert, span.first, span.end, column + static_cast<int32_t>(rank), false, column >= p.column_tiles};
  }
  int32_t first = span.first + static_cast<int32_t>(rank) * HOPPER_ROWS;
  return {span.expert, first, min(first + HOPPER_ROWS, span.end), place.column, true, false};
}

/* Calls work(item) for all items of this block. */
template <class Work>
__device__ __forceinline__ void each_item(const ExpertsProduct &p, const Work &work) {
  int32_t spans = *p.tile_count;
  uint32_t rank = hopper::block_rank();
  int64_t all = static_cast<int64_t>(spans) * p.column_tiles;
#pragma unroll 1
  for (int64_t t = blockIdx.x / HOPPER_CLUSTER; t < all; t += gridDim.x / HOPPER_CLUSTER) {
    HopperItem item = hopper_item(p, p.backwards ? all - 1 - t : t, spans, rank);
    if (!item.none) work(item);
  }
}

/* The weights of a stage. In halves, boxes of gates and of their ups take turns, so that each block of sums
 * has both. Together, each block of the cluster fetches every second box for both. */
template <class Tile, bool along>
__device__ __forceinline__ void load_weights(const ExpertsProduct &p, const HopperMap &map, unsigned char *to,
                                             uint64_t *barrier, const HopperItem &item, int32_t depth) {
  constexpr int box = along ? Tile::box : hopper::GROUP_LINES;
#pragma unroll
  for (int i = 0; i < Tile::columns / box; i++) {
    if (item.together && static_cast<uint32_t>(i % HOPPER_CLUSTER) != hopper::block_rank()) continue;
    int32_t column = item.column * Tile::columns + i * box;
    if (p.halves) column = item.column * (Tile::columns / 2) + i / 2 * box + i % 2 * (p.columns / 2);
    unsigned char *place = to + i * box * hopper::LINE_BYTES;
    int32_t x = along ? depth : column, y = along ? column : depth;
    if (item.together) {
      hopper::load_box_for_all(place, map, barrier, x, y, item.expert);
    } else {
      hopper::load_box(place, map, barrier, x, y, item.expert);
    }
  }
}

/* Copies the scales of a stage: a thread that of a row, four those of the columns' quarters too. */
template <class Tile>
struct HopperScaleCopies {
  const float *row, *column; /* at depth 0; null where there is none */
  int64_t stride;
  const float *any;

  __device__ __forceinline__ HopperScaleCopies(const ExpertsProduct &p, const HopperItem &item, int32_t line)
      : row(nullptr),
        column(nullptr),
        stride(p.weights_scale.column),
        any(static_cast<const float *>(p.weights_scale.data)) {
    if constexpr (!Tile::scaled) return;
    if (item.first + static_cast<int32_t>(threadIdx.x) < item.end) row = address<const float>(p.rows_scale, line, 0);
    if (int quarter = threadIdx.x; quarter < 4) {
      int32_t first = item.column * Tile::columns + quarter / 2 * Tile::block;
      if (p.halves) first = item.column * (Tile::columns / 2) + quarter % 2 * (p.columns / 2);
      if (first < p.columns) {
        column = any + item.expert * p.weights_scale.expert + first / float8::BLOCK * p.weights_scale.row;
      }
    }
  }
  __device__ __forceinline__ void copy(float *to, int32_t step) const {
    copy_async_4(to + threadIdx.x, row != nullptr ? row + step : any, row != nullptr ? 4 : 0);
    if (threadIdx.x < 4) {
      copy_async_4(to + HOPPER_ROWS + threadIdx.x, column != nullptr ? column + step * stride : any,
                   column != nullptr ? 4 : 0);
    }
  }
};

/* Fills the ring for every tile of this block by copies of its rows: gathered from their tokens, or as they are
 * sorted. */
template <class Tile, bool gathered, bool along>
__device__ __forceinline__ void produce_copied(const HopperRing<Tile, HOPPER_CLUSTER> &ring, const ExpertsProduct &p,
                                               const HopperMap &weights) {
  using X = typename Tile::X;
  auto line_of = [&](int32_t row) { return gathered ? p.row_pair[row] / p.slots : row; };
  constexpr int turns = HOPPER_ROWS * hopper::LINE_CHUNKS / HOPPER_GROUP, apart = HOPPER_ROWS / turns;
  HopperCursor at;
  HopperCopies<Tile, HOPPER_CLUSTER> copies;
  int line = threadIdx.x / hopper::LINE_CHUNKS, chunk = threadIdx.x % hopper::LINE_CHUNKS;
  int32_t stages = Tile::stages_of(p.depth);
  each_item(p, [&](const HopperItem &item) {
    const X *lines[turns];
#pragma unroll
    for (int i = 0; i < turns; i++) {
      int32_t row = item.first + line + i * apart;
      lines[i] = row < item.end ? address<X>(p.rows, line_of(row), chunk * Tile::chunk) : nullptr;
    }
    [[maybe_unused]] HopperScaleCopies<Tile> scales(
        p, item, Tile::scaled ? line_of(min(item.first + static_cast<int32_t>(threadIdx.x), item.end - 1)) : 0);
#pragma unroll 1
    for (int32_t step = 0; step < stages; step++) {
      hopper::barrier_wait(ring.empty(at.stage), at.parity ^ 1);
      if (threadIdx.x == 0) {
        hopper::barrier_expect(ring.full(at.stage), Tile::columns_bytes);
        load_weights<Tile, along>(p, weights, ring.weights(at.stage), ring.full(at.stage), item, step * Tile::depth);
      }
      int32_t left = (p.depth - step * Tile::depth) / Tile::chunk - chunk; /* chunks from this one on */
#pragma unroll
      for (int i = 0; i < turns; i++) {
        if (i * apart >= HOPPER_HALF_ROWS && item.half()) break; /* which nobody reads */
        bool there = left > 0 && lines[i] != nullptr;
        const X *from = there ? lines[i] + step * Tile::depth : static_cast<const X *>(p.rows.data);
        copy_async(ring.rows(at.stage) + hopper::chunk_place(line + i * apart, chunk), from, there ? 16 : 0);
      }
      if constexpr (Tile::scaled) scales.copy(ring.scales(at.stage), step);
      copies.commit(ring);
      at.next<Tile::stages>();
    }
  });
  copies.finish(ring);
}

/* The same for rows that are sorted already, by the accelerator; one thread does it. Rows of other experts that follow a
 * tile's own are read too, and not written. */
template <class Tile, bool along>
__device__ __forceinline__ void produce_sorted(const HopperRing<Tile, HOPPER_CLUSTER> &ring, const ExpertsProduct &p,
                                               const HopperMap &rows, const HopperMap &weights) {
  HopperCursor at;
  int32_t stages = Tile::stages_of(p.depth);
  each_item(p, [&](const HopperItem &item) {
    int halves = item.half() ? 1 : 2;
#pragma unroll 1
    for (int32_t step = 0; step < stages; step++) {
      uint64_t *full = ring.full(at.stage);
      hopper::barrier_wait(ring.empty(at.stage), at.parity ^ 1);
      hopper::barrier_expect(full, halves * HOPPER_HALF_BYTES + Tile::columns_bytes);
      for (int i = 0; i < halves; i++) {
        hopper::load_box(ring.rows(at.stage) + i * HOPPER_HALF_BYTES, rows, full, step * Tile::depth,
                         item.first + i * HOPPER_HALF_ROWS, 0);
      }
      load_weights<Tile, along>(p, weights, ring.weights(at.stage), full, item, step * Tile::depth);
      at.next<Tile::stages>();
    }
  });
}

/* Where a thread's sums are: sums[4 j + 2 lower + i] is row `row` + 8 lower of 64, column 8 j + 2 pair + i. */
struct HopperLane {
  int row, pair;

  __device__ __forceinline__ HopperLane()
      : row(threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4), pair(threadIdx.x % 4) {}
};

/* Multiplies the rows of every tile of the plan with the weight of its expert, and calls
 * epilogue(expert, first, end, block, sums) in each of the threads that have them: of the rows from `first`
 * on, 64 at most and before `end`, and of a block of Tile::block columns. With scales it is epilogue(expert, first, end,
 * tile of columns, low, high), of both blocks of the tile. */
template <class Tile, bool gathered, bool along, class Epilogue>
__device__ __forceinline__ void hopper_product(const ExpertsProduct &p, const HopperMap &rows, const HopperMap &weights,
                                               const Epilogue &epilogue) {
  constexpr bool copied = gathered || Tile::scaled;
  HopperRing<Tile, HOPPER_CLUSTER> ring(copied ? HOPPER_GROUP + 1 : 1);
  if (threadIdx.x < HOPPER_GROUP) {
    hopper::registers_give<HOPPER_PRODUCER_REGISTERS(Tile::columns)>();
    if constexpr (copied) {
      produce_copied<Tile, gathered, along>(ring, p, weights);
    } else if (threadIdx.x == 0) {
      produce_sorted<Tile, along>(ring, p, rows, weights);
    }
  } else {
    hopper::registers_take<HOPPER_CONSUMER_REGISTERS(Tile::columns)>();
    HopperCursor at;
    int32_t stages = Tile::stages_of(p.depth);
    int part = threadIdx.x / HOPPER_GROUP - 1, others = part;
    HopperTurn<Tile, HOPPER_CLUSTER> turn(ring, part);
    each_item(p, [&](const HopperItem &item) {
      if (Tile::ping_pong && others++ % 2 != 0) {
        at.skip<Tile::stages>(stages);
        return;
      }
      float low[Tile::sums], high[Tile::sums];
      if constexpr (Tile::scaled) {
        bool idle = part > 0 && item.half();
        multiply_scaled(ring, at, stages, part, idle, low, high);
        if (!idle) epilogue(item.expert, item.first + part * HOPPER_HALF_ROWS, item.end, item.column, low, high);
      } else if constexpr (Tile::ping_pong) {
        multiply_tile<Tile, true, along>(ring, at, stages, turn, item.half(), low, high);
        epilogue(item.expert, item.first, item.end, item.column, low);
        if (!item.half()) epilogue(item.expert, item.first + HOPPER_HALF_ROWS, item.end, item.column, high);
      } else {
        multiply_tile<Tile, true, along>(ring, at, stages, turn, item.half(), low, high);
        int32_t first = item.half() ? item.first : item.first + part * HOPPER_HALF_ROWS;
        int32_t block = 2 * item.column;
        epilogue(item.expert, first, item.end, item.half() ? block + part : block, low);
        if (!item.half()) epilogue(item.expert, first, item.end, block + 1, high);
      }
    });
  }
  ring.meet();
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
/* The same of float32: v[2 i] and v[2 i + 1] are columns 8 i + 2 pair and the next. */
__device__ __forceinline__ void store_columns(__nv_bfloat16 *line, int32_t first, int32_t end, const float (&v)[8]) {
  uint32_t w[4] = {pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7])};
  store_pairs(line, first, end, w);
}
__device__ __forceinline__ void store_columns(float *line, int32_t first, int32_t end, const float (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int32_t column = first + 8 * i + threadIdx.x % 4 * 2;
    if (line != nullptr && column < end)
      *reinterpret_cast<float2 *>(line + column) = make_float2(v[2 * i], v[2 * i + 1]);
  }
}
__device__ __forceinline__ void load_pairs(const __nv_bfloat16 *line, int32_t first, int32_t end, uint32_t (&w)[4]) {
  int32_t column = first + threadIdx.x % 4 * 8;
  uint4 v = make_uint4(0, 0, 0, 0);
  if (line != nullptr && column < end) v = *reinterpret_cast<const uint4 *>(line + column);
  w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
  exchange(w);
}

} // namespace experts

#endif
