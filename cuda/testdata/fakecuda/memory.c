/* Device memory: host memory that nobody reaches but the driver and its kernels. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake.h"

#define ALIGNMENT 256 /* of what cuMemAlloc gives */
#define NAN_BYTE 0xff /* floats of any size are NaN, indices are absurd */

typedef struct allocation {
  char *pages; /* the first is one that faults, as is the last */
  size_t mapped;
  char *memory; /* ends where the last page begins, up to the alignment */
  size_t bytes;
  int device;
} allocation;

static allocation table[4096];
static size_t used;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static void protect(const allocation *a, int protection) {
  mprotect(a->pages + page(), a->mapped - 2 * page(), protection);
}

void fake_memory_begin(void) {
  pthread_mutex_lock(&mutex);
  for (size_t i = 0; i < used; i++) protect(&table[i], PROT_READ | PROT_WRITE);
}

void fake_memory_end(void) {
  for (size_t i = 0; i < used; i++) protect(&table[i], PROT_NONE);
  pthread_mutex_unlock(&mutex);
}

/* Whether [address, address + bytes) lies in one allocation of the current device. */
static int holds(uint64_t address, size_t bytes) {
  for (size_t i = 0; i < used; i++) {
    const uint64_t first = (uint64_t)(uintptr_t)table[i].memory;
    if (address >= first && bytes <= table[i].bytes && address - first <= table[i].bytes - bytes)
      return table[i].device == fake_current()->device;
  }
  return 0;
}

DRIVER_API int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  ENTER_CONTEXT();
  if (fake_forbidden()) return STREAM_CAPTURE_UNSUPPORTED;
  if (bytes == 0) return INVALID_VALUE;
  pthread_mutex_lock(&mutex);
  size_t total = bytes;
  for (size_t i = 0; i < used; i++) total += table[i].device == fake_current()->device ? table[i].bytes : 0;
  const size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  const size_t room = (rounded + page() - 1) / page() * page();
  char *pages = MAP_FAILED;
  if (total <= (size_t)fake_setting("FAKE_CUDA_MEMORY", 141L << 30) && used < sizeof table / sizeof table[0])
    pages = mmap(NULL, room + 2 * page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages != MAP_FAILED) {
    allocation *a = &table[used++];
    *a = (allocation){pages, room + 2 * page(), pages + page() + room - rounded, bytes, fake_current()->device};
    protect(a, PROT_READ | PROT_WRITE);
    memset(pages + page(), NAN_BYTE, room);
    protect(a, PROT_NONE);
    *address = (uint64_t)(uintptr_t)a->memory;
  }
  pthread_mutex_unlock(&mutex);
  return pages != MAP_FAILED ? SUCCESS : OUT_OF_MEMORY;
}

/* Also looks whether somebody wrote beside the allocation, which the pages do not show
 * where its size is no multiple of theirs. */
static int damaged(const allocation *a) {
  const char *end = a->pages + a->mapped - page();
  for (const char *p = a->pages + page(); p < end; p++) {
    if (p == a->memory) p += a->bytes;
    if (p < end && (unsigned char)*p != NAN_BYTE) return 1;
  }
  return 0;
}

DRIVER_API int cuMemFree_v2(uint64_t address) {
  ENTER_CONTEXT();
  if (fake_forbidden()) return STREAM_CAPTURE_UNSUPPORTED;
  int status = INVALID_VALUE;
  pthread_mutex_lock(&mutex);
  for (size_t i = 0; i < used; i++) {
    allocation *a = &table[i];
    if ((uint64_t)(uintptr_t)a->memory != address) continue;
    protect(a, PROT_READ);
    status = SUCCESS;
    if (damaged(a)) {
      fake_log("memory beside the %zu bytes at %p was written", a->bytes, (void *)a->memory);
      fake_lose(status = 700);
    }
    munmap(a->pages, a->mapped);
    *a = table[--used];
    break;
  }
  pthread_mutex_unlock(&mutex);
  return status;
}

static int copy(void *to, const void *from, size_t bytes, uint64_t device) {
  fake_memory_begin();
  const int inside = holds(device, bytes);
  if (inside) memcpy(to, from, bytes);
  fake_memory_end();
  return inside ? SUCCESS : INVALID_VALUE;
}

DRIVER_API int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
  ENTER_CONTEXT();
  return copy((void *)(uintptr_t)to, from, bytes, to);
}

DRIVER_API int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) {
  ENTER_CONTEXT();
  return copy(to, (const void *)(uintptr_t)from, bytes, from);
}

DRIVER_API int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
  (void)stream;
  ENTER_CONTEXT();
  return copy(to, (const void *)(uintptr_t)from, bytes, from);
}

DRIVER_API int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void *stream) {
  ENTER_CONTEXT();
  fake_log("memset device %d bytes %zu value %d stream %p", fake_current()->device, bytes, value, stream);
  fake_memory_begin();
  const int inside = holds(address, bytes);
  if (inside) memset((void *)(uintptr_t)address, value, bytes);
  fake_memory_end();
  return inside ? SUCCESS : INVALID_VALUE;
}
