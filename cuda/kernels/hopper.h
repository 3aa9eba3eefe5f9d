/* What Hopper (sm_90a) adds to simt.h, each thing as one function, so that the emulator can have the
 * same: barriers in shared memory that count bytes, copies of whole tiles by the tensor memory
 * accelerator, and products of a warpgroup whose operands lie in shared memory.
 *
 * A tile in shared memory is lines of 128 bytes, one behind the other, at an address that is a
 * multiple of 1024. The 16-byte chunks of a line are exchanged among themselves: chunk c of line n
 * is at c ^ (n % 8). That is the swizzle of 128 bytes which the accelerator writes and the
 * products read. */
#ifndef GMOE_HOPPER_H_
#define GMOE_HOPPER_H_

#include "hopper_map.h"
#include "simt.h"

namespace hopper {

constexpr int LINE_BYTES = 128, CHUNK_BYTES = 16, LINE_CHUNKS = 8, SWIZZLE_BYTES = 1024, GROUP_LINES = 64;

/* Where a chunk of a line is, in bytes from the tile's beginning. */
__host__ __device__ inline int chunk_place(int line, int chunk) {
  return line * LINE_BYTES + ((chunk ^ (line % LINE_CHUNKS)) * CHUNK_BYTES);
}

/* The address of an operand (PTX ISA, matrix descriptor), by its place in shared memory:
 * along the depth, a line is one row or column with 128 bytes of the depth, and the stride
 * is from 8 lines to the next 8; the leading offset means nothing. Across it, a line is one step of the
 * depth with 64 rows or columns; the stride is from 8 steps to the next 8, and the leading offset from
 * 64 rows or columns to the next 64, which are a group of 64 lines. */
__host__ __device__ inline uint64_t operand(uint32_t place, bool along) {
  constexpr uint64_t swizzle_128 = 1;
  uint64_t leading = along ? 1 : GROUP_LINES * LINE_BYTES / 16, stride = SWIZZLE_BYTES / 16;
  return (place & 0x3ffff) >> 4 | leading << 16 | stride << 32 | swizzle_128 << 62;
}

/* From one product's 32 bytes of the depth to the next, which of bfloat16 are 16 elements. */
__host__ __device__ constexpr uint32_t operand_step(bool along) { return along ? 32 : 2 * SWIZZLE_BYTES; }

}  // namespace hopper

#ifdef __CUDACC__

/* The code for older devices, which nobody launches there, has none of this. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GMOE_HOPPER_ASM(...) asm volatile(__VA_ARGS__)
#else
#define GMOE_HOPPER_ASM(...) __trap()
#endif

namespace hopper {

__device__ __forceinline__ uint32_t place_of(const void *shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

/* A barrier's phase ends when so many threads have arrived and all bytes that are expected have been
 * written; phases alternate between parity 0 and 1. */
__device__ __forceinline__ void barrier_init(uint64_t *barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(place_of(barrier)), "r"(arrivals) : "memory");
}
/* Before the accelerator sees the barriers that this thread made. */
__device__ __forceinline__ void barrier_init_done() {
  GMOE_HOPPER_ASM("fence.mbarrier_init.release.cluster;" :: : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t *barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(place_of(barrier)) : "memory");
}
/* Arrives, and lets the phase wait for so many bytes more. */
__device__ __forceinline__ void barrier_expect([[maybe_unused]] uint64_t *barrier, [[maybe_unused]] uint32_t bytes) {
  GMOE_HOPPER_ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(place_of(barrier)),
                  "r"(bytes) : "memory");
}

