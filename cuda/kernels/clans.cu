/* From clans to slots, and what slots are split by: router/clans.go and router/observe.go. */
#include "clans_params.h"
#include "router_view.h"

namespace {

using namespace router;

constexpr int threads = 256, warps = threads / 32, max_slots = 512, tokens_per_warp = 8, bins = 64;

/* <direction, x> at a node, by one warp: the same in every lane. */
__device__ __forceinline__ float along_direction(const ClansDescendParams &p, int64_t node, int64_t token) {
  float sum = 0;
  for (int64_t i = threadIdx.x % 32; i < p.hidden; i += 32) {
    sum += load_f32(p.direction, node, i) * load_f32(p.hidden_states, token, i);
  }
  return warp_sum(sum);
}

/* The slot of a token in a clan's tree; num_slots where the tree is none, which the CPU refuses. A
 * walk of more steps than there are nodes is in a circle. */
__device__ __forceinline__ int64_t slot_of(const ClansDescendParams &p, int64_t clan, int64_t token) {
  if (clan < 0 || clan >= p.clans) return p.num_slots;
  int64_t value = load_index(p.root, 0, clan);
  for (int step = 0; value < 0; step++) {
    int64_t node = ~value;
    if (step == p.nodes || node >= p.nodes) return p.num_slots;
    bool side = along_direction(p, node, token) >= load_f32(p.threshold, node * p.threshold.column);
    value = load_index(p.children, node, side);
  }
  return value < p.num_slots ? value : p.num_slots;
}

/* The sum over the block, in the order of its warps: the same in every thread. */
struct BlockSums {
  double of_warp[2][warps];
};
__device__ __forceinline__ void block_sums(BlockSums &shared, double *a, double *b) {
  *a = warp_sum(*a);
  *b = warp_sum(*b);
  __syncthreads(); /* the last sums are read */
  if (threadIdx.x % 32 == 0) {
    shared.of_warp[0][threadIdx.x / 32] = *a;
    shared.of_warp[1][threadIdx.x / 32] = *b;
  }
  __syncthreads();
  *a = *b = 0;
  for (int w = 0; w < warps; w++) {
    *a += shared.of_warp[0][w];
    *b += shared.of_warp[1][w];
  }
}

__device__ __forceinline__ bool is_number(double v) { return v - v == 0; }

__device__ __forceinline__ int64_t place(const RouterView &v, int64_t row, int64_t column) {
  return row * v.row + column * v.column;
}

__device__ __forceinline__ void add_to(const RouterView &v, int64_t offset, double value) {
  if (v.data != nullptr) static_cast<double *>(v.data)[offset] += value;
}

/* Adds a token to the sums of a slot: the whole block. */
__device__ __forceinline__ void observe(const ClansObserveParams &p, BlockSums &shared, int64_t slot, int64_t token,
                                        int64_t choice) {
  double square = 0, along = 0;
  for (int64_t i = threadIdx.x; i < p.hidden; i += threads) {
    double d = load(p.hidden_states, place(p.hidden_states, token, i));
    if (p.mean.data != nullptr) d -= load(p.mean, place(p.mean, slot, i));
    square += d * d;
    if (p.axis.data != nullptr) along += d * load(p.axis, place(p.axis, slot, i));
  }
  block_sums(shared, &square, &along);
  double binding = p.binding.data == nullptr ? 0 : load(p.binding, place(p.binding, token, choice));
  bool good = is_number(square) && is_number(along) && is_number(binding);
  if (threadIdx.x == 0) {
    add_to(good ? p.counted : p.skipped, slot * (good ? p.counted : p.skipped).column, 1);
  }
  if (!good) return;
  for (int64_t i = threadIdx.x; i < p.hidden; i += threads) {
    double x = load(p.hidden_states, place(p.hidden_states, token, i));
    double d = p.mean.data == nullptr ? x : x - load(p.mean, place(p.mean, slot, i));
    add_to(p.sum, place(p.sum, slot, i), x);
    add_to(p.power, place(p.power, slot, i), along * d);
  }
  if (threadIdx.x != 0) return;
  add_to(p.square, slot * p.square.column, square);
  add_to(p.binding_sum, slot * p.binding_sum.column, binding);
  if (p.histogram.data == nullptr) return;
  double position = along / load(p.scale, slot * p.scale.column);
  double bin = fmax(0.0, fmin(floor(position * (bins / 2)) + bins / 2, bins - 1.0)); /* a NaN is in some bin */
  add_to(p.histogram, place(p.histogram, slot, static_cast<int64_t>(bin)), 1);
}

}  // namespace

/* A thread a slot. */
GMOE_KERNEL(gmoe_clans_prepare, ClansDescendParams, 256) {
  int slot = blockIdx.x * threads + threadIdx.x;
  if (slot < p.num_slots) static_cast<int64_t *>(p.slot_counts.data)[slot * p.slot_counts.column] = 0;
}

/* A warp takes tokens one by one. Where no clan has split it reads no hidden state. */
GMOE_KERNEL(gmoe_clans_descend, ClansDescendParams, 256) {
  struct Counts {
    uint32_t of[max_slots];
  };
  Counts &counts = shared_memory<Counts>();
  bool counting = p.slot_counts.data != nullptr;
  for (int slot = threadIdx.x; counting && slot < p.num_slots; slot += threads) counts.of[slot] = 0;
  __syncthreads();
  int64_t first = (static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32) * tokens_per_warp;
  for (int64_t token = first; token < first + tokens_per_warp && token < p.tokens; token++) {
    for (int64_t choice = 0; choice < p.chosen; choice++) {
      int64_t slot = slot_of(p, load_index(p.clan_index, token, choice), token);
      if (threadIdx.x % 32 != 0) continue;
      store_index(p.slot_index, token, choice, slot);
      if (counting && slot < p.num_slots) atomicAdd(&counts.of[slot], 1u);
    }
  }
  __syncthreads();
  auto *all = static_cast<unsigned long long *>(p.slot_counts.data);
  for (int slot = threadIdx.x; counting && slot < p.num_slots; slot += threads) {
    if (counts.of[slot] != 0) /* integers, in any order */
      atomicAdd(&all[slot * p.slot_counts.column], static_cast<unsigned long long>(counts.of[slot]));
  }
}

/* A block a slot, which takes its tokens in their order: what is added does not depend on how a batch
 * is cut. It is for one batch in many, so nothing is sorted first. */
GMOE_KERNEL(gmoe_clans_observe, ClansObserveParams, 256) {
  struct Hits {
    uint32_t of_warp[warps];
  };
  uint32_t *hits = shared_memory<Hits>().of_warp;
  BlockSums &sums = shared_memory<BlockSums>();
  int64_t slot = blockIdx.x, pairs = p.tokens * p.chosen;
  for (int64_t first = 0; first < pairs; first += threads) {
    int64_t pair = first + threadIdx.x;
    bool mine = pair < pairs && load_index(p.slot_index, pair / p.chosen, pair % p.chosen) == slot;
    uint32_t of_warp = __ballot_sync(all_lanes, mine);
    if (threadIdx.x % 32 == 0) hits[threadIdx.x / 32] = of_warp;
    __syncthreads();
    for (int w = 0; w < warps; w++) {
      for (uint32_t left = hits[w]; left != 0; left &= left - 1) {
        int64_t hit = first + 32 * w + __popc((left & (0 - left)) - 1);
        observe(p, sums, slot, hit / p.chosen, hit % p.chosen);
      }
    }
    __syncthreads();
  }
}
