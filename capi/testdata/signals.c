/* The host keeps its signals: its handlers run, for faults too, and a signal without a
 * handler ends the process as it did before. */
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static volatile sig_atomic_t interrupts;
static sigjmp_buf back;

static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupts++;
}

static void on_fault(int signal_number) { siglongjmp(back, signal_number); }

static void handle(int signal_number, void (*function)(int)) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = function;
  CHECK(sigaction(signal_number, &action, NULL) == 0);
}

/* Loads a page that may not be read; the handler must get the fault. */
static void fault(void) {
  volatile char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  if (sigsetjmp(back, 1) == 0) {
    (void)*page;
    CHECK(!"the fault was lost");
  }
}

static void dies_of(int signal_number) {
  int status;
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    raise(signal_number);
    _exit(0);
  }
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == signal_number);
}

int main(void) {
  struct layer l;
  gmoe_engine *engine;
  layer_init(&l, 1);
  handle(SIGINT, on_interrupt);
  OK(gmoe_engine_create(NULL, &engine));
  handle(SIGSEGV, on_fault); /* replaces Go's, as faulthandler of Python does */
  for (int i = 1; i <= 3; i++) {
    OK(gmoe_experts_forward(engine, &l.forward));
    CHECK(raise(SIGINT) == 0 && interrupts == i);
    fault();
  }
  dies_of(SIGTERM);
  OK(gmoe_engine_destroy(engine));
  return 0;
}
