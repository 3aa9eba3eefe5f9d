/* The plan, made where it is used: a counting sort of the (token, slot) pairs by expert. Three
 * launches, nothing read back:
 *
 *   count    how many pairs of each chunk each expert has
 *   scan     for each expert, how many pairs it has in the chunks before a chunk, and in all
 *   scatter  the first row of each expert, the row of each pair, the list of tiles
 *
 * A warp takes a chunk, so the sort is stable with no barrier between warps: the row of a
 * pair is the expert's first row + its pairs in earlier chunks + those earlier in this one. */
#include "plan_params.h"
#include "plan_sums.h"

using namespace plan;

namespace {

/* One counter for each expert and warp. */
struct Counters {
  int32_t of[PLAN_WARPS][PLAN_MAX_EXPERTS];
};

struct Offsets {
  int32_t row[PLAN_MAX_EXPERTS + 1], tile[PLAN_MAX_EXPERTS + 1], span[PLAN_MAX_EXPERTS + 1];
};

/* The expert of a pair; -1 when it is absent. */
__device__ int32_t expert_of(const PlanParams &p, int32_t pair) {
  int64_t place = pair / p.slots * p.token_stride + pair % p.slots * p.slot_stride;
  int64_t expert =
      p.narrow ? static_cast<const int32_t *>(p.index)[place] : static_cast<const int64_t *>(p.index)[place];
  return expert >= 0 && expert < p.experts ? static_cast<int32_t>(expert) : -1;
}

__device__ int32_t pieces_of(int32_t rows, int32_t each) { return (rows + each - 1) / each; }

/* For all threads of a block: the rows of an expert, cut into pieces. */
__device__ void cut(PlanTile *pieces, int32_t expert, int32_t first, int32_t end, int32_t each) {
  for (int32_t i = threadIdx.x; i < pieces_of(end - first, each); i += blockDim.x) {
    int32_t start = first + i * each;
    pieces[i] = {expert, start, min(start + each, end)};
  }
}

}  // namespace

GMOE_KERNEL(gmoe_plan_count, PlanParams, 32 * PLAN_WARPS) {
  int32_t *count = shared_memory<Counters>().of[warp_index()];
  for (int32_t chunk = blockIdx.x * PLAN_WARPS + warp_index(); chunk < p.chunks; chunk += gridDim.x * PLAN_WARPS) {
    for (int32_t e = lane_index(); e < p.experts; e += 32) count[e] = 0;
    __syncwarp();
    int32_t first = chunk * p.chunk, end = min(first + p.chunk, p.pairs);
    for (int32_t pair = first + lane_index(); pair < end; pair += 32) {
      int32_t expert = expert_of(p, pair);
      if (expert >= 0) atomicAdd(&count[expert], 1);
    }
    __syncwarp();
    for (int32_t e = lane_index(); e < p.experts; e += 32)
      p.before[static_cast<int64_t>(e) * p.chunks + chunk] = count[e];
    __syncwarp();
  }
}

GMOE_KERNEL(gmoe_plan_scan, PlanParams, 32 * PLAN_WARPS) {
  for (int32_t e = blockIdx.x * PLAN_WARPS + warp_index(); e < p.experts; e += gridDim.x * PLAN_WARPS) {
    int32_t *before = p.before + static_cast<int64_t>(e) * p.chunks, carry = 0;
    for (int32_t first = 0; first < p.chunks; first += 32) {
      int32_t chunk = first + lane_index(), count = chunk < p.chunks ? before[chunk] : 0, sum = inclusive_sum(count);
      if (chunk < p.chunks) before[chunk] = carry + sum - count;
      carry += __shfl_sync(all_lanes, sum, 31);
    }
    if (lane_index() == 0) p.totals[e] = carry;
  }
}

GMOE_KERNEL(gmoe_plan_scatter, PlanParams, 32 * PLAN_WARPS) {
  /* Every block finds the offsets for itself: they are few, and a launch costs more. */
  Offsets &offsets = shared_memory<Offsets>();
  if (warp_index() == 0) exclusive_sums(offsets.row, p.experts, [&](int32_t e) { return p.totals[e]; });
  if (warp_index() == 1)
    exclusive_sums(offsets.tile, p.experts, [&](int32_t e) { return pieces_of(p.totals[e], PLAN_TILE_ROWS); });
  if (warp_index() == 2)
    exclusive_sums(offsets.span, p.experts, [&](int32_t e) { return pieces_of(p.totals[e], PLAN_SPAN_ROWS); });
  __syncthreads();
  if (blockIdx.x == 0) {
    for (int32_t e = threadIdx.x; e <= p.experts; e += 32 * PLAN_WARPS) p.offset[e] = offsets.row[e];
    if (threadIdx.x == 0) *p.tile_count = offsets.tile[p.experts];
    if (threadIdx.x == 0 && p.spans != nullptr) *p.span_count = offsets.span[p.experts];
  }
  for (int32_t e = blockIdx.x; e < p.experts; e += gridDim.x) {
    int32_t first = offsets.row[e], end = offsets.row[e + 1];
    cut(p.tiles + offsets.tile[e], e, first, end, PLAN_TILE_ROWS);
    if (p.spans != nullptr) cut(p.spans + offsets.span[e], e, first, end, PLAN_SPAN_ROWS);
  }

  int32_t *next = shared_memory<Counters>().of[warp_index()];
  for (int32_t chunk = blockIdx.x * PLAN_WARPS + warp_index(); chunk < p.chunks; chunk += gridDim.x * PLAN_WARPS) {
    for (int32_t e = lane_index(); e < p.experts; e += 32) {
      next[e] = offsets.row[e] + p.before[static_cast<int64_t>(e) * p.chunks + chunk];
    }
    __syncwarp();
    int32_t first = chunk * p.chunk, end = min(first + p.chunk, p.pairs);
    for (int32_t strip = first; strip < end; strip += 32) {
      int32_t pair = strip + lane_index(), expert = pair < end ? expert_of(p, pair) : -1;
      uint32_t peers = __match_any_sync(all_lanes, expert), earlier = peers & ((1u << lane_index()) - 1);
      int32_t row = expert >= 0 ? next[expert] + __popc(earlier) : -1;
      __syncwarp();
      if (expert >= 0 && earlier == 0) next[expert] += __popc(peers);
      if (pair < end) p.pair_row[pair] = row;
      if (row >= 0) p.row_pair[row] = pair;
      __syncwarp();
    }
  }
}
