//go:build !amd64 || purego

package vector

import "github.com/genesis-moe/genesis-moe/core"

func add(y, x []float32)                                          { addTwin(y, x) }
func axpy(y []float32, a float32, x []float32)                    { axpyTwin(y, a, x) }
func scale(y []float32, a float32, x []float32)                   { scaleTwin(y, a, x) }
func dot(x, y []float32) float32                                  { return dotTwin(x, y) }
func weightedSum(y []float32, rows []*float32, weights []float32) { weightedSumTwin(y, rows, weights) }
func zero(y []float32)                                            { clear(y) }
func fromBF16(dst []float32, src []core.BF16)                     { fromBF16Twin(dst, src) }
func toBF16(dst []core.BF16, src []float32)                       { toBF16Twin(dst, src) }
func fromE4M3(dst []float32, src []core.E4M3, scale float32)      { fromE4M3Twin(dst, src, scale) }
func roundE4M3(x []float32)                                       { roundE4M3Twin(x) }
func exp(y, x []float32)                                          { expTwin(y, x) }
func softmax(y, x []float32)                                      { softmaxTwin(y, x) }
func swiGLU(h, gate, up []float32)                                { swiGLUTwin(h, gate, up) }

func swiGLUBackward(dGate, dUp, scaledH, gate, up, dh []float32, weight float32) float32 {
	return swiGLUBackwardTwin(dGate, dUp, scaledH, gate, up, dh, weight)
}

func gemmNT(m, n, k int, x *float32, ldx int, w *float32, ldw int, y *float32, ldy int, accumulate bool) {
	gemmNTTwin(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
}

func gemmNTBF16(m, n, k int, x *float32, ldx int, w *core.BF16, ldw int, y *float32, ldy int, accumulate bool) {
	gemmNTTwin(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
}

func gemmNTE4M3(m, n, k int, x *float32, ldx int, w *core.E4M3, ldw int, y *float32, ldy int, accumulate bool) {
	gemmNTTwin(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
}

func gemmNN(m, n, k int, x *float32, ldx int, w *float32, ldw int, y *float32, ldy int, accumulate bool) {
	gemmNNTwin(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
}

func gemmNNBF16(m, n, k int, x *float32, ldx int, w *core.BF16, ldw int, y *float32, ldy int, accumulate bool) {
	gemmNNTwin(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
}

func gemmTN(m, n, k int, a *float32, lda int, b *float32, ldb int, y *float32, ldy int, _ bool) {
	gemmTNTwin(m, n, k, a, lda, b, ldb, y, ldy)
}

func hasHalves() bool { return false }

func multiplyPairs(rows, pairs int, x *core.BF16, rowStride, pairStride int, panel []core.BF16, y *float32, ldy int, accumulate bool) {
	multiplyPairsTwin(rows, pairs, x, rowStride, pairStride, panel, y, ldy, accumulate)
}

func interleavePairs[E half](pairs, n int, src *E, ld int, dst []core.BF16, ldd int) {
	interleavePairsTwin(pairs, n, src, ld, dst, ldd)
}

func transposePairs(rows, k int, src *core.BF16, ld int, panel []core.BF16) {
	transposePairsTwin(rows, k, src, ld, panel)
}

func smallRows() (nt, nn, tn int) { return 0, 0, 0 }
