/* genesis_moe.hpp - libgenesis_moe for C++17, in one header over genesis_moe.h.
 *
 * What it adds to the C functions
 *   Engine      owns its handle; moves, does not copy.
 *   Views       a tensor is borrowed memory with a shape: view(vector, {T, H}). Inputs
 *               take memory that is const, outputs do not. A view of a container knows
 *               its size, and a call refuses a shape that reaches past it.
 *   Errors      each operation comes twice: router_forward() throws Error, and
 *               try_router_forward() returns a Status, or a Result that holds a value
 *               or a Status. Without exceptions (-fno-exceptions) only the second is there.
 *   Arguments   structs with the defaults of the C macros. A view that is not set is the
 *               NULL of the C struct: not given, or not wanted.
 *
 * What the arguments mean, their shapes and dtypes, is in genesis_moe.h under the same
 * names; so are the rules on threads and fork().
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef GENESIS_MOE_HPP_
#define GENESIS_MOE_HPP_

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "genesis_moe.h"

#if defined(__cpp_exceptions)
#define GENESIS_MOE_EXCEPTIONS 1
#include <stdexcept>
#else
#define GENESIS_MOE_EXCEPTIONS 0
#endif

namespace genesis_moe {

/* ------------------------------------------------------------------ errors */

#if GENESIS_MOE_EXCEPTIONS
/* What the throwing functions throw. what() names the argument, its value and what
 * was expected. */
class Error : public std::runtime_error {
 public:
  Error(gmoe_status status, const std::string &message) : std::runtime_error(message), status_(status) {}
  gmoe_status status() const noexcept { return status_; }

 private:
  gmoe_status status_;
};
#endif

/* How a call went: GMOE_OK, or a code and a message. */
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(gmoe_status code, std::string message) : code_(code), message_(std::move(message)) {}

  /* The status of a C function that this thread has just called. */
  static Status of(gmoe_status code) { return code == GMOE_OK ? Status() : Status(code, gmoe_last_error()); }

  bool ok() const noexcept { return code_ == GMOE_OK; }
  explicit operator bool() const noexcept { return ok(); }
  gmoe_status code() const noexcept { return code_; }
  const char *name() const noexcept { return gmoe_status_name(code_); }
  const std::string &message() const noexcept { return message_; }

#if GENESIS_MOE_EXCEPTIONS
  /* Throws Error unless ok(). */
  void require() const {
    if (!ok()) throw Error(code_, message_);
  }
#endif

 private:
  gmoe_status code_ = GMOE_OK;
  std::string message_;
};

/* A value, or the Status that says why there is none; the shape of std::expected. */
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Status error) : error_(std::move(error)) {}

  bool has_value() const noexcept { return value_.has_value(); }
  explicit operator bool() const noexcept { return has_value(); }
  const Status &error() const noexcept { return error_; }

  /* Only when there is a value. */
  T &operator*() & noexcept { return *value_; }
  T &&operator*() && noexcept { return std::move(*value_); }
  const T &operator*() const & noexcept { return *value_; }
  T *operator->() noexcept { return &*value_; }
  const T *operator->() const noexcept { return &*value_; }

#if GENESIS_MOE_EXCEPTIONS
  /* The value; throws Error when there is none. */
  T &value() & { return error_.require(), *value_; }
  T &&value() && { return error_.require(), std::move(*value_); }
  const T &value() const & { return error_.require(), *value_; }
#endif

 private:
  std::optional<T> value_;
  Status error_;
};

/* ----------------------------------------------------------------- tensors */

/* A bfloat16 number: the upper half of a float. */
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  /* Rounds to the nearest, ties to even; a NaN stays one. */
  explicit bfloat16(float value) noexcept {
    std::uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    const bool nan = (word & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(nan ? (word >> 16) | 0x40u : (word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
  explicit operator float() const noexcept {
    const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
  }
};

/* A float8_e4m3fn number, as its bits: experts_quantize() makes them. */
struct float8_e4m3fn {
  std::uint8_t bits = 0;

  explicit operator float() const noexcept {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                    : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if ((bits & 0x7f) == 0x7f) magnitude = std::numeric_limits<float>::quiet_NaN();
    return (bits & 0x80) != 0 ? -magnitude : magnitude;
  }
};

namespace detail {

template <class T>
constexpr DLDataType dtype_of() noexcept {
  constexpr bool integer = std::is_integral_v<T> && std::is_signed_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);
  constexpr bool bf16 = std::is_same_v<T, bfloat16>, e4m3 = std::is_same_v<T, float8_e4m3fn>;
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double> || bf16 || e4m3 || integer,
                "tensors hold float, double, bfloat16, float8_e4m3fn, or signed integers of 32 or 64 bits");
  return {static_cast<std::uint8_t>(bf16      ? kDLBfloat
                                    : e4m3    ? kDLFloat8_e4m3fn
                                    : integer ? kDLInt
                                              : kDLFloat),
          static_cast<std::uint8_t>(8 * sizeof(T)), 1};
}

}  // namespace detail

/* Sizes, or strides, of up to four dimensions. */
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes) {
    for (const std::int64_t size : sizes) {
      if (rank_ < static_cast<std::int32_t>(sizes_.size())) sizes_[static_cast<std::size_t>(rank_)] = size;
      rank_++;
    }
  }
  std::int32_t rank() const noexcept { return rank_; }
  std::int64_t operator[](std::int32_t dimension) const noexcept { return sizes_[static_cast<std::size_t>(dimension)]; }
  const std::int64_t *data() const noexcept { return sizes_.data(); }
  static constexpr std::int32_t max_rank() noexcept { return 4; }

 private:
  std::array<std::int64_t, 4> sizes_{};
  std::int32_t rank_ = 0;
};

inline constexpr DLDevice cpu{kDLCPU, 0};

