/* Kernels that use every part of the emulator, and some that are wrong on purpose. */
#include "../../../kernels/hopper.h"

namespace {

constexpr uint32_t all = 0xffffffffu;

struct Params {
  const float *in;
  float *out;
  uint32_t *integers;
  int64_t n;
};

int64_t index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace

/* Reverses each block's part, through static shared memory. */
GMOE_KERNEL(gmoe_test_reverse, Params, 256) {
  struct Part {
    float values[256];
  };
  Part &part = shared_memory<Part>();
  int64_t i = index();
  if (i < p.n) part.values[threadIdx.x] = p.in[i];
  __syncthreads();
  int64_t count = min(static_cast<int64_t>(blockDim.x), p.n - static_cast<int64_t>(blockIdx.x) * blockDim.x);
  if (i < p.n) p.out[i] = part.values[count - 1 - threadIdx.x];
}

/* The same without its barrier: the result depends on the order of the threads. */
GMOE_KERNEL(gmoe_test_race, Params, 256) {
  float *part = dynamic_shared_memory<float>();
  part[threadIdx.x] = p.in[index()];
  p.out[index()] = part[blockDim.x - 1 - threadIdx.x];
}

/* out[i] = what a lane sees of its warp: 13 numbers a lane. */
GMOE_KERNEL(gmoe_test_warp, Params, 64) {
  float v = p.in[threadIdx.x];
  int lane = threadIdx.x % 32;
  float *out = p.out + 13 * threadIdx.x;
  out[0] = __shfl_sync(all, v, 5);
  out[1] = __shfl_xor_sync(all, v, 3);
  out[2] = __shfl_up_sync(all, v, 4);
  out[3] = __shfl_down_sync(all, v, 4);
  out[4] = __shfl_sync(all, v, 1, 8);
  out[5] = __shfl_down_sync(all, v, 2, 8);
  out[6] = __popc(__ballot_sync(all, lane % 3 == 0));
  out[7] = __any_sync(all, lane == 31) + 2 * __all_sync(all, lane < 31);
  out[8] = __reduce_add_sync(all, static_cast<uint32_t>(lane));
  out[9] = __reduce_max_sync(all, static_cast<uint32_t>(lane));
  /* Halves of a warp go different ways. */
  if (lane < 16) {
    out[10] = __shfl_xor_sync(0xffffu, v, 1);
  } else {
    out[10] = __shfl_xor_sync(0xffff0000u, v, 2);
  }
  __syncwarp();
  out[12] = __popc(__match_any_sync(all, lane % 5));
  out[11] = __syncthreads_count(lane < 7);
}

/* out [16, 8] = in [16, 16] times in + 256, [16, 8], both rounded to bfloat16; fetched by copy_async. */
GMOE_KERNEL(gmoe_test_mma, Params, 32) {
  struct Tiles {
    float wide[16 * 16 + 16 * 8];
    __nv_bfloat16 a[16][16], b[16][8];
  };
  Tiles &tiles = shared_memory<Tiles>();
  int lane = threadIdx.x;
  for (int i = lane; i < 64; i += 32) copy_async(&tiles.wide[4 * i], p.in + 4 * i);
  for (int i = 256 + lane; i < 384; i += 32) copy_async_4(&tiles.wide[i], p.in + i);
  copy_async_commit();
  copy_async_wait<0>();
  __syncwarp();
  for (int i = lane; i < 256; i += 32) tiles.a[i / 16][i % 16] = __float2bfloat16_rn(tiles.wide[i]);
  for (int i = lane; i < 128; i += 32) tiles.b[i / 8][i % 8] = __float2bfloat16_rn(tiles.wide[256 + i]);
  __syncwarp();
  uint32_t a[4], b[4];
  load_matrix(a, &tiles.a[lane % 16][lane / 16 * 8]);
  load_matrix_transposed(b, &tiles.b[lane % 16][0]);
  uint32_t column[2] = {b[0], b[1]};
  float d[4] = {0, 0, 0, 0};
  mma_bf16(d, a, column);
  for (int i = 0; i < 4; i++) p.out[(lane / 4 + i / 2 * 8) * 8 + 2 * (lane % 4) + i % 2] = d[i];
}

/* Adds one to the integer that each element names, and finds the largest. */
GMOE_KERNEL(gmoe_test_atomics, Params, 128) {
  if (index() >= p.n) return;
  uint32_t bin = static_cast<uint32_t>(p.in[index()]);
  atomicAdd(&p.integers[bin], 1u);
  atomicMax(&p.integers[8], bin);
}

/* Reads one element past the end. */
GMOE_KERNEL(gmoe_test_past_the_end, Params, 32) { p.out[threadIdx.x] = p.in[threadIdx.x + 1]; }

GMOE_KERNEL(gmoe_test_early_read, Params, 32) {
  float *part = dynamic_shared_memory<float>();
  if (threadIdx.x < 8) copy_async(part + 4 * threadIdx.x, p.in + 4 * threadIdx.x);
  copy_async_commit();
  p.out[threadIdx.x] = part[threadIdx.x]; /* before the wait */
}

GMOE_KERNEL(gmoe_test_ended, Params, 64) {
  if (threadIdx.x == 7) return;
  __syncthreads();
}

GMOE_KERNEL(gmoe_test_two_barriers, Params, 64) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

GMOE_KERNEL(gmoe_test_missing_lane, Params, 32) {
  if (threadIdx.x != 3) __syncwarp();
}

GMOE_KERNEL(gmoe_test_masks, Params, 32) {
  if (threadIdx.x < 16) {
    __shfl_xor_sync(all, 1, 1);
  } else {
    __ballot_sync(all, 1);
  }
}

GMOE_KERNEL(gmoe_test_outside_mask, Params, 32) {
  if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, 20);
}

