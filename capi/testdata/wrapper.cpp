/* What genesis_moe.hpp adds to the C functions: ownership, views that know their size,
 * results without exceptions. Compiled with exceptions and with -fno-exceptions. */
#include "genesis_moe.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <utility>
#include <vector>

namespace gm = genesis_moe;

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (0)

static bool mentions(const gm::Status &status, gmoe_status code, const char *text) {
  if (status.code() == code && status.message().find(text) != std::string::npos) return true;
  std::fprintf(stderr, "%s: %s\n", status.name(), status.message().c_str());
  return false;
}

static gm::Engine created() {
  gm::EngineOptions options;
  options.num_threads = 1;
  gm::Result<gm::Engine> engine = gm::Engine::try_create(options);
  CHECK(engine.has_value());
  return *std::move(engine);
}

static void engines() {
  gm::Engine first = created();
  gmoe_engine *const handle = first.handle();
  gm::Engine second = std::move(first);
  CHECK(second.handle() == handle && first.handle() == nullptr);
  CHECK(mentions(first.try_counters().error(), GMOE_INVALID_HANDLE, "engine"));
  first = created();
  CHECK(first.try_counters().has_value() && second.try_counters()->router_calls == 0);
  static_assert(!std::is_copy_constructible_v<gm::Engine> && std::is_nothrow_move_constructible_v<gm::Engine>);

  gm::EngineOptions nowhere;
  nowhere.device = {kDLCPU, 7};
  CHECK(mentions(gm::Engine::try_create(nowhere).error(), GMOE_NO_DEVICE, "device_id: 7"));
}

/* The sums over both experts of two tokens: the example of the README, by views of every kind. */
static void views() {
  const gm::Engine engine = created();
  const std::vector<float> x{1, 2, 3, 4}, down{1, 1, -1, -1}, weights{1, 1};
  const std::vector<float> gate_up{1, 0, 0, 1, 2, 0, 0, 2};
  const std::vector<std::int64_t> index{0, 1};
  std::vector<float> y(4);
  gm::ExpertsForward run;
  run.hidden_states = gm::view(x, {2, 2});
  run.top_k_index = gm::view(index, {2, 1});
  run.top_k_weights = gm::view(weights, {2, 1});
  run.gate_up_proj = gm::view(gate_up, {2, 2, 2});
  run.down_proj = gm::view(down, {2, 2, 1});
  run.output = gm::view(y, {2, 2});
  CHECK(engine.try_experts_forward(run).ok());
  CHECK(*engine.try_experts_forward_workspace_size(run) == 0);
  CHECK(std::fabs(y[0] - 1.4621f) < 1e-4f && std::fabs(y[3] + 47.8813f) < 1e-4f);

  /* The same memory, columns first, through pointers. */
  const float columns[] = {1, 3, 2, 4};
  std::vector<float> turned(4);
  run.hidden_states = gm::ConstTensorView(columns, {2, 2}, {1, 2});
  run.output = gm::TensorView(turned.data(), {2, 2});
  CHECK(engine.try_experts_forward(run).ok() && turned == y);

  run.options.layer = 3;
  CHECK(engine.try_experts_forward(run).ok());
  const gm::Result<std::vector<gm::ExpertWork>> work = engine.try_expert_work(3);
  CHECK(work && work->size() == 2 && (*work)[0].rows == 1 && (*work)[1].flops > 0);
  CHECK(engine.try_expert_work(4)->empty());
  CHECK(mentions(engine.try_expert_work(0).error(), GMOE_INVALID_ARGUMENT, "layer: 0"));

  run.hidden_states = gm::view(x, {2, 3});
  CHECK(
      mentions(engine.try_experts_forward(run), GMOE_INVALID_ARGUMENT, "hidden_states: memory of 4 elements, want 6"));
  run.hidden_states = gm::view(x, {2, 2}, {3, 1});
  CHECK(mentions(engine.try_experts_forward(run), GMOE_INVALID_ARGUMENT, "want 5"));
  run.hidden_states = gm::view(x, {2, 2}, {-2, 1});
  CHECK(mentions(engine.try_experts_forward(run), GMOE_INVALID_ARGUMENT, "want none before it"));
  run.hidden_states = gm::view(x, {1LL << 62, 1LL << 62});
  CHECK(mentions(engine.try_experts_forward(run), GMOE_INVALID_ARGUMENT, "hidden_states"));
  run.hidden_states = gm::view(x, {-2, 2});
  CHECK(mentions(engine.try_experts_forward(run), GMOE_INVALID_ARGUMENT, "negative"));
  run.hidden_states = gm::view(x, {1, 1, 1, 2, 2});
  CHECK(mentions(engine.try_experts_forward(run), GMOE_INVALID_ARGUMENT, "5 dimensions"));
  run.hidden_states = gm::view(x, {2, 2}, {1});
  CHECK(mentions(engine.try_experts_forward(run), GMOE_INVALID_ARGUMENT, "1 strides for 2 dimensions"));
  run.hidden_states = {};
  CHECK(mentions(engine.try_experts_forward(run), GMOE_INVALID_ARGUMENT, "hidden_states"));
  run.hidden_states = gm::ConstTensorView(x.data(), {2, 2}, {}, DLDevice{kDLCUDA, 0});
  CHECK(mentions(engine.try_experts_forward(run), GMOE_INVALID_ARGUMENT, "hidden_states"));

  const std::vector<float> constant(1);
  static_assert(std::is_same_v<decltype(gm::view(constant, {1})), gm::ConstTensorView>);
  static_assert(std::is_same_v<decltype(gm::view(y, {1})), gm::TensorView>);
  static_assert(!std::is_constructible_v<gm::TensorView, const float *, gm::Shape>);
}

