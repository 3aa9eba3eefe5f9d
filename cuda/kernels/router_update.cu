/* Moves prices towards balance and the gap towards its budget: router/update.go. What the CPU
 * refuses (counts that no routing has, a price or gap that is not finite) leaves everything as it is. */
#include "router_view.h"

namespace {

using namespace router;

constexpr int max_experts = 512;

struct State {
  double price[max_experts], total, sum;
};

__device__ bool is_number(double v) { return v - v == 0; }

}  // namespace

/* One block, a thread an expert. Sums are taken in the experts' order, as on the CPU. */
GMOE_KERNEL(gmoe_router_update, RouterUpdateParams, 512) {
  struct Counts {
    double of[max_experts];
  };
  State &state = shared_memory<State>();
  double *counts = shared_memory<Counts>().of;
  int e = threadIdx.x;
  bool good = true, closed = false;
  double price = 0, count = 0, gap = 0;
  bool budgeted = is_budgeted(p.options);
  if (e < p.experts) {
    int64_t exact = load_index(p.counts, 0, e);
    price = load(p.price, e * p.price.column);
    closed = is_closed(p.options, price);
    good = exact >= 0 && exact <= p.tokens && (closed ? exact == 0 : is_number(price));
    count = static_cast<double>(exact);
  }
  if (budgeted) {
    gap = load(p.gap, 0);
    good = good && gap >= 0 && is_number(gap);
  }
  counts[e] = count;
  __syncthreads();
  if (e == 0) {
    double total = 0;
    for (int i = 0; i < p.experts; i++) total += counts[i];
    state.total = total;
  }
  __syncthreads();
  int open = __syncthreads_count(e < p.experts && !closed);
  double total = state.total, mean = total / open; /* all closed: the total is 0, which is not good */
  good = good && total > 0 && total <= static_cast<double>(p.tokens) * p.options.slots;
  if (!__syncthreads_and(good)) return;
  if (p.options.mode == router_deepseek) {
    if (count < mean) price += p.rate;
    if (count > mean) price -= p.rate;
  } else {
    double step = p.rate * ((count / mean - 1) - price / p.options.load_penalty);
    price += fmax(-p.step_limit, fmin(step, p.step_limit));
    state.price[e] = closed ? 0 : price;
    __syncthreads();
    if (e == 0) {
      double sum = 0;
      for (int i = 0; i < p.experts; i++) sum += state.price[i];
      state.sum = sum;
    }
    __syncthreads();
    price -= state.sum / open;
  }
  if (e < p.experts && p.rate > 0) store(p.price, e * p.price.column, price);
  if (e == 0 && budgeted)
    store(p.gap, 0, fmax(0.0, gap + p.gap_rate * (p.budget - total / static_cast<double>(p.tokens))));
}
