/* A CUDA driver for tests, on machines without a GPU: a libcuda.so.1 that keeps "device
 * memory" in host memory, records what is asked of it, fails where it is told to, and runs
 * the kernels that were compiled for the host (cuda/kernels/emulator). It is no GPU: it
 * says whether our calls are right, not whether our kernels are fast or free of races.
 *
 * It is stricter than a driver where that finds mistakes of ours. Device memory is out of
 * the host's reach but while a call of the driver or a kernel uses it, has pages that
 * fault on both sides, and is full of NaN at first; contexts, streams and the limits of a
 * launch are checked; and what a stream capture forbids can be refused (FAKE_CUDA_CAPTURING).
 *
 * The environment says how it behaves:
 *   FAKE_CUDA_DEVICES     number of devices (2)
 *   FAKE_CUDA_VERSION     what cuDriverGetVersion says (13000)
 *   FAKE_CUDA_CAPABILITY  compute capability, ten times (90)
 *   FAKE_CUDA_MEMORY      bytes of memory of a device; an allocation past them fails (141 GiB)
 *   FAKE_CUDA_KERNELS     the shared object of emulated kernels; without one launches do
 *                         nothing, and every kernel whose name starts with gmoe_ is there
 *   FAKE_CUDA_SEED        shuffles threads and blocks (0: ascending)
 *   FAKE_CUDA_CAPTURING   1: every stream is being captured
 *   FAKE_CUDA_FAIL        function=status or function:n=status (the n-th call, from 1), comma
 *                         separated: "cuLaunchKernelEx:3=719". What loses a device
 *                         (700, 719, ...) is returned by every later call.
 *   FAKE_CUDA_LOG         a file that each call adds a line to
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef GMOE_FAKE_CUDA_H_
#define GMOE_FAKE_CUDA_H_

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* The results that it gives by itself, numbered as in cuda.h. */
enum {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  LAUNCH_FAILED = 719,
  STREAM_CAPTURE_UNSUPPORTED = 900
};

typedef struct context {
  int device;
  int retained;
} context;

/* settings.c */
long fake_setting(const char *name, long otherwise);
const char *fake_text(const char *name);
/* Counts and logs a call; its status is what the call is to return unless SUCCESS. */
int fake_enter(const char *function);
/* Whether the calling thread may wait or allocate; what a capture in the default mode forbids. */
int fake_forbidden(void);
void fake_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The device is lost: later calls return this status. */
void fake_lose(int status);

/* device.c */
context *fake_current(void); /* the thread's context, or NULL */
int fake_devices(void);

/* memory.c */
void fake_memory_begin(void); /* from here on the thread may reach device memory, others wait */
void fake_memory_end(void);

#define ENTER()                               \
  do {                                        \
    const int status_ = fake_enter(__func__); \
    if (status_ != SUCCESS) return status_;   \
  } while (0)
#define ENTER_CONTEXT()                                 \
  do {                                                  \
    ENTER();                                            \
    if (fake_current() == NULL) return INVALID_CONTEXT; \
  } while (0)

#define DRIVER_API __attribute__((visibility("default")))

#endif
