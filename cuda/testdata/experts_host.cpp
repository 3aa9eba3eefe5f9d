/* The plain functions of the experts' kernels, for tests to call. */
#include "../kernels/experts_activation.h"
#include "../kernels/experts_core.h"
#include "../kernels/experts_scaled.h"
#include "../kernels/experts_tile.h"

using namespace experts;

namespace {

/* Counts how often the threads of a block copy each element (side, depth) of a tile, and each
 * place that it goes to. */
template <class Core, bool along>
void count_copies(int32_t *elements, int32_t *places) {
  using Cut = Tile<Core, along>;
  for (int thread = 0; thread < EXPERTS_THREADS; thread++) {
    for (int turn = 0; turn < Cut::turns; turn++) {
      for (int i = 0; i < Cut::chunk; i++) {
        int line = Cut::line(thread, turn), position = Cut::position(thread);
        int side = along ? line : position + i, depth = along ? position + i : line;
        elements[side * Core::depth + depth]++;
        places[Core::template place<along>(line, position) + i * Core::template step<along>]++;
      }
    }
  }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void host_tile_place(int64_t t, int32_t row_tiles, int32_t column_tiles, int32_t group, int32_t *place) {
  TilePlace p = tile_place(t, row_tiles, column_tiles, group);
  place[0] = p.row, place[1] = p.column;
}

EXPORT void host_column_run(int32_t halves, int32_t columns, int32_t tile, int32_t n, int32_t *run) {
  ColumnRun r = column_run(halves, columns, tile, n);
  run[0] = r.first, run[1] = r.count;
}

EXPORT void host_gate_up_place(int32_t gated, int32_t interleaved, int32_t intermediate, int32_t column,
                               int32_t *place) {
  GateUpPlace p = gate_up_place(gated, interleaved, intermediate, column);
  place[0] = p.gate, place[1] = p.up;
}

EXPORT void host_activate(const ExpertsActivation *a, const float *gate_and_up, float *result) {
  Activated h = activate(*a, gate_and_up[0], gate_and_up[1]);
  result[0] = h.value, result[1] = h.by_gate, result[2] = h.by_up;
}

/* Returns the elements of a tile in memory, of the core for elements of so many bytes. */
EXPORT int32_t host_count_copies(int32_t bytes, int32_t along, int32_t *elements, int32_t *places) {
  auto count = [&]<class Core>(Core *) {
    if (along) {
      count_copies<Core, true>(elements, places);
      return Core::template elements<true>;
    }
    count_copies<Core, false>(elements, places);
    return Core::template elements<false>;
  };
  return bytes == 1   ? count(static_cast<ScaledCore *>(nullptr))
         : bytes == 2 ? count(static_cast<TensorCore *>(nullptr))
                      : count(static_cast<FmaCore *>(nullptr));
}

EXPORT uint32_t host_float8_pack(const float *four) { return float8::pack(four[0], four[1], four[2], four[3]); }

EXPORT void host_float8_unpack(uint32_t four, float *numbers) {
  uint32_t halves[2];
  float8::unpack(four, halves[0], halves[1]);
  for (int i = 0; i < 4; i++) numbers[i] = emulator::f16_of(static_cast<uint16_t>(halves[i / 2] >> 16 * (i % 2)));
}
