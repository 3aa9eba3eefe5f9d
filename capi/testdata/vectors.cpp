/* The test vectors through genesis_moe.hpp, in float64, float32 and bfloat16. */
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "genesis_moe.hpp"
#include "vectors.h"
#include "vectors_data.h"

namespace gm = genesis_moe;

namespace {

enum class DType { float64, float32, bfloat16 };

double tolerance_of(DType dtype) {
  return dtype == DType::float64 ? TOLERANCE_FLOAT64 : dtype == DType::float32 ? TOLERANCE_FLOAT32 : TOLERANCE_BFLOAT16;
}

[[noreturn]] void fail(const vector_case &c, DType dtype, const std::string &what) {
  std::fprintf(stderr, "%s, dtype %d: %s\n", c.name, static_cast<int>(dtype), what.c_str());
  std::exit(1);
}

/* The members that the files call by name. */
template <class Arguments>
struct Members {
  std::map<std::string, gm::ConstTensorView Arguments::*> inputs;
  std::map<std::string, gm::TensorView Arguments::*> outputs;
};
#define MEMBER(type, name) {#name, &type::name}

#define M(name) MEMBER(gm::RouterForward, name)
const Members<gm::RouterForward> router_forward{
    {M(hidden_states), M(projection), M(centroids), M(bias), M(price), M(temperature), M(gap)},
    {M(top_k_index), M(top_k_weights), M(logits), M(counts), M(price_out)}};
#undef M
#define M(name) MEMBER(gm::RouterBackward, name)
const Members<gm::RouterBackward> router_backward{
    {M(hidden_states), M(projection), M(centroids), M(bias), M(temperature), M(logits), M(top_k_index),
     M(grad_top_k_weights), M(grad_logits)},
    {M(grad_hidden_states), M(grad_projection), M(grad_centroids), M(grad_bias), M(grad_temperature)}};
#undef M
#define M(name) MEMBER(gm::RouterUpdate, name)
const Members<gm::RouterUpdate> router_update{{M(counts)}, {M(price), M(gap)}};
#undef M
#define M(name) MEMBER(gm::RouterReport, name)
const Members<gm::RouterReport> router_report{{M(logits), M(top_k_index), M(price), M(previous_index)}, {}};
#undef M
#define M(name) MEMBER(gm::ExpertsForward, name)
const Members<gm::ExpertsForward> experts_forward{
    {M(hidden_states), M(top_k_index), M(top_k_weights), M(gate_up_proj), M(gate_up_bias), M(down_proj), M(down_bias),
     M(gate_up_scale), M(down_scale)},
    {M(output), M(pre_activation)}};
#undef M
#define M(name) MEMBER(gm::ExpertsQuantize, name)
const Members<gm::ExpertsQuantize> experts_quantize{{M(weight)}, {M(quantized), M(scale)}};
#undef M
#define M(name) MEMBER(gm::ExpertsBackward, name)
const Members<gm::ExpertsBackward> experts_backward{{M(grad_output), M(hidden_states), M(top_k_index), M(top_k_weights),
                                                     M(gate_up_proj), M(down_proj), M(down_bias), M(pre_activation)},
                                                    {M(grad_hidden_states), M(grad_top_k_weights), M(grad_gate_up_proj),
                                                     M(grad_gate_up_bias), M(grad_down_proj), M(grad_down_bias)}};
#undef M

#define M(name) MEMBER(gm::ClansDescend, name)
const Members<gm::ClansDescend> clans_descend{
    {M(hidden_states), M(clan_index), M(root), M(children), M(direction), M(threshold)},
    {M(slot_index), M(slot_counts)}};
#undef M
#define M(name) MEMBER(gm::ClansObserve, name)
const Members<gm::ClansObserve> clans_observe{
    {M(hidden_states), M(slot_index), M(binding), M(mean), M(axis), M(scale)},
    {M(tokens), M(skipped), M(sum), M(square), M(power), M(binding_sum), M(histogram)}};
#undef M

const std::map<std::string, double gm::Report::*> report_numbers{
    MEMBER(gm::Report, energy_bind), MEMBER(gm::Report, energy_entropy), MEMBER(gm::Report, energy_cost),
    MEMBER(gm::Report, energy),      MEMBER(gm::Report, max_violation),  MEMBER(gm::Report, load_cv),
    MEMBER(gm::Report, dead_share),  MEMBER(gm::Report, token_entropy),  MEMBER(gm::Report, marginal_entropy),
    MEMBER(gm::Report, price_min),   MEMBER(gm::Report, price_max),      MEMBER(gm::Report, top_k_margin),
    MEMBER(gm::Report, mean_active), MEMBER(gm::Report, churn)};

gm::RouterOptions router_options(const vector_case &c) {
  gm::RouterOptions o;
  for (const vector_number *n = c.options; n->name != nullptr; n++) {
    const std::string name = n->name;
    const auto whole = static_cast<std::int32_t>(n->value);
    const auto real = static_cast<float>(n->value);
    if (name == "mode") o.mode = static_cast<gm::RouterMode>(whole);
    if (name == "binding") o.binding = static_cast<gm::Binding>(whole);
    if (name == "solver") o.solver = static_cast<gm::Solver>(whole);
    if (name == "top_k") o.top_k = whole;
    if (name == "budgeted") o.budgeted = whole != 0;
    if (name == "normalize_top_k") o.normalize_top_k = whole != 0;
    if (name == "num_groups") o.num_groups = whole;
    if (name == "top_k_groups") o.top_k_groups = whole;
    if (name == "scaling_factor") o.scaling_factor = real;
    if (name == "epsilon") o.epsilon = real;
    if (name == "temperature_floor") o.temperature_floor = real;
    if (name == "entropy_temperature") o.entropy_temperature = real;
    if (name == "load_penalty") o.load_penalty = real;
  }
  return o;
}

gm::ExpertsOptions experts_options(const vector_case &c) {
  gm::ExpertsOptions o;
  for (const vector_number *n = c.options; n->name != nullptr; n++) {
    const std::string name = n->name;
    if (name == "activation") o.activation = static_cast<gm::Activation>(static_cast<std::int32_t>(n->value));
    if (name == "gated") o.gated = n->value != 0;
    if (name == "interleaved") o.interleaved = n->value != 0;
    if (name == "alpha") o.alpha = static_cast<float>(n->value);
    if (name == "limit") o.limit = static_cast<float>(n->value);
  }
  return o;
}

gm::ClansOptions clans_options(const vector_case &c) {
  gm::ClansOptions o;
  for (const vector_number *n = c.options; n->name != nullptr; n++)
    if (std::string(n->name) == "num_slots") o.num_slots = static_cast<std::int32_t>(n->value);
  return o;
}

using Memory = std::variant<std::vector<double>, std::vector<float>, std::vector<gm::bfloat16>,
                            std::vector<gm::float8_e4m3fn>, std::vector<std::int32_t>, std::vector<std::int64_t>>;

template <class T>
Memory filled(const vector_tensor &t, std::size_t elements) {
  std::vector<T> memory(elements);
  for (std::size_t i = 0; i < t.elements && i < elements; i++) {
    if constexpr (std::is_same_v<T, gm::bfloat16>)
      memory[i] = T(static_cast<float>(t.values[i]));
    else if constexpr (std::is_same_v<T, gm::float8_e4m3fn>)
      while (static_cast<double>(static_cast<float>(memory[i])) != t.values[i]) memory[i].bits++; /* exact */
    else
      memory[i] = static_cast<T>(t.values[i]);
  }
  return memory;
}

/* One case in one dtype, with the memory of its tensors. */
struct Pass {
  const gm::Engine &engine;
  const vector_case &c;
  DType dtype;
  std::map<std::string, Memory> memory = {};

