/* Engines run on the team of an OpenMP runtime that the host has loaded, when that has as many threads as the
 * engine and none of them is busy; and what they compute is, bit for bit, what one thread computes.
 * Arguments: "openmp", or "own" where no runtime's threads may be used; the runtime that is used; more runtimes. */
#include <dlfcn.h>
#include <pthread.h>

#include "check.h"

enum { TOKENS = 2048, HIDDEN = 64, EXPERTS = 8, WIDTH = 64, SLOTS = 2, THREADS = 3 };

static float x[TOKENS * HIDDEN], up[EXPERTS * 2 * WIDTH * HIDDEN], down[EXPERTS * HIDDEN * WIDTH],
    weights[TOKENS * SLOTS];
static float expected[TOKENS * HIDDEN], output[TOKENS * HIDDEN];
static int64_t ids[TOKENS * SLOTS];

static void fill(float *values, size_t n, uint32_t seed) {
  for (size_t i = 0; i < n; i++) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = (float)((double)seed / 2147483648.0 - 1.0);
  }
}

static gmoe_engine *create(int32_t threads) {
  gmoe_engine_options options = GMOE_ENGINE_OPTIONS_INIT;
  gmoe_engine *engine = NULL;
  options.num_threads = threads;
  OK(gmoe_engine_create(&options, &engine));
  return engine;
}

static void forward(gmoe_engine *engine, float *into) {
  int64_t xs[2] = {TOKENS, HIDDEN}, slots[2] = {TOKENS, SLOTS}, us[3] = {EXPERTS, 2 * WIDTH, HIDDEN},
          ds[3] = {EXPERTS, HIDDEN, WIDTH};
  DLTensor hidden_states = tensor(x, kDLFloat, 32, 2, xs), index = tensor(ids, kDLInt, 64, 2, slots);
  DLTensor gates = tensor(weights, kDLFloat, 32, 2, slots), y = tensor(into, kDLFloat, 32, 2, xs);
  DLTensor gate_up_proj = tensor(up, kDLFloat, 32, 3, us), down_proj = tensor(down, kDLFloat, 32, 3, ds);
  gmoe_experts_options options = GMOE_EXPERTS_OPTIONS_INIT;
  gmoe_experts_forward_args args = GMOE_EXPERTS_FORWARD_ARGS_INIT;
  args.options = &options;
  args.hidden_states = &hidden_states, args.top_k_index = &index, args.top_k_weights = &gates;
  args.gate_up_proj = &gate_up_proj, args.down_proj = &down_proj, args.output = &y;
  OK(gmoe_experts_forward(engine, &args));
}

struct fake {
  int *regions, *team_size, *busy, *fewer;
};

static struct fake load(const char *path) {
  void *runtime = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  struct fake f;
  CHECK(runtime != NULL);
  f.regions = dlsym(runtime, "regions"), f.team_size = dlsym(runtime, "team_size");
  f.busy = dlsym(runtime, "busy"), f.fewer = dlsym(runtime, "fewer");
  CHECK(f.regions != NULL && f.team_size != NULL && f.busy != NULL && f.fewer != NULL);
  return f;
}

static void *call(void *engine) {
  float *mine = malloc(sizeof output);
  CHECK(mine != NULL);
  for (int i = 0; i < 10; i++) {
    memset(mine, 0, sizeof output);
    forward(engine, mine);
    CHECK(memcmp(mine, expected, sizeof output) == 0);
  }
  free(mine);
  return NULL;
}

int main(int count, char **arguments) {
  gmoe_engine *one, *three;
  struct fake runtime, other;
  pthread_t callers[4];
  int own;
  CHECK(count >= 3);
  own = strcmp(arguments[1], "own") == 0;
  fill(x, TOKENS * HIDDEN, 1), fill(up, sizeof up / sizeof *up, 2), fill(down, sizeof down / sizeof *down, 3);
  fill(weights, TOKENS * SLOTS, 4);
  for (int i = 0; i < TOKENS * SLOTS; i++) ids[i] = (i * 5 + i / 7) % EXPERTS;

  one = create(1);
  forward(one, expected);
  OK(gmoe_engine_destroy(one));

  for (int i = 3; i < count; i++) other = load(arguments[i]), *other.team_size = THREADS;
  runtime = load(arguments[2]);
  three = create(THREADS); /* which is when runtimes are looked for */
  for (int round = 0; round < 25; round++) {
    const int before = *runtime.regions;
    /* Its team; a smaller one; a larger one; one that is in a parallel region; one that gives fewer threads than asked for. */
    *runtime.team_size = round % 5 == 1 ? THREADS - 1 : round % 5 == 2 ? THREADS + 1 : THREADS;
    *runtime.busy = round % 5 == 3, *runtime.fewer = round % 5 == 4;
    if (count > 3) *other.busy = *runtime.busy;
    memset(output, 0, sizeof output);
    forward(three, output);
    CHECK(memcmp(output, expected, sizeof output) == 0);
    CHECK((*runtime.regions > before) == ((round % 5 == 0 || round % 5 == 4) && !own));
  }
  *runtime.busy = *runtime.fewer = 0;
  for (int i = 0; i < 4; i++) CHECK(pthread_create(&callers[i], NULL, call, three) == 0);
  for (int i = 0; i < 4; i++) CHECK(pthread_join(callers[i], NULL) == 0);
  OK(gmoe_engine_destroy(three));
  return 0;
}
