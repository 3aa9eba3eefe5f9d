/* Trains a Mixture-of-Experts layer in C++: a regression whose answer depends on which
 * of four kinds a token is. Prints the loss as it falls and how the experts share the
 * tokens; returns 0 when it has learnt.
 *
 *   c++ -std=c++17 train.cpp $(pkg-config --cflags --libs genesis_moe) -o train */
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "genesis_moe.hpp"

namespace gm = genesis_moe;

namespace {

/* Tokens, hidden size, experts, intermediate size, experts per token. */
constexpr std::int64_t T = 256, H = 16, E = 8, I = 24, K = 2;

std::mt19937 random_numbers(1);

std::vector<float> normal(std::int64_t n, float deviation) {
  std::normal_distribution<float> draw(0.0f, deviation);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float &value : values) value = draw(random_numbers);
  return values;
}

std::vector<float> zeros(std::int64_t n) { return std::vector<float>(static_cast<std::size_t>(n)); }

/* A parameter, its gradient, and Adam's state (Kingma and Ba, 2015). */
struct Parameter {
  std::vector<float> value, gradient, mean, square;
  gm::Shape shape;

  Parameter(std::vector<float> start, gm::Shape sizes)
      : value(std::move(start)), gradient(value.size()), mean(value.size()), square(value.size()), shape(sizes) {}

  void step(float rate, int t) {
    const float unbias_mean = 1.0f - std::pow(0.9f, static_cast<float>(t));
    const float unbias_square = 1.0f - std::pow(0.999f, static_cast<float>(t));
    for (std::size_t i = 0; i < value.size(); i++) {
      mean[i] += 0.1f * (gradient[i] - mean[i]);
      square[i] += 0.001f * (gradient[i] * gradient[i] - square[i]);
      value[i] -= rate * (mean[i] / unbias_mean) / (std::sqrt(square[i] / unbias_square) + 1e-8f);
    }
  }
};

class Layer {
 public:
  /* output [T, H] of hidden_states [T, H]. */
  void forward(const std::vector<float> &hidden_states, std::vector<float> &output) {
    gm::RouterForward route;
    route.hidden_states = gm::view(hidden_states, {T, H});
    route.centroids = gm::view(centroids.value, {E, H});
    route.price = gm::view(price, {E});
    route.temperature = gm::view(temperature, {1});
    route.top_k_index = gm::view(top_k_index, {T, K});
    route.top_k_weights = gm::view(top_k_weights, {T, K});
    route.logits = gm::view(logits, {T, E});
    route.counts = gm::view(counts, {E});
    engine.router_forward(route);

    gm::ExpertsForward run;
    run.hidden_states = gm::view(hidden_states, {T, H});
    run.top_k_index = gm::view(top_k_index, {T, K});
    run.top_k_weights = gm::view(top_k_weights, {T, K});
    run.gate_up_proj = gm::view(gate_up_proj.value, gate_up_proj.shape);
    run.down_proj = gm::view(down_proj.value, down_proj.shape);
    run.output = gm::view(output, {T, H});
    run.pre_activation = gm::view(pre_activation, {T * K, 2 * I});
    engine.experts_forward(run);
  }

  /* The gradients of the parameters, from that of the output; after forward. */
  void backward(const std::vector<float> &hidden_states, const std::vector<float> &grad_output) {
    gm::ExpertsBackward run;
    run.grad_output = gm::view(grad_output, {T, H});
    run.hidden_states = gm::view(hidden_states, {T, H});
    run.top_k_index = gm::view(top_k_index, {T, K});
    run.top_k_weights = gm::view(top_k_weights, {T, K});
    run.gate_up_proj = gm::view(gate_up_proj.value, gate_up_proj.shape);
    run.down_proj = gm::view(down_proj.value, down_proj.shape);
    run.pre_activation = gm::view(pre_activation, {T * K, 2 * I});
    run.grad_top_k_weights = gm::view(grad_top_k_weights, {T, K});
    run.grad_gate_up_proj = gm::view(gate_up_proj.gradient, gate_up_proj.shape);
    run.grad_down_proj = gm::view(down_proj.gradient, down_proj.shape);
    engine.experts_backward(run);

    gm::RouterBackward route;
    route.hidden_states = gm::view(hidden_states, {T, H});
    route.centroids = gm::view(centroids.value, {E, H});
    route.temperature = gm::view(temperature, {1});
    route.logits = gm::view(logits, {T, E});
    route.top_k_index = gm::view(top_k_index, {T, K});
    route.grad_top_k_weights = gm::view(grad_top_k_weights, {T, K});
    route.grad_centroids = gm::view(centroids.gradient, {E, H});
    engine.router_backward(route);
  }

