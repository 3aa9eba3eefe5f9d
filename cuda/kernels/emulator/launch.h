/* What GMOE_KERNEL makes on the host, and the C functions that the emulated library exports. */
#ifndef GMOE_EMULATOR_LAUNCH_H_
#define GMOE_EMULATOR_LAUNCH_H_

#include <stddef.h>
#include <stdint.h>

/* The symbol of a kernel is one of these. */
struct gmoe_emulated_kernel {
  uint32_t magic; /* GMOE_EMULATED_KERNEL: dlsym found a kernel */
  uint32_t params_bytes;
  uint32_t max_threads; /* its launch bound */
  uint32_t cluster;     /* blocks of a cluster, which run at the same time */
  void (*body)(const void *params);
};
#define GMOE_EMULATED_KERNEL 0x6b6d6531u

#define GMOE_EMULATOR_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* Runs a kernel to its end. seed orders threads and blocks: 0 ascending, else a shuffle of its
 * own. params points to the kernel's one parameter. Returns 0, or 1 with a message that the
 * calling thread reads with gmoe_emulator_error. Launches from several threads take turns. */
GMOE_EMULATOR_EXPORT int gmoe_emulator_launch(const struct gmoe_emulated_kernel *kernel, const uint32_t grid[3],
                                              const uint32_t block[3], uint32_t dynamic_shared_bytes,
                                              const void *params, uint64_t seed);
GMOE_EMULATOR_EXPORT const char *gmoe_emulator_error(void);

/* cuTensorMapEncodeTiled for emulated kernels: tensor_map.h. */
GMOE_EMULATOR_EXPORT int gmoe_emulator_encode(void *map, uint32_t type, uint64_t address, const uint64_t *size,
                                              const uint64_t *stride, const uint32_t *box);

/* Memory whose last byte is followed by a page that faults, as is the page before its first.
 * All bits are set (floats are NaN). Its address is a multiple of align; the bytes between its
 * end and the page, less than align, are checked by gmoe_emulator_free, which returns 1 if
 * they were written. NULL when there is no memory. Zero bytes are fine. */
GMOE_EMULATOR_EXPORT void *gmoe_emulator_allocate(size_t bytes, size_t align);
GMOE_EMULATOR_EXPORT int gmoe_emulator_free(void *memory);

#ifdef __cplusplus
}

#define GMOE_KERNEL(name, Params, threads) GMOE_CLUSTER_KERNEL(name, Params, threads, 1)
#define GMOE_CLUSTER_KERNEL(name, Params, threads, blocks)                                                           \
  static void name##_body([[maybe_unused]] const Params &p);                                                         \
  extern "C" GMOE_EMULATOR_EXPORT const gmoe_emulated_kernel name;                                                   \
  const gmoe_emulated_kernel name = {GMOE_EMULATED_KERNEL, sizeof(Params), threads, blocks,                          \
                                     [](const void *params) { name##_body(*static_cast<const Params *>(params)); }}; \
  static void name##_body([[maybe_unused]] const Params &p)
#endif

#endif
