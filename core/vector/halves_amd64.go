//go:build !purego

package vector

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"golang.org/x/sys/cpu"
)

func hasHalves() bool { return active == avx512 && cpu.X86.HasAVX512BF16 }

func multiplyPairs(rows, pairs int, x *core.BF16, rowStride, pairStride int, panel []core.BF16, y *float32, ldy int, accumulate bool) {
	if !hasHalves() {
		multiplyPairsTwin(rows, pairs, x, rowStride, pairStride, panel, y, ldy, accumulate)
		return
	}
	xp, w := (*uint16)(x), (*uint16)(data(panel))
	switch rows {
	case 1:
		multiplyPairs1AVX512(pairs, xp, rowStride, pairStride, w, y, ldy, accumulate)
	case 2:
		multiplyPairs2AVX512(pairs, xp, rowStride, pairStride, w, y, ldy, accumulate)
	case 3:
		multiplyPairs3AVX512(pairs, xp, rowStride, pairStride, w, y, ldy, accumulate)
	case 4:
		multiplyPairs4AVX512(pairs, xp, rowStride, pairStride, w, y, ldy, accumulate)
	case 5:
		multiplyPairs5AVX512(pairs, xp, rowStride, pairStride, w, y, ldy, accumulate)
	default:
		multiplyPairs6AVX512(pairs, xp, rowStride, pairStride, w, y, ldy, accumulate)
	}
}

func interleavePairs[E half](pairs, n int, src *E, ld int, dst []core.BF16, ldd int) {
	to := (*uint16)(data(dst))
	from, wide := any(src).(*float32)
	switch {
	case !hasHalves():
		interleavePairsTwin(pairs, n, src, ld, dst, ldd)
	case wide:
		interleaveAVX512(pairs, n, from, ld, to, ldd)
	default:
		interleaveBF16AVX512(pairs, n, (*uint16)(unsafe.Pointer(src)), ld, to, ldd)
	}
}

func transposePairs(rows, k int, src *core.BF16, ld int, panel []core.BF16) {
	if !hasHalves() {
		transposePairsTwin(rows, k, src, ld, panel)
		return
	}
	transposePairsAVX512(rows, k, (*uint16)(src), ld, (*uint16)(data(panel)))
}