/* Which block of its cluster this is. */
__device__ __forceinline__ uint32_t block_rank() {
  uint32_t rank = 0;
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
/* All threads of the cluster that have not ended: what each did before is there for all. */
__device__ __forceinline__ void cluster_sync() {
  GMOE_HOPPER_ASM("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" :: : "memory");
}
/* Arrives at the barrier at the same place in a block of the cluster, which may be this one. It says that
 * products have read a stage, which they had when they were waited for; what this thread has written is not
 * promised to the other block: a release to the cluster would wait for all that the epilogue wrote. */
__device__ __forceinline__ void barrier_arrive_at([[maybe_unused]] uint64_t *barrier, [[maybe_unused]] uint32_t rank) {
  GMOE_HOPPER_ASM(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(place_of(barrier)),
      "r"(rank) : "memory");
}

/* Waits until the phase of that parity has ended. A wait for more than twenty seconds is a mistake of
 * ours: it ends the kernel with an error where it would hang the device. */
__device__ __forceinline__ void barrier_wait([[maybe_unused]] uint64_t *barrier, [[maybe_unused]] uint32_t parity) {
  uint64_t start = 0;
  for (uint32_t turn = 0;; turn++) {
    uint32_t ended = 0;
    GMOE_HOPPER_ASM(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}" : "=r"(ended) : "r"(place_of(barrier)),
        "r"(parity) : "memory");
    if (ended) return;
    if (turn % 1024 == 1023) {
      uint64_t now;
      asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
      if (start == 0) start = now;
      if (now - start > 20000000000ull) __trap();
    }
  }
}

/* What this thread wrote to shared memory, and what it has waited for, is there for the products. */
__device__ __forceinline__ void publish_shared() { GMOE_HOPPER_ASM("fence.proxy.async.shared::cta;" :: : "memory"); }

/* Copies the box of a map at these coordinates, the fastest first, and counts its bytes at the
 * barrier. Elements outside of the tensor become 0. */
