package vector

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// HasHalves reports whether this machine multiplies bfloat16 in hardware (AVX512_BF16):
// then [GemmNTHalves], [GemmNNHalves] and [GemmTNHalves] are the fastest products for
// more than a few rows. Without, they run their twins.
func HasHalves() bool { return hasHalves() }

// half is the type of a factor: bfloat16, or float32 that is rounded to it.
type half interface{ float32 | core.BF16 }

// A product goes over y by panels: so many columns of the right factor, packed so that the
// two elements of a pair of k lie side by side, and no deeper than fits the second cache. A
// kernel takes a few rows of the left factor down a panel. An element of y is a sum in the
// order of k, whatever m and n are.
const (
	panelColumns = 64
	panelDepth   = 2048
	tileRows     = 6
	// blockRows is how many rows of a transposed left factor are packed together.
	blockRows = 8 * tileRows
	// edgeSize is a tile of float32, for columns that do not fill a panel.
	edgeSize  = 2 * tileRows * panelColumns
	panelSize = panelColumns * panelDepth
)

// HalvesScratch is the number of elements of scratch that a product with m and k needs.
func HalvesScratch(m, k int) int {
	return edgeSize + panelSize + (m+blockRows-1)/blockRows*blockRows*(k+k%2)
}

// GemmNTHalves multiplies by a transposed matrix, with factors of bfloat16 and sums of
// float32:
//
//	y[m,n] = x[m,k] w[n,k]^T      (y += with accumulate)
//
// All are row-major, with ldx, ldw and ldy elements from row to row. scratch is as
// [HalvesScratch] says. What is too small for a normal number counts as 0, as in the
// instructions behind it.
func GemmNTHalves[X half](m, n, k int, x *X, ldx int, w *core.BF16, ldw int, y *float32, ldy int, accumulate bool, scratch []core.BF16) {
	if m <= 0 || n <= 0 || k <= 0 {
		emptyProduct(m, n, y, ldy, accumulate)
		return
	}
	g := rowsTimes(m, n, k, x, ldx, y, ldy, accumulate, scratch)
	g.panels(func(p, depth, j, width int) {
		for c := 0; c < width; c += 16 {
			transposePairs(min(16, width-c), depth, element(w, ldw, j+c, p), ldw, g.panel[2*c:])
		}
	})
}

// GemmNNHalves is [GemmNTHalves] with w[k,n].
func GemmNNHalves[X half](m, n, k int, x *X, ldx int, w *core.BF16, ldw int, y *float32, ldy int, accumulate bool, scratch []core.BF16) {
	if m <= 0 || n <= 0 || k <= 0 {
		emptyProduct(m, n, y, ldy, accumulate)
		return
	}
	g := rowsTimes(m, n, k, x, ldx, y, ldy, accumulate, scratch)
	g.panels(func(p, depth, j, width int) {
		interleave(depth, width, element(w, ldw, p, j), ldw, g.panel, 2*panelColumns)
	})
}

// GemmTNHalves multiplies a transposed matrix, for the gradient of a weight matrix:
//
//	y[m,n] = a[k,m]^T b[k,n]      (y += with accumulate)
//
// The rest is as in [GemmNTHalves].
func GemmTNHalves[A half](m, n, k int, a *A, lda int, b *A, ldb int, y *float32, ldy int, accumulate bool, scratch []core.BF16) {
	if m <= 0 || n <= 0 || k <= 0 {
		emptyProduct(m, n, y, ldy, accumulate)
		return
	}
	g := newPairProduct(m, n, k, y, ldy, accumulate, scratch)
	g.x, g.row, g.pair, g.block = &g.left[0], 2, 2*blockRows, blockRows*(k+k%2)
	for i := 0; i < m; i += blockRows {
		interleave(k, min(blockRows, m-i), element(a, lda, 0, i), lda, g.left[i/blockRows*g.block:], 2*blockRows)
	}
	g.panels(func(p, depth, j, width int) {
		interleave(depth, width, element(b, ldb, p, j), ldb, g.panel, 2*panelColumns)
	})
}