/* Borrowed memory of an input. It must outlive the calls that use it. Default
 * constructed, it is the NULL of the C struct. */
class ConstTensorView {
 public:
  ConstTensorView() = default;

  /* Compact and row-major, or with strides counted in elements. device: where data lies. */
  template <class T>
  ConstTensorView(const T *data, Shape shape, Shape strides = {}, DLDevice device = cpu)
      : data_(data), device_(device), dtype_(detail::dtype_of<T>()), shape_(shape), strides_(strides), given_(true) {}

  bool given() const noexcept { return given_; }
  const Shape &shape() const noexcept { return shape_; }

  /* States how many elements the memory holds; a call refuses a view that reaches past them. */
  void limit(std::size_t elements) noexcept { elements_ = elements; }

  /* What is wrong with this view; empty when nothing is that C would not find. */
  std::string fault() const {
    if (shape_.rank() > Shape::max_rank()) return std::to_string(shape_.rank()) + " dimensions, want at most 4";
    if (strides_.rank() != 0 && strides_.rank() != shape_.rank())
      return std::to_string(strides_.rank()) + " strides for " + std::to_string(shape_.rank()) + " dimensions";
    if (!elements_) return {};
    const std::optional<std::uint64_t> reach = this->reach();
    if (reach && *reach <= *elements_) return {};
    return "memory of " + std::to_string(*elements_) + " elements, want " +
           (reach ? std::to_string(*reach) : "none before it") + " for its shape and strides";
  }

  /* The C view; it borrows this one's shape and strides. */
  DLTensor c() const noexcept {
    DLTensor tensor{};
    tensor.data = const_cast<void *>(data_);
    tensor.device = device_;
    tensor.ndim = shape_.rank();
    tensor.dtype = dtype_;
    tensor.shape = const_cast<std::int64_t *>(shape_.data());
    tensor.strides = strides_.rank() == 0 ? nullptr : const_cast<std::int64_t *>(strides_.data());
    return tensor;
  }

 private:
  /* Elements from the first to the one past the last; none when a stride goes backwards,
   * as nothing before the first is known. A size that C refuses reaches nowhere. */
  std::optional<std::uint64_t> reach() const noexcept {
    std::uint64_t last = 0, compact = 1;
    for (std::int32_t d = shape_.rank() - 1; d >= 0; d--) {
      if (shape_[d] <= 0) return 0;
      const std::int64_t stride = strides_.rank() == 0 ? static_cast<std::int64_t>(compact) : strides_[d];
      if (stride < 0 && shape_[d] > 1) return std::nullopt;
      last = add(last, multiply(static_cast<std::uint64_t>(shape_[d] - 1), static_cast<std::uint64_t>(stride)));
      compact = multiply(compact, static_cast<std::uint64_t>(shape_[d]));
    }
    return add(last, 1);
  }
  /* Saturating, since sizes come from outside. */
  static std::uint64_t add(std::uint64_t a, std::uint64_t b) noexcept { return a + b < a ? UINT64_MAX : a + b; }
  static std::uint64_t multiply(std::uint64_t a, std::uint64_t b) noexcept {
    return b != 0 && a > UINT64_MAX / b ? UINT64_MAX : a * b;
  }

  const void *data_ = nullptr;
  DLDevice device_ = cpu;
  DLDataType dtype_{};
  Shape shape_, strides_;
  std::optional<std::size_t> elements_;
  bool given_ = false;
};

/* Borrowed memory of an output. */
class TensorView : public ConstTensorView {
 public:
  TensorView() = default;
  template <class T, class = std::enable_if_t<!std::is_const_v<T>>>
  TensorView(T *data, Shape shape, Shape strides = {}, DLDevice device = cpu)
      : ConstTensorView(data, shape, strides, device) {}
};

/* A view of a container with data() and size(), such as std::vector, std::array or a
 * span. A const container, or one of const elements, gives a view for inputs. */
template <class Container>
auto view(Container &container, Shape shape, Shape strides = {}) {
  using Element = std::remove_pointer_t<decltype(container.data())>;
  std::conditional_t<std::is_const_v<Element>, ConstTensorView, TensorView> made(container.data(), shape, strides);
  made.limit(container.size());
  return made;
}

/* --------------------------------------------------------------- arguments */

enum class RouterMode : std::int32_t {
  hamiltonian = GMOE_ROUTER_HAMILTONIAN,
  mixtral = GMOE_ROUTER_MIXTRAL,
  deepseek = GMOE_ROUTER_DEEPSEEK
};
enum class Binding : std::int32_t { cosine = GMOE_BINDING_COSINE, dot = GMOE_BINDING_DOT };
enum class Solver : std::int32_t { price = GMOE_SOLVER_PRICE, batch = GMOE_SOLVER_BATCH };
enum class Activation : std::int32_t {
  silu = GMOE_ACTIVATION_SILU,
  gelu = GMOE_ACTIVATION_GELU,
  gelu_tanh = GMOE_ACTIVATION_GELU_TANH,
  relu = GMOE_ACTIVATION_RELU,
  relu_squared = GMOE_ACTIVATION_RELU_SQUARED,
  quick_gelu = GMOE_ACTIVATION_QUICK_GELU,
  sigmoid = GMOE_ACTIVATION_SIGMOID,
  tanh = GMOE_ACTIVATION_TANH,
  identity = GMOE_ACTIVATION_IDENTITY,
  clipped_swiglu = GMOE_ACTIVATION_CLIPPED_SWIGLU,
  clipped_silu = GMOE_ACTIVATION_CLIPPED_SILU
};

/* gmoe_router_options. */
struct RouterOptions {
  RouterMode mode = RouterMode::hamiltonian;
  Binding binding = Binding::cosine;
  Solver solver = Solver::price;
  std::int32_t top_k = 2;
  bool budgeted = false;
  bool normalize_top_k = true;
  std::int32_t num_groups = 1;
  std::int32_t top_k_groups = 1;
  float scaling_factor = 1.0f;
  float epsilon = 1e-2f;
  float temperature_floor = 1e-2f;
  float entropy_temperature = 0.1f;
  float load_penalty = 10.0f;

