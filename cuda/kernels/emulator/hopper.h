/* Hopper's barriers, bulk copies and warpgroup products. Meanings: ../hopper.h.
 *
 * Operands are found as the hardware finds them: from the bits of the descriptor and of the instruction,
 * through the swizzle, in what lies in shared memory. Stricter than a GPU:
 *
 *   - A product runs when its warp waits for it: sums read before are old, and a tile that was given back
 *     before is read overwritten.
 *   - A bulk copy runs as late as can be (seed 0), or at a time that the seed draws.
 *   - Who arrives with copies that the products do not see yet (no publish_shared) ends the launch, and so
 *     does a wait that nothing can end, a barrier that was not initialised, too many arrivals, a box at a
 *     place that is not a multiple of 1024, lanes that multiply different operands, and whoever reaches for a
 *     block of the cluster that has ended. */
#ifndef GMOE_EMULATOR_HOPPER_H_
#define GMOE_EMULATOR_HOPPER_H_

#include "../hopper_map.h"
#include "tensor_core.h"
#include "tensor_map.h"

namespace hopper {

using emulator::Line;

inline uint32_t place_of(const void *shared) {
  return static_cast<uint32_t>(static_cast<const unsigned char *>(shared) -
                               static_cast<const unsigned char *>(emulator::block.dynamic_shared()));
}

inline emulator::Barrier &barrier_at(uint64_t *barrier, Line here) {
  auto found = emulator::block.barriers.find(barrier);
  if (found == emulator::block.barriers.end()) {
    emulator::block.fail("%s:%u: a barrier that was not initialised", here.file_name(), here.line());
    emulator::block.stop();
  }
  return found->second;
}

inline void barrier_init(uint64_t *barrier, uint32_t arrivals) {
  emulator::block.barriers[barrier] = {arrivals, arrivals, 0, 0};
}
inline void barrier_init_done() {}

/* own: the barrier in this block's memory; with another rank, that of another block at the same place. */
inline void arrive(uint64_t *own, uint32_t rank, uint32_t bytes, Line here) {
  uint64_t *barrier =
      rank == emulator::block.self().rank ? own : static_cast<uint64_t *>(emulator::block.in_block(own, rank, here));
  emulator::Barrier &b = barrier_at(barrier, here);
  if (emulator::block.self().unpublished) {
    emulator::block.fail("%s:%u: thread %u arrives with copies that it did not publish", here.file_name(), here.line(),
                         threadIdx.x);
    emulator::block.stop();
  }
  if (b.missing == 0) {
    emulator::block.fail("%s:%u: more than %u threads arrive", here.file_name(), here.line(), b.arrivals);
    emulator::block.stop();
  }
  b.missing--;
  b.bytes += bytes;
  b.turn();
}
inline void barrier_arrive(uint64_t *barrier, Line here = GMOE_EMULATOR_HERE) {
  arrive(barrier, emulator::block.self().rank, 0, here);
}
inline void barrier_arrive_at(uint64_t *barrier, uint32_t rank, Line here = GMOE_EMULATOR_HERE) {
  arrive(barrier, rank, 0, here);
}
inline void barrier_expect(uint64_t *barrier, uint32_t bytes, Line here = GMOE_EMULATOR_HERE) {
  arrive(barrier, emulator::block.self().rank, bytes, here);
}

inline uint32_t block_rank() { return emulator::block.self().rank; }
inline void cluster_sync(Line here = GMOE_EMULATOR_HERE) { emulator::block.wait(emulator::Thread::at_cluster, here); }

inline void barrier_wait(uint64_t *barrier, uint32_t parity, Line here = GMOE_EMULATOR_HERE) {
  emulator::Barrier &b = barrier_at(barrier, here);
  while (b.phase == parity) {
    emulator::block.self().barrier = &b;
    emulator::block.self().parity = parity;
    emulator::block.wait(emulator::Thread::at_phase, here);
  }
}

inline void publish_shared() { emulator::block.self().unpublished = false; }

/* Copies to the blocks of the cluster whose bit is set. */
inline void load_box_to(uint32_t mask, void *shared, const HopperMap &map, uint64_t *barrier, int32_t x, int32_t y,
                        int32_t z, Line here) {
  gmoe_emulated_map m;
  std::memcpy(&m, &map, sizeof m);
  uint32_t place = place_of(shared);
  if (m.magic != GMOE_EMULATED_MAP || reinterpret_cast<uintptr_t>(&map) % 64 != 0 || place % 1024 != 0) {
    emulator::block.fail(
        "%s:%u: a box to place %u by the map at %p, want a map at a multiple of 64 and a place of 1024",
        here.file_name(), here.line(), place, static_cast<const void *>(&map));
    emulator::block.stop();
  }
  for (uint32_t rank = 0; rank < 32; rank++) {
    if (!(mask >> rank & 1)) continue;
    emulator::Barrier *b = &barrier_at(static_cast<uint64_t *>(emulator::block.in_block(barrier, rank, here)), here);
    unsigned char *to = static_cast<unsigned char *>(emulator::block.in_block(shared, rank, here));
    emulator::block.later([m, b, to, x, y, z] {
      uint32_t line = 0;
      for (uint32_t k = 0; k < m.box[2]; k++) {
        for (uint32_t j = 0; j < m.box[1]; j++, line++) {
          for (uint32_t i = 0; i < m.box[0]; i++) {
            int64_t at[3] = {int64_t{x} + i, int64_t{y} + j, int64_t{z} + k};
            unsigned char element[2] = {};
            bool inside = true;
            for (int d = 0; d < 3; d++) inside = inside && at[d] >= 0 && at[d] < static_cast<int64_t>(m.size[d]);
            if (inside) {
              std::memcpy(element,
                          reinterpret_cast<const char *>(m.address) + m.element_bytes * at[0] + at[1] * m.stride[0] +
                              at[2] * m.stride[1],
                          m.element_bytes);
            }
            uint32_t place = (line * m.box[0] + i) * m.element_bytes;
            std::memcpy(to + (place ^ (place >> 7 & 7) << 4), element, m.element_bytes);
          }
        }
      }
      b->bytes -= static_cast<int64_t>(m.box[0]) * m.box[1] * m.box[2] * m.element_bytes;
      b->turn();
    });
  }
}
inline void load_box(void *shared, const HopperMap &map, uint64_t *barrier, int32_t x, int32_t y, int32_t z,
                     Line here = GMOE_EMULATOR_HERE) {
  load_box_to(1u << block_rank(), shared, map, barrier, x, y, z, here);
}
inline void load_box_for_all(void *shared, const HopperMap &map, uint64_t *barrier, int32_t x, int32_t y, int32_t z,
                             Line here = GMOE_EMULATOR_HERE) {
  load_box_to((1u << emulator::block.blocks) - 1, shared, map, barrier, x, y, z, here);
}
inline void prefetch_map(const HopperMap &) {}

/* The types of a product's operands. */
struct BFloat16 {
  using Bits = uint16_t;
  static float value(Bits bits) { return __bfloat162float({bits}); }
};
struct E4M3 {
  using Bits = uint8_t;
  static float value(Bits bits) {
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float v = std::ldexp(static_cast<float>(exponent ? mantissa | 8 : mantissa), std::max(exponent, 1) - 10);
    if ((bits & 0x7f) == 0x7f) v = CUDART_NAN_F;
    return bits >> 7 ? -v : v;
  }
};
template <class X>
constexpr int product_depth = 32 / sizeof(typename X::Bits);

/* An element of an operand, as PTX ISA's canonical layouts of the 128-byte swizzle have it. */
template <class X>
float operand_element(uint64_t descriptor, bool along, int side, int depth, Line here) {
  uint32_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4;
  uint32_t stride = (descriptor >> 32 & 0x3fff) << 4;
  if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) {
    emulator::block.fail("%s:%u: an operand that is not swizzled by 128 bytes", here.file_name(), here.line());
    emulator::block.stop();
  }
  typename X::Bits bits;
  uint32_t place = start;
  if (along) {
    place += side / 8 * stride + side % 8 * 128 + depth * sizeof bits;
  } else {
    place += side / 64 * leading + side % 64 * 2 + depth / 8 * stride + depth % 8 * 128;
  }
  place ^= (place >> 7 & 7) << 4;
  std::memcpy(&bits, static_cast<const char *>(emulator::block.dynamic_shared()) + place, sizeof bits);
  return X::value(bits);
}

