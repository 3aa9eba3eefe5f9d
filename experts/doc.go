// Package experts computes the experts of a Mixture-of-Experts layer: tokens are
// dispatched to the experts that a routing names, each expert is a feed-forward
// network of its own, and a token's results are summed with the routing's weights:
//
//	z   = gate_up_proj[e] x_t + gate_up_bias[e]
//	h   = act(z)                                   SwiGLU: silu(gate) * up
//	y_t = sum over slots k of w_tk (down_proj[e] h + down_bias[e]),   e = index_tk
//
// [Forward] and [Backward] take the tensors that genesis_moe.h describes. Nothing is
// dropped and nothing is padded: what an expert computes is exactly its tokens.
//
// # How it runs on the CPU
//
// A counting sort groups the (token, slot) pairs by expert. An expert's rows form a
// unit, or several when there are many. Work on a unit is cut into steps by columns,
// so that a single token keeps every core busy too; small units are done whole, and where tokens have many small
// experts, these go by blocks of tokens. Steps wait for one another and not
// for the end of a phase, and their number and sizes follow from the routing and the
// shapes alone: results do not depend on the number of threads.
package experts