  gmoe_router_options c() const noexcept {
    gmoe_router_options options = GMOE_ROUTER_OPTIONS_INIT;
    options.mode = static_cast<std::int32_t>(mode);
    options.binding = static_cast<std::int32_t>(binding);
    options.solver = static_cast<std::int32_t>(solver);
    options.top_k = top_k;
    options.budgeted = budgeted;
    options.normalize_top_k = normalize_top_k;
    options.num_groups = num_groups;
    options.top_k_groups = top_k_groups;
    options.scaling_factor = scaling_factor;
    options.epsilon = epsilon;
    options.temperature_floor = temperature_floor;
    options.entropy_temperature = entropy_temperature;
    options.load_penalty = load_penalty;
    return options;
  }
};

/* gmoe_experts_options. */
struct ExpertsOptions {
  Activation activation = Activation::silu;
  bool gated = true;
  bool interleaved = false;
  float alpha = 1.702f;
  float limit = 7.0f;
  std::int32_t layer = 0; /* n > 0: its work is also counted for each expert: expert_work */

  gmoe_experts_options c() const noexcept {
    gmoe_experts_options options = GMOE_EXPERTS_OPTIONS_INIT;
    options.activation = static_cast<std::int32_t>(activation);
    options.gated = gated;
    options.interleaved = interleaved;
    options.alpha = alpha;
    options.limit = limit;
    options.layer = layer;
    return options;
  }
};

struct RouterForward {
  RouterOptions options;
  ConstTensorView hidden_states, projection, centroids, bias, price, temperature, gap;
  TensorView top_k_index, top_k_weights, logits, counts, price_out;
  void *stream = nullptr;
  void *workspace = nullptr; /* device memory; none on the CPU */
  std::uint64_t workspace_size = 0;
};

struct RouterBackward {
  RouterOptions options;
  ConstTensorView hidden_states, projection, centroids, bias, temperature;
  ConstTensorView logits, top_k_index, grad_top_k_weights, grad_logits;
  TensorView grad_hidden_states, grad_projection, grad_centroids, grad_bias, grad_temperature;
  void *stream = nullptr;
  void *workspace = nullptr; /* device memory; none on the CPU */
  std::uint64_t workspace_size = 0;
};

struct RouterUpdate {
  RouterOptions options;
  ConstTensorView counts;
  std::int64_t num_tokens = 0;
  double rate = 0.02;
  double step_limit = 0.02;
  double budget = 0.0;
  double gap_rate = 0.01;
  TensorView price, gap; /* in and out */
  void *stream = nullptr;
  void *workspace = nullptr; /* device memory; none on the CPU */
  std::uint64_t workspace_size = 0;
};

struct RouterReport {
  RouterOptions options;
  ConstTensorView logits, top_k_index, price, previous_index;
  void *stream = nullptr;
  void *workspace = nullptr; /* device memory; none on the CPU */
  std::uint64_t workspace_size = 0;
};

/* gmoe_clans_options. */
struct ClansOptions {
  std::int32_t num_slots = 1;

  gmoe_clans_options c() const noexcept {
    gmoe_clans_options options = GMOE_CLANS_OPTIONS_INIT;
    options.num_slots = num_slots;
    return options;
  }
};

struct ClansDescend {
  ClansOptions options;
  ConstTensorView hidden_states, clan_index, root, children, direction, threshold;
  TensorView slot_index, slot_counts;
  void *stream = nullptr;
  void *workspace = nullptr; /* device memory; none on the CPU */
  std::uint64_t workspace_size = 0;
};

struct ClansObserve {
  ClansOptions options;
  ConstTensorView hidden_states, slot_index, binding, mean, axis, scale;
  TensorView tokens, skipped, sum, square, power, binding_sum, histogram; /* added to */
  void *stream = nullptr;
  void *workspace = nullptr; /* device memory; none on the CPU */
  std::uint64_t workspace_size = 0;
};

/* Bins of ClansObserve's histogram. */
inline constexpr std::int64_t clans_histogram_bins = GMOE_CLANS_HISTOGRAM_BINS;

struct ExpertsForward {
  ExpertsOptions options;
  ConstTensorView hidden_states, top_k_index, top_k_weights, gate_up_proj, gate_up_bias, down_proj, down_bias;
  TensorView output, pre_activation;
  void *stream = nullptr;
  void *workspace = nullptr; /* device memory; none on the CPU */
  std::uint64_t workspace_size = 0;
  ConstTensorView gate_up_scale, down_scale; /* of weights in float8_e4m3fn */
};

/* Makes weights in float8_e4m3fn of others. */
struct ExpertsQuantize {
  ConstTensorView weight;
  TensorView quantized, scale;
  void *stream = nullptr;
  void *workspace = nullptr; /* device memory; none on the CPU */
  std::uint64_t workspace_size = 0;
};

struct ExpertsBackward {
  ExpertsOptions options;
  ConstTensorView grad_output, hidden_states, top_k_index, top_k_weights;
  ConstTensorView gate_up_proj, down_proj, down_bias, pre_activation;
  TensorView grad_hidden_states, grad_top_k_weights;
  TensorView grad_gate_up_proj, grad_gate_up_bias, grad_down_proj, grad_down_bias;
  void *stream = nullptr;
  void *workspace = nullptr; /* device memory; none on the CPU */
  std::uint64_t workspace_size = 0;
};

