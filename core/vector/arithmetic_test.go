package vector

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/stretchr/testify/require"
)

// lengths are all small ones, where each way through the loops begins and ends,
// and some larger.
func lengths(yield func(n int) bool) {
	for n := range 131 {
		if !yield(n) {
			return
		}
	}
	for _, n := range []int{1000, 4099} {
		if !yield(n) {
			return
		}
	}
}

// slices cuts guarded slices of n random elements, at both ends of the guard.
func onGuardedSlices(t *testing.T, count int, test func(t *testing.T, s [][]float32)) {
	onEachLevel(t, func(t *testing.T) {
		regions := make([]*region, count)
		for i := range regions {
			regions[i] = newRegion(t)
		}
		r := rand.New(rand.NewPCG(3, 4))
		for n := range lengths {
			for _, atEnd := range []bool{false, true} {
				s := make([][]float32, count)
				for i := range s {
					s[i] = take[float32](regions[i], n, atEnd)
					for j := range s[i] {
						s[i][j] = 6*r.Float32() - 3
					}
				}
				test(t, s)
			}
		}
	})
}

// requireNear compares with results in float64, to within a number of units in
// the last place.
func requireNear(t *testing.T, want func(i int) float64, got []float32, units float64) {
	for i, v := range got {
		w := want(i)
		if !(math.Abs(float64(v)-w) <= units*unit(w)) {
			require.Failf(t, "is off", "element %d of %d: %g, want %g", i, len(got), v, w)
		}
	}
}

// requireClose compares with results in float64, to within an absolute bound.
func requireClose(t *testing.T, want func(i int) float64, got []float32, bound float64) {
	for i, v := range got {
		if w := want(i); !(math.Abs(float64(v)-w) <= bound) {
			require.Failf(t, "is off", "element %d of %d: %g, want %g", i, len(got), v, w)
		}
	}
}

// unit is the distance of float32 numbers around a value.
func unit(v float64) float64 {
	_, exponent := math.Frexp(v)
	return math.Ldexp(1, max(exponent, -125)-24)
}

func TestAddAxpyScale(t *testing.T) {
	onGuardedSlices(t, 3, func(t *testing.T, s [][]float32) {
		y, x, before := s[0], s[1], append([]float32{}, s[0]...)
		Add(y, x)
		requireNear(t, func(i int) float64 { return float64(before[i]) + float64(x[i]) }, y, 0.5)
		copy(y, before)
		Axpy(y, 1.7, x)
		// The twin rounds the product too: by what it is, not by what the sum is.
		requireClose(t, func(i int) float64 { return float64(before[i]) + float64(float32(1.7))*float64(x[i]) }, y, 0x1p-20)
		Scale(y, -0.3, x)
		requireNear(t, func(i int) float64 { return float64(float32(-0.3)) * float64(x[i]) }, y, 0.5)
		Scale(x, 2, x)
		requireNear(t, func(i int) float64 { return 2 * float64(x[i]) / 2 }, x, 0)
	})
}

func TestDot(t *testing.T) {
	onGuardedSlices(t, 2, func(t *testing.T, s [][]float32) {
		want, size := 0.0, 0.0
		for i := range s[0] {
			term := float64(s[0][i]) * float64(s[1][i])
			want += term
			size += math.Abs(term)
		}
		require.InDelta(t, want, Dot(s[0], s[1]), size*0x1p-22+1e-30)
	})
}

func TestWeightedSum(t *testing.T) {
	onGuardedSlices(t, 5, func(t *testing.T, s [][]float32) {
		if len(s[0]) == 0 {
			WeightedSum(nil, nil, nil)
			return
		}
		y, weights := s[0], []float32{0.5, -1.25, 3, 0.1}
		for k := range 5 {
			var rows []*float32
			for _, row := range s[1 : 1+k] {
				rows = append(rows, &row[0])
			}
			WeightedSum(y, rows, weights[:k])
			requireClose(t, func(i int) (want float64) {
				for slot := range k {
					want += float64(weights[slot]) * float64(s[1+slot][i])
				}
				return want
			}, y, 0x1p-18)
		}
	})
}

func TestZero(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		for n := range lengths {
			checkZero(t, n, n%7)
		}
		for _, n := range []int{1<<17 - 1, 1 << 17, 1<<17 + 1, 1<<20 + 77} {
			for start := range 17 {
				checkZero(t, n, start)
			}
		}
	})
}

func checkZero(t *testing.T, n, start int) {
	memory := make([]float32, n+start+20)
	for i := range memory {
		memory[i] = canary
	}
	Zero(memory[start : start+n])
	for i, v := range memory {
		want := uint32(0)
		if i < start || i >= start+n {
			want = math.Float32bits(canary)
		}
		if got := math.Float32bits(v); got != want {
			require.Failf(t, "Zero", "element %d of %d from %d: %#x, want %#x", i, n, start, got, want)
		}
	}
}

func TestShortSlicesPanic(t *testing.T) {
	long, short := make([]float32, 20), make([]float32, 19)
	for name, call := range map[string]func(){
		"Add":            func() { Add(long, short) },
		"Axpy":           func() { Axpy(long, 1, short) },
		"Scale":          func() { Scale(long, 1, short) },
		"Dot":            func() { Dot(long, short) },
		"Exp":            func() { Exp(long, short) },
		"Softmax":        func() { Softmax(long, short) },
		"SwiGLU":         func() { SwiGLU(long, long, short) },
		"SwiGLUBackward": func() { SwiGLUBackward(long, long, long, long, long, short, 1) },
		"FromBF16":       func() { FromBF16(long, nil) },
		"WeightedSum":    func() { WeightedSum(long, []*float32{&long[0]}, nil) },
	} {
		// A longer capacity must not hide that the length is short.
		require.Panics(t, call, name)
	}
}

// Slices longer than one call of assembly goes through.
func TestLongSlices(t *testing.T) {
	const n = 1<<20 + 100
	x, y := randoms(n), make([]float32, n)
	onEachLevel(t, func(t *testing.T) {
		want := 0.0
		for _, v := range x {
			want += float64(v) * float64(v)
		}
		require.InEpsilon(t, want, Dot(x, x), 1e-4)
		clear(y)
		Add(y, x)
		require.Equal(t, x, y)
		Axpy(y, -1, x)
		require.Equal(t, make([]float32, n), y)
		Scale(y, 1, x)
		require.Equal(t, x, y)
		b := make([]core.BF16, n)
		ToBF16(b, x)
		FromBF16(y, b)
		requireClose(t, func(i int) float64 { return float64(x[i]) }, y, 0x1p-9)
		Exp(y, x)
		requireNear(t, func(i int) float64 { return math.Exp(float64(x[i])) }, y, 1)
		SwiGLU(y, x, x)
		dGate, dUp, scaledH := make([]float32, n), make([]float32, n), make([]float32, n)
		SwiGLUBackward(dGate, dUp, scaledH, x, x, x, 1)
		require.Equal(t, y, scaledH)
	})
}
