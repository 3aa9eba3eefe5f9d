/* Fibers: stacks that take turns on one host thread. */
#ifndef GMOE_EMULATOR_FIBER_H_
#define GMOE_EMULATOR_FIBER_H_

#undef _FORTIFY_SOURCE /* its longjmp takes a switch of stacks for an attack */
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

/* ucontext makes a fiber and enters it the first time; then setjmp and longjmp switch, which,
 * unlike swapcontext, is no system call. */
class Fiber {
 public:
  static constexpr size_t stack_bytes = 128 << 10, guard_bytes = 4096;

  /* Starts entry at the next resume. It must end with finish, not return. */
  void start(void (*entry)()) {
    if (stack_ == nullptr) {
      stack_ = static_cast<char *>(
          mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      if (stack_ == MAP_FAILED || mprotect(stack_, guard_bytes, PROT_NONE) != 0) abort();
    }
    entry_ = entry;
    started_ = false;
  }

  /* Runs the fiber until it pauses or finishes. */
  void resume() {
    sanitizer_leave(&host_fake_stack_, stack_ + guard_bytes, stack_bytes - guard_bytes);
    if (_setjmp(host_) == 0) {
      if (started_) _longjmp(here_, 1);
      started_ = true;
      ucontext_t context;
      getcontext(&context);
      context.uc_stack.ss_sp = stack_ + guard_bytes;
      context.uc_stack.ss_size = stack_bytes - guard_bytes;
      context.uc_link = nullptr;
      makecontext(&context, entry_, 0);
      setcontext(&context);
    }
    sanitizer_arrive(host_fake_stack_, nullptr, nullptr);
  }

  /* The first thing that entry does. */
  void arrived() { sanitizer_arrive(nullptr, &host_stack_, &host_stack_bytes_); }

  /* Back to the one that resumed this fiber, from within it. */
  void pause() {
    sanitizer_leave(&fake_stack_, host_stack_, host_stack_bytes_);
    if (_setjmp(here_) == 0) _longjmp(host_, 1);
    sanitizer_arrive(fake_stack_, &host_stack_, &host_stack_bytes_);
  }
  [[noreturn]] void finish() {
    sanitizer_leave(nullptr, host_stack_, host_stack_bytes_);
    _longjmp(host_, 1);
  }

 private:
  /* AddressSanitizer must be told about every switch of stacks. */
  static void sanitizer_leave(void **fake, const void *bottom, size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(fake, bottom, bytes);
#else
    (void)fake, (void)bottom, (void)bytes;
#endif
  }
  static void sanitizer_arrive(void *fake, const void **bottom, size_t *bytes) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, bottom, bytes);
#else
    (void)fake, (void)bottom, (void)bytes;
#endif
  }

  char *stack_ = nullptr; /* kept for the next block, and the next launch */
  void (*entry_)() = nullptr;
  bool started_ = false;
  jmp_buf here_, host_;
  void *fake_stack_ = nullptr, *host_fake_stack_ = nullptr;
  const void *host_stack_ = nullptr;
  size_t host_stack_bytes_ = 0;
};

}  // namespace emulator

#endif
