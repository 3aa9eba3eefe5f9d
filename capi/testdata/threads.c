/* Eight threads that share an engine get, bit for bit, what one thread gets; messages
 * stay with their threads. */
#include <pthread.h>

#include "check.h"

enum { THREADS = 8, ROUNDS = 50 };

static gmoe_engine *engine;
static struct layer expected[THREADS];

static void compute(struct layer *l) {
  OK(gmoe_router_forward(engine, &l->route));
  OK(gmoe_experts_forward(engine, &l->forward));
}

static void *work(void *at) {
  const struct layer *want = at;
  const uint32_t seed = (uint32_t)(want - expected);
  char text[64];
  snprintf(text, sizeof text, "device_type: %d", -1 - (int)seed);
  for (int round = 0; round < ROUNDS; round++) {
    struct layer *l = malloc(sizeof *l);
    int32_t count;
    CHECK(l != NULL);
    layer_init(l, seed);
    compute(l);
    CHECK(memcmp(l->output, want->output, sizeof l->output) == 0);
    CHECK(memcmp(l->weights, want->weights, sizeof l->weights) == 0);
    CHECK(memcmp(l->top_k_index, want->top_k_index, sizeof l->top_k_index) == 0);
    FAILS(gmoe_device_count(-1 - (int)seed, &count), GMOE_INVALID_ARGUMENT, text);
    free(l);
  }
  return NULL;
}

int main(void) {
  pthread_t threads[THREADS];
  gmoe_counters counters = GMOE_COUNTERS_INIT;
  OK(gmoe_engine_create(NULL, &engine));
  for (uint32_t i = 0; i < THREADS; i++) {
    layer_init(&expected[i], i);
    compute(&expected[i]);
  }
  for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work, &expected[i]) == 0);
  for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  OK(gmoe_engine_counters(engine, &counters));
  CHECK(counters.experts_calls == THREADS * (ROUNDS + 1));
  CHECK(counters.tokens == (uint64_t)T * THREADS * (ROUNDS + 1));
  OK(gmoe_engine_destroy(engine));
  return 0;
}
