/* Runs the engine's workers on the threads of the host's OpenMP runtime.
 *
 * PyTorch's operators run on such a team, whose threads wait for the next operator by spinning, for
 * milliseconds. Workers of our own would share the processors with them: a call right after an operator
 * took up to 1.7 times as long. And a thread that spins begins at once, where one that sleeps has to be
 * woken. The runtime is used only where the process has loaded one already; nothing is linked with.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "team.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __linux__
#include <limits.h>
#include <link.h>

enum { MOST_RUNTIMES = 4 };

/* GOMP_parallel is what GCC makes of a parallel region; LLVM's and Intel's runtimes have it, too. */
struct runtime {
  char path[PATH_MAX];
  void (*parallel)(void (*work)(void *), void *data, unsigned threads, unsigned flags);
  int (*max_threads)(void);
  int (*in_parallel)(void);
};

static struct runtime runtimes[MOST_RUNTIMES]; /* filled in order, never changed */
static atomic_int runtime_count;
static atomic_flag looking = ATOMIC_FLAG_INIT;

struct found {
  char paths[MOST_RUNTIMES][PATH_MAX];
  int count;
};

static int is_openmp(const char *path) {
  static const char *const names[] = {"libgomp", "libomp", "libiomp5"};
  const char *base = strrchr(path, '/');
  base = base == NULL ? path : base + 1;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const size_t length = strlen(names[i]);
    if (strncmp(base, names[i], length) == 0 && strchr(".-_", base[length]) != NULL && base[length] != 0) return 1;
  }
  return 0;
}

static int note(struct dl_phdr_info *info, size_t size, void *data) {
  struct found *found = data;
  (void)size;
  if (info->dlpi_name == NULL || !is_openmp(info->dlpi_name)) return 0;
  if (found->count == MOST_RUNTIMES || strlen(info->dlpi_name) >= PATH_MAX) return 0;
  strcpy(found->paths[found->count++], info->dlpi_name);
  return 0;
}

static int known(const char *path) {
  const int count = atomic_load(&runtime_count);
  for (int i = 0; i < count; i++)
    if (strcmp(runtimes[i].path, path) == 0) return 1;
  return 0;
}

/* Whether this process was forked and has run no other program since: PF_FORKNOEXEC of the kernel's flags. A team that
 * the parent had is gone then, which its runtime does not know: a parallel region would wait for ever. */
static int was_forked(void) {
  enum { FLAGS = 9 - 2, FORK_NO_EXEC = 0x40 };
  char text[1024];
  const char *at;
  size_t length;
  FILE *file = fopen("/proc/self/stat", "re");
  if (file == NULL) return 1;
  length = fread(text, 1, sizeof text - 1, file);
  (void)fclose(file);
  text[length] = 0;
  at = strrchr(text, ')'); /* the end of the second field, the program's name */
  for (int field = 0; at != NULL && field < FLAGS; field++) at = strchr(at + 1, ' ');
  return at == NULL || (strtoul(at + 1, NULL, 10) & FORK_NO_EXEC) != 0;
}

int gmoe_team_look(void) {
  static struct found found; /* too large for a stack that a host may have made small */
  if (atomic_flag_test_and_set(&looking)) return atomic_load(&runtime_count); /* another thread is at it */
  found.count = 0;
  if (!was_forked()) (void)dl_iterate_phdr(note, &found);
  for (int i = 0; i < found.count; i++) {
    const int count = atomic_load(&runtime_count);
    struct runtime *r = &runtimes[count];
    void *library;
    if (count == MOST_RUNTIMES || known(found.paths[i])) continue;
    /* Loaded as it is, this only keeps it from being unloaded. */
    library = dlopen(found.paths[i], RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL) continue;
    *(void **)&r->parallel = dlsym(library, "GOMP_parallel");
    *(void **)&r->max_threads = dlsym(library, "omp_get_max_threads");
    *(void **)&r->in_parallel = dlsym(library, "omp_in_parallel");
    if (r->parallel == NULL || r->max_threads == NULL || r->in_parallel == NULL) {
      (void)dlclose(library);
      continue;
    }
    strcpy(r->path, found.paths[i]);
    atomic_store(&runtime_count, count + 1);
  }
  atomic_flag_clear(&looking);
  return atomic_load(&runtime_count);
}

const char *gmoe_team_path(int i) { return i >= atomic_load(&runtime_count) ? "" : runtimes[i].path; }

struct team {
  uintptr_t work;
  atomic_uint next;
};

extern void goTeamWork(uintptr_t work, unsigned worker);

static void member(void *data) {
  struct team *team = data;
  const unsigned worker = atomic_fetch_add(&team->next, 1);
  goTeamWork(team->work, worker);
}

/* The runtime whose team has n threads; NULL when there is none, or it is not clear which one the host uses. */
static const struct runtime *fitting(int n) {
  const int count = atomic_load(&runtime_count);
  const struct runtime *found = NULL;
  int fit = 0;
  for (int i = 0; i < count; i++)
    if (runtimes[i].in_parallel()) return NULL;
  for (int i = 0; i < count; i++) {
    /* A runtime ends or makes threads when the team's size changes: one of another size is left alone. */
    if (runtimes[i].max_threads() != n) continue;
    if (strstr(runtimes[i].path, "/torch/") != NULL) return &runtimes[i]; /* the one that PyTorch brings */
    found = &runtimes[i];
    fit++;
  }
  return fit == 1 ? found : NULL;
}

int gmoe_team_run(uintptr_t work, unsigned n) {
  const struct runtime *runtime = fitting((int)n);
  struct team team = {work, 0};
  if (runtime == NULL) return 0;
  runtime->parallel(member, &team, n, 0);
  return 1;
}

#else

int gmoe_team_look(void) { return 0; }
const char *gmoe_team_path(int i) {
  (void)i;
  return "";
}
int gmoe_team_run(uintptr_t work, unsigned n) {
  (void)work;
  (void)n;
  return 0;
}

#endif
