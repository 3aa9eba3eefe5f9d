/* What the shim and the Go side of the library agree on.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef GENESIS_MOE_SHIM_H_
#define GENESIS_MOE_SHIM_H_

/* The release. The packages of the bindings carry the same number. */
#define GMOE_VERSION "0.1.0"

/* Bytes of a thread's message, NUL included. A longer message is cut. */
#define GMOE_MESSAGE_CAPACITY 2048

#endif /* GENESIS_MOE_SHIM_H_ */
