/* The header alone, as C99 and as C++17: every initialiser fits its struct, and the
 * sizes are those of the fields that there are now. */
#include "genesis_moe.h"

#define IS(type, init, size)                                              \
  {                                                                       \
    type value = init;                                                    \
    if (sizeof(value) != (size) || value.struct_size != (size)) return 1; \
  }

int main(void) {
  IS(gmoe_engine_options, GMOE_ENGINE_OPTIONS_INIT, 20)
  IS(gmoe_counters, GMOE_COUNTERS_INIT, 64)
  IS(gmoe_router_options, GMOE_ROUTER_OPTIONS_INIT, 56)
  IS(gmoe_router_forward_args, GMOE_ROUTER_FORWARD_ARGS_INIT, 136)
  IS(gmoe_router_backward_args, GMOE_ROUTER_BACKWARD_ARGS_INIT, 152)
  IS(gmoe_router_update_args, GMOE_ROUTER_UPDATE_ARGS_INIT, 104)
  IS(gmoe_router_report, GMOE_ROUTER_REPORT_INIT, 128)
  IS(gmoe_router_report_args, GMOE_ROUTER_REPORT_ARGS_INIT, 72)
  IS(gmoe_clans_options, GMOE_CLANS_OPTIONS_INIT, 8)
  IS(gmoe_clans_descend_args, GMOE_CLANS_DESCEND_ARGS_INIT, 104)
  IS(gmoe_clans_observe_args, GMOE_CLANS_OBSERVE_ARGS_INIT, 144)
  IS(gmoe_experts_options, GMOE_EXPERTS_OPTIONS_INIT, 28)
  IS(gmoe_experts_forward_args, GMOE_EXPERTS_FORWARD_ARGS_INIT, 128)
  IS(gmoe_experts_backward_args, GMOE_EXPERTS_BACKWARD_ARGS_INIT, 152)
  IS(gmoe_experts_quantize_args, GMOE_EXPERTS_QUANTIZE_ARGS_INIT, 56)
  return gmoe_abi_version() == GMOE_ABI_VERSION ? 0 : 1;
}
