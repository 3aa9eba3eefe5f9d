/* What the environment asks for, and what becomes of each call. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int initialized, lost;
static __thread int capture_mode; /* CU_STREAM_CAPTURE_MODE_GLOBAL */

const char *fake_text(const char *name) {
  const char *text = getenv(name);
  return text != NULL && text[0] != 0 ? text : NULL;
}

long fake_setting(const char *name, long otherwise) {
  const char *text = fake_text(name);
  return text != NULL ? strtol(text, NULL, 0) : otherwise;
}

void fake_log(const char *format, ...) {
  const char *path = fake_text("FAKE_CUDA_LOG");
  if (path == NULL) return;
  FILE *file = fopen(path, "a");
  if (file == NULL) return;
  va_list arguments;
  va_start(arguments, format);
  vfprintf(file, format, arguments);
  va_end(arguments);
  fputc('\n', file);
  fclose(file);
}

void fake_lose(int status) { lost = status; }

static int loses_device(int status) {
  return status == 214 || status == 700 || status == 702 || status == 709 || (status >= 714 && status <= 719);
}

/* How often each function was called. */
static int count(const char *function) {
  static struct {
    const char *name;
    int calls;
  } table[128];
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
    if (table[i].name == NULL) table[i].name = function;
    if (strcmp(table[i].name, function) == 0) return ++table[i].calls;
  }
  abort();
}

/* The status that FAKE_CUDA_FAIL has for the n-th call of a function. */
static int asked_failure(const char *function, int n) {
  const char *entry = fake_text("FAKE_CUDA_FAIL");
  const size_t length = strlen(function);
  for (; entry != NULL; entry = strchr(entry, ',')) {
    if (*entry == ',') entry++;
    if (strncmp(entry, function, length) != 0) continue;
    char *rest = (char *)entry + length;
    const long which = *rest == ':' ? strtol(rest + 1, &rest, 10) : n;
    if (*rest == '=' && which == n) return atoi(rest + 1);
  }
  return SUCCESS;
}

int fake_enter(const char *function) {
  pthread_mutex_lock(&mutex);
  int status = asked_failure(function, count(function));
  if (lost != SUCCESS) status = lost;
  if (strcmp(function, "cuInit") == 0) {
    initialized = status == SUCCESS;
  } else if (status == SUCCESS && !initialized && strcmp(function, "cuDriverGetVersion") != 0) {
    status = NOT_INITIALIZED;
  }
  if (loses_device(status)) lost = status;
  fake_log(status == SUCCESS ? "%s" : "%s -> %d", function, status);
  pthread_mutex_unlock(&mutex);
  return status;
}

int fake_forbidden(void) { return capture_mode == 0 && fake_setting("FAKE_CUDA_CAPTURING", 0) != 0; }

DRIVER_API int cuThreadExchangeStreamCaptureMode(int *mode) {
  ENTER();
  const int before = capture_mode;
  capture_mode = *mode;
  *mode = before;
  return SUCCESS;
}

DRIVER_API int cuStreamIsCapturing(void *stream, int *status) {
  ENTER();
  (void)stream;
  *status = fake_setting("FAKE_CUDA_CAPTURING", 0) != 0;
  return SUCCESS;
}

/* cuda.h has some ninety; these are the ones that tests ask for. */
static const struct {
  int status;
  const char *name, *text;
} results[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static int result(int status, const char **name, const char **text) {
  for (size_t i = 0; i < sizeof results / sizeof results[0]; i++) {
    if (results[i].status != status) continue;
    *name = results[i].name;
    *text = results[i].text;
    return SUCCESS;
  }
  *name = *text = NULL;
  return INVALID_VALUE;
}

DRIVER_API int cuGetErrorName(int status, const char **name) {
  const char *text;
  return result(status, name, &text);
}

DRIVER_API int cuGetErrorString(int status, const char **text) {
  const char *name;
  return result(status, &name, text);
}
