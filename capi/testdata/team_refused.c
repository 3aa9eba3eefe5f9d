/* Run with a value of GENESIS_MOE_THREADS that is none: an engine says so. */
#include "check.h"

int main(void) {
  gmoe_engine *engine;
  FAILS(gmoe_engine_create(NULL, &engine), GMOE_INVALID_ARGUMENT, "GENESIS_MOE_THREADS: \"two\", want openmp or own");
  return 0;
}
