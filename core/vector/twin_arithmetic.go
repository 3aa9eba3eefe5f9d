package vector

import (
	"math"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

func addTwin(y, x []float32) {
	for i := range y {
		y[i] += x[i]
	}
}

func axpyTwin(y []float32, a float32, x []float32) {
	for i := range y {
		y[i] += a * x[i]
	}
}

func scaleTwin(y []float32, a float32, x []float32) {
	for i := range y {
		y[i] = a * x[i]
	}
}

// dotTwin keeps four partial sums: they err less than one, and need not wait for
// each other.
func dotTwin(x, y []float32) float32 {
	var s [4]float32
	for ; len(x) >= 4; x, y = x[4:], y[4:] {
		s[0] += x[0] * y[0]
		s[1] += x[1] * y[1]
		s[2] += x[2] * y[2]
		s[3] += x[3] * y[3]
	}
	for i := range x {
		s[i] += x[i] * y[i]
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

func weightedSumTwin(y []float32, rows []*float32, weights []float32) {
	clear(y)
	for k, row := range rows {
		axpyTwin(y, weights[k], unsafe.Slice(row, len(y)))
	}
}

func fromBF16Twin(dst []float32, src []core.BF16) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(src[i]) << 16)
	}
}

func toBF16Twin(dst []core.BF16, src []float32) {
	for i := range dst {
		b := math.Float32bits(src[i])
		if b&0x7fffffff > 0x7f800000 {
			dst[i] = core.BF16(b>>16 | 0x40) // the quiet bit keeps a NaN whose payload was low from becoming Inf
			continue
		}
		dst[i] = core.BF16((b + 0x7fff + b>>16&1) >> 16)
	}
}
