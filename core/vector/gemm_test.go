package vector

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/stretchr/testify/require"
)

// canary is a NaN that no arithmetic makes: it fills what lies between the rows of
// matrices, where reading it would spoil a result and writing would show.
var canary = math.Float32frombits(0x7fc0beef)

const canaryBF16 = core.BF16(0x7fcb)

// matrix is rows x columns with ld elements from row to row; the memory ends with
// the last row's last element.
type matrix[E float32 | core.BF16 | core.E4M3] struct {
	data              []E
	rows, columns, ld int
}

func (a matrix[E]) base() *E {
	if len(a.data) == 0 {
		return nil
	}
	return &a.data[0]
}

func (a matrix[E]) at(i, j int) *E { return &a.data[i*a.ld+j] }

func newMatrix[E float32 | core.BF16 | core.E4M3](r *region, atEnd bool, rows, columns, gap int, fill E, value func() E) matrix[E] {
	a := matrix[E]{rows: rows, columns: columns, ld: columns + gap}
	n := 0
	if rows > 0 && columns > 0 {
		n = (rows-1)*a.ld + columns
	}
	a.data = take[E](r, n, atEnd)
	for i := range a.data {
		a.data[i] = fill
	}
	for i := range rows {
		for j := range columns {
			*a.at(i, j) = value()
		}
	}
	return a
}

// requireGaps checks that what lies between rows is as it was.
func requireGaps(t *testing.T, y matrix[float32]) {
	for i := range y.data {
		if i%y.ld >= y.columns {
			require.Equal(t, math.Float32bits(canary), math.Float32bits(y.data[i]), "element %d of row %d was written", i%y.ld, i/y.ld)
		}
	}
}

// product is one kernel with how it indexes its operands.
type product struct {
	name       string
	narrow     bool // w is bfloat16
	accumulate bool
	// shapes of the first and second operand for y[m,n] over k
	first, second func(m, n, k int) (int, int)
	// indices of what is multiplied for y[i,j] at p
	i1, i2 func(i, j, p int) (int, int)
	run    func(m, n, k int, x, w, y matrix[float32], narrow matrix[core.BF16])
}

func products() []product {
	mk := func(m, _, k int) (int, int) { return m, k }
	km := func(m, _, k int) (int, int) { return k, m }
	kn := func(_, n, k int) (int, int) { return k, n }
	nk := func(_, n, k int) (int, int) { return n, k }
	ip := func(i, _, p int) (int, int) { return i, p }
	pi := func(i, _, p int) (int, int) { return p, i }
	pj := func(_, j, p int) (int, int) { return p, j }
	jp := func(_, j, p int) (int, int) { return j, p }
	var all []product
	for _, accumulate := range []bool{false, true} {
		all = append(
			all,
			product{"NT", false, accumulate, mk, nk, ip, jp, func(m, n, k int, x, w, y matrix[float32], _ matrix[core.BF16]) {
				GemmNT(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, accumulate)
			}},
			product{"NTBF16", true, accumulate, mk, nk, ip, jp, func(m, n, k int, x, _, y matrix[float32], w matrix[core.BF16]) {
				GemmNTBF16(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, accumulate)
			}},
			product{"NN", false, accumulate, mk, kn, ip, pj, func(m, n, k int, x, w, y matrix[float32], _ matrix[core.BF16]) {
				GemmNN(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, accumulate)
			}},
			product{"NNBF16", true, accumulate, mk, kn, ip, pj, func(m, n, k int, x, _, y matrix[float32], w matrix[core.BF16]) {
				GemmNNBF16(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, accumulate)
			}},
		)
	}
	for _, stream := range []bool{false, true} {
		all = append(all, product{fmt.Sprintf("TN/stream=%v", stream), false, false, km, kn, pi, pj, func(m, n, k int, x, w, y matrix[float32], _ matrix[core.BF16]) {
			GemmTN(m, n, k, x.base(), x.ld, w.base(), w.ld, y.base(), y.ld, stream)
		}})
	}
	return all
}

