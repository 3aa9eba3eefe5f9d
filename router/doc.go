// Package router turns tokens into routings: for every token the experts that
// take it and their gates.
//
// One options struct, [core.RouterOptions], has three modes, so that a comparison of
// routers differs only where it should:
//
//	mode         score                  choice                        gate
//	hamiltonian  -u (cosine or dot)     top-k of -(u+mu), or the gap  softmax over the chosen of -u/T_g
//	mixtral      linear logits          top-k                         softmax, renormalised over the chosen or not
//	deepseek     sigmoid of the logits  top-k of score+bias, groups   score, renormalised or not, scaled
//
// Mixtral's mode is also Qwen3-MoE's (normalize_top_k as norm_topk_prob), OLMoE's
// (not normalised) and gpt-oss's (a bias; the softmax over the chosen logits is the
// renormalised one).
//
// [Forward] and [Backward] are the two passes, [Update] moves prices and the gap
// after an optimiser step, [Report] measures a routing. The energy they share, its
// equation and sources are with the type energy.
//
// # Conventions
//
// Slots are ordered best first, equal scores by lower index. Price, correction bias
// and groups steer the choice only, never the gate. In deepseek's mode only experts of
// the chosen groups can be chosen: Hugging Face scores the others 0, which lets one
// of them win over a negative biased score.
//
// A token whose logits hold a NaN or an infinity gets valid, distinct experts (NaN
// counts as the worst score) and gates that are NaN; no other token is touched. An
// infinite price or a correction bias of -Inf, in contrast, only bars an expert.
//
// In hamiltonian mode a price of +Inf closes an expert: memory that is reserved for a clan
// to come. It is never chosen, not by a token of NaN either, and [Update] and [Report] work
// as if it were not there; its centroid, which must be finite, gets no gradient from gates.
// At least top_k experts are open. Solver batch reads no price and so knows no closed ones.
//
// Experts that split are below the router: [Descend] takes a token from the clans that it
// chose to slots, which are the experts' weights, and [Observe] measures where to split.
//
// Results do not depend on the number of threads: tokens are cut into blocks whose
// size depends on the shapes alone, and sums over blocks are taken in their order.
// With float32 and bfloat16 hidden states the logits of a token, and so its route,
// do not depend on the other tokens, bit for bit; with float64 up to rounding.
package router