namespace detail {

/* The C views of one call. */
class Borrowed {
 public:
  const DLTensor *operator()(const char *name, const ConstTensorView &view) {
    if (!view.given()) return nullptr;
    if (fault_.ok()) {
      const std::string fault = view.fault();
      if (!fault.empty()) fault_ = Status(GMOE_INVALID_ARGUMENT, std::string(name) + ": " + fault);
    }
    return &(tensors_[used_++] = view.c());
  }
  const Status &fault() const noexcept { return fault_; }

 private:
  std::array<DLTensor, 16> tensors_{};
  std::size_t used_ = 0;
  Status fault_;
};

inline void fill(Borrowed &borrow, const RouterForward &a, gmoe_router_forward_args &c) {
  c.hidden_states = borrow("hidden_states", a.hidden_states);
  c.projection = borrow("projection", a.projection);
  c.centroids = borrow("centroids", a.centroids);
  c.bias = borrow("bias", a.bias);
  c.price = borrow("price", a.price);
  c.temperature = borrow("temperature", a.temperature);
  c.gap = borrow("gap", a.gap);
  c.top_k_index = borrow("top_k_index", a.top_k_index);
  c.top_k_weights = borrow("top_k_weights", a.top_k_weights);
  c.logits = borrow("logits", a.logits);
  c.counts = borrow("counts", a.counts);
  c.price_out = borrow("price_out", a.price_out);
}

inline void fill(Borrowed &borrow, const RouterBackward &a, gmoe_router_backward_args &c) {
  c.hidden_states = borrow("hidden_states", a.hidden_states);
  c.projection = borrow("projection", a.projection);
  c.centroids = borrow("centroids", a.centroids);
  c.bias = borrow("bias", a.bias);
  c.temperature = borrow("temperature", a.temperature);
  c.logits = borrow("logits", a.logits);
  c.top_k_index = borrow("top_k_index", a.top_k_index);
  c.grad_top_k_weights = borrow("grad_top_k_weights", a.grad_top_k_weights);
  c.grad_logits = borrow("grad_logits", a.grad_logits);
  c.grad_hidden_states = borrow("grad_hidden_states", a.grad_hidden_states);
  c.grad_projection = borrow("grad_projection", a.grad_projection);
  c.grad_centroids = borrow("grad_centroids", a.grad_centroids);
  c.grad_bias = borrow("grad_bias", a.grad_bias);
  c.grad_temperature = borrow("grad_temperature", a.grad_temperature);
}

inline void fill(Borrowed &borrow, const RouterUpdate &a, gmoe_router_update_args &c) {
  c.counts = borrow("counts", a.counts);
  c.num_tokens = a.num_tokens;
  c.rate = a.rate;
  c.step_limit = a.step_limit;
  c.budget = a.budget;
  c.gap_rate = a.gap_rate;
  c.price = borrow("price", a.price);
  c.gap = borrow("gap", a.gap);
}

inline void fill(Borrowed &borrow, const RouterReport &a, gmoe_router_report_args &c) {
  c.logits = borrow("logits", a.logits);
  c.top_k_index = borrow("top_k_index", a.top_k_index);
  c.price = borrow("price", a.price);
  c.previous_index = borrow("previous_index", a.previous_index);
}

inline void fill(Borrowed &borrow, const ClansDescend &a, gmoe_clans_descend_args &c) {
  c.hidden_states = borrow("hidden_states", a.hidden_states);
  c.clan_index = borrow("clan_index", a.clan_index);
  c.root = borrow("root", a.root);
  c.children = borrow("children", a.children);
  c.direction = borrow("direction", a.direction);
  c.threshold = borrow("threshold", a.threshold);
  c.slot_index = borrow("slot_index", a.slot_index);
  c.slot_counts = borrow("slot_counts", a.slot_counts);
}

inline void fill(Borrowed &borrow, const ClansObserve &a, gmoe_clans_observe_args &c) {
  c.hidden_states = borrow("hidden_states", a.hidden_states);
  c.slot_index = borrow("slot_index", a.slot_index);
  c.binding = borrow("binding", a.binding);
  c.mean = borrow("mean", a.mean);
  c.axis = borrow("axis", a.axis);
  c.scale = borrow("scale", a.scale);
  c.tokens = borrow("tokens", a.tokens);
  c.skipped = borrow("skipped", a.skipped);
  c.sum = borrow("sum", a.sum);
  c.square = borrow("square", a.square);
  c.power = borrow("power", a.power);
  c.binding_sum = borrow("binding_sum", a.binding_sum);
  c.histogram = borrow("histogram", a.histogram);
}

inline void fill(Borrowed &borrow, const ExpertsForward &a, gmoe_experts_forward_args &c) {
  c.hidden_states = borrow("hidden_states", a.hidden_states);
  c.top_k_index = borrow("top_k_index", a.top_k_index);
  c.top_k_weights = borrow("top_k_weights", a.top_k_weights);
  c.gate_up_proj = borrow("gate_up_proj", a.gate_up_proj);
  c.gate_up_bias = borrow("gate_up_bias", a.gate_up_bias);
  c.down_proj = borrow("down_proj", a.down_proj);
  c.down_bias = borrow("down_bias", a.down_bias);
  c.output = borrow("output", a.output);
  c.pre_activation = borrow("pre_activation", a.pre_activation);
  c.gate_up_scale = borrow("gate_up_scale", a.gate_up_scale);
  c.down_scale = borrow("down_scale", a.down_scale);
}

inline void fill(Borrowed &borrow, const ExpertsQuantize &a, gmoe_experts_quantize_args &c) {
  c.weight = borrow("weight", a.weight);
  c.quantized = borrow("quantized", a.quantized);
  c.scale = borrow("scale", a.scale);
}

inline void fill(Borrowed &borrow, const ExpertsBackward &a, gmoe_experts_backward_args &c) {
  c.grad_output = borrow("grad_output", a.grad_output);
  c.hidden_states = borrow("hidden_states", a.hidden_states);
  c.top_k_index = borrow("top_k_index", a.top_k_index);
  c.top_k_weights = borrow("top_k_weights", a.top_k_weights);
  c.gate_up_proj = borrow("gate_up_proj", a.gate_up_proj);
  c.down_proj = borrow("down_proj", a.down_proj);
  c.down_bias = borrow("down_bias", a.down_bias);
  c.pre_activation = borrow("pre_activation", a.pre_activation);
  c.grad_hidden_states = borrow("grad_hidden_states", a.grad_hidden_states);
  c.grad_top_k_weights = borrow("grad_top_k_weights", a.grad_top_k_weights);
  c.grad_gate_up_proj = borrow("grad_gate_up_proj", a.grad_gate_up_proj);
  c.grad_gate_up_bias = borrow("grad_gate_up_bias", a.grad_gate_up_bias);
  c.grad_down_proj = borrow("grad_down_proj", a.grad_down_proj);
  c.grad_down_bias = borrow("grad_down_bias", a.grad_down_bias);
}

/* The options of one call in C; nothing for arguments that have none. */
template <class Arguments, class = void>
struct Options {
  template <class A>
  Options(const A &, Arguments &) {}
};
template <class Arguments>
struct Options<Arguments, std::void_t<decltype(Arguments::options)>> {
  template <class A>
  Options(const A &a, Arguments &c) : options(a.options.c()) {
    c.options = &options;
  }
  std::remove_const_t<std::remove_pointer_t<decltype(Arguments::options)>> options;
};

/* The C arguments of one call, with what they point to. */
template <class Arguments>
class Call {
 public:
  template <class A>
  Call(const A &a, Arguments defaults) : c_(defaults), options_(a, c_) {
    fill(borrow_, a, c_);
    c_.stream = a.stream;
    c_.workspace = a.workspace;
    c_.workspace_size = a.workspace_size;
  }
  Call(const Call &) = delete;
  Call &operator=(const Call &) = delete;

