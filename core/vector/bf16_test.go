package vector

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/stretchr/testify/require"
)

func TestFromBF16IsExact(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		src, dst := make([]core.BF16, 1<<16), make([]float32, 1<<16)
		for i := range src {
			src[i] = core.BF16(i)
		}
		FromBF16(dst, src)
		for i, v := range dst {
			require.Equal(t, uint32(i)<<16, math.Float32bits(v))
		}
		back := make([]core.BF16, 1<<16)
		ToBF16(back, dst)
		for i, v := range back {
			want := core.BF16(i)
			if math.IsNaN(float64(dst[i])) {
				want |= 0x40
			}
			require.Equal(t, want, v)
		}
	})
}

// nearestBF16 rounds by comparing the distances to both neighbours.
func nearestBF16(x float32) core.BF16 {
	bits := math.Float32bits(x)
	low := bits >> 16
	if bits&0x7f800000 == 0x7f800000 {
		if bits&0x007fffff != 0 {
			return core.BF16(low | 0x40)
		}
		return core.BF16(low)
	}
	// Beyond the largest finite number, the next step up stands for infinity.
	value := func(b uint32) float64 {
		if b&0x7fff == 0x7f80 {
			return math.Copysign(0x1p128, float64(x))
		}
		return float64(math.Float32frombits(b << 16))
	}
	down, up := math.Abs(float64(x)-value(low)), math.Abs(float64(x)-value(low+1))
	if up < down || up == down && low&1 == 1 {
		return core.BF16(low + 1)
	}
	return core.BF16(low)
}

func TestToBF16RoundsToNearestEven(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	x := []float32{
		0, float32(math.Copysign(0, -1)), 1, math.MaxFloat32, -math.MaxFloat32, float32(math.Inf(1)), float32(math.Inf(-1)),
		math.SmallestNonzeroFloat32, math.Float32frombits(0x7f800001), math.Float32frombits(0xff800001), math.Float32frombits(0x7fffffff),
	}
	for range 1 << 16 {
		high := r.Uint32() << 16
		x = append(x, math.Float32frombits(high|0x8000), math.Float32frombits(high|0x7fff), math.Float32frombits(high|0x8001), math.Float32frombits(r.Uint32()))
	}
	onEachLevel(t, func(t *testing.T) {
		y := make([]core.BF16, len(x))
		ToBF16(y, x)
		for i := range x {
			if want := nearestBF16(x[i]); want != y[i] {
				require.Failf(t, "rounding", "%g (%#x): %#x, want %#x", x[i], math.Float32bits(x[i]), y[i], want)
			}
		}
	})
}

func TestConversionsOfEachLength(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		wide, narrow := newRegion(t), newRegion(t)
		r := rand.New(rand.NewPCG(7, 8))
		for n := range lengths {
			for _, atEnd := range []bool{false, true} {
				x, b := take[float32](wide, n, atEnd), take[core.BF16](narrow, n, atEnd)
				for i := range b {
					b[i] = core.BF16(r.Uint32N(0x7f80))
				}
				want := append([]core.BF16{}, b...)
				FromBF16(x, b)
				clear(b)
				ToBF16(b, x)
				require.Equal(t, len(want), len(b))
				for i := range b {
					require.Equal(t, want[i], b[i])
				}
			}
		}
	})
}
