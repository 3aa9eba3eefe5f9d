/* Needs the library built with the tag gmoe_inject_panic, whose backend for device type
 * 3 panics: the host gets INTERNAL and the cause, and goes on. */
#include <pthread.h>

#include "check.h"

static void *panics(void *unused) {
  int32_t count;
  for (int i = 0; i < 100; i++) FAILS(gmoe_device_count(3, &count), GMOE_INTERNAL, "injected for the test");
  return unused;
}

int main(void) {
  pthread_t threads[4];
  int32_t count = 0;
  panics(NULL);
  CHECK(strstr(gmoe_last_error(), "inject_panic.go:") != NULL);
  for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, panics, NULL) == 0);
  for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  OK(gmoe_device_count(kDLCPU, &count));
  CHECK(count == 1);
  return 0;
}