  /* Moves the parameters, then the prices towards balanced loads. */
  void step(float rate, int t) {
    for (Parameter *parameter : {&centroids, &gate_up_proj, &down_proj}) parameter->step(rate, t);
    gm::RouterUpdate update;
    update.counts = gm::view(counts, {E});
    update.num_tokens = T;
    update.price = gm::view(price, {E});
    engine.router_update(update);
  }

  /* How the last forward shared the tokens. */
  gm::Report report() const {
    gm::RouterReport of;
    of.logits = gm::view(logits, {T, E});
    of.top_k_index = gm::view(top_k_index, {T, K});
    of.price = gm::view(price, {E});
    return engine.router_report(of);
  }

 private:
  gm::Engine engine;
  Parameter centroids{normal(E * H, 1.0f), {E, H}};
  Parameter gate_up_proj{normal(E * 2 * I * H, 0.25f), {E, 2 * I, H}};
  Parameter down_proj{normal(E * H * I, 0.2f), {E, H, I}};
  std::vector<float> price = zeros(E), temperature{0.2f};
  std::vector<std::int64_t> top_k_index = std::vector<std::int64_t>(T * K), counts = std::vector<std::int64_t>(E);
  std::vector<float> top_k_weights = zeros(T * K), logits = zeros(T * E), pre_activation = zeros(T * K * 2 * I);
  std::vector<float> grad_top_k_weights = zeros(T * K);
};

/* Tokens near one of four centres; the target is the token, turned in its kind's own way. */
struct Data {
  std::vector<float> centres = normal(4 * H, 1.0f);

  void batch(std::vector<float> &hidden_states, std::vector<float> &target) {
    std::uniform_int_distribution<std::int64_t> kinds(0, 3);
    hidden_states = normal(T * H, 0.5f);
    for (std::int64_t t = 0; t < T; t++) {
      const std::int64_t kind = kinds(random_numbers);
      float *x = hidden_states.data() + t * H;
      for (std::int64_t h = 0; h < H; h++) x[h] += centres[static_cast<std::size_t>(kind * H + h)];
      for (std::int64_t h = 0; h < H; h++) target[static_cast<std::size_t>(t * H + h)] = x[(h + kind * 3) % H];
    }
  }
};

/* The mean squared error, and its gradient in the output. */
float loss_of(const std::vector<float> &output, const std::vector<float> &target, std::vector<float> &gradient) {
  const float n = static_cast<float>(output.size());
  float sum = 0.0f;
  for (std::size_t i = 0; i < output.size(); i++) {
    const float difference = output[i] - target[i];
    sum += difference * difference;
    gradient[i] = 2.0f * difference / n;
  }
  return sum / n;
}

}  // namespace

int main() {
  try {
    Layer layer;
    Data data;
    std::vector<float> hidden_states, target = zeros(T * H), output = zeros(T * H), gradient = zeros(T * H);
    float first = 0.0f, loss = 0.0f;
    for (int step = 1; step <= 300; step++) {
      data.batch(hidden_states, target);
      layer.forward(hidden_states, output);
      loss = loss_of(output, target, gradient);
      layer.backward(hidden_states, gradient);
      layer.step(0.01f, step);
      if (step == 1) first = loss;
      if (step == 1 || step % 100 == 0) {
        const gm::Report report = layer.report();
        std::printf("step %3d  loss %.4f  MaxVio %.2f  energy %.3f\n", step, static_cast<double>(loss),
                    report.max_violation, report.energy);
      }
    }
    return loss < first / 4 ? 0 : 1;
  } catch (const gm::Error &error) {
    std::fprintf(stderr, "%s: %s\n", gmoe_status_name(error.status()), error.what());
    return 1;
  }
}
