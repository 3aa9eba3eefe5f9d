/* Kernels that show what a launch brought to them. */
#include "../../kernels/simt.h"

struct StoreParams {
  uint64_t *out;
  uint64_t first;
  double scale;
  int32_t small;
  uint8_t byte;
};

/* out[i] = first + i for each thread of the grid; the last one adds what else came. */
GMOE_KERNEL(gmoe_test_store, StoreParams, 256) {
  uint64_t i = uint64_t{1} * blockIdx.x * blockDim.x + threadIdx.x;
  p.out[i] = p.first + i;
  if (i + 1 == uint64_t{1} * gridDim.x * blockDim.x) p.out[i] += static_cast<uint64_t>(p.scale) + p.small + p.byte;
}

/* Writes just past the end of its memory. */
GMOE_KERNEL(gmoe_test_beside, StoreParams, 32) { p.out[p.first] = 1; }
