/* The emulated library's C functions: launch.h. */
#include "launch.h"

#include <unistd.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "block.h"
#include "tensor_map.h"

using emulator::block;

static std::mutex device; /* one launch at a time: the block's state is global */
static thread_local std::string message;

static int refuse(const std::string &why) {
  message = why;
  return 1;
}

int gmoe_emulator_launch(const gmoe_emulated_kernel *kernel, const uint32_t grid[3], const uint32_t size[3],
                         uint32_t dynamic_shared_bytes, const void *params, uint64_t seed) {
  if (kernel == nullptr || kernel->magic != GMOE_EMULATED_KERNEL) return refuse("not an emulated kernel");
  uint64_t blocks = uint64_t{1} * grid[0] * grid[1] * grid[2], threads = uint64_t{1} * size[0] * size[1] * size[2];
  if (grid[0] - 1u >= 0x7fffffffu || grid[1] - 1u >= 65535u || grid[2] - 1u >= 65535u) {
    return refuse("a grid of " + std::to_string(grid[0]) + " x " + std::to_string(grid[1]) + " x " +
                  std::to_string(grid[2]) + " blocks, want 1 to 2147483647 x 65535 x 65535");
  }
  if (threads == 0 || threads > kernel->max_threads || threads > 1024) {
    return refuse(std::to_string(threads) + " threads, want 1 to the launch bound of " +
                  std::to_string(kernel->max_threads));
  }
  if (grid[0] % kernel->cluster != 0 || kernel->cluster > emulator::cluster_limit ||
      (threads % 32 != 0 && kernel->cluster > 1)) {
    return refuse("a grid of " + std::to_string(grid[0]) + " blocks in clusters of " + std::to_string(kernel->cluster));
  }
  std::lock_guard<std::mutex> lock(device);
  /* A copy, aligned as the device's, of just its size. */
  std::unique_ptr<char, void (*)(void *)> copy(
      static_cast<char *>(aligned_alloc(64, (kernel->params_bytes + 63) / 64 * 64)), free);
  memcpy(copy.get(), params, kernel->params_bytes);
  block.body = kernel->body;
  block.params = copy.get();
  block.error[0] = 0;
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {size[0], size[1], size[2]};
  std::vector<uint32_t> order(blocks / kernel->cluster);
  std::iota(order.begin(), order.end(), 0u);
  if (seed != 0) std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
  for (uint32_t c : order) {
    uint3 places[emulator::cluster_limit];
    for (uint32_t rank = 0; rank < kernel->cluster; rank++) {
      uint32_t b = c * kernel->cluster + rank;
      places[rank] = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
    }
    if (!block.run(places, kernel->cluster, blockDim, seed, dynamic_shared_bytes)) {
      return refuse("block " + std::to_string(c * kernel->cluster) + ": " + block.error);
    }
  }
  return 0;
}

int gmoe_emulator_encode(void *map, uint32_t type, uint64_t address, const uint64_t *size, const uint64_t *stride,
                         const uint32_t *box) {
  const uint32_t step[] = {1, 1, 1};
  return gmoe_encode_map(map, type, 3, address, size, stride, box, step, 0, 3, 2, 0);
}

const char *gmoe_emulator_error() { return message.c_str(); }

namespace {
struct Region {
  char *pages;
  size_t mapped, bytes;
};
std::mutex regions_mutex;
std::map<void *, Region> regions;
constexpr unsigned char fill = 0xff;
}  // namespace

void *gmoe_emulator_allocate(size_t bytes, size_t align) {
  size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_t rounded = (bytes + align - 1) / align * align;
  size_t room = (rounded + page - 1) / page * page;
  void *pages = mmap(nullptr, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  char *first = static_cast<char *>(pages) + page;
  if (room != 0 && mprotect(first, room, PROT_READ | PROT_WRITE) != 0) {
    munmap(pages, room + 2 * page);
    return nullptr;
  }
  memset(first, fill, room);
  char *memory = first + room - rounded;
  std::lock_guard<std::mutex> lock(regions_mutex);
  regions[memory] = {static_cast<char *>(pages), room + 2 * page, bytes};
  return memory;
}

int gmoe_emulator_free(void *memory) {
  std::lock_guard<std::mutex> lock(regions_mutex);
  auto found = regions.find(memory);
  if (found == regions.end()) return 1;
  Region r = found->second;
  regions.erase(found);
  size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const char *begin = static_cast<const char *>(memory), *end = r.pages + r.mapped - page;
  int written = 0;
  for (const char *p = r.pages + page; p < end; p++) {
    bool inside = p >= begin && p < begin + r.bytes;
    if (!inside && static_cast<unsigned char>(*p) != fill) written = 1;
  }
  munmap(r.pages, r.mapped);
  return written;
}
