package vector

import "github.com/genesis-moe/genesis-moe/core"

// FromBF16 widens, exactly: dst[i] = src[i]. src is at least as long as dst.
func FromBF16(dst []float32, src []core.BF16) { fromBF16(dst, src[:len(dst)]) }

// ToBF16 rounds to the nearest bfloat16, ties to even; what is too large becomes
// infinite, and a NaN stays a (quiet) NaN with its sign. src is at least as long
// as dst.
func ToBF16(dst []core.BF16, src []float32) { toBF16(dst, src[:len(dst)]) }
