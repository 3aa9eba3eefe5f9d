/* The parameters of the clans' kernels. cuda/clans.go mirrors them; a test compares sizes and
 * offsets. Members are ordered so that no compiler pads between them. */
#ifndef GMOE_CLANS_PARAMS_H_
#define GMOE_CLANS_PARAMS_H_

#include "router_params.h"

typedef struct {
  RouterView hidden_states;          /* [T, H] */
  RouterView clan_index, slot_index; /* [T, K] */
  RouterView root, children;         /* [C], [N, 2]; children absent: no nodes */
  RouterView direction, threshold;   /* [N, H], [N], or absent */
  RouterView slot_counts;            /* [E_max], or absent */
  int64_t tokens, hidden, chosen;
  int32_t clans, nodes, num_slots, reserved;
} ClansDescendParams;

typedef struct {
  RouterView hidden_states;              /* [T, H] */
  RouterView slot_index, binding;        /* [T, K]; binding may be absent */
  RouterView mean, axis, scale;          /* [E_max, H], [E_max, H], [E_max], or absent */
  RouterView counted, skipped, square;   /* [E_max], or absent, as are the next */
  RouterView sum, power;                 /* [E_max, H] */
  RouterView binding_sum, histogram;     /* [E_max], [E_max, 64] */
  int64_t tokens, hidden, chosen;
} ClansObserveParams;

#endif
