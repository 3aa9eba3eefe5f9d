/* Atomics, of integers only: their results do not depend on the order. One thread runs at a
 * time, so plain arithmetic is atomic. */
#ifndef GMOE_EMULATOR_ATOMIC_H_
#define GMOE_EMULATOR_ATOMIC_H_

#include <type_traits>

#include "language.h"

namespace emulator {
template <class T, class V, class Combine>
T update(T *p, V value, Combine combine) {
  static_assert(std::is_integral<T>::value, "the order of atomics on floats would show in the result");
  T old = *p;
  *p = combine(old, static_cast<T>(value));
  return old;
}
}  // namespace emulator

template <class T, class V>
T atomicAdd(T *p, V v) {
  return emulator::update(p, v, [](T a, T b) { return static_cast<T>(a + b); });
}
template <class T, class V>
T atomicSub(T *p, V v) {
  return emulator::update(p, v, [](T a, T b) { return static_cast<T>(a - b); });
}
template <class T, class V>
T atomicMin(T *p, V v) {
  return emulator::update(p, v, [](T a, T b) { return b < a ? b : a; });
}
template <class T, class V>
T atomicMax(T *p, V v) {
  return emulator::update(p, v, [](T a, T b) { return a < b ? b : a; });
}
template <class T, class V>
T atomicOr(T *p, V v) {
  return emulator::update(p, v, [](T a, T b) { return static_cast<T>(a | b); });
}
template <class T, class V>
T atomicAnd(T *p, V v) {
  return emulator::update(p, v, [](T a, T b) { return static_cast<T>(a & b); });
}
template <class T, class V>
T atomicExch(T *p, V v) {
  return emulator::update(p, v, [](T, T b) { return b; });
}
template <class T>
T atomicCAS(T *p, T expected, T desired) {
  return emulator::update(p, desired, [&](T a, T b) { return a == expected ? b : a; });
}

#endif
