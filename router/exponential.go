package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core/blas"
	"github.com/genesis-moe/genesis-moe/core/vector"
)

// exponential writes exp(x) to y; x may be y.
func exponential[F blas.Float](y, x []F) {
	if a, ok := any(x).([]float32); ok {
		vector.Exp(any(y).([]float32), a)
		return
	}
	for i, v := range x {
		y[i] = F(math.Exp(float64(v)))
	}
}

// sigmoid writes 1/(1+exp(-x)) to y. An overflow of exp gives the right 0.
func sigmoid[F blas.Float](y, x []F) {
	for i, v := range x {
		y[i] = -v
	}
	exponential(y, y)
	for i, v := range y {
		y[i] = 1 / (1 + v)
	}
}

// softmax writes exp(x)/sum exp(x) to y; x may not be y.
func softmax[F blas.Float](y, x []F) {
	largest := x[0]
	for _, v := range x[1:] {
		largest = max(largest, v)
	}
	for i, v := range x {
		y[i] = v - largest
	}
	exponential(y, y)
	sum := F(0)
	for _, v := range y {
		sum += v
	}
	for i := range y {
		y[i] /= sum
	}
}

// finite reports whether no element is a NaN or infinite.
func finite[F blas.Float](x []F) bool {
	for _, v := range x {
		if v-v != 0 {
			return false
		}
	}
	return true
}
