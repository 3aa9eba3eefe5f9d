package experts

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
	"github.com/genesis-moe/genesis-moe/core/vector"
)

// stored lists the element types of tensors. Each is computed with in a [blas.Float]:
// float32 and float64 in themselves, bfloat16 in float32.
type stored interface {
	float32 | float64 | core.BF16
}

// same reports whether S is computed with in itself, so that memory can be used in
// place. It is constant for each instantiation.
func same[S stored, F blas.Float]() bool {
	var s S
	var f F
	return unsafe.Sizeof(s) == unsafe.Sizeof(f)
}

func is32[F blas.Float]() bool {
	var f F
	return unsafe.Sizeof(f) == 4
}

// reinterpret views a slice as one of another type of the same size.
func reinterpret[To, From any](x []From) []To {
	return unsafe.Slice((*To)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}

func reinterpretPointer[To, From any](p *From) *To { return (*To)(unsafe.Pointer(p)) }

// load converts to what is computed with.
func load[F blas.Float, S stored](dst []F, src []S) {
	if same[S, F]() {
		copy(dst, reinterpret[F](src))
		return
	}
	vector.FromBF16(reinterpret[float32](dst), reinterpret[core.BF16](src)[:len(dst)])
}

// store converts to what is stored, rounding to nearest even.
func store[S stored, F blas.Float](dst []S, src []F) {
	if same[S, F]() {
		copy(reinterpret[F](dst), src)
		return
	}
	vector.ToBF16(reinterpret[core.BF16](dst), reinterpret[float32](src)[:len(dst)])
}

// axpy is y += a x.
func axpy[F blas.Float](y []F, a F, x []F) {
	if is32[F]() {
		vector.Axpy(reinterpret[float32](y), float32(a), reinterpret[float32](x))
		return
	}
	for i := range y {
		y[i] += a * x[i]
	}
}

// add is y += x.
func add[F blas.Float](y, x []F) {
	if is32[F]() {
		vector.Add(reinterpret[float32](y), reinterpret[float32](x))
		return
	}
	for i := range y {
		y[i] += x[i]
	}
}

// scale is x *= a.
func scale[F blas.Float](x []F, a F) {
	if is32[F]() {
		vector.Scale(reinterpret[float32](x), float32(a), reinterpret[float32](x))
		return
	}
	for i := range x {
		x[i] *= a
	}
}

func dot[F blas.Float](x, y []F) F {
	if is32[F]() {
		return F(vector.Dot(reinterpret[float32](x), reinterpret[float32](y)))
	}
	sum := F(0)
	for i := range x {
		sum += x[i] * y[i]
	}
	return sum
}

// weightedSum is y[i] = sum over k, in order, of weights[k]*rows[k][i]; y = 0 with no rows.
func weightedSum[F blas.Float](y []F, rows []*F, weights []F) {
	if is32[F]() {
		vector.WeightedSum(reinterpret[float32](y), reinterpret[*float32](rows), reinterpret[float32](weights))
		return
	}
	clear(y)
	for k, row := range rows {
		axpy(y, weights[k], unsafe.Slice(row, len(y)))
	}
}
