/* Defines the functions of libcuda and libnvidia-ml that our Go packages call, each as
 * a jump through a slot. Until the library is opened, slots lead to a function that
 * returns a not-initialised status; opening it fills them by dlsym.
 *
 * So the object needs neither driver library to link, to load (RTLD_NOW included) or
 * to run: one binary serves machines with and without a GPU. The names are hidden, so
 * they do not get in the way of a host that links the real libraries.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* dladdr */
#include "delayload.h"

#include <dlfcn.h>

#include "zz_generated_libcuda.h"
#include "zz_generated_libnvidia_ml.h"

/* Every function of the two libraries returns a status of 32 bits or, one of them, a
 * pointer: long is wide enough for both. Numbers are those of cuda.h and nvml.h. */
static long cuda_not_loaded(void) { return 3; } /* CUDA_ERROR_NOT_INITIALIZED */
static long cuda_missing(void) { return 500; }  /* CUDA_ERROR_NOT_FOUND */
static long cuda_ok(void) { return 0; }
static long nvml_not_loaded(void) { return 1; } /* NVML_ERROR_UNINITIALIZED */
static long nvml_missing(void) { return 13; }   /* NVML_ERROR_FUNCTION_NOT_FOUND */
static const char *nvml_no_text(void) { return "NVML is not loaded"; }

/* What a slot leads to at first: AT_FIRST_name where that is defined, else usual. */
#define AT_FIRST(name, usual) PICK(AT_FIRST_##name, usual, )
#define PICK(...) SECOND(__VA_ARGS__)
#define SECOND(first, second, ...) second

/* gorgonia.org/cu calls cuInit when the program starts and ends the process when that
 * fails. Success here puts the real call off until somebody wants a device. */
#define AT_FIRST_cuInit , cuda_ok
#define AT_FIRST_nvmlErrorString , nvml_no_text

/* The initialisers are constants because Go's packages start on a thread of their own,
 * maybe before the constructors of C are done. */
#define SLOT(name, function) \
  __attribute__((visibility("hidden"), used)) void *delayload_slot_##name = (void *)(function);
#define CUDA_SLOT(name) SLOT(name, AT_FIRST(name, cuda_not_loaded))
#define NVML_SLOT(name) SLOT(name, AT_FIRST(name, nvml_not_loaded))
LIBCUDA_SYMBOLS(CUDA_SLOT)
LIBNVIDIA_ML_SYMBOLS(NVML_SLOT)

#if defined(__x86_64__)
#define JUMP(name) "endbr64\n jmp *delayload_slot_" #name "(%rip)\n"
#elif defined(__aarch64__)
#define JUMP(name) \
  "hint 34\n adrp x16, delayload_slot_" #name "\n ldr x16, [x16, :lo12:delayload_slot_" #name "]\n br x16\n"
#else
#error "write the jump through a slot for this processor"
#endif
#define TRAMPOLINE(name)                                                                                   \
  __asm__(".pushsection .text\n .globl " #name "\n .hidden " #name "\n .type " #name ", %function\n" #name \
          ":\n" JUMP(name) ".size " #name ", . - " #name "\n .popsection\n");
LIBCUDA_SYMBOLS(TRAMPOLINE)
LIBNVIDIA_ML_SYMBOLS(TRAMPOLINE)

#define SYMBOL(name) {#name, &delayload_slot_##name},
static const struct delayload_symbol libcuda_symbols[] = {LIBCUDA_SYMBOLS(SYMBOL)};
static const struct delayload_symbol libnvidia_ml_symbols[] = {LIBNVIDIA_ML_SYMBOLS(SYMBOL)};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
struct delayload_library delayload_libcuda = {libcuda_symbols, COUNT(libcuda_symbols), (void *)cuda_missing, NULL};
struct delayload_library delayload_libnvidia_ml = {libnvidia_ml_symbols, COUNT(libnvidia_ml_symbols),
                                                   (void *)nvml_missing, NULL};

const char *delayload_open(struct delayload_library *library, const char *file) {
  void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) return dlerror();
  for (size_t i = 0; i < library->count; i++) {
    void *function = dlsym(handle, library->symbols[i].name);
    *library->symbols[i].slot = function != NULL ? function : library->missing;
  }
  library->handle = handle; /* It stays open: the slots point into the library. */
  return NULL;
}

const char *delayload_path(const struct delayload_library *library) {
  Dl_info info;
  for (size_t i = 0; i < library->count; i++) {
    void *function = *library->symbols[i].slot;
    if (function != library->missing && dladdr(function, &info) != 0 && info.dli_fname != NULL) return info.dli_fname;
  }
  return NULL;
}