  template <class Function, class... More>
  Status run(Function function, gmoe_engine *engine, More... more) const {
    return borrow_.fault().ok() ? Status::of(function(engine, &c_, more...)) : borrow_.fault();
  }
  template <class Function>
  Result<std::uint64_t> size(Function function, gmoe_engine *engine) const {
    std::uint64_t bytes = 0;
    const Status status = run(function, engine, &bytes);
    if (!status.ok()) return status;
    return bytes;
  }

 private:
  Arguments c_;
  Options<Arguments> options_;
  Borrowed borrow_;
};

/* What owners of handles call at their end. A child of fork() cannot destroy anything, and
 * the status is of no use to anyone there. */
struct Destroy {
  void operator()(gmoe_engine *handle) const noexcept { (void)gmoe_engine_destroy(handle); }
  void operator()(gmoe_meter *handle) const noexcept { (void)gmoe_meter_destroy(handle); }
  void operator()(gmoe_recorder *handle) const noexcept { (void)gmoe_recorder_destroy(handle); }
  void operator()(gmoe_monitor *handle) const noexcept { (void)gmoe_monitor_stop(handle); }
};

/* All of the text that write(buffer, capacity, &needed) writes. */
template <class Write>
Result<std::string> text_of(Write write) {
  std::string text(4096, '\0');
  for (;;) {
    std::size_t needed = 0;
    const gmoe_status status = write(text.data(), text.size(), &needed);
    const bool fitted = needed <= text.size(); /* it may have grown since the last call */
    if (status != GMOE_OK && fitted) return Status::of(status);
    text.resize(fitted ? needed - 1 : needed);
    if (fitted) return text;
  }
}

/* A path or a text of options; NULL when it is not set. */
inline const char *c_string(const std::string &text) noexcept { return text.empty() ? nullptr : text.c_str(); }

}  // namespace detail

/* -------------------------------------------------------------- the engine */

/* gmoe_engine_options. */
struct EngineOptions {
  DLDevice device = cpu;
  std::int32_t num_threads = 0; /* 0: as many as the process may use */
};

using Counters = gmoe_counters;
using Report = gmoe_router_report;

/* The work of one expert: rows computed forward, FLOPs, bytes read and written. */
struct ExpertWork {
  std::uint64_t rows = 0, flops = 0, bytes = 0;
};

/* Where operations run: a device, threads, scratch memory, counters. Any number of
 * threads may use one. */
class Engine {
 public:
  static Result<Engine> try_create(const EngineOptions &options = {}) {
    gmoe_engine_options c = GMOE_ENGINE_OPTIONS_INIT;
    c.device_type = options.device.device_type;
    c.device_id = options.device.device_id;
    c.num_threads = options.num_threads;
    gmoe_engine *handle = nullptr;
    const gmoe_status status = gmoe_engine_create(&c, &handle);
    if (status != GMOE_OK) return Status::of(status);
    return Engine(handle);
  }

  /* The C handle, still owned by this object. */
  gmoe_engine *handle() const noexcept { return handle_.get(); }

  Result<Counters> try_counters() const {
    Counters counters = GMOE_COUNTERS_INIT;
    const gmoe_status status = gmoe_engine_counters(handle(), &counters);
    if (status != GMOE_OK) return Status::of(status);
    return counters;
  }

  /* Of each expert of a layer that options have named; empty when none has. */
  Result<std::vector<ExpertWork>> try_expert_work(std::int32_t layer) const {
    std::vector<std::uint64_t> numbers;
    for (;;) { /* first without room, to learn how many there are */
      std::size_t experts = 0;
      const gmoe_status status = gmoe_engine_expert_work(handle(), layer, numbers.data(), numbers.size() / 3, &experts);
      const bool fitted = experts <= numbers.size() / 3;
      if (fitted && status != GMOE_OK) return Status::of(status);
      if (!fitted) {
        numbers.resize(3 * experts);
        continue;
      }
      std::vector<ExpertWork> work(experts);
      for (std::size_t e = 0; e < experts; e++) work[e] = {numbers[3 * e], numbers[3 * e + 1], numbers[3 * e + 2]};
      return work;
    }
  }