  bool wide(std::string name) const {
    if (name.rfind("grad_", 0) == 0) name = name.substr(5);
    for (const char *one : {"bias", "price", "temperature", "gap", "top_k_weights", "logits", "price_out", "direction",
                            "threshold", "binding"})
      if (name == one) return true;
    return false;
  }

  gm::TensorView make(const vector_tensor &t, bool with_values) {
    std::size_t elements = 1;
    for (std::int32_t d = 0; d < t.ndim; d++) elements *= static_cast<std::size_t>(t.shape[d]);
    vector_tensor source = t;
    if (!with_values) source.elements = 0;
    Memory &made = memory[t.name];
    if (t.dtype == 'i')
      made = filled<std::int32_t>(source, elements);
    else if (t.dtype == 'l')
      made = filled<std::int64_t>(source, elements);
    else if (t.dtype == 'e')
      made = filled<gm::float8_e4m3fn>(source, elements);
    else if (t.dtype != 'f' && (t.dtype == 'd' || dtype == DType::float64))
      made = filled<double>(source, elements);
    else if (t.dtype == 'f' || dtype == DType::float32 || wide(t.name))
      made = filled<float>(source, elements);
    else
      made = filled<gm::bfloat16>(source, elements);
    return std::visit([&](auto &values) { return gm::view(values, shape_of(t)); }, made);
  }