/* The same layer in 8 bits. The largest of a block is exact, and here every number is the largest or 0. */
static void eight_bits() {
  const gm::Engine engine = created();
  const std::vector<float> x{3, 3, 5, 5}, gate_up{1, 0, 0, 1, 2, 0, 0, 2}, down{1, 1, -1, -1}, weights{1, 1};
  const std::vector<std::int64_t> index{0, 1};
  std::vector<gm::float8_e4m3fn> gate_up_codes(8), down_codes(4);
  std::vector<float> gate_up_scale(2), down_scale(2), exact(4), y(4);
  gm::ExpertsQuantize quantize;
  quantize.weight = gm::view(gate_up, {2, 2, 2});
  quantize.quantized = gm::view(gate_up_codes, {2, 2, 2});
  CHECK(mentions(engine.try_experts_quantize(quantize), GMOE_INVALID_ARGUMENT, "scale: is missing"));
  quantize.scale = gm::view(gate_up_scale, {2, 1, 1});
  CHECK(*engine.try_experts_quantize_workspace_size(quantize) == 0);
  CHECK(engine.try_experts_quantize(quantize).ok());
  CHECK(gate_up_scale[1] == 2.0f / 448 && gate_up_codes[0].bits == 0x7e && gate_up_codes[1].bits == 0);
  quantize.weight = gm::view(down, {2, 2, 1});
  quantize.quantized = gm::view(down_codes, {2, 2, 1});
  quantize.scale = gm::view(down_scale, {2, 1, 1});
  CHECK(engine.try_experts_quantize(quantize).ok() && down_codes[2].bits == 0xfe);

  gm::ExpertsForward run;
  run.hidden_states = gm::view(x, {2, 2});
  run.top_k_index = gm::view(index, {2, 1});
  run.top_k_weights = gm::view(weights, {2, 1});
  run.gate_up_proj = gm::view(gate_up, {2, 2, 2});
  run.down_proj = gm::view(down, {2, 2, 1});
  run.output = gm::view(exact, {2, 2});
  CHECK(engine.try_experts_forward(run).ok());
  run.gate_up_proj = gm::view(gate_up_codes, {2, 2, 2});
  run.down_proj = gm::view(down_codes, {2, 2, 1});
  run.output = gm::view(y, {2, 2});
  CHECK(mentions(engine.try_experts_forward(run), GMOE_INVALID_ARGUMENT, "gate_up_scale: is missing"));
  run.gate_up_scale = gm::view(gate_up_scale, {2, 1, 1});
  run.down_scale = gm::view(down_scale, {2, 1, 1});
  CHECK(engine.try_experts_forward(run).ok());
  for (std::size_t i = 0; i < y.size(); i++) CHECK(std::fabs(y[i] / exact[i] - 1) < 1e-5f);
}

/* Clan 0 is slot 2, clan 1 the plane x_0 = 0.5 with slots 0 and 1; a token at the plane is above it. */
static void clans() {
  const gm::Engine engine = created();
  const std::vector<float> x{1, 0, 0, 1, 0.5f, 3}, direction{1, 0}, threshold{0.5f};
  const std::vector<std::int64_t> chosen{1, 1, 1};
  std::vector<std::int32_t> root{2, -1}, children{0, 1};
  std::vector<std::int64_t> slots(3), counts(3);
  gm::ClansDescend down;
  down.options.num_slots = 3;
  down.hidden_states = gm::view(x, {3, 2});
  down.clan_index = gm::view(chosen, {3, 1});
  down.root = gm::view(root, {2});
  down.children = gm::view(children, {1, 2});
  down.direction = gm::view(direction, {1, 2});
  down.threshold = gm::view(threshold, {1});
  down.slot_index = gm::view(slots, {3, 1});
  down.slot_counts = gm::view(counts, {3});
  CHECK(engine.try_clans_descend(down).ok() && *engine.try_clans_descend_workspace_size(down) == 0);
  CHECK((slots == std::vector<std::int64_t>{1, 0, 1} && counts == std::vector<std::int64_t>{1, 2, 0}));
  children[1] = -1;
  CHECK(mentions(engine.try_clans_descend(down), GMOE_INVALID_ARGUMENT, "node 0 (-1) is reached twice"));

  std::vector<double> tokens(3), sum(6);
  gm::ClansObserve seen;
  seen.options.num_slots = 3;
  seen.hidden_states = gm::view(x, {3, 2});
  seen.slot_index = gm::view(slots, {3, 1});
  seen.tokens = gm::view(tokens, {3});
  seen.sum = gm::view(sum, {3, 2});
  CHECK(engine.try_clans_observe(seen).ok() && engine.try_clans_observe(seen).ok());
  CHECK(*engine.try_clans_observe_workspace_size(seen) == 0);
  CHECK((tokens == std::vector<double>{2, 4, 0} && sum == std::vector<double>{0, 2, 3, 6, 0, 0}));
  std::vector<double> histogram(3 * gm::clans_histogram_bins);
  seen.histogram = gm::view(histogram, {3, gm::clans_histogram_bins});
  CHECK(mentions(engine.try_clans_observe(seen), GMOE_INVALID_ARGUMENT, "axis: is missing"));
}

