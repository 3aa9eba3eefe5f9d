/* Prints the number of CUDA devices, what comes of an engine on the first, and the
 * doctor's report. */
#include "check.h"

int main(void) {
  static char text[65536];
  gmoe_engine_options options = GMOE_ENGINE_OPTIONS_INIT;
  gmoe_engine *engine;
  gmoe_status status;
  int32_t count = -1;
  OK(gmoe_device_count(kDLCUDA, &count));
  options.device_type = kDLCUDA;
  status = gmoe_engine_create(&options, &engine);
  CHECK((status == GMOE_OK) == (engine != NULL));
  printf("%d\n%s: %s\n", (int)count, gmoe_status_name(status), gmoe_last_error());
  OK(gmoe_engine_destroy(engine));
  OK(gmoe_doctor(text, sizeof text, NULL));
  puts(text);
  return 0;
}
