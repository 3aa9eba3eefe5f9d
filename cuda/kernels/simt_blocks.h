/* GMOE_KERNEL_BLOCKS(name, Params, threads, blocks): a kernel as GMOE_KERNEL makes it, for which the compiler
 * keeps registers so few that this many blocks fit a multiprocessor, and no fewer. */
#ifndef GMOE_SIMT_BLOCKS_H_
#define GMOE_SIMT_BLOCKS_H_

#include "simt.h"

#ifdef __CUDACC__
#define GMOE_KERNEL_BLOCKS(name, Params, threads, blocks) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p)
#else
#define GMOE_KERNEL_BLOCKS(name, Params, threads, blocks) GMOE_KERNEL(name, Params, threads)
#endif

#endif
