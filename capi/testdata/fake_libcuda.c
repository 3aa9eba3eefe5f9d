/* A CUDA driver for tests: two devices, and the failures that the environment asks for. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int setting(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text != NULL ? atoi(text) : otherwise;
}

static int initialized;

#ifndef WITHOUT_INIT
int cuInit(unsigned flags) {
  const int status = flags == 0 ? setting("FAKE_CUDA_INIT", 0) : 1;
  initialized = status == 0;
  fputs("fake: cuInit\n", stderr);
  return status;
}
#endif

int cuDriverGetVersion(int *version) {
  *version = setting("FAKE_CUDA_VERSION", 12090);
  return 0;
}

int cuDeviceGetCount(int *count) {
  *count = 2;
  return initialized ? setting("FAKE_CUDA_COUNT", 0) : 3;
}

int cuDeviceGetName(char *name, int size, int device) {
  snprintf(name, (size_t)size, "Fake H200 #%d", device);
  return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  *bytes = (size_t)141 << 30;
  return device < 2 ? 0 : 101;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 9 : 0; /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR */
  return device < 2 ? 0 : 101;
}
