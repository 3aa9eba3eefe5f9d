package vector

// SwiGLU writes h = silu(gate)*up, where silu(g) = g/(1 + exp(-g)). h may be gate
// or up. Both are at least as long as h. silu(-Inf) is -0.
func SwiGLU(h, gate, up []float32) { swiGLU(h, gate[:len(h)], up[:len(h)]) }

// SwiGLUBackward is the backward pass of weight*SwiGLU(gate, up), where dh is
// the gradient with respect to the weighted product. With h = silu(gate)*up it
// writes
//
//	dGate   = weight * dh * silu'(gate) * up
//	dUp     = weight * dh * silu(gate)
//	scaledH = weight * h
//
// and returns dot = sum h[i]*dh[i], the gradient of weight. dGate may be gate,
// dUp may be up, and scaledH may be dh. All are at least as long as dGate.
func SwiGLUBackward(dGate, dUp, scaledH, gate, up, dh []float32, weight float32) (dot float32) {
	n := len(dGate)
	return swiGLUBackward(dGate, dUp[:n], scaledH[:n], gate[:n], up[:n], dh[:n], weight)
}