// check compares a product with sums in float64 of the same float32 numbers.
func (g product) check(t *testing.T, regions [3]*region, r *rand.Rand, m, n, k, gap int) {
	value := func() float32 { return r.Float32()*2 - 1 }
	atEnd := r.IntN(4) > 0
	rows, columns := g.first(m, n, k)
	x := newMatrix(regions[0], atEnd, rows, columns, gap, canary, value)
	rows, columns = g.second(m, n, k)
	var w matrix[float32]
	var narrow matrix[core.BF16]
	weight := func(i, j int) float64 { return float64(*w.at(i, j)) }
	if g.narrow {
		narrow = newMatrix(regions[1], atEnd, rows, columns, gap, canaryBF16, func() core.BF16 { return core.BF16(math.Float32bits(value()) >> 16) })
		weight = func(i, j int) float64 { return float64(widen(*narrow.at(i, j))) }
	} else {
		w = newMatrix(regions[1], atEnd, rows, columns, gap, canary, value)
	}
	before := value()
	y := newMatrix(regions[2], atEnd, m, n, gap, canary, func() float32 { return before })
	g.run(m, n, k, x, w, y, narrow)
	requireGaps(t, y)
	for i := range m {
		for j := range n {
			want, size := 0.0, 0.0
			if g.accumulate {
				want, size = float64(before), math.Abs(float64(before))
			}
			for p := range k {
				i1, j1 := g.i1(i, j, p)
				i2, j2 := g.i2(i, j, p)
				term := float64(*x.at(i1, j1)) * weight(i2, j2)
				want += term
				size += math.Abs(term)
			}
			got := float64(*y.at(i, j))
			// A chain of k additions, each off by half a unit in the last place of
			// a partial sum, which random signs keep far below size.
			if !(math.Abs(got-want) <= 0x1p-24*size*(4+math.Sqrt(float64(k)))) {
				require.Failf(t, "product is off", "y[%d,%d] of m=%d n=%d k=%d gap=%d: %g, want %g", i, j, m, n, k, gap, got, want)
			}
		}
	}
}

func TestProducts(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		for _, g := range products() {
			t.Run(fmt.Sprintf("%s/accumulate=%v", g.name, g.accumulate), func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				regions := [3]*region{newRegion(t), newRegion(t), newRegion(t)}
				for size := range 131 {
					g.check(t, regions, r, r.IntN(15), size, r.IntN(24), r.IntN(20))
					g.check(t, regions, r, r.IntN(15), r.IntN(24), size, r.IntN(20))
				}
				for m := range 26 {
					g.check(t, regions, r, m, 33, 47, 16*r.IntN(3))
					g.check(t, regions, r, m, 64, 9, 0)
				}
				for _, k := range []int{1023, 1024, 1025, 2049, 3000} {
					g.check(t, regions, r, 1+r.IntN(9), 1+r.IntN(40), k, r.IntN(20))
				}
				g.check(t, regions, r, 3, 3000, 70, 1)
				g.check(t, regions, r, 3000, 5, 2, 8)
				g.check(t, regions, r, 70, 640, 9, 16)
			})
		}
	})
}

// A row of x gives the same bits whatever its neighbours are, and so does a column
// of y: one token at a time equals all at once.
func TestProductsDoNotDependOnTheirNeighbours(t *testing.T) {
	onEachLevel(t, func(t *testing.T) {
		for _, shape := range [][3]int{{16, 37, 300}, {7, 130, 1100}, {23, 20, 2500}, {13, 257, 66}} {
			m, n, k := shape[0], shape[1], shape[2]
			x, w, wt := randoms(m*k), randoms(n*k), randoms(n*k)
			for _, accumulate := range []bool{false, true} {
				whole, parts := randoms(m*n), randoms(m*n)
				GemmNT(m, n, k, &x[0], k, &w[0], k, &whole[0], n, accumulate)
				for i := range m {
					for j := 0; j < n; j += 19 {
						GemmNT(1, min(19, n-j), k, &x[i*k], k, &w[j*k], k, &parts[i*n+j], n, accumulate)
					}
				}
				require.Equal(t, whole, parts)
				whole, parts = randoms(m*n), randoms(m*n)
				GemmNN(m, n, k, &x[0], k, &wt[0], n, &whole[0], n, accumulate)
				for i := range m {
					for j := 0; j < n; j += 19 {
						GemmNN(1, min(19, n-j), k, &x[i*k], k, &wt[j], n, &parts[i*n+j], n, accumulate)
					}
				}
				require.Equal(t, whole, parts)
			}
		}
	})
}

// What is not finite stays in its row and column.
func TestProductsKeepNonFiniteApart(t *testing.T) {
	inf := float32(math.Inf(1))
	onEachLevel(t, func(t *testing.T) {
		const m, n, k = 7, 45, 61
		for _, bad := range []float32{inf, -inf, canary} {
			x, w, y := randoms(m*k), randoms(n*k), make([]float32, m*n)
			x[3*k+60], w[44*k+59] = bad, bad
			GemmNT(m, n, k, &x[0], k, &w[0], k, &y[0], n, false)
			for i := range y {
				finite := !math.IsNaN(float64(y[i])) && !math.IsInf(float64(y[i]), 0)
				require.Equal(t, i/n != 3 && i%n != 44, finite, "NT row %d column %d", i/n, i%n)
			}
			w = randoms(n * k)
			w[60*n+44] = bad
			GemmNN(m, n, k, &x[0], k, &w[0], n, &y[0], n, false)
			for i := range y {
				finite := !math.IsNaN(float64(y[i])) && !math.IsInf(float64(y[i]), 0)
				require.Equal(t, i/n != 3 && i%n != 44, finite, "NN row %d column %d", i/n, i%n)
			}
		}
	})
}
