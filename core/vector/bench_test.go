package vector

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/genesis-moe/genesis-moe/core"
)

func randoms(n int) []float32 {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	x := make([]float32, n)
	for i := range x {
		x[i] = r.Float32()*2 - 1
	}
	return x
}

// A benchmarked product goes over one segment after the other of weights larger
// than the caches, on one core.
const (
	segment  = 2 << 20
	segments = 32
)

// benchmarkProduct reports bytes of weights, and the rate of arithmetic.
func benchmarkProduct(b *testing.B, rows, elementBytes int, product func(segment int)) {
	b.SetBytes(segment * int64(elementBytes))
	s := 0
	for b.Loop() {
		product(s % segments)
		s++
	}
	b.ReportMetric(2*float64(rows)*segment*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}

func BenchmarkProducts(b *testing.B) {
	w := randoms(segment * segments)
	narrow := make([]core.BF16, len(w))
	ToBF16(narrow, w)
	for _, width := range []int{1024, 4096} {
		for _, rows := range []int{1, 4, 8, 16, 64} {
			height := segment / width
			x, y := randoms(rows*width), randoms(rows*height)
			name := func(kernel string) string { return fmt.Sprintf("%s/width=%d/rows=%d", kernel, width, rows) }
			b.Run(name("NT"), func(b *testing.B) {
				benchmarkProduct(b, rows, 4, func(s int) {
					GemmNT(rows, height, width, &x[0], width, &w[s*segment], width, &y[0], height, false)
				})
			})
			b.Run(name("NTBF16"), func(b *testing.B) {
				benchmarkProduct(b, rows, 2, func(s int) {
					GemmNTBF16(rows, height, width, &x[0], width, &narrow[s*segment], width, &y[0], height, false)
				})
			})
			b.Run(name("NN"), func(b *testing.B) {
				benchmarkProduct(b, rows, 4, func(s int) {
					GemmNN(rows, width, height, &y[0], height, &w[s*segment], width, &x[0], width, false)
				})
			})
			b.Run(name("NNBF16"), func(b *testing.B) {
				benchmarkProduct(b, rows, 2, func(s int) {
					GemmNNBF16(rows, width, height, &y[0], height, &narrow[s*segment], width, &x[0], width, false)
				})
			})
			b.Run(name("TN"), func(b *testing.B) {
				benchmarkProduct(b, rows, 4, func(s int) {
					GemmTN(height, width, rows, &y[0], height, &x[0], width, &w[s*segment], width, true)
				})
			})
		}
	}
}

// BenchmarkElementwise works in the cache.
func BenchmarkElementwise(b *testing.B) {
	const n = 4096
	w, x, y, z := randoms(n), randoms(n), randoms(n), randoms(n)
	dGate, dUp := randoms(n), randoms(n)
	narrow := make([]core.BF16, n)
	rows, weights := []*float32{&w[0], &x[0], &z[0], &w[0]}, []float32{0.4, 0.3, 0.2, 0.1}
	for _, c := range []struct {
		name  string
		bytes int64 // read and written, of an element
		run   func()
	}{
		{"Add", 12, func() { Add(y, x) }},
		{"Axpy", 12, func() { Axpy(y, 0.01, x) }},
		{"Scale", 8, func() { Scale(y, 2, x) }},
		{"Dot", 8, func() { Dot(x, w) }},
		{"WeightedSum", 20, func() { WeightedSum(y, rows, weights) }},
		{"FromBF16", 6, func() { FromBF16(y, narrow) }},
		{"ToBF16", 6, func() { ToBF16(narrow, x) }},
		{"Exp", 8, func() { Exp(y, x) }},
		{"Softmax", 8, func() { Softmax(y, x) }},
		{"SwiGLU", 12, func() { SwiGLU(y, w, x) }},
		{"SwiGLUBackward", 24, func() { SwiGLUBackward(dGate, dUp, y, w, x, z, 0.9) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(c.bytes * n)
			for b.Loop() {
				c.run()
			}
		})
	}
}

func BenchmarkZero(b *testing.B) {
	w := make([]float32, segment*segments)
	b.SetBytes(4 * segment)
	s := 0
	for b.Loop() {
		Zero(w[s*segment : (s+1)*segment])
		s = (s + 1) % segments
	}
}