  Status try_router_forward(const RouterForward &a) const {
    return detail::Call<gmoe_router_forward_args>(a, GMOE_ROUTER_FORWARD_ARGS_INIT).run(gmoe_router_forward, handle());
  }
  Result<std::uint64_t> try_router_forward_workspace_size(const RouterForward &a) const {
    return detail::Call<gmoe_router_forward_args>(a, GMOE_ROUTER_FORWARD_ARGS_INIT)
        .size(gmoe_router_forward_workspace_size, handle());
  }

  Status try_router_backward(const RouterBackward &a) const {
    return detail::Call<gmoe_router_backward_args>(a, GMOE_ROUTER_BACKWARD_ARGS_INIT)
        .run(gmoe_router_backward, handle());
  }
  Result<std::uint64_t> try_router_backward_workspace_size(const RouterBackward &a) const {
    return detail::Call<gmoe_router_backward_args>(a, GMOE_ROUTER_BACKWARD_ARGS_INIT)
        .size(gmoe_router_backward_workspace_size, handle());
  }

  Status try_router_update(const RouterUpdate &a) const {
    return detail::Call<gmoe_router_update_args>(a, GMOE_ROUTER_UPDATE_ARGS_INIT).run(gmoe_router_update, handle());
  }
  Result<std::uint64_t> try_router_update_workspace_size(const RouterUpdate &a) const {
    return detail::Call<gmoe_router_update_args>(a, GMOE_ROUTER_UPDATE_ARGS_INIT)
        .size(gmoe_router_update_workspace_size, handle());
  }

  Result<Report> try_router_report(const RouterReport &a) const {
    Report report = GMOE_ROUTER_REPORT_INIT;
    const Status status = detail::Call<gmoe_router_report_args>(a, GMOE_ROUTER_REPORT_ARGS_INIT)
                              .run(gmoe_router_report_compute, handle(), &report);
    if (!status.ok()) return status;
    return report;
  }
  Result<std::uint64_t> try_router_report_workspace_size(const RouterReport &a) const {
    return detail::Call<gmoe_router_report_args>(a, GMOE_ROUTER_REPORT_ARGS_INIT)
        .size(gmoe_router_report_workspace_size, handle());
  }

  Status try_clans_descend(const ClansDescend &a) const {
    return detail::Call<gmoe_clans_descend_args>(a, GMOE_CLANS_DESCEND_ARGS_INIT).run(gmoe_clans_descend, handle());
  }
  Result<std::uint64_t> try_clans_descend_workspace_size(const ClansDescend &a) const {
    return detail::Call<gmoe_clans_descend_args>(a, GMOE_CLANS_DESCEND_ARGS_INIT)
        .size(gmoe_clans_descend_workspace_size, handle());
  }

  Status try_clans_observe(const ClansObserve &a) const {
    return detail::Call<gmoe_clans_observe_args>(a, GMOE_CLANS_OBSERVE_ARGS_INIT).run(gmoe_clans_observe, handle());
  }
  Result<std::uint64_t> try_clans_observe_workspace_size(const ClansObserve &a) const {
    return detail::Call<gmoe_clans_observe_args>(a, GMOE_CLANS_OBSERVE_ARGS_INIT)
        .size(gmoe_clans_observe_workspace_size, handle());
  }

  Status try_experts_forward(const ExpertsForward &a) const {
    return detail::Call<gmoe_experts_forward_args>(a, GMOE_EXPERTS_FORWARD_ARGS_INIT)
        .run(gmoe_experts_forward, handle());
  }
  Result<std::uint64_t> try_experts_forward_workspace_size(const ExpertsForward &a) const {
    return detail::Call<gmoe_experts_forward_args>(a, GMOE_EXPERTS_FORWARD_ARGS_INIT)
        .size(gmoe_experts_forward_workspace_size, handle());
  }

  Status try_experts_backward(const ExpertsBackward &a) const {
    return detail::Call<gmoe_experts_backward_args>(a, GMOE_EXPERTS_BACKWARD_ARGS_INIT)
        .run(gmoe_experts_backward, handle());
  }
  Result<std::uint64_t> try_experts_backward_workspace_size(const ExpertsBackward &a) const {
    return detail::Call<gmoe_experts_backward_args>(a, GMOE_EXPERTS_BACKWARD_ARGS_INIT)
        .size(gmoe_experts_backward_workspace_size, handle());
  }

