/* Collectives of a warp: shuffles, votes, integer reductions. */
#ifndef GMOE_EMULATOR_WARP_H_
#define GMOE_EMULATOR_WARP_H_

#include "block.h"

namespace emulator {

/* All lanes of mask meet on one line, each bringing a Lane. The last to come performs the
 * operation for all: perform(lanes), where lanes[i] is that of lane i, NULL outside the mask. */
template <class Lane, class Perform>
void collective(uint32_t mask, Lane &mine, Line here, Perform perform) {
  uint32_t first = block.running / 32 * 32, me = block.running % 32;
  Thread &self = block.self();
  self.mask = mask;
  self.lane = &mine;
  self.line = here;
  if (!(mask >> me & 1)) {
    block.fail("%s:%u: lane %u is not in its own mask %#x", here.file_name(), here.line(), me, mask);
    block.stop();
  }
  Lane *lanes[32] = {};
  for (uint32_t i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    if (first + i >= block.count) {
      block.fail("%s:%u: mask %#x names lane %u, which the block of %u threads lacks", here.file_name(), here.line(),
                 mask, i, block.count);
      block.stop();
    }
    Thread &t = block.threads[first + i];
    lanes[i] = static_cast<Lane *>(t.lane);
    if (i == me) continue;
    if (t.state != Thread::at_collective || t.mask != mask) {
      block.wait(Thread::at_collective, here); /* for a lane that is still to come */
      return;
    }
    if (!same(t.line, here)) {
      block.fail("%s:%u: lane %u waits for lanes %#x while lane %u waits for %#x on %s:%u", here.file_name(),
                 here.line(), me, mask, i, t.mask, t.line.file_name(), t.line.line());
      block.stop();
    }
  }
  perform(lanes);
  for (uint32_t i = 0; i < 32; i++) {
    if (mask >> i & 1) block.threads[first + i].state = Thread::ready;
  }
}

template <class T>
struct Shuffle {
  T in;
  int from; /* the lane to read */
  T out;
};

/* A lane that reads one outside the mask gets an undefined value on a device; here it fails. */
template <class T>
T shuffle(uint32_t mask, T value, int from, Line here) {
  Shuffle<T> mine{value, from, value};
  collective(mask, mine, here, [&](Shuffle<T> **lanes) {
    for (int i = 0; i < 32; i++) {
      if (!lanes[i]) continue;
      if (!lanes[lanes[i]->from]) {
        block.fail("%s:%u: lane %d reads lane %d, which is not in mask %#x", here.file_name(), here.line(), i,
                   lanes[i]->from, mask);
        block.stop();
      }
      lanes[i]->out = lanes[lanes[i]->from]->in;
    }
  });
  return mine.out;
}

inline int lane() { return static_cast<int>(block.running % 32); }

template <class T>
struct Reduction {
  T in, out;
};

template <class T, class Combine>
T reduce(uint32_t mask, T value, Line here, Combine combine) {
  Reduction<T> mine{value, value};
  collective(mask, mine, here, [&](Reduction<T> **lanes) {
    bool first = true;
    T total{};
    for (int i = 0; i < 32; i++) {
      if (!lanes[i]) continue;
      total = first ? lanes[i]->in : combine(total, lanes[i]->in);
      first = false;
    }
    for (int i = 0; i < 32; i++) {
      if (lanes[i]) lanes[i]->out = total;
    }
  });
  return mine.out;
}

}  // namespace emulator

