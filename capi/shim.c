/* The public symbols of libgenesis_moe.
 *
 * Go's //export cannot express const, so each function of genesis_moe.h is defined
 * here and forwards to a Go export of another name. What must work where Go cannot
 * run is here too: after a fork() the child has one thread and the Go runtime needs
 * several, so entering it would hang. And so is the thread's message, which has to
 * outlive the call: C can keep it for a thread, Go cannot.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "_cgo_export.h"
#include "genesis_moe.h"
#include "shim.h"

#define GMOE_PUBLIC __attribute__((visibility("default")))

static volatile int forked;
static pthread_key_t message_key;
static int have_message_key;

/* Shared by the threads that get no memory for one of their own. */
static char spare_message[GMOE_MESSAGE_CAPACITY];

static void note_fork(void) { forked = 1; }

/* Runs when the library is loaded, so before any call and any fork that matters.
 * Should this fail (no memory), forked children are not recognised and threads share
 * a message; refusing to load for that would help nobody. */
__attribute__((constructor)) static void prepare(void) {
  (void)pthread_atfork(NULL, NULL, note_fork);
  if (pthread_key_create(&message_key, free) == 0) have_message_key = 1;
}

/* The calling thread's message. It is not a __thread array because the Go runtime
 * makes the thread-local memory of the whole library static, and the loader has
 * little of that left for libraries loaded late: dlopen would fail. */
static char *message(void) {
  char *text;
  if (!have_message_key) return spare_message;
  text = pthread_getspecific(message_key);
  if (text != NULL) return text;
  text = calloc(1, GMOE_MESSAGE_CAPACITY);
  if (text == NULL || pthread_setspecific(message_key, text) != 0) {
    free(text);
    return spare_message;
  }
  return text;
}

__attribute__((format(printf, 2, 3))) static gmoe_status refuse(gmoe_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  (void)vsnprintf(message(), GMOE_MESSAGE_CAPACITY, format, arguments);
  va_end(arguments);
  return status;
}

/* Whether Go may be entered, and with these pointers. Go aborts the process when a
 * pointer on its stack is a small number, so such values stop here. */
#define CHECK_FORK()                                                                    \
  do {                                                                                  \
    if (forked)                                                                         \
      return refuse(GMOE_FORKED,                                                        \
                    "%s: called in a child of a process that loaded genesis-moe; load " \
                    "it after fork(), or start workers by spawn or exec",               \
                    __func__);                                                          \
  } while (0)
