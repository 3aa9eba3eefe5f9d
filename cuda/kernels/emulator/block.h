/* The threads of the running block: who runs, who waits for what, and shared memory. */
#ifndef GMOE_EMULATOR_BLOCK_H_
#define GMOE_EMULATOR_BLOCK_H_

#include <cstdarg>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <source_location>
#include <vector>

#include "fiber.h"
#include "language.h"

namespace emulator {

/* A line of a kernel. Two threads are at the same barrier if they are on the same line. */
using Line = std::source_location;
#define GMOE_EMULATOR_HERE emulator::Line::current()

inline bool same(const Line &a, const Line &b) {
  return a.line() == b.line() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

struct AsyncCopy {
  void *to;
  const void *from;
  uint32_t bytes, size; /* the first are copied, up to the size all others are 0 */
};

/* A barrier of hopper.h. */
struct Barrier {
  uint32_t arrivals, missing; /* of a phase */
  int64_t bytes;              /* expected and not written */
  uint32_t phase;             /* the parity of the phase that has not ended */

  void turn() {
    if (missing != 0 || bytes != 0) return;
    missing = arrivals;
    phase ^= 1;
  }
};

/* Products of a warp, each of which adds to sums of all lanes. */
using Products = std::vector<std::function<void()>>;

struct Thread {
  enum State { ready, at_barrier, at_collective, at_phase, at_cluster, done } state;
  Fiber fiber;
  uint3 index;
  uint32_t rank; /* of its block in the cluster */
  Line line;     /* where it waits */
  uint32_t mask; /* at_collective: the lanes it waits for */
  void *lane;    /* at_collective: what it brings */
  std::vector<std::vector<AsyncCopy>> copies; /* groups not waited for; the last is open */
  bool unpublished;                           /* a copy was waited for since publish_shared */
  std::vector<Products> products; /* as copies; the first lane has those of its warp */
  const Barrier *barrier;         /* at_phase: which, and */
  uint32_t parity;                /* the phase that is to end */
};

/* A GPU's limit of shared memory for one block, static and dynamic (compute capability 9.0). */
constexpr size_t shared_limit = 227 << 10;
constexpr uint32_t cluster_limit = 2; /* of ours */

/* The block that runs: or the blocks of a cluster, which run at the same time. */
class Block {
 public:
  std::vector<Thread> threads{1024 * cluster_limit};
  uint32_t count = 0, running = 0; /* threads of all blocks; the one that runs */
  uint32_t each = 0, blocks = 1;   /* threads of a block; blocks */
  uint64_t number = 0;             /* counts all blocks ever run */
  char error[512] = "";

  /* Runs body once for each thread of the blocks at these places. False: see error. */
  bool run(const uint3 *places, uint32_t cluster, dim3 size, uint64_t seed, uint32_t dynamic_bytes) {
    each = size.x * size.y * size.z, blocks = cluster;
    count = each * blocks;
    number++;
    for (size_t &used : used_) used = (dynamic_bytes + 127) / 128 * 128;
    if (used_[0] > shared_limit) return fail("%u bytes of dynamic shared memory, of %zu", dynamic_bytes, shared_limit);
    memset(shared_, 0xff, sizeof shared_[0] * blocks);
    for (uint32_t i = 0; i < count; i++) {
      Thread &t = threads[i];
      uint32_t n = i % each;
      t.state = Thread::ready;
      t.rank = i / each;
      t.index = {n % size.x, n / size.x % size.y, n / (size.x * size.y)};
      t.copies.assign(1, {});
      t.unpublished = false;
      t.products.assign(1, {});
      t.fiber.start(enter);
    }
    std::vector<uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    barriers.clear();
    bulk_.clear();
    random_.seed(seed + number);
    if (seed != 0) std::shuffle(order.begin(), order.end(), random_);
    for (bool progress = true; progress;) {
      progress = false;
      while (seed != 0 && !bulk_.empty() && random_() % 2 == 0) run_bulk();
      for (uint32_t i : order) {
        const Thread &t = threads[i];
        if (t.state != Thread::ready && !(t.state == Thread::at_phase && t.barrier->phase != t.parity)) continue;
        progress = true;
        running = i;
        threadIdx = t.index, blockIdx = places[t.rank];
        threads[i].fiber.resume();
        if (error[0]) return false;
      }
      if (!progress && !bulk_.empty()) {
        run_bulk();
        progress = true;
      }
      if (!progress) progress = release_barriers();
      if (error[0]) return false;
    }
    return true;
  }

  Thread &self() { return threads[running]; }

  /* The running thread waits in this state until another one makes it ready. */
  void wait(Thread::State state, Line line) {
    self().state = state;
    self().line = line;
    self().fiber.pause();
  }

  /* Ends the launch; the threads stay where they are. */
  __attribute__((format(printf, 2, 3))) bool fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, sizeof error, format, arguments);
    va_end(arguments);
    return false;
  }
  [[noreturn]] void stop() { self().fiber.finish(); }

  /* Room for static shared memory: fresh in each block, the same for all of its threads. */
  void *allocate_shared(size_t bytes, size_t align) {
    size_t &used = used_[self().rank];
    used = (used + align - 1) / align * align;
    if (used + bytes > shared_limit) {
      fail("%zu bytes of shared memory, of %zu", used + bytes, shared_limit);
      stop();
    }
    used += bytes;
    return shared_[self().rank] + used - bytes;
  }
  void *dynamic_shared() { return shared_[self().rank]; }