/* width, a power of two, cuts the warp into parts that shuffle among themselves. */
template <class T>
T __shfl_sync(uint32_t mask, T v, int from, int width = 32, emulator::Line here = GMOE_EMULATOR_HERE) {
  int base = emulator::lane() & ~(width - 1);
  return emulator::shuffle(mask, v, base + (from & (width - 1)), here);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T v, int bits, int width = 32, emulator::Line here = GMOE_EMULATOR_HERE) {
  int lane = emulator::lane(), from = lane ^ bits;
  return emulator::shuffle(mask, v, from / width > lane / width ? lane : from, here);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T v, unsigned delta, int width = 32, emulator::Line here = GMOE_EMULATOR_HERE) {
  int lane = emulator::lane(), base = lane & ~(width - 1), from = lane - static_cast<int>(delta);
  return emulator::shuffle(mask, v, from < base ? lane : from, here);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T v, unsigned delta, int width = 32, emulator::Line here = GMOE_EMULATOR_HERE) {
  int lane = emulator::lane(), end = (lane & ~(width - 1)) + width, from = lane + static_cast<int>(delta);
  return emulator::shuffle(mask, v, from >= end ? lane : from, here);
}

inline void __syncwarp(uint32_t mask = 0xffffffffu, emulator::Line here = GMOE_EMULATOR_HERE) {
  emulator::reduce(mask, 0, here, [](int, int) { return 0; });
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, emulator::Line here = GMOE_EMULATOR_HERE) {
  uint32_t bit = predicate ? 1u << emulator::lane() : 0;
  return emulator::reduce(mask, bit, here, [](uint32_t a, uint32_t b) { return a | b; });
}
inline int __any_sync(uint32_t mask, int predicate, emulator::Line here = GMOE_EMULATOR_HERE) {
  return __ballot_sync(mask, predicate, here) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, emulator::Line here = GMOE_EMULATOR_HERE) {
  return __ballot_sync(mask, predicate, here) == mask;
}
inline uint32_t __reduce_add_sync(uint32_t mask, uint32_t v, emulator::Line here = GMOE_EMULATOR_HERE) {
  return emulator::reduce(mask, v, here, [](uint32_t a, uint32_t b) { return a + b; });
}
inline uint32_t __reduce_min_sync(uint32_t mask, uint32_t v, emulator::Line here = GMOE_EMULATOR_HERE) {
  return emulator::reduce(mask, v, here, [](uint32_t a, uint32_t b) { return min(a, b); });
}
inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t v, emulator::Line here = GMOE_EMULATOR_HERE) {
  return emulator::reduce(mask, v, here, [](uint32_t a, uint32_t b) { return max(a, b); });
}
inline uint32_t __reduce_or_sync(uint32_t mask, uint32_t v, emulator::Line here = GMOE_EMULATOR_HERE) {
  return emulator::reduce(mask, v, here, [](uint32_t a, uint32_t b) { return a | b; });
}

/* The lanes that bring the same value. */
template <class T>
uint32_t __match_any_sync(uint32_t mask, T v, emulator::Line here = GMOE_EMULATOR_HERE) {
  struct Value {
    T in;
    uint32_t out;
  } mine{v, 0};
  emulator::collective(mask, mine, here, [](Value **lanes) {
    for (int i = 0; i < 1024; i++) {
      Value *a = lanes[i / 32], *b = lanes[i % 32];
      if (a && b && a->in == b->in) a->out |= 1u << i % 32;
    }
  });
  return mine.out;
}

/* Barriers that also count, of the block. */
inline int __syncthreads_count(int predicate, emulator::Line here = GMOE_EMULATOR_HERE) {
  struct Votes {
    int votes[1024];
  };
  Votes &shared = shared_memory<Votes>();
  shared.votes[emulator::block.running % emulator::block.each] = predicate != 0;
  __syncthreads(here);
  int sum = 0;
  for (uint32_t i = 0; i < emulator::block.each; i++) sum += shared.votes[i];
  __syncthreads(here);
  return sum;
}
inline int __syncthreads_or(int predicate, emulator::Line here = GMOE_EMULATOR_HERE) {
  return __syncthreads_count(predicate, here) != 0;
}
inline int __syncthreads_and(int predicate, emulator::Line here = GMOE_EMULATOR_HERE) {
  return __syncthreads_count(predicate, here) == static_cast<int>(emulator::block.each);
}

#endif
