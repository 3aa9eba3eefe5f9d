package blas

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// libraries are the fallback and, where there is one, the BLAS of this machine.
func libraries(t testing.TB) []*Library {
	t.Helper()
	lib, err := Default()
	require.NoError(t, err)
	if lib.sgemm == 0 {
		return []*Library{lib}
	}
	return []*Library{Gonum(), lib}
}

// product is one case: sizes, layout and scalars.
type product struct {
	m, n, k        int
	transA, transB bool
	alpha, beta    float64
	gap            int // elements between the end of a row and the next
}

// run multiplies random matrices and compares with a plain loop in f64; C holds NaN
// where it must not be read and a mark where it must not be written.
func run[F Float](t testing.TB, lib *Library, p product, seed uint64, tolerance float64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	matrix := func(rows, columns int) ([]F, int) {
		ld := columns + p.gap
		x := make([]F, max(1, rows*ld))
		for i := range x {
			x[i] = F(random.NormFloat64())
		}
		return x, ld
	}
	stored := func(transposed bool, rows, columns int) ([]F, int) {
		if transposed {
			rows, columns = columns, rows
		}
		return matrix(rows, columns)
	}
	a, lda := stored(p.transA, p.m, p.k)
	b, ldb := stored(p.transB, p.k, p.n)
	c, ldc := matrix(p.m, p.n)
	element := func(x []F, ld int, transposed bool, row, column int) float64 {
		if transposed {
			row, column = column, row
		}
		return float64(x[row*ld+column])
	}
	const mark = -12345
	want := make([]float64, len(c))
	for at := range c {
		i, j := at/max(1, ldc), at%max(1, ldc)
		if i >= p.m || j >= p.n {
			c[at], want[at] = mark, mark
			continue
		}
		var sum float64
		for l := range p.k {
			sum += element(a, lda, p.transA, i, l) * element(b, ldb, p.transB, l, j)
		}
		want[at] = p.alpha * sum
		if p.beta == 0 {
			c[at] = F(math.NaN())
		} else {
			want[at] += p.beta * float64(c[at])
		}
	}
	Gemm(lib, new(Worker), p.transA, p.transB, p.m, p.n, p.k, F(p.alpha), &a[0], lda, &b[0], ldb, F(p.beta), &c[0], ldc)
	for at := range c {
		if difference := math.Abs(want[at] - float64(c[at])); !(difference <= tolerance*float64(p.k+1)) {
			require.Failf(t, "wrong product", "%s %+v: c[%d] = %v, want %v", lib.Name(), p, at, c[at], want[at])
		}
	}
}

func TestGemm(t *testing.T) {
	sizes := [][3]int{
		{1, 1, 1},
		{1, 9, 7},
		{5, 1, 3},
		{3, 4, 1},
		{17, 31, 13},
		{0, 3, 3},
		{3, 0, 3},
		{3, 3, 0},
		{0, 0, 0},
	}
	for _, lib := range libraries(t) {
		for _, size := range sizes {
			for mask := range 4 {
				for _, scalars := range [][2]float64{{1, 0}, {1, 1}, {-0.5, 2}, {0, 0}, {0, 3}, {2, -1}} {
					p := product{size[0], size[1], size[2], mask&1 != 0, mask&2 != 0, scalars[0], scalars[1], 3}
					run[float32](t, lib, p, 7, 3e-6)
					run[float64](t, lib, p, 7, 1e-14)
				}
			}
		}
	}
}

// Past the tiles that gonum's products are cut into, and BLAS's own.
func TestGemmLarge(t *testing.T) {
	for _, lib := range libraries(t) {
		for mask := range 4 {
			run[float32](t, lib, product{65, 193, 257, mask&1 != 0, mask&2 != 0, -0.5, 2, 1}, 9, 3e-6)
		}
	}
}

func TestGemmProperty(t *testing.T) {
	for _, lib := range libraries(t) {
		require.NoError(t, quick.Check(func(m, n, k, gap uint8, transA, transB bool, alpha, beta int8, seed uint64) bool {
			run[float32](t, lib, product{
				int(m % 40), int(n % 40), int(k % 40), transA, transB, float64(alpha) / 64, float64(beta) / 64, int(gap % 5),
			}, seed, 1e-5)
			return !t.Failed()
		}, &quick.Config{MaxCount: 50}))
	}
}

// A single row has no next one, so views such as x[:1] may carry any distance.
func TestGemmIgnoresTheDistanceOfASingleRow(t *testing.T) {
	for _, lib := range libraries(t) {
		a, b, c := []float32{1, 2, 3}, []float32{4, 5, 6}, []float32{0}
		Gemm(lib, new(Worker), false, true, 1, 1, 3, 1, &a[0], 0, &b[0], -7, 0, &c[0], 0)
		require.Equal(t, float32(32), c[0])
	}
}

