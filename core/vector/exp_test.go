package vector

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every 9973rd of all float32 numbers.
func TestExp(t *testing.T) {
	var x []float32
	for bits := uint64(0); bits < 1<<32; bits += 9973 {
		x = append(x, math.Float32frombits(uint32(bits)))
	}
	y := make([]float32, len(x))
	onEachLevel(t, func(t *testing.T) {
		Exp(y, x)
		worst := 0.0
		for i, v := range x {
			want := math.Exp(float64(v))
			switch {
			case math.IsNaN(want):
				require.True(t, math.IsNaN(float64(y[i])))
			case want > math.MaxFloat32:
				require.Equal(t, float32(want), y[i], "exp(%g)", v)
			default:
				worst = max(worst, math.Abs(float64(y[i])-want)/unit(want))
			}
		}
		require.Less(t, worst, 1.0, "units in the last place")
	})
}

func TestExpOfEachLength(t *testing.T) {
	onGuardedSlices(t, 2, func(t *testing.T, s [][]float32) {
		y, x := s[0], s[1]
		Exp(y, x)
		requireNear(t, func(i int) float64 { return math.Exp(float64(x[i])) }, y, 1)
		Exp(x, x)
		require.Equal(t, y, x)
	})
}

func TestSoftmax(t *testing.T) {
	onGuardedSlices(t, 2, func(t *testing.T, s [][]float32) {
		y, x := s[0], s[1]
		for _, shift := range []float32{0, 1e4, -1e4} {
			for i := range x {
				x[i] += shift
			}
			sum, top := 0.0, math.Inf(-1)
			for _, v := range x {
				top = max(top, float64(v))
			}
			for _, v := range x {
				sum += math.Exp(float64(v) - top)
			}
			Softmax(y, x)
			for i, got := range y {
				if want := math.Exp(float64(x[i])-top) / sum; !(math.Abs(float64(got)-want) <= 1e-6*want) {
					require.Failf(t, "is off", "softmax, element %d of %d: %g, want %g", i, len(y), got, want)
				}
			}
		}
	})
}

func TestSoftmaxOfNonFinite(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	onEachLevel(t, func(t *testing.T) {
		for n := 1; n < 50; n++ {
			for at := range n {
				x, y := randoms(n), make([]float32, n)
				for _, bad := range []float32{nan, inf} {
					x[at] = bad
					Softmax(y, x)
					require.Equal(t, n, countOf(y, isNaN))
				}
				x[at] = -inf
				Softmax(y, x)
				if n == 1 {
					require.True(t, isNaN(y[0]))
					continue
				}
				require.Zero(t, y[at])
				require.Equal(t, n-1, countOf(y, func(v float32) bool { return v > 0 && v <= 1 }))
			}
		}
	})
}

func isNaN(v float32) bool { return v != v }

func countOf(x []float32, is func(float32) bool) (count int) {
	for _, v := range x {
		if is(v) {
			count++
		}
	}
	return count
}
