package vector

import "math"

func expTwin(y, x []float32) {
	for i := range y {
		y[i] = float32(math.Exp(float64(x[i])))
	}
}

func softmaxTwin(y, x []float32) {
	top := float32(math.Inf(-1))
	for _, v := range x {
		top = max(top, v)
	}
	sum := 0.0
	for i, v := range x {
		y[i] = float32(math.Exp(float64(v - top)))
		sum += float64(y[i])
	}
	scaleTwin(y, float32(1/sum), y)
}

// sigmoid is 1/(1 + exp(-g)), by the exponential of -|g|, which cannot overflow.
func sigmoid(g float32) float32 {
	e := float32(math.Exp(-math.Abs(float64(g))))
	if g < 0 {
		return e / (1 + e)
	}
	return 1 / (1 + e)
}

// sigmoidVanishes is beyond where the sigmoid is 0 in float32. Gates are clamped
// there where they multiply what vanishes: Inf*0 would be NaN.
const sigmoidVanishes = 128

func swiGLUTwin(h, gate, up []float32) {
	for i := range h {
		h[i] = max(gate[i], -sigmoidVanishes) * sigmoid(gate[i]) * up[i]
	}
}

func swiGLUBackwardTwin(dGate, dUp, scaledH, gate, up, dh []float32, weight float32) (dot float32) {
	for i := range dGate {
		g, u, d := gate[i], up[i], dh[i]
		s := sigmoid(g)
		silu := max(g, -sigmoidVanishes) * s
		slope := s * (1 + max(min(g, sigmoidVanishes), -sigmoidVanishes)*(1-s))
		h := silu * u
		dot += h * d
		scaledH[i] = weight * h
		dUp[i] = weight * d * silu
		dGate[i] = weight * d * u * slope
	}
	return dot
}
