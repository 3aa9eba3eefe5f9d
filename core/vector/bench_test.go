package vector

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

func randoms(n int) []float32 {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	x := make([]float32, n)
	for i := range x {
		x[i] = r.Float32()*2 - 1
	}
	return x
}

// BenchmarkGemm reads 256 MiB of weights an operation, on two workers.
func BenchmarkGemm(b *testing.B) {
	const total = 64 << 20
	w := randoms(total)
	for _, k := range []int{512, 1024, 2048, 4096, 14336} {
		for _, m := range []int{1, 2, 4, 6, 8, 12, 16} {
			b.Run(fmt.Sprintf("NT/k=%d/m=%d", k, m), func(b *testing.B) {
				n := total / k / 2
				x, y := randoms(m*k), make([]float32, 2*m*n)
				b.SetBytes(int64(8 * n * k))
				for b.Loop() {
					var g sync.WaitGroup
					for c := range 2 {
						g.Go(func() { GemmNT(m, n, k, &x[0], k, &w[c*n*k], k, &y[c*n*m], n, false) })
					}
					g.Wait()
				}
				b.ReportMetric(4*float64(m)*float64(n)*float64(k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}