GMOE_KERNEL(gmoe_test_too_much_shared, Params, 32) {
  struct Large {
    char bytes[200 << 10];
  };
  shared_memory<Large>().bytes[threadIdx.x] = 0;
}

/* Nobody arrives. */
GMOE_KERNEL(gmoe_test_phase_without_end, Params, 64) {
  uint64_t *barrier = dynamic_shared_memory<uint64_t>();
  if (threadIdx.x == 0) hopper::barrier_init(barrier, 2);
  __syncthreads();
  if (threadIdx.x == 0) hopper::barrier_arrive(barrier);
  hopper::barrier_wait(barrier, 0);
}

/* Says that a copy is there, which the products would not see. */
GMOE_KERNEL(gmoe_test_unpublished, Params, 64) {
  uint64_t *barrier = dynamic_shared_memory<uint64_t>();
  if (threadIdx.x == 0) hopper::barrier_init(barrier, 64);
  __syncthreads();
  copy_async(barrier + 2 + 2 * threadIdx.x, p.in + 4 * (threadIdx.x % 8));
  copy_async_commit();
  copy_async_wait<0>();
  hopper::barrier_arrive(barrier);
}

/* Arrives once too often. */
GMOE_KERNEL(gmoe_test_too_many_arrive, Params, 64) {
  uint64_t *barrier = dynamic_shared_memory<uint64_t>();
  if (threadIdx.x == 0)
    hopper::barrier_init(barrier, 1), hopper::barrier_expect(barrier, 16), hopper::barrier_arrive(barrier);
}

struct MapParams {
  HopperMap map;
  uint16_t *out; /* [2, 16] */
};

/* Each block of a cluster fetches 8 lines for both, and says so to the other. out has the first element of
 * each line that a block then has. */
GMOE_CLUSTER_KERNEL(gmoe_test_multicast, MapParams, 32, 2) {
  unsigned char *shared = dynamic_shared_memory<unsigned char>();
  uint64_t *barrier = reinterpret_cast<uint64_t *>(shared + 2048);
  int rank = static_cast<int>(hopper::block_rank()), line = static_cast<int>(threadIdx.x);
  if (threadIdx.x == 0) hopper::barrier_init(barrier, 2);
  hopper::cluster_sync();
  if (threadIdx.x == 0) {
    hopper::barrier_expect(barrier, 2048);
    hopper::load_box_for_all(shared + 1024 * rank, p.map, barrier, 0, 8 * rank, 0);
    hopper::barrier_arrive_at(barrier, 1 - rank);
  }
  hopper::barrier_wait(barrier, 0);
  if (line < 16) p.out[16 * rank + line] = *reinterpret_cast<uint16_t *>(shared + hopper::chunk_place(line, 0));
  hopper::cluster_sync();
}

/* The first block ends, and the other one reaches for it. */
GMOE_CLUSTER_KERNEL(gmoe_test_reach_for_ended, Params, 32, 2) {
  uint64_t *barrier = dynamic_shared_memory<uint64_t>();
  if (threadIdx.x == 0) hopper::barrier_init(barrier, 1);
  hopper::cluster_sync();
  if (hopper::block_rank() == 1 && threadIdx.x == 0) hopper::barrier_arrive_at(barrier, 0);
}

/* One thread waits for a barrier at which nobody arrives, the others for the cluster. */
GMOE_CLUSTER_KERNEL(gmoe_test_cluster_waits, Params, 32, 2) {
  uint64_t *barrier = dynamic_shared_memory<uint64_t>();
  if (threadIdx.x == 0) hopper::barrier_init(barrier, 1), hopper::barrier_wait(barrier, 0);
  hopper::cluster_sync();
}
