/* Projections and gradients: products of two matrices of any strides. */
#include "router_tile.h"

namespace {

using namespace router;

constexpr int rows = 64, columns = 64, pipeline = 4;

template <class A, class B, bool a_rows_adjacent, bool b_rows_adjacent>
__device__ __forceinline__ void multiply(const RouterProductParams &p) {
  using Block = Product<A, B, rows, columns, 2, a_rows_adjacent, b_rows_adjacent>;
  struct Stages {
    typename Block::Stage all[pipeline];
  };
  int64_t across = (p.n + columns - 1) / columns;
  int64_t row = blockIdx.x / across * rows, column = blockIdx.x % across * columns;
  int64_t k = blockIdx.y * p.split, k_end = k + p.split < p.k ? k + p.split : p.k;
  Block block;
  block.template run<pipeline>(shared_memory<Stages>().all, p.a, row, p.m, p.b, column, p.n, k, k_end,
                               [](const typename Block::Stage &) {});
  auto put = [&](int64_t m, int64_t n, float v) {
    if (m >= p.m || n >= p.n) return;
    if (p.splits > 1) {
      p.partial[(blockIdx.y * p.m + m) * p.n + n] = v;
      return;
    }
    if (p.along.data != nullptr) v -= p.pull[m] * load_f32(p.along, m, n);
    store_f32(p.out, m, n, v);
  };
  block.for_each(columns, [&](int m, int n, float v, float w) {
    put(row + m, column + n, v);
    put(row + m, column + n + 1, w);
  });
}

}  // namespace

/* Named by layout (n: k is adjacent in a row's memory, t: rows are; of a, then b as columns of
 * the product) and the types of a and b. */
GMOE_KERNEL(gmoe_router_product_nt_f32_f32, RouterProductParams, 256) { multiply<float, float, false, false>(p); }
GMOE_KERNEL(gmoe_router_product_nt_bf16_f32, RouterProductParams, 256) {
  multiply<__nv_bfloat16, float, false, false>(p);
}
GMOE_KERNEL(gmoe_router_product_nt_bf16_bf16, RouterProductParams, 256) {
  multiply<__nv_bfloat16, __nv_bfloat16, false, false>(p);
}
GMOE_KERNEL(gmoe_router_product_nn_f32_f32, RouterProductParams, 256) { multiply<float, float, false, true>(p); }
GMOE_KERNEL(gmoe_router_product_nn_f32_bf16, RouterProductParams, 256) {
  multiply<float, __nv_bfloat16, false, true>(p);
}
GMOE_KERNEL(gmoe_router_product_tn_f32_f32, RouterProductParams, 256) { multiply<float, float, true, true>(p); }
GMOE_KERNEL(gmoe_router_product_tn_f32_bf16, RouterProductParams, 256) {
  multiply<float, __nv_bfloat16, true, true>(p);
}

/* Sums the splits in their order. */
GMOE_KERNEL(gmoe_router_product_sum, RouterProductParams, 256) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= p.m * p.n) return;
  float sum = 0;
  for (int s = 0; s < p.splits; s++) sum += p.partial[s * p.m * p.n + i];
  int64_t m = i / p.n, n = i % p.n;
  if (p.along.data != nullptr) sum -= p.pull[m] * load_f32(p.along, m, n);
  store_f32(p.out, m, n, sum);
}
