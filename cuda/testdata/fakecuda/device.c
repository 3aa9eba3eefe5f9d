/* Devices, their primary contexts, and streams. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

#define MOST_DEVICES 16

static context primary[MOST_DEVICES];
static __thread context *stack[64];
static __thread int depth;

int fake_devices(void) { return (int)fake_setting("FAKE_CUDA_DEVICES", 2); }

context *fake_current(void) { return depth > 0 ? stack[depth - 1] : NULL; }

#ifndef WITHOUT_INIT
DRIVER_API int cuInit(unsigned flags) {
  ENTER();
  return flags == 0 ? SUCCESS : INVALID_VALUE;
}
#endif

DRIVER_API int cuDriverGetVersion(int *version) {
  ENTER();
  *version = (int)fake_setting("FAKE_CUDA_VERSION", 13000);
  return SUCCESS;
}

DRIVER_API int cuDeviceGetCount(int *count) {
  ENTER();
  *count = fake_devices();
  return SUCCESS;
}

DRIVER_API int cuDeviceGet(int *device, int ordinal) {
  ENTER();
  *device = ordinal;
  return ordinal >= 0 && ordinal < fake_devices() ? SUCCESS : INVALID_DEVICE;
}

DRIVER_API int cuDeviceGetName(char *name, int size, int device) {
  ENTER();
  snprintf(name, (size_t)size, "Fake H200 #%d", device);
  return device < fake_devices() ? SUCCESS : INVALID_DEVICE;
}

DRIVER_API int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  ENTER();
  *bytes = (size_t)fake_setting("FAKE_CUDA_MEMORY", 141L << 30);
  return device < fake_devices() ? SUCCESS : INVALID_DEVICE;
}

/* An H200's, numbered as CUdevice_attribute. */
DRIVER_API int cuDeviceGetAttribute(int *value, int attribute, int device) {
  ENTER();
  const int capability = (int)fake_setting("FAKE_CUDA_CAPABILITY", 90);
  switch (attribute) {
    case 1: *value = 1024; break;             /* MAX_THREADS_PER_BLOCK */
    case 16: *value = 132; break;             /* MULTIPROCESSOR_COUNT */
    case 38: *value = 60 << 20; break;        /* L2_CACHE_SIZE */
    case 75: *value = capability / 10; break; /* COMPUTE_CAPABILITY_MAJOR */
    case 76: *value = capability % 10; break; /* COMPUTE_CAPABILITY_MINOR */
    case 81: *value = 228 << 10; break;       /* MAX_SHARED_MEMORY_PER_MULTIPROCESSOR */
    case 97: *value = 227 << 10; break;       /* MAX_SHARED_MEMORY_PER_BLOCK_OPTIN */
    default: fake_log("attribute %d is not one that the fake knows", attribute); return INVALID_VALUE;
  }
  return device >= 0 && device < fake_devices() ? SUCCESS : INVALID_DEVICE;
}

DRIVER_API int cuDevicePrimaryCtxRetain(context **out, int device) {
  ENTER();
  if (device < 0 || device >= fake_devices()) return INVALID_DEVICE;
  primary[device].device = device;
  primary[device].retained++;
  *out = &primary[device];
  return SUCCESS;
}

DRIVER_API int cuCtxPushCurrent_v2(context *c) {
  ENTER();
  if (c == NULL || c->retained == 0) return INVALID_CONTEXT;
  if (depth == sizeof stack / sizeof stack[0]) abort(); /* somebody forgets to pop */
  stack[depth++] = c;
  return SUCCESS;
}

DRIVER_API int cuCtxPopCurrent_v2(context **c) {
  ENTER();
  if (depth == 0) return INVALID_CONTEXT;
  *c = stack[--depth];
  return SUCCESS;
}

DRIVER_API int cuCtxSetCurrent(context *c) {
  ENTER();
  if (depth == 0) depth = 1;
  stack[depth - 1] = c;
  return SUCCESS;
}

DRIVER_API int cuCtxGetCurrent(context **c) {
  ENTER();
  *c = fake_current();
  return SUCCESS;
}

DRIVER_API int cuStreamSynchronize(void *stream) {
  (void)stream; /* Everything is done when the call that asked for it returns. */
  ENTER_CONTEXT();
  return fake_forbidden() ? STREAM_CAPTURE_UNSUPPORTED : SUCCESS;
}

DRIVER_API int cuCtxSynchronize(void) {
  ENTER_CONTEXT();
  return fake_forbidden() ? STREAM_CAPTURE_UNSUPPORTED : SUCCESS;
}
