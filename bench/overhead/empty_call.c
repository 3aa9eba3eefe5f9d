/* Prints the nanoseconds of one empty call into the library and of one that
 * enters Go, as JSON. Built and run by the study `overhead`. */
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "genesis_moe.h"

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(void) {
  const int calls = 200000;
  gmoe_engine *engine = NULL;
  gmoe_counters counters = GMOE_COUNTERS_INIT;
  double version_ns, counters_ns, start;
  uint32_t sum = 0;
  int i;

  if (gmoe_engine_create(NULL, &engine) != GMOE_OK) {
    fprintf(stderr, "%s\n", gmoe_last_error());
    return 1;
  }
  start = now_ns();
  for (i = 0; i < calls; i++) sum += gmoe_abi_version();
  version_ns = (now_ns() - start) / calls;
  start = now_ns();
  for (i = 0; i < calls; i++) {
    if (gmoe_engine_counters(engine, &counters) != GMOE_OK) return 1;
  }
  counters_ns = (now_ns() - start) / calls;
  if (gmoe_engine_destroy(engine) != GMOE_OK || sum != (uint32_t)calls * GMOE_ABI_VERSION) return 1;
  printf("{\"without_go_ns\": %.1f, \"into_go_ns\": %.1f}\n", version_ns, counters_ns);
  return 0;
}
