package vector

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func sigmoid64(g float64) float64 { return 1 / (1 + math.Exp(-g)) }

// swiGLUBackward64 is the derivative in float64, from the definition.
func swiGLUBackward64(g, u, d, weight float64) (dGate, dUp, h float64) {
	s := sigmoid64(g)
	return weight * d * u * (s + g*s*(1-s)), weight * d * g * s, g * s * u
}

func TestSwiGLU(t *testing.T) {
	onGuardedSlices(t, 3, func(t *testing.T, s [][]float32) {
		h, gate, up := s[0], s[1], s[2]
		SwiGLU(h, gate, up)
		requireNear(t, func(i int) float64 {
			return float64(gate[i]) * sigmoid64(float64(gate[i])) * float64(up[i])
		}, h, 4)
		SwiGLU(gate, gate, up)
		require.Equal(t, h, gate)
	})
}

// Gates of every size, where the exponential overflows and underflows too.
func TestSwiGLUOfEachSize(t *testing.T) {
	var gate []float32
	for bits := uint64(0); bits < 1<<32; bits += 9973 {
		if g := math.Float32frombits(uint32(bits)); !math.IsNaN(float64(g)) && !math.IsInf(float64(g), 0) {
			gate = append(gate, g)
		}
	}
	h, up, dGate, dUp, scaledH := make([]float32, len(gate)), make([]float32, len(gate)), make([]float32, len(gate)), make([]float32, len(gate)), make([]float32, len(gate))
	for i := range up {
		up[i] = 1
	}
	onEachLevel(t, func(t *testing.T) {
		SwiGLU(h, gate, up)
		SwiGLUBackward(dGate, dUp, scaledH, gate, up, up, 1)
		require.Equal(t, h, scaledH)
		require.Equal(t, h, dUp)
		for i, g := range gate {
			g := float64(g)
			want := g * sigmoid64(g)
			// Where the exponential is subnormal, its last place is what counts.
			if math.Abs(float64(h[i])-want) > 4*unit(want)+0x1p-149*math.Abs(g) {
				require.Failf(t, "silu", "silu(%g) = %g, want %g", g, h[i], want)
			}
			slope, _, _ := swiGLUBackward64(g, 1, 1, 1)
			// The slope has a root at g = -1.278, hence an absolute bound there.
			if math.Abs(float64(dGate[i])-slope) > 4*unit(slope)+0x1p-22*math.Abs(want)+0x1p-149*math.Abs(g) {
				require.Failf(t, "slope", "silu'(%g) = %g, want %g", g, dGate[i], slope)
			}
		}
	})
}

func TestSwiGLUOfNonFinite(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	onEachLevel(t, func(t *testing.T) {
		for _, n := range []int{1, 5, 8, 16, 23} {
			for _, c := range []struct{ gate, h, slope float32 }{{inf, inf, 1}, {-inf, float32(math.Copysign(0, -1)), 0}, {nan, nan, nan}} {
				gate, up, h := make([]float32, n), make([]float32, n), make([]float32, n)
				for i := range gate {
					gate[i], up[i] = c.gate, 1
				}
				SwiGLU(h, gate, up)
				dGate, dUp, scaledH := make([]float32, n), make([]float32, n), make([]float32, n)
				SwiGLUBackward(dGate, dUp, scaledH, gate, up, up, 1)
				for i := range h {
					requireSame(t, c.h, h[i])
					requireSame(t, c.h, scaledH[i])
					requireSame(t, c.h, dUp[i])
					if c.slope == 0 {
						require.Zero(t, dGate[i])
					} else {
						requireSame(t, c.slope, dGate[i])
					}
				}
			}
		}
	})
}

// requireSame compares bits, but for those of a NaN.
func requireSame(t *testing.T, want, got float32) {
	if want != want {
		require.True(t, got != got, "%g, want NaN", got)
		return
	}
	require.Equal(t, math.Float32bits(want), math.Float32bits(got), "%g, want %g", got, want)
}

func TestSwiGLUBackward(t *testing.T) {
	onGuardedSlices(t, 6, func(t *testing.T, s [][]float32) {
		dGate, dUp, scaledH, gate, up, dh := s[0], s[1], s[2], s[3], s[4], s[5]
		const weight = 0.75
		dot := SwiGLUBackward(dGate, dUp, scaledH, gate, up, dh, weight)
		want, size := 0.0, 0.0
		for i := range gate {
			g, u, h := swiGLUBackward64(float64(gate[i]), float64(up[i]), float64(dh[i]), weight)
			want += h * float64(dh[i])
			size += math.Abs(h * float64(dh[i]))
			if math.Abs(g-float64(dGate[i])) > 2e-6 || math.Abs(u-float64(dUp[i])) > 2e-6 || math.Abs(weight*h-float64(scaledH[i])) > 2e-6 {
				require.Failf(t, "is off", "element %d of %d: %g %g %g, want %g %g %g", i, len(gate), dGate[i], dUp[i], scaledH[i], g, u, weight*h)
			}
		}
		require.InDelta(t, want, dot, 1e-6*size+1e-30)

		// In place, as documented.
		require.Equal(t, dot, SwiGLUBackward(gate, up, dh, gate, up, dh, weight))
		require.Equal(t, dGate, gate)
		require.Equal(t, dUp, up)
		require.Equal(t, scaledH, dh)
	})
}

// The backward pass is the derivative of the forward pass.
func TestSwiGLUBackwardIsTheDerivative(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		const n, step, weight = 40, 1.0 / 256, 1.5
		gate, up, dh := randoms(n), randoms(2 * n)[:n], randoms(3 * n)[:n]
		loss := func(gate, up []float32) (sum float64) {
			h := make([]float32, n)
			SwiGLU(h, gate, up)
			for i := range h {
				sum += weight * float64(h[i]) * float64(dh[i])
			}
			return sum
		}
		dGate, dUp, scaledH := make([]float32, n), make([]float32, n), make([]float32, n)
		dot := SwiGLUBackward(dGate, dUp, scaledH, gate, up, dh, weight)
		require.InDelta(t, loss(gate, up), weight*float64(dot), 1e-5)
		for i := range n {
			for _, side := range []struct {
				of   []float32
				want float32
			}{{gate, dGate[i]}, {up, dUp[i]}} {
				before := side.of[i]
				side.of[i] = before + step
				above := loss(gate, up)
				side.of[i] = before - step
				below := loss(gate, up)
				side.of[i] = before
				require.InDelta(t, (above-below)/(2*step), side.want, 1e-4)
			}
		}
	})
}