inline void products_begin(Line here = GMOE_EMULATOR_HERE) { __syncwarp(0xffffffffu, here); }
inline void products_commit() {
  if (threadIdx.x % 32 == 0) emulator::block.self().products.emplace_back();
}
template <int groups>
void products_wait(Line here = GMOE_EMULATOR_HERE) {
  struct Nothing {
  } mine;
  emulator::collective(0xffffffffu, mine, here, [](Nothing **) {
    auto &products = emulator::block.threads[emulator::block.running / 32 * 32].products;
    while (products.size() > groups + 1) {
      for (auto &run : products.front()) run();
      products.erase(products.begin());
    }
  });
}
template <size_t n>
void settle(float (&)[n]) {}

template <int registers>
void registers_give() {
  static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256);
}
template <int registers>
void registers_take() {
  static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256);
}

/* d += a b for a warp's 16 rows, or d = a b: lane l has sums[i] at low[l][i], from `lows` on at high[l][i - lows]. */
template <class X, bool a_along, bool b_along, int columns, int lows>
void add_product(float *const (&low)[32], float *const (&high)[32], int warp, uint64_t a, uint64_t b, bool add,
                 Line here) {
  constexpr int depth = product_depth<X>;
  static float rows[16][depth], weights[depth][columns], sums[16][columns];
  auto place = [&](int lane, int i) { return i < lows ? low[lane] + i : high[lane] + (i - lows); };
  for (int k = 0; k < depth; k++) {
    for (int row = 0; row < 16; row++) rows[row][k] = operand_element<X>(a, a_along, 16 * warp + row, k, here);
    for (int column = 0; column < columns; column++) {
      weights[k][column] = operand_element<X>(b, b_along, column, k, here);
    }
  }
  auto each = [&](auto move) {
    for (int lane = 0; lane < 32; lane++) {
      for (int i = 0; i < columns / 2; i++) {
        move(*place(lane, i), sums[lane / 4 + i % 4 / 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2]);
      }
    }
  };
  each([add](float &own, float &sum) { sum = add ? own : 0.0f; });
  for (int row = 0; row < 16; row++) {
    for (int k = 0; k < depth; k++) {
      for (int column = 0; column < columns; column++) sums[row][column] += rows[row][k] * weights[k][column];
    }
  }
  each([](float &own, float &sum) { own = sum; });
}