// pairProduct is y[m,n] (+)= x times what is packed in panels.
type pairProduct struct {
	m, n, k    int
	x          *core.BF16
	row, pair  int // elements from one row of x to the next within a block, and from pair to pair
	block      int // elements from one block of rows to the next
	y          *float32
	ldy        int
	accumulate bool

	edge  *float32    // a tile
	panel []core.BF16 // [pairs, 64, 2]
	left  []core.BF16 // memory for x
}

func newPairProduct(m, n, k int, y *float32, ldy int, accumulate bool, scratch []core.BF16) pairProduct {
	scratch = scratch[:HalvesScratch(m, k)]
	return pairProduct{
		m: m, n: n, k: k, y: y, ldy: ldy, accumulate: accumulate,
		edge: (*float32)(unsafe.Pointer(&scratch[0])), panel: scratch[edgeSize : edgeSize+panelSize], left: scratch[edgeSize+panelSize:],
	}
}

// rowsTimes begins a product whose x is row-major: used in place, or rounded.
func rowsTimes[X half](m, n, k int, x *X, ldx int, y *float32, ldy int, accumulate bool, scratch []core.BF16) pairProduct {
	g := newPairProduct(m, n, k, y, ldy, accumulate, scratch)
	even := k + k%2
	g.x, g.row, g.pair, g.block = &g.left[0], even, 2, blockRows*even
	narrow, isNarrow := any(x).(*core.BF16)
	if isNarrow && k == even {
		g.x, g.row, g.block = narrow, ldx, blockRows*ldx
		return g
	}
	for i := range m {
		line := g.left[i*even : (i+1)*even]
		line[even-1] = 0
		if isNarrow {
			copy(line, rowOf(narrow, ldx, i, k))
		} else {
			toBF16(line[:k], rowOf((*float32)(unsafe.Pointer(x)), ldx, i, k))
		}
	}
	return g
}

// panels multiplies by one panel after the other, once pack has written it: k from p on,
// and columns from j on.
func (g *pairProduct) panels(pack func(p, depth, j, width int)) {
	for p := 0; p < g.k; p += panelDepth {
		depth := min(panelDepth, g.k-p)
		for j := 0; j < g.n; j += panelColumns {
			width := min(panelColumns, g.n-j)
			pack(p, depth, j, width)
			for block := 0; block < g.m; block += blockRows {
				x := element(g.x, g.block, block/blockRows, p/2*g.pair)
				last := min(blockRows, g.m-block)
				for i := 0; i < last; i += tileRows {
					g.tile(min(tileRows, last-i), (depth+1)/2, element(x, g.row, i, 0), element(g.y, g.ldy, block+i, j), width, g.accumulate || p > 0)
				}
			}
		}
	}
}

// tile multiplies some rows by a panel.
func (g *pairProduct) tile(rows, pairs int, x *core.BF16, y *float32, width int, accumulate bool) {
	if width == panelColumns {
		multiplyPairs(rows, pairs, x, g.row, g.pair, g.panel, y, g.ldy, accumulate)
		return
	}
	multiplyPairs(rows, pairs, x, g.row, g.pair, g.panel, g.edge, panelColumns, false)
	for i := range rows {
		sums, yi := rowOf(g.edge, panelColumns, i, width), rowOf(y, g.ldy, i, width)
		if accumulate {
			add(yi, sums)
		} else {
			copy(yi, sums)
		}
	}
}

// interleave packs the rows of src in pairs; an odd last one pairs with zeros.
func interleave[E half](k, n int, src *E, ld int, dst []core.BF16, ldd int) {
	interleavePairs(k/2, n, src, ld, dst, ldd)
	if k%2 == 0 {
		return
	}
	last, pair := rowOf(src, ld, k-1, n), dst[k/2*ldd:]
	for j := range last {
		pair[2*j], pair[2*j+1] = narrow(last[j]), 0
	}
}

// element is the address of an element of a matrix.
func element[E any](base *E, ld, row, column int) *E {
	return &rowOf(base, ld, row, column+1)[column]
}
