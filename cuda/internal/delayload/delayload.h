/* Driver libraries that are loaded when they are asked for; see delayload.c.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef GENESIS_MOE_DELAYLOAD_H_
#define GENESIS_MOE_DELAYLOAD_H_

#include <stddef.h>

struct gmoe_delay_symbol {
  const char *name;
  void **slot;
};

struct gmoe_delay_library {
  const char *file;                        /* what to give to dlopen */
  const struct gmoe_delay_symbol *symbols; /* what to look up in it */
  size_t count;
  void *missing; /* what slots hold whose symbol the library lacks */
};

extern struct gmoe_delay_library gmoe_delay_libcuda;
extern struct gmoe_delay_library gmoe_delay_libnvidia_ml;

/* Opens the library and fills the slots. Returns NULL, or why the loader refused:
 * the text is the loader's, valid until this thread's next dl* call. */
const char *gmoe_delay_open(struct gmoe_delay_library *library);

/* The file that the library was loaded from. Call it after a successful open. */
const char *gmoe_delay_path(const struct gmoe_delay_library *library);

#endif /* GENESIS_MOE_DELAYLOAD_H_ */
