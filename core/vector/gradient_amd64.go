//go:build !purego

package vector

import (
	"sync"
	"unsafe"
)

// gradientKernel multiplies for a fixed number of rows of y, in assembly.
type gradientKernel func(n, k int, a *float32, lda int, b *float32, ldb int, y *float32, ldy int)

// Kernels by level, for 1, 2, ... rows.
var (
	tnKernels = [...][]gradientKernel{
		avx2:   {gemmTN1AVX2, gemmTN2AVX2},
		avx512: {gemmTN1AVX512, gemmTN2AVX512, gemmTN3AVX512, gemmTN4AVX512, gemmTN5AVX512, gemmTN6AVX512},
	}
	tnStreamKernels = [...][]gradientKernel{
		avx2:   {gemmTNStream1AVX2, gemmTNStream2AVX2},
		avx512: {gemmTNStream1AVX512, gemmTNStream2AVX512, gemmTNStream3AVX512, gemmTNStream4AVX512, gemmTNStream5AVX512, gemmTNStream6AVX512},
	}
)

// lineElements is the number of float32 in a cache line.
const lineElements = 16

// toAligned is the number of elements before the next cache line.
func toAligned(y *float32) int { return int(-uintptr(unsafe.Pointer(y)) / 4 % lineElements) }

func gemmTN(m, n, k int, a *float32, lda int, b *float32, ldb int, y *float32, ldy int, stream bool) {
	if active == portable {
		gemmTNTwin(m, n, k, a, lda, b, ldb, y, ldy)
		return
	}
	head := toAligned(y)
	if !stream || ldy%lineElements != 0 || n < head+lineElements {
		tilesTN(tnKernels[active], m, n, k, a, lda, b, ldb, y, ldy)
		return
	}
	body := (n - head) &^ (lineElements - 1)
	tail := head + body
	if head > 0 {
		tilesTN(tnKernels[active], m, head, k, a, lda, b, ldb, y, ldy)
	}
	tilesTN(tnStreamKernels[active], m, body, k, a, lda, at(b, 0, 0, head), ldb, at(y, 0, 0, head), ldy)
	if tail < n {
		tilesTN(tnKernels[active], m, n-tail, k, a, lda, at(b, 0, 0, tail), ldb, at(y, 0, 0, tail), ldy)
	}
	fence()
}

const (
	// panelTN is the number of elements of b in a tile: most of the first cache.
	panelTN = 1 << 13
	// rowsTN is the number of rows of y in a tile.
	rowsTN = 60
	// From packedTN to panelTN/64 elements, columns of a and b are copied. Left in
	// place, they often lie a multiple of the page size apart, where they drive
	// each other out of a cache of 8 to 12 ways.
	packedTN = 5
)

// tile holds copies of parts of a and b, row by row.
type tile struct {
	a [rowsTN * panelTN / 64]float32
	b [panelTN]float32
}

var tiles = sync.Pool{New: func() any { return new(tile) }}

// tilesTN goes through y by tiles, whose parts of a and b stay in the first cache.
func tilesTN(kernels []gradientKernel, m, n, k int, a *float32, lda int, b *float32, ldb int, y *float32, ldy int) {
	columns := max(64, panelTN/k&^63)
	var t *tile
	if k >= packedTN && k*64 <= panelTN && m >= rowsTN {
		t = tiles.Get().(*tile)
		defer tiles.Put(t)
	}
	for j := 0; j < n; j += columns {
		width := min(columns, n-j)
		bj, ldbj := at(b, ldb, 0, j), ldb
		if t != nil {
			bj, ldbj = pack(t.b[:], bj, ldb, k, width), width
		}
		for i := 0; i < m; i += rowsTN {
			height := min(rowsTN, m-i)
			ai, ldai := at(a, lda, 0, i), lda
			if t != nil {
				ai, ldai = pack(t.a[:], ai, lda, k, height), height
			}
			blocks := (height + len(kernels) - 1) / len(kernels)
			for block := range blocks {
				first, last := height*block/blocks, height*(block+1)/blocks
				kernels[last-first-1](width, k, at(ai, 0, 0, first), ldai, bj, ldbj, at(y, ldy, i+first, j), ldy)
			}
		}
	}
}

// pack copies rows side by side.
func pack(to []float32, from *float32, ld, rows, columns int) *float32 {
	for p := range rows {
		copy(to[p*columns:(p+1)*columns], rowOf(from, ld, p, columns))
	}
	return &to[0]
}
