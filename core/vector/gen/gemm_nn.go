package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// gemmNN writes, for each number of rows of x that fit the registers, a kernel
//
//	y[rows,n] (+)= x[rows,k] w[k,n]
//
// A block of rows x some vectors of columns is summed in registers, down all of
// k: an element is one chain of fused multiply-adds in the order of k, whatever
// the blocks. The caller keeps k small, so that the strip of w that a block goes
// down touches few pages. On the way, each row asks for the lines ahead1 and ahead2
// elements further.
func gemmNN(m *machine) {
	for _, e := range []element{f32, bf16} {
		for rows := 1; rows <= 6; rows++ {
			gemmNNRows(m, e, rows)
		}
	}
}

func gemmNNRows(m *machine, e element, rows int) {
	m.function(fmt.Sprintf("gemmNN%s%d", e.name, rows),
		fmt.Sprintf("func(n, k int, x *float32, ldx int, w *%s, ldw, ahead1, ahead2 int, y *float32, ldy int, accumulate bool)", e.goType),
		fmt.Sprintf("is y[%d,n] (+)= x[%d,k] w[k,n].", rows, rows))
	n, k, w, y := m.argument("n"), m.argument("k"), m.argument("w"), m.argument("y")
	ldx, ldw, ldy := m.stride("ldx", 4), m.stride("ldw", e.bytes), m.stride("ldy", 4)
	ahead := []reg.GPVirtual{m.stride("ahead1", e.bytes), m.stride("ahead2", e.bytes)}

	type access struct {
		load, loadW func(from operand.Mem, to reg.VecVirtual)
		store       func(from reg.VecVirtual, to operand.Mem)
	}
	block := func(count int, a access, prefetch bool) {
		start, again, done := m.label("start"), m.label("again"), m.label("done")
		acc := m.vectors(rows * count)
		for _, v := range acc {
			m.zero(v)
		}
		flag := m.GP64()
		m.Load(m.Param("accumulate"), flag.As8())
		m.TESTB(flag.As8(), flag.As8())
		m.JE(operand.LabelRef(start))
		from := m.rowPointers(y, ldy, rows)
		for i := range rows {
			for c := range count {
				a.load(from[i].Offset(c*m.bytes()), acc[i*count+c])
			}
		}
		m.Label(start)
		x, p, wp := m.argument("x"), m.GP64(), m.GP64()
		xp := m.rowPointers(x, ldx, rows)
		m.MOVQ(w, wp)
		m.MOVQ(k, p)
		m.TESTQ(p, p)
		m.JLE(operand.LabelRef(done))
		m.Label(again)
		wv := m.vectors(count)
		for c := range wv {
			a.loadW(operand.Mem{Base: wp, Disp: c * m.lanes() * e.bytes}, wv[c])
		}
		if prefetch {
			for _, a := range ahead {
				m.PREFETCHT0(operand.Mem{Base: wp, Index: a, Scale: 1})
			}
		}
		for i := range rows {
			xi := m.vector()
			m.VBROADCASTSS(xp[i], xi)
			for c := range wv {
				m.VFMADD231PS(wv[c], xi, acc[i*count+c])
			}
		}
		for _, b := range bases(xp) {
			m.ADDQ(operand.U8(4), b)
		}
		m.ADDQ(ldw, wp)
		m.DECQ(p)
		m.JNE(operand.LabelRef(again))
		m.Label(done)
		to := m.rowPointers(y, ldy, rows)
		for i := range rows {
			for c := range count {
				a.store(acc[i*count+c], to[i].Offset(c*m.bytes()))
			}
		}
	}
	whole := access{
		load:  func(from operand.Mem, to reg.VecVirtual) { m.VMOVUPS(from, to) },
		loadW: func(from operand.Mem, to reg.VecVirtual) { m.load(e, from, to) },
		store: func(from reg.VecVirtual, to operand.Mem) { m.VMOVUPS(from, to) },
	}
	// Registers hold a vector of w for each vector of columns, one of x, and the sums.
	most := 4
	if !m.wide && rows > 2 {
		most = 2
	}
	for count := most; count >= 1; count /= 2 {
		loop, end := m.label("loop"), m.label("end")
		m.Label(loop)
		m.CMPQ(n, operand.U8(count*m.lanes()))
		m.JLT(operand.LabelRef(end))
		block(count, whole, count == most)
		m.ADDQ(operand.I32(count*m.lanes()*e.bytes), w)
		m.ADDQ(operand.I32(count*m.bytes()), y)
		m.SUBQ(operand.I32(count*m.lanes()), n)
		m.JMP(operand.LabelRef(loop))
		m.Label(end)
	}
	end := m.label("end")
	m.TESTQ(n, n)
	m.JLE(operand.LabelRef(end))
	if m.wide {
		rest := m.mask(n)
		block(1, access{
			load:  func(from operand.Mem, to reg.VecVirtual) { m.VMOVUPS_Z(from, rest, to) },
			loadW: func(from operand.Mem, to reg.VecVirtual) { m.loadMasked(e, from, rest, to) },
			store: func(from reg.VecVirtual, to operand.Mem) { m.VMOVUPS(from, rest, to) },
		}, false)
	} else {
		one := m.label("one")
		m.Label(one)
		block(1, access{
			load:  func(from operand.Mem, to reg.VecVirtual) { m.loadOne(f32, from, to) },
			loadW: func(from operand.Mem, to reg.VecVirtual) { m.loadOne(e, from, to) },
			store: func(from reg.VecVirtual, to operand.Mem) { m.VMOVSS(from.AsX(), to) },
		}, false)
		m.ADDQ(operand.U8(e.bytes), w)
		m.ADDQ(operand.U8(4), y)
		m.DECQ(n)
		m.JNE(operand.LabelRef(one))
	}
	m.Label(end)
	m.done()
}
