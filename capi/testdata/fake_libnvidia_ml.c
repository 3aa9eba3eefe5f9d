/* An NVML for tests: one GPU with a power limit of 700 W, and the failures that the
 * environment asks for. Functions that are not here are missing, as in an old driver. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int gpu;

int nvmlInit_v2(void) { return getenv("FAKE_NVML_INIT") != NULL ? atoi(getenv("FAKE_NVML_INIT")) : 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int status) {
  static char text[32];
  snprintf(text, sizeof text, "fake status %d", status);
  return text;
}
int nvmlSystemGetDriverVersion(char *version, unsigned size) {
  snprintf(version, size, "580.65.06");
  return 0;
}
int nvmlSystemGetNVMLVersion(char *version, unsigned size) {
  snprintf(version, size, "13.580.65.06");
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = 1;
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = &gpu;
  return index == 0 ? 0 : 2;
}
int nvmlDeviceGetName(void *device, char *name, unsigned size) {
  snprintf(name, size, "Fake H200");
  return device == &gpu ? 0 : 2;
}
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size) {
  snprintf(uuid, size, "GPU-fake");
  return device == &gpu ? 0 : 2;
}
#ifndef WITHOUT_POWER
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) {
  *milliwatts = 700000;
  return device == &gpu ? 0 : 2;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
  *milliwatts = 123456;
  return device == &gpu ? 0 : 2;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
  *millijoules = 1;
  return device == &gpu ? 0 : 2;
}
#endif