static void meters() {
  gm::MeterOptions options;
  options.source = gm::Source::mock;
  gm::Result<gm::Meter> meter = gm::Meter::try_create(options);
  CHECK(meter);
  CHECK(meter->try_begin("step").ok());
  CHECK(mentions(meter->try_begin("step"), GMOE_INVALID_ARGUMENT, "step"));
  const gm::Result<gm::MeterReading> reading = meter->try_end("step");
  CHECK(reading && reading->source == GMOE_SOURCE_MOCK && reading->quality == GMOE_QUALITY_SYNTHETIC);
  CHECK(meter->try_describe()->front() == '{');
  options.source = gm::Source::replay;
  options.replay_path = "/nowhere/trace";
  CHECK(!gm::Meter::try_create(options));

  gm::RecorderOptions recording;
  recording.meter = &*meter;
  gm::Result<gm::Recorder> recorder = gm::Recorder::try_create(recording);
  CHECK(recorder);
  CHECK(recorder->try_mark().ok() && recorder->try_flush().ok() && recorder->try_metrics());
  CHECK(mentions(recorder->try_log("no JSON"), GMOE_INVALID_ARGUMENT, ""));
  CHECK(recorder->try_log(R"({"kind": "names", "layer": 0, "names": ["verbs", ""], "given": [true, false]})").ok());
  CHECK(
      mentions(recorder->try_log(R"({"kind": "names", "layer": 0, "names": "verbs"})"), GMOE_INVALID_ARGUMENT, "line"));
  CHECK(recorder->try_close().ok());
  CHECK(mentions(recorder->try_mark(), GMOE_INVALID_HANDLE, "recorder"));
  CHECK(!gm::try_record_csv("/nowhere/run.jsonl", "/nowhere/run.csv").ok());
}

static void monitors() {
  gm::MonitorOptions options;
  options.address = "127.0.0.1:0";
  const gm::Result<gm::Monitor> monitor = gm::Monitor::try_start(options);
  CHECK(monitor);
  CHECK(monitor->try_url()->find("http://127.0.0.1:") == 0);
  CHECK(mentions(monitor->try_log("no JSON"), GMOE_INVALID_ARGUMENT, ""));
  CHECK(!monitor->try_open("/nowhere/run.jsonl").ok());
  const gm::Result<gm::Recorder> recorder = gm::Recorder::try_create();
  CHECK(recorder && monitor->try_attach(*recorder).ok());
  options.address = "0.0.0.0:0";
  CHECK(mentions(gm::Monitor::try_start(options).error(), GMOE_INVALID_ARGUMENT, "allow_remote"));
}

static void bfloat16() {
  const auto round = [](float value) { return static_cast<float>(gm::bfloat16(value)); };
  CHECK(round(1.0f) == 1.0f && round(-2.5f) == -2.5f);
  CHECK(round(1.00390625f) == 1.0f && round(1.01171875f) == 1.015625f); /* ties to even */
  CHECK(round(3.4e38f) == std::numeric_limits<float>::infinity());
  CHECK(std::isnan(round(std::numeric_limits<float>::quiet_NaN())));
}

static void library() {
  CHECK(gm::fits());
  CHECK(*gm::try_device_count(kDLCPU) == 1);
  const gm::Result<std::string> found = gm::try_doctor();
  CHECK(found && found->front() == '{' && found->back() == '}');
  CHECK(found->find(gm::version()) != std::string::npos);
}

#if GENESIS_MOE_EXCEPTIONS
static void exceptions() {
  gm::EngineOptions options;
  options.num_threads = -1;
  try {
    gm::Engine engine(options);
    CHECK(!"an engine of -1 threads");
  } catch (const gm::Error &error) {
    CHECK(error.status() == GMOE_INVALID_ARGUMENT && std::string(error.what()).find("num_threads: -1") == 0);
  }
  CHECK(gm::device_count(kDLCPU) == 1 && gm::doctor().front() == '{');
  const gm::Engine engine;
  CHECK(engine.counters().tokens == 0);
}
#endif

int main() {
  engines();
  views();
  eight_bits();
  clans();
  meters();
  monitors();
  bfloat16();
  library();
#if GENESIS_MOE_EXCEPTIONS
  exceptions();
#endif
}
