/* Engines come and go 10,000 times without a trace, a handle is destroyed once
 * however many threads try, and a handle is never given out again. */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "check.h"

enum { CYCLES = 10000, THREADS = 8, ROUNDS = 200 };

static long resident_pages(void) {
  long size, resident;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%ld %ld", &size, &resident) == 2);
  fclose(file);
  return resident;
}

static gmoe_engine *shared;
static pthread_barrier_t barrier;

static void *destroy(void *successes) {
  for (int round = 0; round < ROUNDS; round++) {
    pthread_barrier_wait(&barrier); /* shared was made */
    if (gmoe_engine_destroy(shared) == GMOE_OK)
      ++*(int *)successes;
    else
      CHECK(strstr(gmoe_last_error(), "engine") != NULL);
    pthread_barrier_wait(&barrier); /* all have tried */
  }
  return NULL;
}

static void concurrent_destroy(void) {
  pthread_t threads[THREADS];
  int successes[THREADS] = {0}, total = 0;
  CHECK(pthread_barrier_init(&barrier, NULL, THREADS + 1) == 0);
  for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, destroy, &successes[i]) == 0);
  for (int round = 0; round < ROUNDS; round++) {
    OK(gmoe_engine_create(NULL, &shared));
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    total += successes[i];
  }
  CHECK(total == ROUNDS);
}

static void cycle(int n) {
  struct layer l;
  static gmoe_engine *seen;
  layer_init(&l, 3);
  for (int i = 0; i < n; i++) {
    gmoe_engine *e;
    OK(gmoe_engine_create(NULL, &e));
    CHECK(e != seen);
    seen = e;
    if (i % 100 == 0) {
      OK(gmoe_router_forward(e, &l.route));
      OK(gmoe_experts_forward(e, &l.forward));
    }
    OK(gmoe_engine_destroy(e));
  }
}

int main(void) {
  char text[16384];
  long before, grown;
  cycle(CYCLES / 10); /* the heap finds its size */
  before = resident_pages();
  cycle(CYCLES);
  grown = (resident_pages() - before) * sysconf(_SC_PAGESIZE) / 1024;
  if (grown > 8192) fprintf(stderr, "resident memory grew by %ld KiB over %d engines\n", grown, CYCLES);
  CHECK(grown <= 8192);
  concurrent_destroy();
  OK(gmoe_doctor(text, sizeof text, NULL));
  CHECK(strstr(text, "\"live_engines\": 0") != NULL);
  return 0;
}