__device__ __forceinline__ void load_box([[maybe_unused]] void *shared, [[maybe_unused]] const HopperMap &map,
                                         [[maybe_unused]] uint64_t *barrier, [[maybe_unused]] int32_t x,
                                         [[maybe_unused]] int32_t y, [[maybe_unused]] int32_t z) {
  GMOE_HOPPER_ASM(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(place_of(shared)),
      "l"(&map), "r"(place_of(barrier)), "r"(x), "r"(y), "r"(z) : "memory");
}
/* The same for both blocks of a cluster of two, to the same places and barriers. */
__device__ __forceinline__ void load_box_for_all([[maybe_unused]] void *shared, [[maybe_unused]] const HopperMap &map,
                                                 [[maybe_unused]] uint64_t *barrier, [[maybe_unused]] int32_t x,
                                                 [[maybe_unused]] int32_t y, [[maybe_unused]] int32_t z) {
  GMOE_HOPPER_ASM(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3, %4, %5}], [%2], %6;" ::"r"(place_of(shared)),
      "l"(&map), "r"(place_of(barrier)), "r"(x), "r"(y), "r"(z), "h"(static_cast<uint16_t>(3)) : "memory");
}
__device__ __forceinline__ void prefetch_map([[maybe_unused]] const HopperMap &map) {
  GMOE_HOPPER_ASM("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

/* All threads of a warpgroup: before the first product of a group, after the last, and until all but
 * the last few groups are complete. Sums are not to be touched in between. */
__device__ __forceinline__ void products_begin() { GMOE_HOPPER_ASM("wgmma.fence.sync.aligned;" :: : "memory"); }
__device__ __forceinline__ void products_commit() { GMOE_HOPPER_ASM("wgmma.commit_group.sync.aligned;" :: : "memory"); }
template <int groups>
__device__ __forceinline__ void products_wait() {
  GMOE_HOPPER_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}

/* Keeps the compiler from reading sums before a wait that it cannot see has to do with them. */
template <int n>
__device__ __forceinline__ void settle(float (&sums)[n]) {
#pragma unroll
  for (int i = 0; i < n; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

/* Gives registers of this warpgroup back, or takes them. */
template <int registers>
__device__ __forceinline__ void registers_give() {
  GMOE_HOPPER_ASM("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ __forceinline__ void registers_take() {
  GMOE_HOPPER_ASM("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

#define GMOE_SUMS_8(d, i)                                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define GMOE_SUMS_32(d, i) GMOE_SUMS_8(d, i), GMOE_SUMS_8(d, i + 8), GMOE_SUMS_8(d, i + 16), GMOE_SUMS_8(d, i + 24)
#define GMOE_NAMES_32_0                                                                                            \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29," \
  "%30,%31"
#define GMOE_NAMES_32_1                                                                                              \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59," \
  "%60,%61,%62,%63"
#define GMOE_NAMES_32_2                                                                                              \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91," \
  "%92,%93,%94,%95"
#define GMOE_NAMES_32_3                                                                                             \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118," \
  "%119,%120,%121,%122,%123,%124,%125,%126,%127"

/* d += a b^T for 64 rows, `columns` columns and 16 elements of the depth (PTX ISA, wgmma.m64nNk16). Warp
 * w of the warpgroup has rows 16 w to +15; with group = lane/4 and pair = lane%4,
 *   d[4 j + i] is row group + 8 (i/2), column 8 j + 2 pair + i%2;
 * of 256 columns, the first 128 are in `low` and the others in `high`. */
template <bool a_along, bool b_along>
__device__ __forceinline__ void multiply([[maybe_unused]] float (&low)[64], [[maybe_unused]] float (&high)[64],
                                         [[maybe_unused]] uint64_t a, [[maybe_unused]] uint64_t b) {
  GMOE_HOPPER_ASM("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" GMOE_NAMES_32_0 "," GMOE_NAMES_32_1
                  "," GMOE_NAMES_32_2 "," GMOE_NAMES_32_3 "}, %128, %129, 1, 1, 1, %130, %131;" : GMOE_SUMS_32(low, 0),
                  GMOE_SUMS_32(low, 32), GMOE_SUMS_32(high, 0), GMOE_SUMS_32(high, 32) : "l"(a), "l"(b), "n"(!a_along),
                  "n"(!b_along));
}
template <bool a_along, bool b_along>
__device__ __forceinline__ void multiply([[maybe_unused]] float (&d)[96], [[maybe_unused]] uint64_t a,
                                         [[maybe_unused]] uint64_t b) {
  GMOE_HOPPER_ASM("wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" GMOE_NAMES_32_0 "," GMOE_NAMES_32_1
                  "," GMOE_NAMES_32_2 "}, %96, %97, 1, 1, 1, %98, %99;" : GMOE_SUMS_32(d, 0),
                  GMOE_SUMS_32(d, 32), GMOE_SUMS_32(d, 64) : "l"(a), "l"(b), "n"(!a_along), "n"(!b_along));
}
template <bool a_along, bool b_along>
__device__ __forceinline__ void multiply([[maybe_unused]] float (&d)[64], [[maybe_unused]] uint64_t a,
                                         [[maybe_unused]] uint64_t b) {
  GMOE_HOPPER_ASM("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" GMOE_NAMES_32_0 "," GMOE_NAMES_32_1
                  "}, %64, %65, 1, 1, 1, %66, %67;" : GMOE_SUMS_32(d, 0),
                  GMOE_SUMS_32(d, 32) : "l"(a), "l"(b), "n"(!a_along), "n"(!b_along));
}

/* The same in float8_e4m3fn, of 32 elements of the depth; without `add`, d is replaced. Both operands lie along it.
 * Hopper keeps fewer bits of such sums than float32 has: they are to be short. */
__device__ __forceinline__ void multiply_e4m3([[maybe_unused]] float (&d)[64], [[maybe_unused]] uint64_t a,
                                              [[maybe_unused]] uint64_t b, [[maybe_unused]] bool add) {
  GMOE_HOPPER_ASM(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" GMOE_NAMES_32_0 "," GMOE_NAMES_32_1
      "}, %64, %65, p, 1, 1;\n}" : GMOE_SUMS_32(d, 0),
      GMOE_SUMS_32(d, 32) : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

}  // namespace hopper

#else

#include "emulator/hopper.h"

#endif

#endif
