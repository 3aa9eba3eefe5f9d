/* The threads of an OpenMP runtime that the process has loaded.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef GENESIS_MOE_TEAM_H_
#define GENESIS_MOE_TEAM_H_

#include <stdint.h>

/* Looks for OpenMP runtimes that were loaded since the last time; how many there are. */
int gmoe_team_look(void);

/* The path of the i-th runtime; "" when there are not so many. */
const char *gmoe_team_path(int i);

/* Calls goTeamWork(work, worker) on each thread of the caller's team, if that has n threads, and returns
 * 1; 0 when no runtime has such a team, several have and none is PyTorch's, or the caller is in a parallel region. */
int gmoe_team_run(uintptr_t work, unsigned n);

#endif /* GENESIS_MOE_TEAM_H_ */
