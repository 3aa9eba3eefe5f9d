/* Runs one of kernels.cu on heap memory, for AddressSanitizer: sanitized KERNEL. */
#include <cstdio>
#include <cstring>
#include <vector>

#include "../../../kernels/emulator/launch.h"

extern "C" {
extern const gmoe_emulated_kernel gmoe_test_reverse, gmoe_test_mma, gmoe_test_past_the_end;
}

int main(int, char **arguments) {
  bool reverse = !strcmp(arguments[1], "reverse"), mma = !strcmp(arguments[1], "mma");
  const gmoe_emulated_kernel *kernel = reverse ? &gmoe_test_reverse : mma ? &gmoe_test_mma : &gmoe_test_past_the_end;
  size_t n = mma ? 384 : reverse ? 200 : 32;
  std::vector<float> in(n, 1.0f), out(n);
  in.shrink_to_fit();
  struct {
    const float *in;
    float *out;
    uint32_t *integers;
    int64_t n;
  } params = {in.data(), out.data(), nullptr, static_cast<int64_t>(n)};
  const uint32_t grid[3] = {1, 1, 1}, block[3] = {reverse ? 256u : 32u, 1, 1};
  for (uint64_t seed = 0; seed < 3; seed++) {
    if (gmoe_emulator_launch(kernel, grid, block, 0, &params, seed) != 0) {
      fprintf(stderr, "%s\n", gmoe_emulator_error());
      return 1;
    }
  }
  return 0;
}
