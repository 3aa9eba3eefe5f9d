package router

import (
	"sync"

	"github.com/genesis-moe/genesis-moe/core/blas"
	"github.com/genesis-moe/genesis-moe/core/vector"
)

// callBlocks are the BLAS call blocks of idle workers.
var callBlocks = sync.Pool{New: func() any { return new(blas.Worker) }}

func gemm[F blas.Float](lib *blas.Library, transA, transB bool, m, n, k int, a, b matrix[F], beta F, c matrix[F]) {
	w := callBlocks.Get().(*blas.Worker)
	defer callBlocks.Put(w)
	blas.Gemm(lib, w, transA, transB, m, n, k, 1, first(a.data), a.stride, first(b.data), b.stride, beta, first(c.data), c.stride)
}

func first[F blas.Float](s []F) *F {
	if len(s) == 0 {
		return nil
	}
	return &s[0]
}

// multiplyTransposed is c[m,n] = a[m,k] b[n,k]^T: scores and projections. In float32
// an element of c does not depend on m: a token's logits are the same alone and
// in any batch, which a BLAS does not promise. For the few columns of a router these
// kernels are also the faster ones.
func multiplyTransposed[F blas.Float](lib *blas.Library, m, n, k int, a, b, c matrix[F]) {
	x, ok := any(a).(matrix[float32])
	if !ok {
		gemm(lib, false, true, m, n, k, a, b, 0, c)
		return
	}
	w, y := any(b).(matrix[float32]), any(c).(matrix[float32])
	vector.GemmNT(m, n, k, first(x.data), x.stride, first(w.data), w.stride, first(y.data), y.stride, false)
}

// multiply is c[m,n] = a[m,k] b[k,n]: gradients of inputs, as independent of m.
func multiply[F blas.Float](lib *blas.Library, m, n, k int, a, b, c matrix[F]) {
	x, ok := any(a).(matrix[float32])
	if !ok {
		gemm(lib, false, false, m, n, k, a, b, 0, c)
		return
	}
	w, y := any(b).(matrix[float32]), any(c).(matrix[float32])
	vector.GemmNN(m, n, k, first(x.data), x.stride, first(w.data), w.stride, first(y.data), y.stride, false)
}

// accumulateOuter is c[m,n] = a[k,m]^T b[k,n] + beta c: gradients of weights.
func accumulateOuter[F blas.Float](lib *blas.Library, m, n, k int, a, b matrix[F], beta F, c matrix[F]) {
	x, ok := any(a).(matrix[float32])
	if !ok || k > vector.SmallRows || beta != 0 {
		gemm(lib, true, false, m, n, k, a, b, beta, c)
		return
	}
	w, y := any(b).(matrix[float32]), any(c).(matrix[float32])
	vector.GemmTN(m, n, k, first(x.data), x.stride, first(w.data), w.stride, first(y.data), y.stride, false)
}

// dot is <x, y>.
func dot[F blas.Float](x, y []F) F {
	if a, ok := any(x).([]float32); ok {
		return F(vector.Dot(a, any(y).([]float32)))
	}
	sum := F(0)
	for i := range x {
		sum += x[i] * y[i]
	}
	return sum
}

// axpy is y += a x.
func axpy[F blas.Float](y []F, a F, x []F) {
	if single, ok := any(y).([]float32); ok {
		vector.Axpy(single, float32(a), any(x).([]float32))
		return
	}
	for i := range y {
		y[i] += a * x[i]
	}
}
