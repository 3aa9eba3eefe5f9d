package vector

import (
	"math"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// rowOf is row i of n elements of a matrix.
func rowOf[E any](base *E, ld, i, n int) []E {
	var e E
	return unsafe.Slice((*E)(unsafe.Add(unsafe.Pointer(base), i*ld*int(unsafe.Sizeof(e)))), n)
}

// widen is the value of a weight.
func widen[W float32 | core.BF16 | core.E4M3](w W) float32 {
	switch b := any(w).(type) {
	case core.BF16:
		return math.Float32frombits(uint32(b) << 16)
	case core.E4M3:
		return b.Float32()
	default:
		return float32(w)
	}
}

func gemmNTTwin[W float32 | core.BF16 | core.E4M3](m, n, k int, x *float32, ldx int, w *W, ldw int, y *float32, ldy int, accumulate bool) {
	for j := range n {
		wj := rowOf(w, ldw, j, k)
		for i := range m {
			xi := rowOf(x, ldx, i, k)
			sum := float32(0)
			for p := range wj {
				sum += xi[p] * widen(wj[p])
			}
			yij := &rowOf(y, ldy, i, n)[j]
			if accumulate {
				sum += *yij
			}
			*yij = sum
		}
	}
}

func gemmNNTwin[W float32 | core.BF16](m, n, k int, x *float32, ldx int, w *W, ldw int, y *float32, ldy int, accumulate bool) {
	if !accumulate {
		for i := range m {
			clear(rowOf(y, ldy, i, n))
		}
	}
	for p := range k {
		wp := rowOf(w, ldw, p, n)
		for i := range m {
			xip, yi := rowOf(x, ldx, i, k)[p], rowOf(y, ldy, i, n)
			for j := range wp {
				yi[j] += xip * widen(wp[j])
			}
		}
	}
}

func gemmTNTwin(m, n, k int, a *float32, lda int, b *float32, ldb int, y *float32, ldy int) {
	for i := range m {
		yi := rowOf(y, ldy, i, n)
		clear(yi)
		for p := range k {
			axpyTwin(yi, rowOf(a, lda, p, m)[i], rowOf(b, ldb, p, n))
		}
	}
}
