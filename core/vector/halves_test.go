package vector

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/stretchr/testify/require"
)

// halvesProduct is one product of bfloat16 factors: shapes of both, and how they are indexed.
type halvesProduct struct {
	name          string
	first, second func(m, n, k int) (int, int)
	i1, i2        func(i, j, p int) (int, int)
	wide          func(m, n, k int, x matrix[float32], w matrix[core.BF16], wide, y matrix[float32], accumulate bool, scratch []core.BF16)
	narrow        func(m, n, k int, x, w matrix[core.BF16], y matrix[float32], accumulate bool, scratch []core.BF16)
}

func halvesProducts() []halvesProduct {
	return []halvesProduct{
		{
			"NT", func(m, _, k int) (int, int) { return m, k }, func(_, n, k int) (int, int) { return n, k },
			func(i, _, p int) (int, int) { return i, p }, func(_, j, p int) (int, int) { return j, p },
			func(m, n, k int, x matrix[float32], w matrix[core.BF16], _, y matrix[float32], accumulate bool, scratch []core.BF16) {
				GemmNTHalves(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, accumulate, scratch)
			},
			func(m, n, k int, x, w matrix[core.BF16], y matrix[float32], accumulate bool, scratch []core.BF16) {
				GemmNTHalves(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, accumulate, scratch)
			},
		},
		{
			"NN", func(m, _, k int) (int, int) { return m, k }, func(_, n, k int) (int, int) { return k, n },
			func(i, _, p int) (int, int) { return i, p }, func(_, j, p int) (int, int) { return p, j },
			func(m, n, k int, x matrix[float32], w matrix[core.BF16], _, y matrix[float32], accumulate bool, scratch []core.BF16) {
				GemmNNHalves(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, accumulate, scratch)
			},
			func(m, n, k int, x, w matrix[core.BF16], y matrix[float32], accumulate bool, scratch []core.BF16) {
				GemmNNHalves(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, accumulate, scratch)
			},
		},
		{
			"TN", func(m, _, k int) (int, int) { return k, m }, func(_, n, k int) (int, int) { return k, n },
			func(i, _, p int) (int, int) { return p, i }, func(_, j, p int) (int, int) { return p, j },
			func(m, n, k int, x matrix[float32], _ matrix[core.BF16], wide, y matrix[float32], accumulate bool, scratch []core.BF16) {
				GemmTNHalves(m, n, k, x.base(), x.ld, wide.base(), wide.ld, y.base(), y.ld, accumulate, scratch)
			},
			func(m, n, k int, x, w matrix[core.BF16], y matrix[float32], accumulate bool, scratch []core.BF16) {
				GemmTNHalves(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, accumulate, scratch)
			},
		},
	}
}

// check compares with sums in float64 of the rounded factors, with x and w as float32 and as
// bfloat16. What surrounds the operands is not read, and scratch may hold anything.
func (g halvesProduct) check(t *testing.T, regions [5]*region, r *rand.Rand, m, n, k, gap int) {
	value := func() float32 { return r.Float32()*2 - 1 }
	atEnd := r.IntN(4) > 0
	rows, columns := g.first(m, n, k)
	x := newMatrix(regions[0], atEnd, rows, columns, gap, canary, value)
	xNarrow := newMatrix(regions[1], atEnd, rows, columns, gap, canaryBF16, func() core.BF16 { return 0 })
	rows, columns = g.second(m, n, k)
	w := newMatrix(regions[2], atEnd, rows, columns, gap, canary, value)
	wNarrow := newMatrix(regions[3], atEnd, rows, columns, gap, canaryBF16, func() core.BF16 { return 0 })
	for i := range x.rows {
		for j := range x.columns {
			*xNarrow.at(i, j) = nearestBF16(*x.at(i, j))
		}
	}
	for i := range w.rows {
		for j := range w.columns {
			*wNarrow.at(i, j) = nearestBF16(*w.at(i, j))
		}
	}
	scratch := make([]core.BF16, HalvesScratch(m, k))
	for i := range scratch {
		scratch[i] = canaryBF16
	}
	for _, accumulate := range []bool{false, true} {
		before := value()
		newY := func() matrix[float32] {
			return newMatrix(regions[4], atEnd, m, n, gap, canary, func() float32 { return before })
		}
		compare := func(y matrix[float32], what string) {
			requireGaps(t, y)
			for i := range m {
				for j := range n {
					want, size := 0.0, 0.0
					if accumulate {
						want, size = float64(before), math.Abs(float64(before))
					}
					for p := range k {
						i1, j1 := g.i1(i, j, p)
						i2, j2 := g.i2(i, j, p)
						term := float64(widen(*xNarrow.at(i1, j1))) * float64(widen(*wNarrow.at(i2, j2)))
						want += term
						size += math.Abs(term)
					}
					got := float64(*y.at(i, j))
					if !(math.Abs(got-want) <= 0x1p-24*size*(4+math.Sqrt(float64(k)))) {
						require.Failf(t, "product is off", "%s: y[%d,%d] of m=%d n=%d k=%d gap=%d: %g, want %g", what, i, j, m, n, k, gap, got, want)
					}
				}
			}
		}
		y := newY()
		g.wide(m, n, k, x, wNarrow, w, y, accumulate, scratch)
		compare(y, "float32")
		y = newY()
		g.narrow(m, n, k, xNarrow, wNarrow, y, accumulate, scratch)
		compare(y, "bfloat16")
	}
}

