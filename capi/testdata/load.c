/* The library loads with all symbols bound at once, and a host may close it and open
 * it again: the Go runtime cannot be unloaded, so the library stays in memory. */
#include <dlfcn.h>

#include "check.h"

typedef gmoe_status (*count_function)(int32_t, int32_t *);

static void use(void *library) {
  int32_t count = 0;
  count_function device_count;
  CHECK(library != NULL);
  *(void **)&device_count = dlsym(library, "gmoe_device_count");
  CHECK(device_count != NULL && device_count(kDLCPU, &count) == GMOE_OK && count == 1);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  for (int i = 0; i < 3; i++) {
    void *library = dlopen(argv[1], i % 2 ? RTLD_LAZY | RTLD_GLOBAL : RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) fprintf(stderr, "%s\n", dlerror());
    use(library);
    CHECK(dlclose(library) == 0);
  }
  return 0;
}
