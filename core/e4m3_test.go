package core

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// The numbers of the specification's table.
func TestE4M3Numbers(t *testing.T) {
	for bits, want := range map[E4M3]float32{
		0x00: 0, 0x01: 0x1p-9, 0x07: 7 * 0x1p-9, 0x08: 0x1p-6, 0x38: 1, 0x39: 1.125, 0x7e: 448, 0xfe: -448, 0xb8: -1, 0x81: -0x1p-9,
	} {
		require.Equal(t, want, bits.Float32(), "%#x", bits)
	}
	require.True(t, math.Signbit(float64(E4M3(0x80).Float32())))
	for bits := range 256 {
		v := E4M3(bits).Float32()
		if bits&0x7f == 0x7f {
			require.True(t, v != v)
			require.Equal(t, nanE4M3, E4M3Of(v))
			continue
		}
		require.Equal(t, E4M3(bits), E4M3Of(v))
	}
}

// nearestE4M3 compares the distances to all numbers.
func nearestE4M3(x float32) E4M3 {
	best, least := E4M3(0), math.Inf(1)
	for bits := E4M3(0); bits < nanE4M3; bits++ {
		// Of two at the same distance the even one is nearer.
		if d := math.Abs(math.Abs(float64(x)) - float64(bits.Float32())); d < least || d == least && bits&1 == 0 {
			best, least = bits, d
		}
	}
	if math.Signbit(float64(x)) {
		best |= 0x80
	}
	return best
}

func TestE4M3RoundsToNearestEven(t *testing.T) {
	x := []float32{
		0, float32(math.Copysign(0, -1)), math.SmallestNonzeroFloat32, 0x1p-10, 0x1.000002p-10, 3 * 0x1p-10, 447, 448, 449, 464, 465, 1e6, math.MaxFloat32,
	}
	for bits := range E4M3(0x7e) {
		middle := (bits.Float32() + (bits + 1).Float32()) / 2
		x = append(x, middle, math.Nextafter32(middle, 0), math.Nextafter32(middle, 1e9))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1 << 14 {
		x = append(x, float32(math.Ldexp(r.Float64(), r.IntN(24)-13)))
	}
	for _, v := range x {
		require.Equal(t, nearestE4M3(v), E4M3Of(v), "%g", v)
		require.Equal(t, nearestE4M3(-v), E4M3Of(-v), "%g", -v)
	}
	require.Equal(t, E4M3(0x7e), E4M3Of(float32(math.Inf(1))))
	require.Equal(t, E4M3(0xfe), E4M3Of(float32(math.Inf(-1))))
	require.Equal(t, nanE4M3, E4M3Of(float32(math.NaN())))
}

func TestScaleBlocks(t *testing.T) {
	for n, want := range map[int64]int64{0: 0, 1: 1, 127: 1, 128: 1, 129: 2, 256: 2, math.MaxInt64: 1 << 56} {
		require.Equal(t, want, ScaleBlocks(n), n)
	}
}
