/* An OpenMP runtime for tests, of the functions that the library asks for: it counts the parallel regions,
 * and its team is as large, or as busy, as a test says; with `fewer`, a region gets only one thread. The environment
 * variable FAKE_TEAM is its size at first. */
#include <pthread.h>
#include <stdlib.h>

int regions, team_size, busy, fewer;

__attribute__((constructor)) static void begin(void) {
  const char *size = getenv("FAKE_TEAM");
  if (size != NULL) team_size = atoi(size);
}

int omp_get_max_threads(void) { return team_size; }
int omp_in_parallel(void) { return busy; }

struct region {
  void (*work)(void *);
  void *data;
};

static void *member(void *at) {
  const struct region *region = at;
  region->work(region->data);
  return NULL;
}

void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags) {
  struct region region = {work, data};
  pthread_t members[64];
  (void)flags;
  regions++;
  if (fewer) threads = 1;
  if (threads > 64) abort();
  for (unsigned i = 1; i < threads; i++)
    if (pthread_create(&members[i], NULL, member, &region) != 0) abort();
  work(data);
  for (unsigned i = 1; i < threads; i++) pthread_join(members[i], NULL);
}
