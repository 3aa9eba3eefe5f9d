/* What every kernel includes: CUDA, or its emulation on the host.
 *
 * Kernels are written once. nvcc compiles them for the GPU; g++ compiles the same text
 * against emulator/, where tests run it without a GPU. This header is the seam: the few things
 * that C++ cannot say on both sides have one name here and two definitions.
 *
 *   GMOE_KERNEL(name, Params, threads) { ... p ... }   a kernel with its one parameter, p
 *   GMOE_CLUSTER_KERNEL(name, Params, threads, blocks) the same in clusters of blocks, on Hopper
 *   shared_memory<T>()          one T for the block; a second call with the same T gives the same T
 *   dynamic_shared_memory<T>()  the bytes that the launch asked for
 *   mma_bf16, mma_f16, load_matrix, copy_async         the tensor core and what feeds it
 *   multiply_halves                                    two products of float16
 */
#ifndef GMOE_SIMT_H_
#define GMOE_SIMT_H_

#include <stdint.h>

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <math_constants.h>

#define GMOE_KERNEL(name, Params, threads) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Params p)
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GMOE_CLUSTER_KERNEL(name, Params, threads, blocks)                             \
  extern "C" __global__ void __launch_bounds__(threads) __cluster_dims__(blocks, 1, 1) \
      name(const __grid_constant__ Params p)
#else
#define GMOE_CLUSTER_KERNEL(name, Params, threads, blocks) GMOE_KERNEL(name, Params, threads)
#endif

template <class T>
__device__ __forceinline__ T &shared_memory() {
  __shared__ T memory;
  return memory;
}

extern __shared__ __align__(128) unsigned char gmoe_dynamic_shared_memory[];

template <class T>
__device__ __forceinline__ T *dynamic_shared_memory() {
  return reinterpret_cast<T *>(gmoe_dynamic_shared_memory);
}

/* d += a b for the fragments of a warp (PTX ISA, mma.m16n8k16 with .bf16): with
 * group = lane/4 and pair = lane%4, two elements a register, the first in the low half,
 *   a[0] row group,   columns 2 pair, +1      b[0] rows 2 pair, +1,   column group
 *   a[1] row group+8, columns 2 pair, +1      b[1] rows 2 pair+8, +9, column group
 *   a[2] row group,   columns 2 pair+8, +9    d[0], d[1] row group,   columns 2 pair, +1
 *   a[3] row group+8, columns 2 pair+8, +9    d[2], d[3] row group+8, columns 2 pair, +1 */
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The same for float16. */
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The products of two float16 in each of these, rounded to float16. */
__device__ __forceinline__ uint32_t multiply_halves(uint32_t a, uint32_t b) {
  uint32_t product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

/* Four 8x8 matrices of 16-bit elements from shared memory: lane 8 i + j gives the
 * address of row j of matrix i, 16 bytes aligned to 16. Register i of a lane then holds
 * elements 2 pair, +1 of row group of matrix i; transposed, of column group. */
__device__ __forceinline__ void load_matrix(uint32_t (&r)[4], const void *row) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrix_transposed(uint32_t (&r)[4], const void *row) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/* Copies 16 bytes, both sides aligned to 16, from global to shared memory behind the
 * thread's back; only the first `bytes` are read, the others become 0. A group is what was
 * copied since the last commit; after copy_async_wait<N> all groups but the last N are there
 * for this thread, and for the others after a barrier. */
__device__ __forceinline__ void copy_async(void *shared, const void *global, uint32_t bytes = 16) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
}
/* The same of 4 bytes or, with `bytes` 0, of none, aligned to 4. */
__device__ __forceinline__ void copy_async_4(void *shared, const void *global, uint32_t bytes = 4) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int groups>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#else

#include "emulator/emulator.h"

#endif

#endif
