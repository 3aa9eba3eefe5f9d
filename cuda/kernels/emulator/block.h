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

struct Thread {
  enum State { ready, at_barrier, at_collective, at_phase, done } state;
  Fiber fiber;
  uint3 index;
  Line line;     /* where it waits */
  uint32_t mask; /* at_collective: the lanes it waits for */
  void *lane;    /* at_collective: what it brings */
  std::vector<std::vector<AsyncCopy>> copies; /* groups not waited for; the last is open */
  bool unpublished;                           /* a copy was waited for since publish_shared */
  std::vector<std::vector<std::function<void()>>> products; /* as copies */
  const Barrier *barrier;                                   /* at_phase: which, and */
  uint32_t parity;                                          /* the phase that is to end */
};

/* A GPU's limit of shared memory for one block, static and dynamic (compute capability 9.0). */
constexpr size_t shared_limit = 227 << 10;

class Block {
 public:
  std::vector<Thread> threads{1024};
  uint32_t count = 0, running = 0;
  uint64_t number = 0; /* counts all blocks ever run */
  char error[512] = "";

  /* Runs body once for each thread of a block. False: see error. */
  bool run(dim3 size, uint64_t seed, uint32_t dynamic_bytes) {
    count = size.x * size.y * size.z;
    number++;
    dynamic_bytes_ = dynamic_bytes;
    used_ = (dynamic_bytes + 127) / 128 * 128;
    if (used_ > shared_limit) return fail("%u bytes of dynamic shared memory, of %zu", dynamic_bytes, shared_limit);
    memset(shared_, 0xff, sizeof shared_);
    for (uint32_t i = 0; i < count; i++) {
      Thread &t = threads[i];
      t.state = Thread::ready;
      t.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
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
        threadIdx = threads[i].index;
        threads[i].fiber.resume();
        if (error[0]) return false;
      }
      if (!progress && !bulk_.empty()) {
        run_bulk();
        progress = true;
      }
      if (!progress) progress = release_barrier();
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
    used_ = (used_ + align - 1) / align * align;
    if (used_ + bytes > shared_limit) {
      fail("%zu bytes of shared memory, of %zu", used_ + bytes, shared_limit);
      stop();
    }
    used_ += bytes;
    return shared_ + used_ - bytes;
  }
  void *dynamic_shared() { return shared_; }

  /* A copy that nobody waits for but a barrier. */
  void later(std::function<void()> copy) { bulk_.push_back(std::move(copy)); }

  std::map<const void *, Barrier> barriers;

  void (*body)(const void *params) = nullptr;
  const void *params = nullptr;

 private:
  static void enter();

  /* Nobody can run. All are done: the block is. All are at one barrier: they pass it. */
  bool release_barrier() {
    const Thread *first = nullptr, *other = nullptr;
    for (uint32_t i = 0; i < count; i++) {
      const Thread &t = threads[i];
      if (t.state == Thread::done) {
        other = &t;
      } else if (first == nullptr || t.state == Thread::at_collective || t.state == Thread::at_phase) {
        first = &t;
      }
    }
    if (first == nullptr) return false;
    if (first->state == Thread::at_phase) {
      return fail(
          "%s:%u: thread %u waits for phase %u of a barrier with %u arrivals and %lld bytes missing, which do not come",
          first->line.file_name(), first->line.line(), flat(first->index), first->parity, first->barrier->missing,
          static_cast<long long>(first->barrier->bytes));
    }
    if (first->state == Thread::at_collective) {
      return fail("%s:%u: thread %u waits for lanes %#x of its warp, which do not come", first->line.file_name(),
                  first->line.line(), flat(first->index), first->mask);
    }
    if (other != nullptr) {
      return fail("%s:%u: thread %u waits at a barrier that thread %u, which has ended, did not reach",
                  first->line.file_name(), first->line.line(), flat(first->index), flat(other->index));
    }
    for (uint32_t i = 0; i < count; i++) {
      if (!same(threads[i].line, first->line)) {
        return fail("%s:%u: thread %u waits at a barrier while thread %u waits at that of %s:%u",
                    first->line.file_name(), first->line.line(), flat(first->index), i, threads[i].line.file_name(),
                    threads[i].line.line());
      }
    }
    for (uint32_t i = 0; i < count; i++) threads[i].state = Thread::ready;
    return true;
  }
  void run_bulk() {
    std::function<void()> copy = std::move(bulk_.front());
    bulk_.erase(bulk_.begin());
    copy();
  }

  static uint32_t flat(uint3 i) { return i.x + blockDim.x * (i.y + blockDim.y * i.z); }

  uint32_t dynamic_bytes_ = 0;
  std::vector<std::function<void()>> bulk_;
  std::mt19937_64 random_;
  size_t used_ = 0;
  alignas(1024) unsigned char shared_[shared_limit];
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
  static uint64_t block_number = 0;
  static T *memory = nullptr;
  if (block_number != emulator::block.number) {
    block_number = emulator::block.number;
    memory = static_cast<T *>(emulator::block.allocate_shared(sizeof(T), alignof(T) < 16 ? 16 : alignof(T)));
  }
  return *memory;
}

template <class T>
T *dynamic_shared_memory() {
  return static_cast<T *>(emulator::block.dynamic_shared());
}

#endif