  static gm::Shape shape_of(const vector_tensor &t) {
    switch (t.ndim) {
      case 1: return {t.shape[0]};
      case 2: return {t.shape[0], t.shape[1]};
      default: return {t.shape[0], t.shape[1], t.shape[2]};
    }
  }

  template <class Arguments>
  void give(Arguments &to, const Members<Arguments> &members, const vector_tensor *tensors) {
    for (; tensors->name != nullptr; tensors++) {
      if (const auto input = members.inputs.find(tensors->name); input != members.inputs.end())
        to.*(input->second) = make(*tensors, true);
      else if (const auto output = members.outputs.find(tensors->name); output != members.outputs.end())
        to.*(output->second) = make(*tensors, true);
    }
  }

  template <class Arguments>
  void want(Arguments &to, const Members<Arguments> &members, const vector_tensor *tensors) {
    for (; tensors->name != nullptr; tensors++) to.*(members.outputs.at(tensors->name)) = make(*tensors, false);
  }

  void require_agreement(const vector_tensor *want) const {
    for (; want->name != nullptr; want++) {
      double tolerance = want->dtype == 0     ? tolerance_of(dtype)
                         : want->dtype == 'd' ? TOLERANCE_FLOAT64
                                              : 0,
             largest = 1;
      if (std::string(want->name) == "price_out") tolerance = c.price_out_tolerance;
      for (std::size_t i = 0; i < want->elements; i++) largest = std::max(largest, std::fabs(want->values[i]));
      std::visit(
          [&](const auto &got) {
            for (std::size_t i = 0; i < want->elements; i++)
              if (!(std::fabs(number(got[i]) - want->values[i]) <= tolerance * largest))
                fail(c, dtype,
                     std::string(want->name) + "[" + std::to_string(i) + "] is " + std::to_string(number(got[i])) +
                         ", want " + std::to_string(want->values[i]));
          },
          memory.at(want->name));
    }
  }

  template <class T>
  static double number(T value) {
    if constexpr (std::is_same_v<T, gm::bfloat16> || std::is_same_v<T, gm::float8_e4m3fn>)
      return static_cast<double>(static_cast<float>(value));
    else
      return static_cast<double>(value);
  }

  gm::RouterForward route() {
    gm::RouterForward forward;
    forward.options = router_options(c);
    give(forward, router_forward, c.inputs);
    want(forward, router_forward, c.outputs);
    return forward;
  }
  void router() {
    const gm::RouterForward forward = route();
    engine.router_forward(forward);
    require_agreement(c.outputs);
    gm::RouterBackward backward;
    backward.options = forward.options;
    give(backward, router_backward, c.inputs);
    give(backward, router_backward, c.outputs);
    give(backward, router_backward, c.grad_outputs);
    want(backward, router_backward, c.grad_inputs);
    engine.router_backward(backward);
    require_agreement(c.grad_inputs);
  }

  gm::ExpertsForward run() {
    gm::ExpertsForward forward;
    forward.options = experts_options(c);
    give(forward, experts_forward, c.inputs);
    want(forward, experts_forward, c.outputs);
    return forward;
  }
  void experts() {
    const gm::ExpertsForward forward = run();
    engine.experts_forward(forward);
    require_agreement(c.outputs);
    gm::ExpertsBackward backward;
    backward.options = forward.options;
    give(backward, experts_backward, c.inputs);
    give(backward, experts_backward, c.outputs);
    give(backward, experts_backward, c.grad_outputs);
    want(backward, experts_backward, c.grad_inputs);
    engine.experts_backward(backward);
    require_agreement(c.grad_inputs);
  }

  gm::RouterUpdate step() {
    gm::RouterUpdate update;
    update.options = router_options(c);
    give(update, router_update, c.inputs);
    for (const vector_number *n = c.numbers; n->name != nullptr; n++) {
      const std::string name = n->name;
      if (name == "num_tokens") update.num_tokens = static_cast<std::int64_t>(n->value);
      if (name == "rate") update.rate = n->value;
      if (name == "step_limit") update.step_limit = n->value;
      if (name == "budget") update.budget = n->value;
      if (name == "gap_rate") update.gap_rate = n->value;
    }
    return update;
  }
  void update() {
    engine.router_update(step());
    require_agreement(c.outputs);
  }

