package vector

import "github.com/genesis-moe/genesis-moe/core"

// FromE4M3 widens, and multiplies by a scale: dst[i] = scale*src[i]. src is at least as long as dst.
func FromE4M3(dst []float32, src []core.E4M3, scale float32) { fromE4M3(dst, src[:len(dst)], scale) }

// RoundE4M3 rounds a block to numbers of e4m3 times a scale of its own:
//
//	s = max |x[i]| / 448, or 1 where that is 0;   x[i] = s e4m3(x[i]/s)
//
// to nearest, ties to even. If an element is not finite, all become NaN.
func RoundE4M3(x []float32) { roundE4M3(x) }
