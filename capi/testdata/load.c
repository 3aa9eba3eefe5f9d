/* The library loads with all symbols bound at once, and a host may close it and open
 * it again: the Go runtime cannot be unloaded, so the library stays in memory. A fault
 * handler that the host had before keeps getting the host's faults. */
#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "check.h"

typedef gmoe_status (*count_function)(int32_t, int32_t *);

static void use(void *library) {
  int32_t count = 0;
  count_function device_count;
  CHECK(library != NULL);
  *(void **)&device_count = dlsym(library, "gmoe_device_count");
  CHECK(device_count != NULL && device_count(kDLCPU, &count) == GMOE_OK && count == 1);
}

static sigjmp_buf back;

static void on_fault(int signal_number) { siglongjmp(back, signal_number); }

static void fault(void) {
  volatile char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  if (sigsetjmp(back, 1) == 0) {
    (void)*page;
    CHECK(!"the fault was lost");
  }
}

int main(int argc, char **argv) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_fault;
  CHECK(argc == 2 && sigaction(SIGSEGV, &action, NULL) == 0);
  for (int i = 0; i < 3; i++) {
    void *library = dlopen(argv[1], i % 2 ? RTLD_LAZY | RTLD_GLOBAL : RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) fprintf(stderr, "%s\n", dlerror());
    use(library);
    fault();
    CHECK(dlclose(library) == 0);
  }
  return 0;
}
