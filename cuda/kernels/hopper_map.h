/* A tensor map (CUtensorMap): what the driver's cuTensorMapEncodeTiled makes of a tensor, for the tensor
 * memory accelerator. A kernel's parameter begins with its maps, which must lie at multiples of 64 bytes. */
#ifndef GMOE_HOPPER_MAP_H_
#define GMOE_HOPPER_MAP_H_

#include <stdint.h>

#ifdef __cplusplus
#define GMOE_ALIGN_MAP alignas(64)
#else
#define GMOE_ALIGN_MAP _Alignas(64)
#endif

typedef struct {
  GMOE_ALIGN_MAP uint64_t words[16];
} HopperMap;

#endif