template <class X, bool a_along, bool b_along, int columns, int lows>
void later_product(float *low, float *high, uint64_t a, uint64_t b, bool add, Line here) {
  struct Lane {
    float *low, *high;
    uint64_t a, b;
  } mine{low, high, a, b};
  emulator::collective(0xffffffffu, mine, here, [&](Lane **lanes) {
    struct {
      float *low[32], *high[32];
    } sums;
    for (int i = 0; i < 32; i++) {
      sums.low[i] = lanes[i]->low, sums.high[i] = lanes[i]->high;
      if (lanes[i]->a != lanes[0]->a || lanes[i]->b != lanes[0]->b) {
        emulator::block.fail("%s:%u: lane %d multiplies other operands", here.file_name(), here.line(), i);
        emulator::block.stop();
      }
    }
    int warp = static_cast<int>(threadIdx.x % 128 / 32);
    emulator::block.threads[emulator::block.running / 32 * 32].products.back().push_back([sums, a, b, add, here, warp] {
      add_product<X, a_along, b_along, columns, lows>(sums.low, sums.high, warp, a, b, add, here);
    });
  });
}
template <bool a_along, bool b_along, size_t sums>
void multiply(float (&d)[sums], uint64_t a, uint64_t b, Line here = GMOE_EMULATOR_HERE) {
  later_product<BFloat16, a_along, b_along, 2 * sums, sums>(d, nullptr, a, b, true, here);
}
template <bool a_along, bool b_along>
void multiply(float (&low)[64], float (&high)[64], uint64_t a, uint64_t b, Line here = GMOE_EMULATOR_HERE) {
  later_product<BFloat16, a_along, b_along, 256, 64>(low, high, a, b, true, here);
}
inline void multiply_e4m3(float (&d)[64], uint64_t a, uint64_t b, bool add, Line here = GMOE_EMULATOR_HERE) {
  later_product<E4M3, true, true, 128, 64>(d, nullptr, a, b, add, here);
}

}  // namespace hopper

#endif