func TestHalvesProducts(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		for _, g := range halvesProducts() {
			t.Run(g.name, func(t *testing.T) {
				r := rand.New(rand.NewPCG(3, 4))
				regions := [5]*region{}
				for i := range regions {
					regions[i] = newRegion(t)
				}
				for size := 0; size < 131; size += 1 + r.IntN(6) {
					g.check(t, regions, r, r.IntN(15), size, r.IntN(24), r.IntN(20))
					g.check(t, regions, r, r.IntN(15), r.IntN(24), size, r.IntN(20))
					g.check(t, regions, r, size, r.IntN(70), r.IntN(24), r.IntN(20))
				}
				for _, k := range []int{2047, 2048, 2049, 4100} {
					g.check(t, regions, r, 1+r.IntN(9), 1+r.IntN(80), k, r.IntN(20))
				}
			})
		}
	})
}

// As for the products of float32, an element depends neither on m nor on n.
func TestHalvesProductsDoNotDependOnTheirNeighbours(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		const m, n, k = 53, 150, 321
		x, w := randoms(m*k), make([]core.BF16, n*k)
		ToBF16(w, randoms(n*k))
		scratch := make([]core.BF16, HalvesScratch(m, k))
		whole, parts := make([]float32, m*n), make([]float32, m*n)
		GemmNTHalves(m, n, k, &x[0], k, &w[0], k, &whole[0], n, false, scratch)
		for i := range m {
			for j := 0; j < n; j += 19 {
				GemmNTHalves(1, min(19, n-j), k, &x[i*k], k, &w[j*k], k, &parts[i*n+j], n, false, scratch)
			}
		}
		require.Equal(t, whole, parts)
	})
}

func TestHalvesProductsAllocateNothing(t *testing.T) {
	const m, n, k = 20, 70, 33
	x, y, w := randoms(m*k), make([]float32, m*n), make([]core.BF16, n*k)
	a, b, scratch := randoms(k*m), randoms(k*n), make([]core.BF16, HalvesScratch(m, k))
	require.Zero(t, testing.AllocsPerRun(10, func() {
		GemmNTHalves(m, n, k, &x[0], k, &w[0], k, &y[0], n, false, scratch)
		GemmNNHalves(m, n, k, &x[0], k, &w[0], n, &y[0], n, false, scratch)
		GemmTNHalves(m, n, k, &a[0], m, &b[0], n, &y[0], n, false, scratch)
	}))
}

func BenchmarkHalvesProducts(b *testing.B) {
	const n, k = 2048, 1024
	w := make([]core.BF16, n*k)
	ToBF16(w, randoms(n*k))
	for _, rows := range []int{8, 16, 32, 64, 128, 512} {
		x, z, y := randoms(rows*n), randoms(rows*k), make([]float32, n*k)
		scratch := make([]core.BF16, max(HalvesScratch(rows, n), HalvesScratch(n, rows)))
		run := func(name string, product func()) {
			b.Run(fmt.Sprintf("%s/rows=%d", name, rows), func(b *testing.B) {
				for b.Loop() {
					product()
				}
				b.ReportMetric(2*float64(rows)*n*k*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
		run("NT", func() { GemmNTHalves(rows, n, k, &z[0], k, &w[0], k, &y[0], n, false, scratch) })
		run("NN", func() { GemmNNHalves(rows, k, n, &x[0], n, &w[0], k, &y[0], k, false, scratch) })
		run("TN", func() { GemmTNHalves(n, k, rows, &x[0], n, &z[0], k, &y[0], k, false, scratch) })
		run("NTBF16", func() { GemmNTBF16(rows, n, k, &z[0], k, &w[0], k, &y[0], n, false) })
		run("NNBF16", func() { GemmNNBF16(rows, k, n, &x[0], n, &w[0], k, &y[0], k, false) })
	}
}