  Status try_experts_quantize(const ExpertsQuantize &a) const {
    return detail::Call<gmoe_experts_quantize_args>(a, GMOE_EXPERTS_QUANTIZE_ARGS_INIT)
        .run(gmoe_experts_quantize, handle());
  }
  Result<std::uint64_t> try_experts_quantize_workspace_size(const ExpertsQuantize &a) const {
    return detail::Call<gmoe_experts_quantize_args>(a, GMOE_EXPERTS_QUANTIZE_ARGS_INIT)
        .size(gmoe_experts_quantize_workspace_size, handle());
  }

#if GENESIS_MOE_EXCEPTIONS
  explicit Engine(const EngineOptions &options = {}) : Engine(try_create(options).value()) {}
  Counters counters() const { return try_counters().value(); }
  std::vector<ExpertWork> expert_work(std::int32_t layer) const { return try_expert_work(layer).value(); }
  void router_forward(const RouterForward &a) const { try_router_forward(a).require(); }
  std::uint64_t router_forward_workspace_size(const RouterForward &a) const {
    return try_router_forward_workspace_size(a).value();
  }
  void router_backward(const RouterBackward &a) const { try_router_backward(a).require(); }
  std::uint64_t router_backward_workspace_size(const RouterBackward &a) const {
    return try_router_backward_workspace_size(a).value();
  }
  void router_update(const RouterUpdate &a) const { try_router_update(a).require(); }
  std::uint64_t router_update_workspace_size(const RouterUpdate &a) const {
    return try_router_update_workspace_size(a).value();
  }
  Report router_report(const RouterReport &a) const { return try_router_report(a).value(); }
  std::uint64_t router_report_workspace_size(const RouterReport &a) const {
    return try_router_report_workspace_size(a).value();
  }
  void clans_descend(const ClansDescend &a) const { try_clans_descend(a).require(); }
  std::uint64_t clans_descend_workspace_size(const ClansDescend &a) const {
    return try_clans_descend_workspace_size(a).value();
  }
  void clans_observe(const ClansObserve &a) const { try_clans_observe(a).require(); }
  std::uint64_t clans_observe_workspace_size(const ClansObserve &a) const {
    return try_clans_observe_workspace_size(a).value();
  }
  void experts_forward(const ExpertsForward &a) const { try_experts_forward(a).require(); }
  std::uint64_t experts_forward_workspace_size(const ExpertsForward &a) const {
    return try_experts_forward_workspace_size(a).value();
  }
  void experts_backward(const ExpertsBackward &a) const { try_experts_backward(a).require(); }
  std::uint64_t experts_backward_workspace_size(const ExpertsBackward &a) const {
    return try_experts_backward_workspace_size(a).value();
  }
  void experts_quantize(const ExpertsQuantize &a) const { try_experts_quantize(a).require(); }
  std::uint64_t experts_quantize_workspace_size(const ExpertsQuantize &a) const {
    return try_experts_quantize_workspace_size(a).value();
  }
#endif

 private:
  explicit Engine(gmoe_engine *handle) noexcept : handle_(handle) {}
  std::unique_ptr<gmoe_engine, detail::Destroy> handle_;
};

/* -------------------------------------------------- the meter and the recorder */

enum class Source : std::int32_t {
  best = GMOE_SOURCE_BEST,
  nvml_counter = GMOE_SOURCE_NVML_COUNTER,
  nvml_integrated = GMOE_SOURCE_NVML_INTEGRATED,
  rapl = GMOE_SOURCE_RAPL,
  estimate_tdp_load = GMOE_SOURCE_ESTIMATE_TDP_LOAD,
  replay = GMOE_SOURCE_REPLAY,
  mock = GMOE_SOURCE_MOCK,
  none = GMOE_SOURCE_NONE
};

/* gmoe_meter_options; an empty string is the NULL there. */
struct MeterOptions {
  Source source = Source::best;
  std::string devices, sysfs_root, replay_path, trace_path;
  double poll_seconds = 0;
  double idle_watts = 0;
  double rated_watts = 0;
};

using MeterReading = gmoe_meter_reading;

/* Meters the energy of the process's devices, in windows that have names. */
class Meter {
 public:
  static Result<Meter> try_create(const MeterOptions &options = {}) {
    gmoe_meter_options c = GMOE_METER_OPTIONS_INIT;
    c.source = static_cast<std::int32_t>(options.source);
    c.devices = detail::c_string(options.devices);
    c.sysfs_root = detail::c_string(options.sysfs_root);
    c.replay_path = detail::c_string(options.replay_path);
    c.trace_path = detail::c_string(options.trace_path);
    c.poll_seconds = options.poll_seconds;
    c.idle_watts = options.idle_watts;
    c.rated_watts = options.rated_watts;
    gmoe_meter *handle = nullptr;
    const gmoe_status status = gmoe_meter_create(&c, &handle);
    if (status != GMOE_OK) return Status::of(status);
    return Meter(handle);
  }

  /* The C handle, still owned by this object. */
  gmoe_meter *handle() const noexcept { return handle_.get(); }

  Status try_begin(const std::string &window) const { return Status::of(gmoe_meter_begin(handle(), window.c_str())); }
  Result<MeterReading> try_end(const std::string &window, double wait_seconds = 0) const {
    MeterReading reading = GMOE_METER_READING_INIT;
    const gmoe_status status = gmoe_meter_end(handle(), window.c_str(), wait_seconds, &reading);
    if (status != GMOE_OK) return Status::of(status);
    return reading;
  }

  /* What it meters with, and the power of the moment, as JSON. */
  Result<std::string> try_describe() const {
    return detail::text_of([this](char *buffer, std::size_t capacity, std::size_t *needed) {
      return gmoe_meter_describe(handle(), buffer, capacity, needed);
    });
  }

#if GENESIS_MOE_EXCEPTIONS
  explicit Meter(const MeterOptions &options = {}) : Meter(try_create(options).value()) {}
  void begin(const std::string &window) const { try_begin(window).require(); }
  MeterReading end(const std::string &window, double wait_seconds = 0) const {
    return try_end(window, wait_seconds).value();
  }
  std::string describe() const { return try_describe().value(); }
#endif

 private:
  explicit Meter(gmoe_meter *handle) noexcept : handle_(handle) {}
  std::unique_ptr<gmoe_meter, detail::Destroy> handle_;
};

/* gmoe_recorder_options; an empty string is the NULL there. */
struct RecorderOptions {
  const Meter *meter = nullptr; /* it must outlive the recorder */
  std::string path, run, calibration;
};

/* Records a run, step by step, with its energies. */
class Recorder {
 public:
  static Result<Recorder> try_create(const RecorderOptions &options = {}) {
    gmoe_recorder_options c = GMOE_RECORDER_OPTIONS_INIT;
    c.meter = options.meter == nullptr ? nullptr : options.meter->handle();
    c.path = detail::c_string(options.path);
    c.run = detail::c_string(options.run);
    c.calibration = detail::c_string(options.calibration);
    gmoe_recorder *handle = nullptr;
    const gmoe_status status = gmoe_recorder_create(&c, &handle);
    if (status != GMOE_OK) return Status::of(status);
    return Recorder(handle);
  }