#define CHECK_ADDRESS(pointer)                                                                          \
  do {                                                                                                  \
    if ((uintptr_t)(pointer) - 1 < 4095)                                                                \
      return refuse(GMOE_INVALID_ARGUMENT, #pointer ": %p is not an address", (const void *)(pointer)); \
  } while (0)
#define CHECK_REQUIRED(pointer)                                                                  \
  do {                                                                                           \
    if ((pointer) == NULL) return refuse(GMOE_INVALID_ARGUMENT, #pointer ": is NULL, want one"); \
    CHECK_ADDRESS(pointer);                                                                      \
  } while (0)

GMOE_PUBLIC uint32_t gmoe_abi_version(void) { return GMOE_ABI_VERSION; }

GMOE_PUBLIC const char *gmoe_version(void) { return GMOE_VERSION; }

GMOE_PUBLIC const char *gmoe_last_error(void) { return message(); }

GMOE_PUBLIC const char *gmoe_status_name(gmoe_status status) {
  switch (status) {
    case GMOE_OK: return "OK";
    case GMOE_INVALID_ARGUMENT: return "INVALID_ARGUMENT";
    case GMOE_INVALID_HANDLE: return "INVALID_HANDLE";
    case GMOE_UNSUPPORTED: return "UNSUPPORTED";
    case GMOE_OUT_OF_MEMORY: return "OUT_OF_MEMORY";
    case GMOE_NO_DEVICE: return "NO_DEVICE";
    case GMOE_DRIVER: return "DRIVER";
    case GMOE_ABI_MISMATCH: return "ABI_MISMATCH";
    case GMOE_FORKED: return "FORKED";
    case GMOE_INTERNAL: return "INTERNAL";
    default: return "UNKNOWN";
  }
}

GMOE_PUBLIC gmoe_status gmoe_device_count(int32_t device_type, int32_t *out) {
  CHECK_FORK();
  CHECK_REQUIRED(out);
  return goDeviceCount(device_type, out, message());
}

GMOE_PUBLIC gmoe_status gmoe_doctor(char *buffer, size_t capacity, size_t *needed) {
  CHECK_FORK();
  CHECK_ADDRESS(buffer);
  CHECK_ADDRESS(needed);
  if (buffer == NULL && capacity != 0)
    return refuse(GMOE_INVALID_ARGUMENT, "buffer: is NULL, want %zu bytes or capacity 0", capacity);
  return goDoctor(buffer, capacity, needed, message());
}

GMOE_PUBLIC gmoe_status gmoe_engine_create(const gmoe_engine_options *options, gmoe_engine **out) {
  CHECK_FORK();
  CHECK_ADDRESS(options);
  CHECK_REQUIRED(out);
  return goEngineCreate((void *)options, (uintptr_t *)out, message());
}

GMOE_PUBLIC gmoe_status gmoe_engine_destroy(gmoe_engine *engine) {
  CHECK_FORK();
  if (engine == NULL) return GMOE_OK;
  return goEngineDestroy((uintptr_t)engine, message());
}

GMOE_PUBLIC gmoe_status gmoe_engine_counters(gmoe_engine *engine, gmoe_counters *out) {
  CHECK_FORK();
  CHECK_REQUIRED(out);
  return goEngineCounters((uintptr_t)engine, out, message());
}

GMOE_PUBLIC gmoe_status gmoe_engine_expert_work(gmoe_engine *engine, int32_t layer, uint64_t *out, size_t capacity,
                                                size_t *experts) {
  CHECK_FORK();
  CHECK_ADDRESS(out);
  CHECK_ADDRESS(experts);
  if (out == NULL && capacity != 0)
    return refuse(GMOE_INVALID_ARGUMENT, "out: is NULL, want room for %zu experts or capacity 0", capacity);
  return goEngineExpertWork((uintptr_t)engine, layer, out, capacity, experts, message());
}

GMOE_PUBLIC gmoe_status gmoe_router_forward(gmoe_engine *engine, const gmoe_router_forward_args *args) {
  CHECK_FORK();
  CHECK_REQUIRED(args);
  return goRouterForward((uintptr_t)engine, (void *)args, message());
}

GMOE_PUBLIC gmoe_status gmoe_router_backward(gmoe_engine *engine, const gmoe_router_backward_args *args) {
  CHECK_FORK();
  CHECK_REQUIRED(args);
  return goRouterBackward((uintptr_t)engine, (void *)args, message());
}

GMOE_PUBLIC gmoe_status gmoe_router_update(gmoe_engine *engine, const gmoe_router_update_args *args) {
  CHECK_FORK();
  CHECK_REQUIRED(args);
  return goRouterUpdate((uintptr_t)engine, (void *)args, message());
}

GMOE_PUBLIC gmoe_status gmoe_router_report_compute(gmoe_engine *engine, const gmoe_router_report_args *args,
                                                   gmoe_router_report *out) {
  CHECK_FORK();
  CHECK_REQUIRED(args);
  CHECK_REQUIRED(out);
  return goRouterReport((uintptr_t)engine, (void *)args, out, message());
}

GMOE_PUBLIC gmoe_status gmoe_clans_descend(gmoe_engine *engine, const gmoe_clans_descend_args *args) {
  CHECK_FORK();
  CHECK_REQUIRED(args);
  return goClansDescend((uintptr_t)engine, (void *)args, message());
}

GMOE_PUBLIC gmoe_status gmoe_clans_observe(gmoe_engine *engine, const gmoe_clans_observe_args *args) {
  CHECK_FORK();
  CHECK_REQUIRED(args);
  return goClansObserve((uintptr_t)engine, (void *)args, message());
}

GMOE_PUBLIC gmoe_status gmoe_experts_forward(gmoe_engine *engine, const gmoe_experts_forward_args *args) {
  CHECK_FORK();
  CHECK_REQUIRED(args);
  return goExpertsForward((uintptr_t)engine, (void *)args, message());
}

GMOE_PUBLIC gmoe_status gmoe_experts_backward(gmoe_engine *engine, const gmoe_experts_backward_args *args) {
  CHECK_FORK();
  CHECK_REQUIRED(args);
  return goExpertsBackward((uintptr_t)engine, (void *)args, message());
}

GMOE_PUBLIC gmoe_status gmoe_experts_quantize(gmoe_engine *engine, const gmoe_experts_quantize_args *args) {
  CHECK_FORK();
  CHECK_REQUIRED(args);
  return goExpertsQuantize((uintptr_t)engine, (void *)args, message());
}

/* The operations' _workspace_size functions differ in nothing but their names. */
#define WORKSPACE_SIZE(operation, Operation)                                                                          \
  GMOE_PUBLIC gmoe_status gmoe_##operation##_workspace_size(gmoe_engine *engine, const gmoe_##operation##_args *args, \
                                                            uint64_t *out) {                                          \
    CHECK_FORK();                                                                                                     \
    CHECK_REQUIRED(args);                                                                                             \
    CHECK_REQUIRED(out);                                                                                              \
    return go##Operation##Workspace((uintptr_t)engine, (void *)args, out, message());                                 \
  }
WORKSPACE_SIZE(router_forward, RouterForward)
WORKSPACE_SIZE(router_backward, RouterBackward)
WORKSPACE_SIZE(router_update, RouterUpdate)
WORKSPACE_SIZE(router_report, RouterReport)
WORKSPACE_SIZE(clans_descend, ClansDescend)
WORKSPACE_SIZE(clans_observe, ClansObserve)
WORKSPACE_SIZE(experts_forward, ExpertsForward)
WORKSPACE_SIZE(experts_backward, ExpertsBackward)
WORKSPACE_SIZE(experts_quantize, ExpertsQuantize)

GMOE_PUBLIC gmoe_status gmoe_meter_create(const gmoe_meter_options *options, gmoe_meter **out) {
  CHECK_FORK();
  CHECK_ADDRESS(options);
  CHECK_REQUIRED(out);
  return goMeterCreate((void *)options, (uintptr_t *)out, message());
}

GMOE_PUBLIC gmoe_status gmoe_meter_destroy(gmoe_meter *meter) {
  CHECK_FORK();
  if (meter == NULL) return GMOE_OK;
  return goMeterDestroy((uintptr_t)meter, message());
}

GMOE_PUBLIC gmoe_status gmoe_meter_begin(gmoe_meter *meter, const char *name) {
  CHECK_FORK();
  CHECK_REQUIRED(name);
  return goMeterBegin((uintptr_t)meter, (char *)name, message());
}

GMOE_PUBLIC gmoe_status gmoe_meter_end(gmoe_meter *meter, const char *name, double wait_seconds,
                                       gmoe_meter_reading *out) {
  CHECK_FORK();
  CHECK_REQUIRED(name);
  CHECK_REQUIRED(out);
  return goMeterEnd((uintptr_t)meter, (char *)name, wait_seconds, out, message());
}

GMOE_PUBLIC gmoe_status gmoe_meter_describe(gmoe_meter *meter, char *buffer, size_t capacity, size_t *needed) {
  CHECK_FORK();
  CHECK_ADDRESS(buffer);
  CHECK_ADDRESS(needed);
  if (buffer == NULL && capacity != 0)
    return refuse(GMOE_INVALID_ARGUMENT, "buffer: is NULL, want %zu bytes or capacity 0", capacity);
  return goMeterDescribe((uintptr_t)meter, buffer, capacity, needed, message());
}

GMOE_PUBLIC gmoe_status gmoe_recorder_create(const gmoe_recorder_options *options, gmoe_recorder **out) {
  CHECK_FORK();
  CHECK_REQUIRED(options);
  CHECK_REQUIRED(out);
  return goRecorderCreate((void *)options, (uintptr_t *)out, message());
}

GMOE_PUBLIC gmoe_status gmoe_recorder_log(gmoe_recorder *recorder, const char *line) {
  CHECK_FORK();
  CHECK_REQUIRED(line);
  return goRecorderLog((uintptr_t)recorder, (char *)line, message());
}

GMOE_PUBLIC gmoe_status gmoe_recorder_mark(gmoe_recorder *recorder) {
  CHECK_FORK();
  return goRecorderMark((uintptr_t)recorder, message());
}

GMOE_PUBLIC gmoe_status gmoe_recorder_flush(gmoe_recorder *recorder) {
  CHECK_FORK();
  return goRecorderFlush((uintptr_t)recorder, message());
}

GMOE_PUBLIC gmoe_status gmoe_recorder_metrics(gmoe_recorder *recorder, char *buffer, size_t capacity, size_t *needed) {
  CHECK_FORK();
  CHECK_ADDRESS(buffer);
  CHECK_ADDRESS(needed);
  if (buffer == NULL && capacity != 0)
    return refuse(GMOE_INVALID_ARGUMENT, "buffer: is NULL, want %zu bytes or capacity 0", capacity);
  return goRecorderMetrics((uintptr_t)recorder, buffer, capacity, needed, message());
}

GMOE_PUBLIC gmoe_status gmoe_recorder_destroy(gmoe_recorder *recorder) {
  CHECK_FORK();
  if (recorder == NULL) return GMOE_OK;
  return goRecorderDestroy((uintptr_t)recorder, message());
}

GMOE_PUBLIC gmoe_status gmoe_record_csv(const char *path, const char *csv_path) {
  CHECK_FORK();
  CHECK_REQUIRED(path);
  CHECK_REQUIRED(csv_path);
  return goRecordCSV((char *)path, (char *)csv_path, message());
}

GMOE_PUBLIC gmoe_status gmoe_monitor_start(const gmoe_monitor_options *options, gmoe_monitor **out) {
  CHECK_FORK();
  CHECK_ADDRESS(options);
  CHECK_REQUIRED(out);
  return goMonitorStart((void *)options, (uintptr_t *)out, message());
}

GMOE_PUBLIC gmoe_status gmoe_monitor_url(gmoe_monitor *monitor, char *buffer, size_t capacity, size_t *needed) {
  CHECK_FORK();
  CHECK_ADDRESS(buffer);
  CHECK_ADDRESS(needed);
  if (buffer == NULL && capacity != 0)
    return refuse(GMOE_INVALID_ARGUMENT, "buffer: is NULL, want %zu bytes or capacity 0", capacity);
  return goMonitorURL((uintptr_t)monitor, buffer, capacity, needed, message());
}

GMOE_PUBLIC gmoe_status gmoe_monitor_log(gmoe_monitor *monitor, const char *line, size_t length) {
  CHECK_FORK();
  CHECK_REQUIRED(line);
  return goMonitorLog((uintptr_t)monitor, (void *)line, length, message());
}

GMOE_PUBLIC gmoe_status gmoe_monitor_attach(gmoe_monitor *monitor, gmoe_recorder *recorder) {
  CHECK_FORK();
  return goMonitorAttach((uintptr_t)monitor, (uintptr_t)recorder, message());
}

GMOE_PUBLIC gmoe_status gmoe_monitor_open(gmoe_monitor *monitor, const char *path,
                                          const gmoe_monitor_file_options *options) {
  CHECK_FORK();
  CHECK_REQUIRED(path);
  CHECK_ADDRESS(options);
  return goMonitorOpen((uintptr_t)monitor, (char *)path, (void *)options, message());
}

GMOE_PUBLIC gmoe_status gmoe_monitor_stop(gmoe_monitor *monitor) {
  CHECK_FORK();
  if (monitor == NULL) return GMOE_OK;
  return goMonitorStop((uintptr_t)monitor, message());
}