func TestGemmRefusesWrongArguments(t *testing.T) {
	x := make([]float32, 64)
	for name, test := range map[string]struct {
		call func(lib *Library, w *Worker)
		want string
	}{
		"negative": {func(l *Library, w *Worker) {
			Gemm(l, w, false, false, 2, -1, 2, 1, &x[0], 2, &x[0], 2, 0, &x[0], 2)
		}, "gemm: m = 2, n = -1, k = 2, want none negative"},
		"lda": {func(l *Library, w *Worker) {
			Gemm(l, w, false, false, 2, 3, 4, 1, &x[0], 3, &x[0], 3, 0, &x[0], 3)
		}, "gemm: lda = 3, want at least 4, the columns of a"},
		"lda transposed": {func(l *Library, w *Worker) {
			Gemm(l, w, true, false, 2, 3, 4, 1, &x[0], 1, &x[0], 3, 0, &x[0], 3)
		}, "gemm: lda = 1, want at least 2, the columns of a"},
		"ldb": {func(l *Library, w *Worker) {
			Gemm(l, w, false, true, 2, 3, 4, 1, &x[0], 4, &x[0], 3, 0, &x[0], 3)
		}, "gemm: ldb = 3, want at least 4, the columns of b"},
		"ldc": {func(l *Library, w *Worker) {
			Gemm(l, w, false, false, 2, 3, 4, 1, &x[0], 4, &x[0], 3, 0, &x[0], 2)
		}, "gemm: ldc = 2, want at least 3, the columns of c"},
		"nil": {func(l *Library, w *Worker) {
			Gemm(l, w, false, false, 2, 3, 4, 1, nil, 4, &x[0], 3, 0, &x[0], 3)
		}, "gemm: a is nil, want a [2, 4] matrix"},
	} {
		for _, lib := range libraries(t) {
			require.PanicsWithError(t, test.want, func() { test.call(lib, new(Worker)) }, name)
		}
	}
}

// A library with small integers does not see a distance that it cannot hold.
func TestGemmBeyondTheIntegersOfTheLibrary(t *testing.T) {
	for _, lib := range libraries(t) {
		small := *lib
		small.maxDimension = 100
		run[float32](t, &small, product{3, 101, 5, false, true, 1, 1, 0}, 3, 3e-6)
		run[float64](t, &small, product{3, 4, 5, false, true, 1, 1, 99}, 3, 1e-14)
	}
}

// Many more calls at once than there are cores, each with its own worker.
func TestGemmConcurrently(t *testing.T) {
	for _, lib := range libraries(t) {
		var group sync.WaitGroup
		for seed := range uint64(60) {
			group.Go(func() { run[float32](t, lib, product{33, 40, 50, seed%2 == 0, seed%3 == 0, 1, 1, 1}, seed, 1e-5) })
		}
		group.Wait()
	}
}

func TestGemmAllocatesNothing(t *testing.T) {
	lib := libraries(t)[len(libraries(t))-1]
	if lib.threads.set != 0 || !throughC {
		return // these calls go through purego, which does allocate
	}
	w, x, y := new(Worker), make([]float32, 64), make([]float32, 64)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		Gemm(lib, w, false, true, 8, 8, 8, 1, &x[0], 8, &x[0], 8, 0, &y[0], 8)
	}))
}

func TestGemmBF16(t *testing.T) {
	require.PanicsWithError(t, "gemm: gonum has no bf16 product of m = 1, n = 1, k = 2 here", func() { checkBF16(t, Gonum()) })
	for _, lib := range libraries(t) {
		if lib.HasBF16() {
			checkBF16(t, lib)
		}
	}
}

func checkBF16(t *testing.T, lib *Library) {
	a, b, c := []core.BF16{0x3f80, 0x4000}, []core.BF16{0x4040, 0xbf80}, []float32{float32(math.NaN())} // <(1, 2), (3, -1)>
	GemmBF16(lib, new(Worker), false, true, 1, 1, 2, 1, &a[0], 2, &b[0], 2, 0, &c[0], 1)
	require.Equal(t, float32(1), c[0])
	GemmBF16(lib, new(Worker), false, true, 1, 1, 0, 1, nil, 2, nil, 2, 2, &c[0], 1)
	require.Equal(t, float32(2), c[0])
}

func ExampleGemm() {
	lib, err := Default()
	if err != nil {
		fmt.Println(err)
		return
	}
	hiddenStates := []float32{1, 2, 3, 4, 5, 6} // [2, 3]
	weight := []float32{1, 0, 1, 0, 1, 0}       // [2, 3]: out features, in features
	output := make([]float32, 4)                // [2, 2]
	var w Worker
	Gemm(lib, &w, false, true, 2, 2, 3, 1, &hiddenStates[0], 3, &weight[0], 3, 0, &output[0], 2)
	fmt.Println(output)
	// Output: [4 2 10 5]
}
