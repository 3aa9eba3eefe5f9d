//go:build !purego

package vector

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// rowKernel multiplies a fixed number of rows of x, in assembly.
type rowKernel[W float32 | uint16 | uint8] func(n, k int, x *float32, ldx int, w *W, ldw, ahead1, ahead2 int, y *float32, ldy int, accumulate bool)

// Kernels by level, for 1, 2, ... rows.
var (
	ntKernels = [...][]rowKernel[float32]{
		avx2:   {gemmNT1AVX2, gemmNT2AVX2, gemmNT3AVX2},
		avx512: {gemmNT1AVX512, gemmNT2AVX512, gemmNT3AVX512, gemmNT4AVX512, gemmNT5AVX512, gemmNT6AVX512},
	}
	ntBF16Kernels = [...][]rowKernel[uint16]{
		avx2:   {gemmNTBF161AVX2, gemmNTBF162AVX2, gemmNTBF163AVX2},
		avx512: {gemmNTBF161AVX512, gemmNTBF162AVX512, gemmNTBF163AVX512, gemmNTBF164AVX512, gemmNTBF165AVX512, gemmNTBF166AVX512},
	}
	ntE4M3Kernels = [...][]rowKernel[uint8]{
		avx2:   {gemmNTE4M31AVX2, gemmNTE4M32AVX2},
		avx512: {gemmNTE4M31AVX512, gemmNTE4M32AVX512, gemmNTE4M33AVX512, gemmNTE4M34AVX512, gemmNTE4M35AVX512},
	}
	nnKernels = [...][]rowKernel[float32]{
		avx2:   {gemmNN1AVX2, gemmNN2AVX2, gemmNN3AVX2, gemmNN4AVX2, gemmNN5AVX2, gemmNN6AVX2},
		avx512: {gemmNN1AVX512, gemmNN2AVX512, gemmNN3AVX512, gemmNN4AVX512, gemmNN5AVX512, gemmNN6AVX512},
	}
	nnBF16Kernels = [...][]rowKernel[uint16]{
		avx2:   {gemmNNBF161AVX2, gemmNNBF162AVX2, gemmNNBF163AVX2, gemmNNBF164AVX2, gemmNNBF165AVX2, gemmNNBF166AVX2},
		avx512: {gemmNNBF161AVX512, gemmNNBF162AVX512, gemmNNBF163AVX512, gemmNNBF164AVX512, gemmNNBF165AVX512, gemmNNBF166AVX512},
	}
)

// at is the address of an element of a matrix.
func at[E any](base *E, ld, row, column int) *E {
	var e E
	return (*E)(unsafe.Add(unsafe.Pointer(base), (row*ld+column)*int(unsafe.Sizeof(e))))
}

