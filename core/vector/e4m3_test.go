package vector

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/stretchr/testify/require"
)

const nanE4M3 = core.E4M3(0x7f)

func TestFromE4M3(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		src, dst := make([]core.E4M3, 256), make([]float32, 256)
		for i := range src {
			src[i] = core.E4M3(i)
		}
		for _, scale := range []float32{1, 0.1, -3, 0, 0x1p-130, 0x1p120, float32(math.NaN())} {
			FromE4M3(dst, src, scale)
			for i, v := range dst {
				requireSame(t, src[i].Float32()*scale, v)
			}
		}
		// Every length, between what must stay as it is.
		regions := [2]*region{newRegion(t), newRegion(t)}
		for n := range 150 {
			src := take[core.E4M3](regions[0], n, true)
			dst := take[float32](regions[1], n+1, false)
			for i := range src {
				src[i] = core.E4M3(rand.IntN(256))
			}
			dst[n] = canary
			FromE4M3(dst[:n], src, 2)
			for i := range src {
				requireSame(t, 2*src[i].Float32(), dst[i])
			}
			require.Equal(t, math.Float32bits(canary), math.Float32bits(dst[n]))
		}
	})
}

func TestRoundE4M3(t *testing.T) {
	inf := float32(math.Inf(1))
	onEachLevel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		region := newRegion(t)
		check := func(x []float32) {
			want := append([]float32(nil), x...)
			roundE4M3Twin(want)
			RoundE4M3(x)
			for i := range x {
				requireSame(t, want[i]+0, x[i]+0) // of zeros any sign
			}
		}
		for n := range 300 {
			x := take[float32](region, n, true)
			for i := range x {
				x[i] = float32(r.NormFloat64() * math.Exp(6*r.NormFloat64()))
			}
			check(x)
		}
		// All numbers, and the middles between them, with a scale of 1.
		x := []float32{448}
		for bits := range core.E4M3(0x7e) {
			middle := (bits.Float32() + (bits + 1).Float32()) / 2
			x = append(x, bits.Float32(), middle, -middle, math.Nextafter32(middle, 0), math.Nextafter32(middle, 999))
		}
		check(x)
		for _, x := range [][]float32{
			make([]float32, 100), {1e-44, 0, -1e-44}, {3e-43, 1e-43, 1e-45}, {1e-38, 1e-40}, {math.MaxFloat32, -1, 1e30}, {1, inf, 2}, {-inf}, {0, 1, canary, 3},
		} {
			check(append([]float32(nil), x...))
			check(append(x, make([]float32, 40)...))
		}
	})
}

func TestProductsOfE4M3(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		regions := [3]*region{newRegion(t), newRegion(t), newRegion(t)}
		value := func() float32 { return r.Float32()*2 - 1 }
		check := func(m, n, k, gap int, accumulate bool) {
			x := newMatrix(regions[0], true, m, k, gap, canary, value)
			w := newMatrix(regions[1], true, n, k, gap, nanE4M3, func() core.E4M3 { return core.E4M3Of(value()) })
			y := newMatrix(regions[2], true, m, n, gap, canary, func() float32 { return 3 })
			GemmNTE4M3(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, accumulate)
			requireGaps(t, y)
			for i := range m {
				for j := range n {
					want, size := 0.0, 0.0
					if accumulate {
						want, size = 3, 3
					}
					for p := range k {
						term := float64(*x.at(i, p)) * float64(w.at(j, p).Float32())
						want, size = want+term, size+math.Abs(term)
					}
					require.InDelta(t, want, float64(*y.at(i, j)), 0x1p-24*size*(4+math.Sqrt(float64(k))), "y[%d,%d] of m=%d n=%d k=%d", i, j, m, n, k)
				}
			}
		}
		for m := range 14 {
			for _, accumulate := range []bool{false, true} {
				for k := range 70 {
					check(m, r.IntN(12), k, r.IntN(9), accumulate)
				}
				check(m, 33, 1025, 1, accumulate)
				check(m, 2, 2500, 0, accumulate)
			}
		}
		// A NaN stays in its column, wherever the loop meets it.
		const n, k = 9, 75
		for _, column := range []int{0, 31, 40, 64, 74} {
			for m := 1; m < 7; m++ {
				x, w, y := randoms(m*k), make([]core.E4M3, n*k), make([]float32, m*n)
				w[5*k+column] = 0xff
				GemmNTE4M3(m, n, k, &x[0], k, &w[0], k, &y[0], n, false)
				for i, v := range y {
					require.Equal(t, i%n == 5, v != v, "element %d", i)
				}
			}
		}
	})
}
