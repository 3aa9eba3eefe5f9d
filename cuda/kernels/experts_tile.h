/* Tiles of the operands in shared memory, and how they are filled. A product sums over its
 * depth; a tile has `side` rows or columns of the result and a few steps of the depth.
 *
 * In memory an operand's elements lie one behind the other along the depth, or across it. A tile
 * is copied in lines of that direction, each in chunks; chunks are the work of one thread. What
 * lies outside of the operand is filled with zeros. */
#ifndef GMOE_EXPERTS_TILE_H_
#define GMOE_EXPERTS_TILE_H_

#include "experts_element.h"
#include "experts_schedule.h"

namespace experts {

/* How a core's tile of an operand along (or across) the depth is cut. Core gives X, depth, and
 * for each direction the elements of a chunk and where they go. */
template <class Core, bool along>
struct Tile {
  static constexpr int lines = along ? EXPERTS_TILE_SIDE : Core::depth;
  static constexpr int run = along ? Core::depth : EXPERTS_TILE_SIDE; /* elements of a line */
  static constexpr int chunk = Core::template chunk<along>;
  static constexpr int chunks = run / chunk; /* of a line */
  static constexpr int lines_at_once = EXPERTS_THREADS / chunks;
  static constexpr int turns = lines / lines_at_once; /* chunks of a thread */
  static_assert(lines_at_once * turns == lines && chunks * chunk == run, "a tile is cut evenly");

  __host__ __device__ static int line(int thread, int turn) { return thread / chunks + turn * lines_at_once; }
  __host__ __device__ static int position(int thread) { return thread % chunks * chunk; }
};

/* Copies the first count elements of a chunk and fills the others with zeros; a copy that need
 * not wait is complete after the copies are waited for. `from` is an address that may be read from
 * even if count is 0 or less. */
template <class Core, bool along>
__device__ __forceinline__ void copy_chunk(typename Core::X *tile, int line, int position, const typename Core::X *from,
                                           int64_t stride, int32_t count, bool vector) {
  using X = typename Core::X;
  constexpr int chunk = Core::template chunk<along>;
  X *to = tile + Core::template place<along>(line, position);
  constexpr int step = Core::template step<along>;
  if (chunk * sizeof(X) == 16 && vector && step == 1) {
    copy_async(to, from, static_cast<uint32_t>(count < 0 ? 0 : count < chunk ? count : chunk) * sizeof(X));
    return;
  }
  if constexpr (sizeof(X) == 1 && step != 1) { /* read at once, and scattered */
    if (vector && count >= chunk) {
      uint4 read = *reinterpret_cast<const uint4 *>(from);
      uint32_t words[4] = {read.x, read.y, read.z, read.w};
#pragma unroll
      for (int i = 0; i < chunk; i++) to[i * step].bits = static_cast<uint8_t>(words[i / 4] >> 8 * (i % 4));
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < chunk; i++) {
    X *element = to + i * step;
    const X *source = from + (i < count ? i * stride : 0);
    if (sizeof(X) == 4) {
      copy_async_4(element, source, i < count ? 4 : 0);
    } else {
      *element = i < count ? *source : X{};
    }
  }
}

/* An operand whose lines are rows or columns of the result: each step reads them further on. */
template <class Core>
struct AlongDepth {
  using X = typename Core::X;
  using Cut = Tile<Core, true>;
  static constexpr bool along = true;

  const X *lines[Cut::turns]; /* this thread's, at depth 0; those outside: null */
  const X *any;               /* an address that can be read from */
  int64_t stride;
  int32_t depth;
  bool vector;

  /* line_of(side) is the address of a line at depth 0, or null. */
  template <class LineOf>
  __device__ __forceinline__ AlongDepth(const void *any_, int64_t stride_, int32_t depth_, bool vector_, LineOf line_of)
      : any(static_cast<const X *>(any_)), stride(stride_), depth(depth_), vector(vector_) {
#pragma unroll
    for (int turn = 0; turn < Cut::turns; turn++) lines[turn] = line_of(Cut::line(threadIdx.x, turn));
  }

  __device__ __forceinline__ void fetch(X *tile, int32_t first) const {
    int position = Cut::position(threadIdx.x);
    int32_t left = depth - first - position;
#pragma unroll
    for (int turn = 0; turn < Cut::turns; turn++) {
      bool there = left > 0 && lines[turn] != nullptr;
      copy_chunk<Core, true>(tile, Cut::line(threadIdx.x, turn), position,
                             there ? lines[turn] + (first + position) * stride : any, stride, there ? left : 0, vector);
    }
  }
};

/* An operand whose lines are steps of the depth: each step reads further lines at the same place. */
template <class Core>
struct AcrossDepth {
  using X = typename Core::X;
  using Cut = Tile<Core, false>;
  static constexpr bool along = false;

  const X *any;             /* an address that can be read from */
  const X *start;           /* this thread's place in line 0 */
  int32_t count;            /* elements from there on */
  int64_t stride;           /* between them */
  int64_t line;             /* from one line to the next */
  int32_t depth;
  const int32_t *row_pair;  /* with it, step d of the depth is the line of row_pair[d]'s token */
  int32_t slots;
  bool vector;

  __device__ __forceinline__ void fetch(X *tile, int32_t first) const {
#pragma unroll
    for (int turn = 0; turn < Cut::turns; turn++) {
      int place = Cut::line(threadIdx.x, turn);
      int32_t d = first + place;
      bool there = d < depth && count > 0;
      if (there && row_pair != nullptr) d = row_pair[d] / slots;
      copy_chunk<Core, false>(tile, place, Cut::position(threadIdx.x), there ? start + d * line : any, stride,
                              there ? count : 0, vector);
    }
  }
};

}  // namespace experts

#endif