  /* The same place in the shared memory of another block of the cluster, which must not have ended. */
  void *in_block(const void *shared, uint32_t rank, Line here) {
    bool alive = false;
    for (uint32_t i = rank * each; rank < blocks && i < (rank + 1) * each; i++)
      alive |= threads[i].state != Thread::done;
    if (!alive) {
      fail("%s:%u: thread %u reaches for block %u of its cluster, which has ended or is none", here.file_name(),
           here.line(), flat(threadIdx), rank);
      stop();
    }
    return shared_[rank] + (static_cast<const unsigned char *>(shared) - shared_[self().rank]);
  }

  /* A copy that nobody waits for but a barrier. */
  void later(std::function<void()> copy) { bulk_.push_back(std::move(copy)); }

  std::map<const void *, Barrier> barriers;

  void (*body)(const void *params) = nullptr;
  const void *params = nullptr;

 private:
  static void enter();

  /* Nobody can run. Whoever waits for the cluster passes when all do that have not ended; and in each block
   * in which all threads are at one barrier, they pass that. Blocks may be at different ones. */
  bool release_barriers() {
    bool all = true, any = false;
    for (uint32_t i = 0; i < count; i++) {
      all &= threads[i].state == Thread::at_cluster || threads[i].state == Thread::done;
      any |= threads[i].state == Thread::at_cluster;
    }
    if (all && any) {
      for (uint32_t i = 0; i < count; i++) {
        if (threads[i].state == Thread::at_cluster) threads[i].state = Thread::ready;
      }
      return true;
    }
    bool progress = false;
    for (uint32_t rank = 0; rank < blocks && error[0] == 0; rank++) progress |= at_one_barrier(rank, false);
    if (progress || error[0]) return progress;
    for (uint32_t rank = 0; rank < blocks && error[0] == 0; rank++) at_one_barrier(rank, true);
    return false;
  }

  /* Lets the threads of a block pass the barrier at which all of them are. Else says why nobody can go on. */
  bool at_one_barrier(uint32_t rank, bool stuck) {
    const Thread *first = nullptr, *other = nullptr, *end = threads.data() + (rank + 1) * each;
    Thread *begin = threads.data() + rank * each;
    for (const Thread *t = begin; t < end; t++) {
      if (t->state == Thread::done) {
        other = t;
      } else if (first == nullptr || t->state != Thread::at_barrier) {
        first = t;
      }
    }
    if (first == nullptr) return false;
    if (first->state != Thread::at_barrier) {
      if (!stuck) return false;
      const char *file = first->line.file_name();
      uint32_t line = first->line.line(), thread = flat(first->index);
      if (first->state == Thread::at_phase) {
        return fail(
            "%s:%u: thread %u waits for phase %u of a barrier with %u arrivals and %lld bytes missing, which do not "
            "come",
            file, line, thread, first->parity, first->barrier->missing, static_cast<long long>(first->barrier->bytes));
      }
      if (first->state == Thread::at_cluster) {
        return fail("%s:%u: thread %u waits for its cluster, which does not come", file, line, thread);
      }
      return fail("%s:%u: thread %u waits for lanes %#x of its warp, which do not come", file, line, thread,
                  first->mask);
    }
    if (other != nullptr) {
      return fail("%s:%u: thread %u waits at a barrier that thread %u, which has ended, did not reach",
                  first->line.file_name(), first->line.line(), flat(first->index), flat(other->index));
    }
    for (const Thread *t = begin; t < end; t++) {
      if (!same(t->line, first->line)) {
        return fail("%s:%u: thread %u waits at a barrier while thread %u waits at that of %s:%u",
                    first->line.file_name(), first->line.line(), flat(first->index), flat(t->index),
                    t->line.file_name(), t->line.line());
      }
    }
    for (Thread *t = begin; t < end; t++) t->state = Thread::ready;
    return true;
  }
  void run_bulk() {
    std::function<void()> copy = std::move(bulk_.front());
    bulk_.erase(bulk_.begin());
    copy();
  }

  static uint32_t flat(uint3 i) { return i.x + blockDim.x * (i.y + blockDim.y * i.z); }

  std::vector<std::function<void()>> bulk_;
  std::mt19937_64 random_;
  size_t used_[cluster_limit] = {};
  alignas(1024) unsigned char shared_[cluster_limit][shared_limit];
};

inline Block block;

inline void Block::enter() {
  block.self().fiber.arrived();
  block.body(block.params);
  block.self().state = Thread::done;
  block.self().fiber.finish();
}

}  // namespace emulator

inline void __syncthreads(emulator::Line here = GMOE_EMULATOR_HERE) {
  emulator::block.wait(emulator::Thread::at_barrier, here);
}

template <class T>
T &shared_memory() {
  static struct {
    uint64_t number;
    T *memory;
  } blocks[emulator::cluster_limit] = {};
  auto &mine = blocks[emulator::block.self().rank];
  if (mine.number != emulator::block.number) {
    mine.number = emulator::block.number;
    mine.memory = static_cast<T *>(emulator::block.allocate_shared(sizeof(T), alignof(T) < 16 ? 16 : alignof(T)));
  }
  return *mine.memory;
}

template <class T>
T *dynamic_shared_memory() {
  return static_cast<T *>(emulator::block.dynamic_shared());
}

#endif
