package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// gemmTN writes kernels of
//
//	y[rows,n] = a[k,rows]^T b[k,n]
//
// for a fixed number of rows: a block of y is summed in registers over all of k
// and stored once, past the caches in the Stream kernels, whose blocks of y must
// be aligned to a vector. n is a multiple of a vector there too.
func gemmTN(m *machine) {
	most := 2
	if m.wide {
		most = 6
	}
	for _, stream := range []bool{false, true} {
		for rows := 1; rows <= most; rows++ {
			gemmTNRows(m, rows, stream)
		}
	}
}

func gemmTNRows(m *machine, rows int, stream bool) {
	name, store := "gemmTN", "is"
	if stream {
		name, store = "gemmTNStream", "streams"
	}
	m.function(fmt.Sprintf("%s%d", name, rows),
		"func(n, k int, a *float32, lda int, b *float32, ldb int, y *float32, ldy int)",
		fmt.Sprintf("%s y[%d,n] = a[k,%d]^T b[k,n].", store, rows, rows))
	n, k, b, y := m.argument("n"), m.argument("k"), m.argument("b"), m.argument("y")
	a := m.argument("a")
	lda, ldb, ldy := m.stride("lda", 4), m.stride("ldb", 4), m.stride("ldy", 4)

	// block does count vectors of columns; the loads and stores are the caller's.
	block := func(count int, load func(from operand.Mem, to reg.VecVirtual), put func(from reg.VecVirtual, to operand.Mem)) {
		again, done := m.label("again"), m.label("done")
		acc := m.vectors(rows * count)
		for _, v := range acc {
			m.zero(v)
		}
		p, ap, bp := m.GP64(), m.GP64(), m.GP64()
		m.MOVQ(a, ap)
		m.MOVQ(b, bp)
		m.MOVQ(k, p)
		m.TESTQ(p, p)
		m.JLE(operand.LabelRef(done))
		m.Label(again)
		bv := m.vectors(count)
		for c := range bv {
			load(operand.Mem{Base: bp, Disp: c * m.bytes()}, bv[c])
		}
		for i := range rows {
			av := m.vector()
			m.VBROADCASTSS(operand.Mem{Base: ap, Disp: 4 * i}, av)
			for c := range bv {
				m.VFMADD231PS(bv[c], av, acc[i*count+c])
			}
		}
		m.ADDQ(lda, ap)
		m.ADDQ(ldb, bp)
		m.DECQ(p)
		m.JNE(operand.LabelRef(again))
		m.Label(done)
		to := m.rowPointers(y, ldy, rows)
		for i := range rows {
			for c := range count {
				put(acc[i*count+c], to[i].Offset(c*m.bytes()))
			}
		}
	}
	whole := func(v reg.VecVirtual, to operand.Mem) {
		if stream {
			m.VMOVNTPS(v, to)
		} else {
			m.VMOVUPS(v, to)
		}
	}
	const most = 4
	for count := most; count >= 1; count /= 2 {
		loop, end := m.label("loop"), m.label("end")
		m.Label(loop)
		m.CMPQ(n, operand.U8(count*m.lanes()))
		m.JLT(operand.LabelRef(end))
		block(count, func(from operand.Mem, to reg.VecVirtual) { m.VMOVUPS(from, to) }, whole)
		m.ADDQ(operand.I32(count*m.bytes()), b)
		m.ADDQ(operand.I32(count*m.bytes()), y)
		m.SUBQ(operand.I32(count*m.lanes()), n)
		m.JMP(operand.LabelRef(loop))
		m.Label(end)
	}
	if !stream {
		end := m.label("end")
		m.TESTQ(n, n)
		m.JLE(operand.LabelRef(end))
		if m.wide {
			rest := m.mask(n)
			block(1, func(from operand.Mem, to reg.VecVirtual) { m.VMOVUPS_Z(from, rest, to) },
				func(from reg.VecVirtual, to operand.Mem) { m.VMOVUPS(from, rest, to) })
		} else {
			one := m.label("one")
			m.Label(one)
			block(1, func(from operand.Mem, to reg.VecVirtual) { m.loadOne(f32, from, to) },
				func(from reg.VecVirtual, to operand.Mem) { m.VMOVSS(from.AsX(), to) })
			m.ADDQ(operand.U8(4), b)
			m.ADDQ(operand.U8(4), y)
			m.DECQ(n)
			m.JNE(operand.LabelRef(one))
		}
		m.Label(end)
	}
	m.done()
}