  /* The C handle, still owned by this object. */
  gmoe_recorder *handle() const noexcept { return handle_.get(); }

  /* line: one JSON object, of kind step, names, baseline, trace or event; the names of a layer's experts:
   * {"kind": "names", "layer": 0, "names": ["verbs", "numbers"], "given": [true, true]}. */
  Status try_log(const std::string &line) const { return Status::of(gmoe_recorder_log(handle(), line.c_str())); }
  Status try_mark() const { return Status::of(gmoe_recorder_mark(handle())); }
  Status try_flush() const { return Status::of(gmoe_recorder_flush(handle())); }
  /* In the text format of Prometheus. */
  Result<std::string> try_metrics() const {
    return detail::text_of([this](char *buffer, std::size_t capacity, std::size_t *needed) {
      return gmoe_recorder_metrics(handle(), buffer, capacity, needed);
    });
  }
  /* Writes what waits and ends the recorder, which the destructor does too, but silently. */
  Status try_close() { return Status::of(gmoe_recorder_destroy(handle_.release())); }

#if GENESIS_MOE_EXCEPTIONS
  explicit Recorder(const RecorderOptions &options = {}) : Recorder(try_create(options).value()) {}
  void log(const std::string &line) const { try_log(line).require(); }
  void mark() const { try_mark().require(); }
  void flush() const { try_flush().require(); }
  std::string metrics() const { return try_metrics().value(); }
  void close() { try_close().require(); }
#endif

 private:
  explicit Recorder(gmoe_recorder *handle) noexcept : handle_(handle) {}
  std::unique_ptr<gmoe_recorder, detail::Destroy> handle_;
};

/* Writes the steps of a run's file as CSV. */
inline Status try_record_csv(const std::string &path, const std::string &csv_path) {
  return Status::of(gmoe_record_csv(path.c_str(), csv_path.c_str()));
}

#if GENESIS_MOE_EXCEPTIONS
inline void record_csv(const std::string &path, const std::string &csv_path) {
  try_record_csv(path, csv_path).require();
}
#endif

/* ------------------------------------------------------------- the console */

/* gmoe_monitor_options; an empty string is the NULL there. */
struct MonitorOptions {
  std::string address, token, hosts;
  bool allow_remote = false;
  std::int32_t interval_milliseconds = 0;
};

/* gmoe_monitor_file_options. */
struct MonitorFileOptions {
  bool follow = false;
  double speed = 0;
};

/* Serves a page that shows runs, until it is destroyed. */
class Monitor {
 public:
  static Result<Monitor> try_start(const MonitorOptions &options = {}) {
    gmoe_monitor_options c = GMOE_MONITOR_OPTIONS_INIT;
    c.address = detail::c_string(options.address);
    c.token = detail::c_string(options.token);
    c.hosts = detail::c_string(options.hosts);
    c.allow_remote = options.allow_remote;
    c.interval_milliseconds = options.interval_milliseconds;
    gmoe_monitor *handle = nullptr;
    const gmoe_status status = gmoe_monitor_start(&c, &handle);
    if (status != GMOE_OK) return Status::of(status);
    return Monitor(handle);
  }

  /* The C handle, still owned by this object. */
  gmoe_monitor *handle() const noexcept { return handle_.get(); }

  Result<std::string> try_url() const {
    return detail::text_of([this](char *buffer, std::size_t capacity, std::size_t *needed) {
      return gmoe_monitor_url(handle(), buffer, capacity, needed);
    });
  }
  Status try_log(const std::string &line) const {
    return Status::of(gmoe_monitor_log(handle(), line.data(), line.size()));
  }
  Status try_attach(const Recorder &recorder) const {
    return Status::of(gmoe_monitor_attach(handle(), recorder.handle()));
  }
  Status try_open(const std::string &path, const MonitorFileOptions &options = {}) const {
    gmoe_monitor_file_options c = GMOE_MONITOR_FILE_OPTIONS_INIT;
    c.follow = options.follow;
    c.speed = options.speed;
    return Status::of(gmoe_monitor_open(handle(), path.c_str(), &c));
  }

#if GENESIS_MOE_EXCEPTIONS
  explicit Monitor(const MonitorOptions &options = {}) : Monitor(try_start(options).value()) {}
  std::string url() const { return try_url().value(); }
  void log(const std::string &line) const { try_log(line).require(); }
  void attach(const Recorder &recorder) const { try_attach(recorder).require(); }
  void open(const std::string &path, const MonitorFileOptions &options = {}) const {
    try_open(path, options).require();
  }
#endif

 private:
  explicit Monitor(gmoe_monitor *handle) noexcept : handle_(handle) {}
  std::unique_ptr<gmoe_monitor, detail::Destroy> handle_;
};

/* ------------------------------------------------------------- the library */

/* The release of the loaded library, such as "0.1.0". */
inline const char *version() noexcept { return gmoe_version(); }

/* Whether the loaded library speaks the ABI of the header that this was compiled with. */
inline bool fits() noexcept { return gmoe_abi_version() == GMOE_ABI_VERSION; }

inline Result<std::int32_t> try_device_count(DLDeviceType type) {
  std::int32_t count = 0;
  const gmoe_status status = gmoe_device_count(type, &count);
  if (status != GMOE_OK) return Status::of(status);
  return count;
}

/* What was found on this machine, as JSON. */
inline Result<std::string> try_doctor() { return detail::text_of(gmoe_doctor); }

#if GENESIS_MOE_EXCEPTIONS
inline std::int32_t device_count(DLDeviceType type) { return try_device_count(type).value(); }
inline std::string doctor() { return try_doctor().value(); }
#endif

}  // namespace genesis_moe

#endif /* GENESIS_MOE_HPP_ */
