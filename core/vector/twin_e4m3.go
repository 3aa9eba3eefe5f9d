package vector

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
)

func fromE4M3Twin(dst []float32, src []core.E4M3, scale float32) {
	for i := range dst {
		dst[i] = src[i].Float32() * scale
	}
}

func roundE4M3Twin(x []float32) {
	s := float32(0)
	for _, v := range x {
		s = max(s, math.Float32frombits(math.Float32bits(v)&^(1<<31))) // of two, max is the NaN
	}
	s = e4m3Scale(s)
	for i, v := range x {
		x[i] = core.E4M3Of(v/s).Float32() * s
	}
}

// e4m3Scale is the scale of a block by its largest magnitude.
func e4m3Scale(largest float32) float32 {
	if s := largest / core.MaxE4M3; s != 0 {
		return s
	}
	return 1
}
