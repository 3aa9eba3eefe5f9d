/* cuTensorMapEncodeTiled as the emulator has it: the same arguments, the limits that cuda.h documents,
 * and a map that only emulated kernels can read. C and C++. */
#ifndef GMOE_EMULATOR_TENSOR_MAP_H_
#define GMOE_EMULATOR_TENSOR_MAP_H_

#include <stdint.h>
#include <string.h>

#define GMOE_EMULATED_MAP 0x6b6d6532u
#define GMOE_MAP_RANK 3

typedef struct {
  uint32_t magic, element_bytes;
  uint64_t address;
  uint64_t size[GMOE_MAP_RANK];
  uint64_t stride[GMOE_MAP_RANK - 1]; /* bytes; the first axis is dense */
  uint32_t box[GMOE_MAP_RANK];
} gmoe_emulated_map;

/* 0, or 1 (CUDA_ERROR_INVALID_VALUE) for what a driver refuses, or for what our kernels never use. */
static inline int gmoe_encode_map(void *map, uint32_t type, uint32_t rank, uint64_t address, const uint64_t *size,
                                  const uint64_t *stride, const uint32_t *box, const uint32_t *step,
                                  uint32_t interleave, uint32_t swizzle, uint32_t promotion, uint32_t fill) {
  gmoe_emulated_map m;
  uint32_t i;
  memset(&m, 0, sizeof m);
  m.element_bytes = type == 0 /* UINT8 */ ? 1 : 2;
  if (m.element_bytes == 2 && type != 9 /* BFLOAT16 */) return 1;
  if ((uintptr_t)map % 64 != 0 || rank != GMOE_MAP_RANK || address % 16 != 0) return 1;
  if (interleave != 0 || swizzle != 3 /* 128 bytes */ || promotion > 3 || fill != 0) return 1;
  for (i = 0; i < rank; i++) {
    if (size[i] == 0 || size[i] > (uint64_t)1 << 32 || box[i] == 0 || box[i] > 256 || step[i] != 1) return 1;
    m.size[i] = size[i];
    m.box[i] = box[i];
  }
  for (i = 0; i + 1 < rank; i++) {
    if (stride[i] % 16 != 0 || stride[i] >= (uint64_t)1 << 40) return 1;
    m.stride[i] = stride[i];
  }
  if (box[0] * m.element_bytes % 16 != 0 || box[0] * m.element_bytes > 128) return 1;
  m.magic = GMOE_EMULATED_MAP;
  m.address = address;
  memset(map, 0, 128);
  memcpy(map, &m, sizeof m);
  return 0;
}

#endif
