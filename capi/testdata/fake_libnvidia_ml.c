/* An NVML for tests: GPUs with a power limit of 700 W, whose energy counters run with the
 * clock in ticks, and the failures that the environment asks for. Functions that are not
 * here are missing, as in an old driver.
 *
 *   FAKE_NVML_INIT         what nvmlInit returns (0)
 *   FAKE_NVML_GPUS         how many GPUs there are (1, at most 8)
 *   FAKE_NVML_WATTS        what each draws (123.456)
 *   FAKE_NVML_TICK         seconds between updates of the counters (0.1)
 *   FAKE_NVML_LOST_AFTER   seconds after which GPU 0 no longer answers (never)
 *   FAKE_NVML_FOUND_AFTER  seconds after which it answers again (never)
 *   FAKE_NVML_RESET_AFTER  seconds after which the counters begin anew (never) */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GPUS = 8, GPU_IS_LOST = 15 };
static int gpus[GPUS];

static double setting(const char *name, double otherwise) {
  const char *text = getenv(name);
  return text != NULL ? atof(text) : otherwise;
}

/* Seconds since the first call. */
static double elapsed(void) {
  static double begin;
  struct timespec now;
  double seconds;
  clock_gettime(CLOCK_MONOTONIC, &now);
  seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
  if (begin == 0) begin = seconds;
  return seconds - begin;
}

/* The status of a question about a device. */
static int known(const void *device) {
  const double now = elapsed();
  if (device < (const void *)gpus || device >= (const void *)(gpus + GPUS)) return 2;
  if (device == gpus && now >= setting("FAKE_NVML_LOST_AFTER", HUGE_VAL) &&
      now < setting("FAKE_NVML_FOUND_AFTER", HUGE_VAL))
    return GPU_IS_LOST;
  return 0;
}

int nvmlInit_v2(void) {
  elapsed();
  return (int)setting("FAKE_NVML_INIT", 0);
}
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
  *count = (unsigned)setting("FAKE_NVML_GPUS", 1);
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = &gpus[index % GPUS];
  return index < (unsigned)setting("FAKE_NVML_GPUS", 1) ? 0 : 2;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  int index;
  *device = NULL;
  if (strcmp(uuid, "GPU-fake") == 0) return nvmlDeviceGetHandleByIndex_v2(0, device);
  return sscanf(uuid, "GPU-fake-%d", &index) == 1 ? nvmlDeviceGetHandleByIndex_v2((unsigned)index, device) : 6;
}
int nvmlDeviceGetName(void *device, char *name, unsigned size) {
  snprintf(name, size, "Fake H200");
  return known(device) == 2 ? 2 : 0;
}
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size) {
  if (device == gpus)
    snprintf(uuid, size, "GPU-fake");
  else
    snprintf(uuid, size, "GPU-fake-%d", (int)((int *)device - gpus));
  return known(device) == 2 ? 2 : 0;
}
#ifndef WITHOUT_POWER
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) {
  *milliwatts = 700000;
  return known(device);
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
  *milliwatts = (unsigned)(1000 * setting("FAKE_NVML_WATTS", 123.456) + 0.5);
  return known(device);
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
  const double tick = setting("FAKE_NVML_TICK", 0.1), reset = setting("FAKE_NVML_RESET_AFTER", HUGE_VAL);
  double now = floor(elapsed() / tick) * tick, before = 1e6;
  if (now >= reset) now -= reset, before = 0;
  *millijoules = (unsigned long long)(1000 * (before + setting("FAKE_NVML_WATTS", 123.456) * now));
  return known(device);
}
#endif
