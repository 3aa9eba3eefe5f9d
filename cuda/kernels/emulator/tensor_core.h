/* The tensor core and what feeds it. Meanings and layouts: ../simt.h. */
#ifndef GMOE_EMULATOR_TENSOR_CORE_H_
#define GMOE_EMULATOR_TENSOR_CORE_H_

#include "bf16.h"
#include "float16.h"
#include "warp.h"

namespace emulator {

struct Fragments {
  float *d;
  const uint32_t *a, *b;
};

/* The elements that are 16 bits of a register. */
inline float bf16_of(uint16_t bits) { return __bfloat162float({bits}); }

/* Products of bfloat16, and of float16, are exact in float32. A tensor core sums them in an order and with a
 * rounding that NVIDIA does not document; here it is float32, by ascending column of a. */
template <float (*of)(uint16_t)>
void mma(Fragments **lanes) {
  float a[16][16], b[16][8];
  auto half_of = [](uint32_t pair, int which) { return of(static_cast<uint16_t>(pair >> 16 * which)); };
  for (int lane = 0; lane < 32; lane++) {
    int group = lane / 4, pair = lane % 4;
    for (int i = 0; i < 2; i++) {
      for (int r = 0; r < 4; r++) a[group + r % 2 * 8][2 * pair + i + r / 2 * 8] = half_of(lanes[lane]->a[r], i);
      for (int r = 0; r < 2; r++) b[2 * pair + i + 8 * r][group] = half_of(lanes[lane]->b[r], i);
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    int group = lane / 4, pair = lane % 4;
    for (int i = 0; i < 4; i++) {
      float &d = lanes[lane]->d[i];
      for (int k = 0; k < 16; k++) d += a[group + i / 2 * 8][k] * b[k][2 * pair + i % 2];
    }
  }
}

struct MatrixRows {
  uint32_t *registers;
  const uint16_t *row;
};

inline void load(uint32_t (&r)[4], const void *row, bool transposed, Line here) {
  MatrixRows mine{r, static_cast<const uint16_t *>(row)};
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    block.fail("%s:%u: a row at %p is not aligned to 16 bytes", here.file_name(), here.line(), row);
    block.stop();
  }
  collective(0xffffffffu, mine, here, [&](MatrixRows **lanes) {
    for (int lane = 0; lane < 32; lane++) {
      int group = lane / 4, pair = lane % 4;
      for (int m = 0; m < 4; m++) {
        uint32_t low, high;
        if (transposed) {
          low = lanes[8 * m + 2 * pair]->row[group];
          high = lanes[8 * m + 2 * pair + 1]->row[group];
        } else {
          low = lanes[8 * m + group]->row[2 * pair];
          high = lanes[8 * m + group]->row[2 * pair + 1];
        }
        lanes[lane]->registers[m] = low | high << 16;
      }
    }
  });
}

}  // namespace emulator

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                     emulator::Line here = GMOE_EMULATOR_HERE) {
  emulator::Fragments mine{d, a, b};
  emulator::collective(0xffffffffu, mine, here, emulator::mma<emulator::bf16_of>);
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                    emulator::Line here = GMOE_EMULATOR_HERE) {
  emulator::Fragments mine{d, a, b};
  emulator::collective(0xffffffffu, mine, here, emulator::mma<emulator::f16_of>);
}
inline void load_matrix(uint32_t (&r)[4], const void *row, emulator::Line here = GMOE_EMULATOR_HERE) {
  emulator::load(r, row, false, here);
}
inline void load_matrix_transposed(uint32_t (&r)[4], const void *row, emulator::Line here = GMOE_EMULATOR_HERE) {
  emulator::load(r, row, true, here);
}

namespace emulator {
inline void copy(void *shared, const void *global, uint32_t bytes, uint32_t size, Line here) {
  if (reinterpret_cast<uintptr_t>(shared) % size || reinterpret_cast<uintptr_t>(global) % size || bytes > size) {
    block.fail("%s:%u: an asynchronous copy of %u bytes from %p to %p, want at most %u and addresses aligned to it",
               here.file_name(), here.line(), bytes, global, shared, size);
    block.stop();
  }
  block.self().copies.back().push_back({shared, global, bytes, size});
}
}  // namespace emulator

inline void copy_async(void *shared, const void *global, uint32_t bytes = 16,
                       emulator::Line here = GMOE_EMULATOR_HERE) {
  emulator::copy(shared, global, bytes, 16, here);
}
inline void copy_async_4(void *shared, const void *global, uint32_t bytes = 4,
                         emulator::Line here = GMOE_EMULATOR_HERE) {
  emulator::copy(shared, global, bytes, 4, here);
}
inline void copy_async_commit() { emulator::block.self().copies.emplace_back(); }
template <int groups>
void copy_async_wait() {
  auto &copies = emulator::block.self().copies;
  while (copies.size() > groups + 1) {
    emulator::block.self().unpublished |= !copies.front().empty();
    for (const emulator::AsyncCopy &c : copies.front()) {
      std::memcpy(c.to, c.from, c.bytes);
      std::memset(static_cast<char *>(c.to) + c.bytes, 0, c.size - c.bytes);
    }
    copies.erase(copies.begin());
  }
}

#endif
