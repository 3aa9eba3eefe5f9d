package blas

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// BenchmarkCall is the cost of a call: a product of one element.
func BenchmarkCall(b *testing.B) {
	for _, lib := range libraries(b) {
		b.Run(lib.Name(), func(b *testing.B) {
			w, x, y := new(Worker), []float32{2}, []float32{0}
			b.ReportAllocs()
			for b.Loop() {
				Gemm(lib, w, false, false, 1, 1, 1, 1, &x[0], 1, &x[0], 1, 0, &y[0], 1)
			}
		})
	}
}

// BenchmarkGemm is the rate of products x[m,k] w[n,k]^T, as experts make them, on one
// goroutine and on as many as there are processors, each with its own matrices.
func BenchmarkGemm(b *testing.B) {
	for _, size := range [][3]int{{64, 256, 256}, {128, 1024, 1024}, {512, 1024, 2048}} {
		m, n, k := size[0], size[1], size[2]
		for _, lib := range libraries(b) {
			if lib.sgemm == 0 && m > 128 {
				continue // a second for each product in pure Go
			}
			for _, goroutines := range []int{1, runtime.GOMAXPROCS(0)} {
				b.Run(fmt.Sprintf("%s/%dx%dx%d/%d", lib.Name(), m, n, k, goroutines), func(b *testing.B) {
					var group sync.WaitGroup
					for range goroutines {
						x, w, y := make([]float32, m*k), make([]float32, n*k), make([]float32, m*n)
						for i := range x {
							x[i] = float32(i%7) - 3
						}
						for i := range w {
							w[i] = float32(i%5) - 2
						}
						group.Go(func() {
							var worker Worker
							for range b.N {
								Gemm(lib, &worker, false, true, m, n, k, 1, &x[0], k, &w[0], k, 0, &y[0], n)
							}
						})
					}
					group.Wait()
					b.ReportMetric(2*float64(m)*float64(n)*float64(k)*float64(goroutines)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
				})
			}
		}
	}
}
