package vector

import "github.com/genesis-moe/genesis-moe/core"

// narrow rounds to bfloat16.
func narrow[E half](e E) core.BF16 {
	if b, ok := any(e).(core.BF16); ok {
		return b
	}
	var b [1]core.BF16
	toBF16Twin(b[:], []float32{float32(e)})
	return b[0]
}

// multiplyPairsTwin is y[rows,64] (+)= x panel.
func multiplyPairsTwin(rows, pairs int, x *core.BF16, rowStride, pairStride int, panel []core.BF16, y *float32, ldy int, accumulate bool) {
	for i := range rows {
		yi := rowOf(y, ldy, i, panelColumns)
		if !accumulate {
			clear(yi)
		}
		for p := range pairs {
			pair := rowOf(element(x, rowStride, i, 0), pairStride, p, 2)
			for j := range yi {
				w := panel[2*(p*panelColumns+j):]
				yi[j] += widen(pair[1])*widen(w[1]) + widen(pair[0])*widen(w[0])
			}
		}
	}
}

// interleavePairsTwin puts the elements of two rows side by side.
func interleavePairsTwin[E half](pairs, n int, src *E, ld int, dst []core.BF16, ldd int) {
	for p := range pairs {
		even, odd := rowOf(src, ld, 2*p, n), rowOf(src, ld, 2*p+1, n)
		for j := range n {
			dst[p*ldd+2*j], dst[p*ldd+2*j+1] = narrow(even[j]), narrow(odd[j])
		}
	}
}

// transposePairsTwin makes rows columns of a panel; k is padded with zeros to a multiple of 32.
func transposePairsTwin(rows, k int, src *core.BF16, ld int, panel []core.BF16) {
	for j := range rows {
		row := rowOf(src, ld, j, k)
		for p := range (k + 31) &^ 31 {
			value := core.BF16(0)
			if p < k {
				value = row[p]
			}
			panel[p/2*2*panelColumns+2*j+p%2] = value
		}
	}
}
