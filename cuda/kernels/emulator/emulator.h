/* A GPU of one block, or one cluster of blocks, at a time, on the host: enough of CUDA to run our kernels in a test.
 *
 * The threads of a block are fibers. Each runs alone until it must wait for others, at
 * __syncthreads or at a collective of its warp, so an emulated kernel is deterministic and
 * can be stepped through in a debugger. It is stricter than a GPU:
 *
 *   - Shared memory starts as NaN (all bits set) in every block.
 *   - A barrier that not all threads reach, or reach on different lines, and a collective
 *     whose lanes disagree about mask or line, end the launch with a message.
 *   - Threads and blocks run in an order of the caller's choice (launch.h: a seed). A result
 *     that depends on it lacks a barrier.
 *   - copy_async copies at the wait, not before: what is read too early is still NaN.
 *   - Atomics exist for integers only, so no sum of floats can depend on an order.
 *   - Tensors in guarded memory (launch.h) fault at the first byte past their end.
 *
 * It says nothing about speed, registers or memory ordering between blocks, and blocks cannot
 * wait for each other: a kernel that needs all blocks to be there at once does not end.
 *
 * Kernels include ../simt.h, never this. */
#ifndef GMOE_EMULATOR_H_
#define GMOE_EMULATOR_H_

#include "language.h"
#include "block.h"
#include "bf16.h"
#include "warp.h"
#include "tensor_core.h"
#include "atomic.h"
#include "launch.h"

#endif
