/* Modules, their kernels, and launches. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernels/emulator/launch.h"
#include "../../kernels/emulator/tensor_map.h"
#include "fake.h"

#define FATBIN_MAGIC 0xba55ed50u
#define SHARED_BY_DEFAULT (48 << 10)
#define SHARED_AT_MOST (227 << 10)

typedef struct module {
  context *owner;
  void *library; /* of emulated kernels, or NULL */
} module;

typedef struct function {
  module *owner;
  char name[128];
  const struct gmoe_emulated_kernel *kernel; /* NULL: a launch is only recorded */
  int dynamic_shared_bytes;                  /* the most that a launch may ask for */
} function;

/* CUlaunchConfig. */
typedef struct launch_config {
  unsigned grid[3], block[3], shared_bytes;
  void *stream;
  void *attributes;
  unsigned attribute_count;
} launch_config;

DRIVER_API int cuModuleLoadData(module **out, const void *image) {
  ENTER_CONTEXT();
  if (fake_forbidden()) return STREAM_CAPTURE_UNSUPPORTED;
  uint32_t magic;
  memcpy(&magic, image, sizeof magic);
  if (magic != FATBIN_MAGIC) return INVALID_IMAGE;
  module *m = calloc(1, sizeof *m);
  m->owner = fake_current();
  const char *path = fake_text("FAKE_CUDA_KERNELS");
  if (path != NULL && (m->library = dlopen(path, RTLD_NOW | RTLD_LOCAL)) == NULL) {
    fprintf(stderr, "fake libcuda: %s\n", dlerror());
    return INVALID_IMAGE;
  }
  *out = m;
  return SUCCESS;
}

DRIVER_API int cuModuleGetFunction(function **out, module *m, const char *name) {
  ENTER_CONTEXT();
  if (m->owner != fake_current()) return INVALID_CONTEXT;
  const struct gmoe_emulated_kernel *kernel = m->library != NULL ? dlsym(m->library, name) : NULL;
  if (m->library != NULL ? kernel == NULL || kernel->magic != GMOE_EMULATED_KERNEL : strncmp(name, "gmoe_", 5) != 0)
    return NOT_FOUND;
  function *f = calloc(1, sizeof *f);
  f->owner = m;
  snprintf(f->name, sizeof f->name, "%s", name);
  f->kernel = kernel;
  f->dynamic_shared_bytes = SHARED_BY_DEFAULT;
  *out = f;
  return SUCCESS;
}

DRIVER_API int cuFuncGetAttribute(int *value, int attribute, function *f) {
  ENTER_CONTEXT();
  (void)f;
  if (attribute != 1) return INVALID_VALUE; /* CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES */
  *value = 0;
  return SUCCESS;
}

DRIVER_API int cuFuncSetAttribute(function *f, int attribute, int value) {
  ENTER_CONTEXT();
  if (attribute != 8 || value < 0 || value > SHARED_AT_MOST) /* ..._MAX_DYNAMIC_SHARED_SIZE_BYTES */
    return INVALID_VALUE;
  f->dynamic_shared_bytes = value;
  return SUCCESS;
}

static void record(const launch_config *c, const function *f, const void *params) {
  char hex[8193] = "";
  const size_t bytes = f->kernel != NULL ? f->kernel->params_bytes : 0;
  for (size_t i = 0; i < bytes && 2 * i + 2 < sizeof hex; i++)
    snprintf(hex + 2 * i, 3, "%02x", ((const unsigned char *)params)[i]);
  fake_log("launch device %d kernel %s grid %u %u %u block %u %u %u shared %u stream %p params %s",
           f->owner->owner->device, f->name, c->grid[0], c->grid[1], c->grid[2], c->block[0], c->block[1], c->block[2],
           c->shared_bytes, c->stream, hex);
}

/* Whether a device of ours could run this: the limits of compute capability 9.0. */
static int fits(const launch_config *c, const function *f) {
  const unsigned *g = c->grid, *b = c->block;
  return g[0] - 1 < 0x7fffffffu && g[1] - 1 < 65535 && g[2] - 1 < 65535 && b[0] - 1 < 1024 && b[1] - 1 < 1024 &&
         b[2] - 1 < 64 && b[0] * b[1] * b[2] <= 1024 && c->shared_bytes <= (unsigned)f->dynamic_shared_bytes;
}

typedef int (*emulate)(const struct gmoe_emulated_kernel *, const uint32_t *, const uint32_t *, uint32_t, const void *,
                       uint64_t);

DRIVER_API int cuLaunchKernelEx(const launch_config *c, function *f, void **params, void **extra) {
  ENTER_CONTEXT();
  if (f->owner->owner != fake_current()) return INVALID_HANDLE;
  if (params == NULL || extra != NULL || c->attribute_count != 0 || !fits(c, f)) return INVALID_VALUE;
  record(c, f, params[0]);
  if (f->kernel == NULL) return SUCCESS;
  emulate launch = (emulate)dlsym(f->owner->library, "gmoe_emulator_launch");
  fake_memory_begin();
  const int failed =
      launch(f->kernel, c->grid, c->block, c->shared_bytes, params[0], (uint64_t)fake_setting("FAKE_CUDA_SEED", 0));
  fake_memory_end();
  if (!failed) return SUCCESS;
  const char *(*why)(void) = (const char *(*)(void))dlsym(f->owner->library, "gmoe_emulator_error");
  fprintf(stderr, "fake libcuda: %s: %s\n", f->name, why());
  fake_lose(LAUNCH_FAILED);
  return LAUNCH_FAILED;
}

DRIVER_API int cuTensorMapEncodeTiled(void *map, unsigned type, uint32_t rank, void *address, const uint64_t *size,
                                      const uint64_t *stride, const uint32_t *box, const uint32_t *step,
                                      unsigned interleave, unsigned swizzle, unsigned promotion, unsigned fill) {
  ENTER_CONTEXT();
  return gmoe_encode_map(map, type, rank, (uintptr_t)address, size, stride, box, step, interleave, swizzle, promotion,
                         fill)
             ? INVALID_VALUE
             : SUCCESS;
}