  gm::ExpertsQuantize making() {
    gm::ExpertsQuantize arguments;
    give(arguments, experts_quantize, c.inputs);
    want(arguments, experts_quantize, c.outputs);
    return arguments;
  }
  void e4m3() {
    if (std::string(c.operation) == "quantize")
      engine.experts_quantize(making());
    else
      engine.experts_forward(run());
    require_agreement(c.outputs);
  }

  gm::RouterReport seen() {
    gm::RouterReport arguments;
    arguments.options = router_options(c);
    give(arguments, router_report, c.inputs);
    return arguments;
  }
  void report() {
    const gm::Report report = engine.router_report(seen());
    for (const vector_number *n = c.numbers; n->name != nullptr; n++) {
      const auto member = report_numbers.find(n->name);
      const double got =
          member == report_numbers.end() ? static_cast<double>(report.non_finite_tokens) : report.*(member->second);
      if (!(std::fabs(got - n->value) <= tolerance_of(dtype) * std::max(1.0, std::fabs(n->value))))
        fail(c, dtype, std::string(n->name) + " is " + std::to_string(got));
    }
  }

  gm::ClansDescend descent() {
    gm::ClansDescend arguments;
    arguments.options = clans_options(c);
    give(arguments, clans_descend, c.inputs);
    want(arguments, clans_descend, c.outputs);
    return arguments;
  }
  gm::ClansObserve observation() {
    gm::ClansObserve arguments;
    arguments.options = clans_options(c);
    give(arguments, clans_observe, c.inputs);
    return arguments;
  }
  void clans() {
    if (std::string(c.operation) == "descend")
      engine.clans_descend(descent());
    else
      engine.clans_observe(observation());
    require_agreement(c.outputs);
  }

  /* Both ways of failing: a Status, and an exception. */
  void refused() {
    const std::string operation = c.operation;
    gm::Status status;
    gmoe_status thrown = GMOE_OK;
    try {
      if (operation == "router") status = engine.try_router_forward(route()), engine.router_forward(route());
      if (operation == "experts") status = engine.try_experts_forward(run()), engine.experts_forward(run());
      if (operation == "quantize") status = engine.try_experts_quantize(making()), engine.experts_quantize(making());
      if (operation == "update") status = engine.try_router_update(step()), engine.router_update(step());
      if (operation == "report") status = engine.try_router_report(seen()).error(), (void)engine.router_report(seen());
      if (operation == "descend") status = engine.try_clans_descend(descent()), engine.clans_descend(descent());
      if (operation == "observe") status = engine.try_clans_observe(observation()), engine.clans_observe(observation());
    } catch (const gm::Error &error) {
      thrown = error.status();
      if (error.what() != status.message()) fail(c, dtype, "throws another message than it returns");
    }
    if (status.code() != c.status || thrown != c.status || status.message().find(c.names) == std::string::npos)
      fail(c, dtype, std::string(status.name()) + ": " + status.message());
  }
};

template <std::size_t N>
int each(const gm::Engine &engine, const vector_case (&cases)[N], DType last, void (Pass::*pass)()) {
  for (const vector_case &c : cases)
    for (int dtype = 0; dtype <= static_cast<int>(last); dtype++) {
      Pass one{engine, c, static_cast<DType>(dtype)};
      try {
        (one.*pass)();
      } catch (const gm::Error &error) {
        fail(c, one.dtype, error.what());
      }
    }
  return static_cast<int>(N);
}

}  // namespace

int main() {
  const gm::Engine engine;
  int cases = each(engine, router_cases, DType::bfloat16, &Pass::router);
  cases += each(engine, experts_cases, DType::bfloat16, &Pass::experts);
  cases += each(engine, update_cases, DType::float32, &Pass::update);
  cases += each(engine, report_cases, DType::float32, &Pass::report);
  cases += each(engine, clans_cases, DType::bfloat16, &Pass::clans);
  cases += each(engine, e4m3_cases, DType::bfloat16, &Pass::e4m3);
  cases += each(engine, refused_cases, DType::float32, &Pass::refused);
  std::printf("%d cases\n", cases);
}