func gemmNT(m, n, k int, x *float32, ldx int, w *float32, ldw int, y *float32, ldy int, accumulate bool) {
	if active == portable {
		gemmNTTwin(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
		return
	}
	panelsNT(ntKernels[active], m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
}

func gemmNTBF16(m, n, k int, x *float32, ldx int, w *core.BF16, ldw int, y *float32, ldy int, accumulate bool) {
	if active == portable {
		gemmNTTwin(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
		return
	}
	panelsNT(ntBF16Kernels[active], m, n, k, x, ldx, (*uint16)(w), ldw, y, ldy, accumulate)
}

func gemmNTE4M3(m, n, k int, x *float32, ldx int, w *core.E4M3, ldw int, y *float32, ldy int, accumulate bool) {
	if active == portable {
		gemmNTTwin(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
		return
	}
	panelsNT(ntE4M3Kernels[active], m, n, k, x, ldx, (*uint8)(w), ldw, y, ldy, accumulate)
}

// panelsNT covers y by panels of few columns: all rows of x pass over the rows of
// w of one panel while those are in the cache, and ask for those of the next on
// the way, in equal parts so that memory never rests. k goes in chunks, so that
// the rows of x stay in the cache too; the chunks depend on k alone, and with them
// the order of additions.
func panelsNT[W float32 | uint16 | uint8](kernels []rowKernel[W], m, n, k int, x *float32, ldx int, w *W, ldw int, y *float32, ldy int, accumulate bool) {
	blocks := (m + len(kernels) - 1) / len(kernels)
	chunk := chunkNT
	if k > chunkNT {
		chunks := (k + chunkNT - 1) / chunkNT
		chunk = ((k+chunks-1)/chunks + 31) &^ 31
	}
	columns := columnsNT
	if blocks == 1 {
		// The processor foresees where a row of w goes on, not which begins; every second one that is asked for is enough.
		ahead1, ahead2 := 7*ldw, 9*ldw
		if unsafe.Sizeof(*w) == 1 {
			ahead1, ahead2 = 4*ldw, 6*ldw
		}
		if k <= chunk {
			columns = max(columnsNT, preemptible/k&^(columnsNT-1))
		}
		for j := 0; j < n; j += columns {
			for p := 0; p < k; p += chunk {
				kernels[m-1](min(columns, n-j), min(chunk, k-p), at(x, ldx, 0, p), ldx, at(w, ldw, j, p), ldw, ahead1, ahead2, at(y, ldy, 0, j), ldy, accumulate || p > 0)
			}
		}
		return
	}
	for p := 0; p < k; p += chunk {
		for j := 0; j < n; j += columns {
			for b := range blocks {
				first, last := m*b/blocks, m*(b+1)/blocks
				ahead1, ahead2 := 0, 0
				if j+2*columns <= n {
					ahead1, ahead2 = ahead(b, blocks, columns*ldw, ldw)
				}
				kernels[last-first-1](min(columns, n-j), min(chunk, k-p), at(x, ldx, first, p), ldx, at(w, ldw, j, p), ldw, ahead1, ahead2, at(y, ldy, first, j), ldy, accumulate || p > 0)
			}
		}
	}
}

// ahead shares four parts of what comes next out to the blocks of rows: it gives
// the first and the last part that block b asks for, as distances in elements
// from what it reads; 0 where there is nothing left to ask for.
func ahead(b, blocks, next, part int) (first, last int) {
	shared := min(blocks, 4)
	if b >= shared {
		return 0, 0
	}
	return next + 4*b/shared*part, next + (4*(b+1)/shared-1)*part
}

const (
	// columnsNT is the width of a panel of GemmNT: two blocks of a kernel.
	columnsNT = 8
	// chunkNT is the number of columns of x that GemmNT goes through at a time: a
	// panel of that many fills most of the first-level cache.
	chunkNT = 1024
)

func gemmNN(m, n, k int, x *float32, ldx int, w *float32, ldw int, y *float32, ldy int, accumulate bool) {
	if active == portable {
		gemmNNTwin(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
		return
	}
	panelsNN(nnKernels[active], m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
}

func gemmNNBF16(m, n, k int, x *float32, ldx int, w *core.BF16, ldw int, y *float32, ldy int, accumulate bool) {
	if active == portable {
		gemmNNTwin(m, n, k, x, ldx, w, ldw, y, ldy, accumulate)
		return
	}
	panelsNN(nnBF16Kernels[active], m, n, k, x, ldx, (*uint16)(w), ldw, y, ldy, accumulate)
}

// panelsNN goes through w by chunks of few rows, and a chunk by strips of columns
// from left to right: all rows of x pass over a strip while it is in the cache,
// and ask for the next on the way. What a strip adds to y waits there for the
// next chunk; the order of additions does not depend on the chunks.
func panelsNN[W float32 | uint16](kernels []rowKernel[W], m, n, k int, x *float32, ldx int, w *W, ldw int, y *float32, ldy int, accumulate bool) {
	blocks := (m + len(kernels) - 1) / len(kernels)
	chunk, strip := min(blocks*streamsNN, chunkNN), n
	if blocks > 1 {
		strip = stripNN
	}
	for p := 0; p < k; p += chunk {
		for j := 0; j < n; j += strip {
			for b := range blocks {
				first, last := m*b/blocks, m*(b+1)/blocks
				ahead1, ahead2 := stripNN, stripNN*3/2 // a block of columns further on, or a few with AVX2
				if blocks > 1 {
					ahead1, ahead2 = ahead(b, blocks, strip, strip/4)
				}
				kernels[last-first-1](min(strip, n-j), min(chunk, k-p), at(x, ldx, first, p), ldx, at(w, ldw, p, j), ldw, ahead1, ahead2, at(y, ldy, first, j), ldy, accumulate || p > 0)
			}
		}
	}
}

const (
	// streamsNN is the number of rows of w that GemmNN goes through at a time when it goes
	// through w once: as many streams as the processor foresees. The more often it goes
	// through w, the less counts how that comes from memory.
	streamsNN = 12
	// chunkNN is that number at most: no more than the processor keeps page addresses for.
	chunkNN = 64
	// stripNN is the number of columns of a strip: four cache lines.
	stripNN = 64
)
