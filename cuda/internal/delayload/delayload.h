/* Driver libraries that are loaded when they are asked for; see delayload.c.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef GENESIS_MOE_DELAYLOAD_H_
#define GENESIS_MOE_DELAYLOAD_H_

#include <stddef.h>

struct delayload_symbol {
  const char *name;
  void **slot;
};

struct delayload_library {
  const struct delayload_symbol *symbols; /* what to look up in it */
  size_t count;
  void *missing; /* what slots hold whose symbol the library lacks */
  void *handle;  /* of the loader; NULL until the library is open */
};

extern struct delayload_library delayload_libcuda;
extern struct delayload_library delayload_libnvidia_ml;

/* Opens the library from a file and fills the slots. Returns NULL, or why the loader refused:
 * the text is the loader's, valid until this thread's next dl* call. */
const char *delayload_open(struct delayload_library *library, const char *file);

/* The file that the open library was loaded from; NULL when the loader cannot tell. */
const char *delayload_path(const struct delayload_library *library);

#endif /* GENESIS_MOE_DELAYLOAD_H_ */
