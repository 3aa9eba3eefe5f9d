/* What each expert has done, added up on the device: the host cannot know, as it never waits for the
 * routing, and reads the sums when somebody asks. One block; a call of few pairs has no plan, and is
 * counted here. Calls in several streams may add at once. */
#include "ledger_params.h"
#include "simt.h"

namespace {

constexpr int threads = 512, most_experts = 512;

struct Rows {
  int32_t of[most_experts];
};

}  // namespace

GMOE_KERNEL(gmoe_ledger_add, LedgerParams, threads) {
  Rows &rows = shared_memory<Rows>();
  for (int32_t e = threadIdx.x; e < p.experts; e += threads) rows.of[e] = p.totals ? p.totals[e] : 0;
  __syncthreads();
  if (!p.totals) {
    for (int64_t pair = threadIdx.x; pair < p.tokens * p.slots; pair += threads) {
      int64_t place = pair / p.slots * p.token_stride + pair % p.slots * p.slot_stride;
      int64_t expert =
          p.narrow ? static_cast<const int32_t *>(p.index)[place] : static_cast<const int64_t *>(p.index)[place];
      if (expert >= 0 && expert < p.experts) atomicAdd(&rows.of[expert], 1);
    }
    __syncthreads();
  }
  for (int32_t e = threadIdx.x; e < p.experts; e += threads) {
    unsigned long long n = rows.of[e];
    if (n == 0) continue;
    atomicAdd(&p.work[3 * e], n * p.rows);
    atomicAdd(&p.work[3 * e + 1], n * p.flops);
    atomicAdd(&p.work[3 * e + 2], p.once + n * p.bytes);
  }
}
