package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// columnsNT is how many rows of w, columns of y, a block of GemmNT takes.
const columnsNT = 4

// gemmNT writes, for each number of rows of x that fit the registers, a kernel
//
//	y[rows,n] (+)= x[rows,k] w[n,k]^T
//
// in the dot form: one vector accumulator per element of y walks along k, and is
// summed across its lanes at the end. So an element sees the same additions in
// the same order whatever rows and n are.
//
// While a block runs, it asks for two more rows, ahead1 and ahead2 elements after
// its first: part of what the caller is likely to read next. 0 asks for what is there already.
func gemmNT(m *machine) {
	for _, e := range []element{f32, bf16, e4m3} {
		most := 3
		if m.wide {
			most = 6
		}
		if e == e4m3 {
			most-- // decoding needs registers of its own
		}
		for rows := 1; rows <= most; rows++ {
			gemmNTRows(m, e, rows)
		}
	}
}

func gemmNTRows(m *machine, e element, rows int) {
	m.function(fmt.Sprintf("gemmNT%s%d", e.name, rows),
		fmt.Sprintf("func(n, k int, x *float32, ldx int, w *%s, ldw, ahead1, ahead2 int, y *float32, ldy int, accumulate bool)", e.goType),
		fmt.Sprintf("is y[%d,n] (+)= x[%d,k] w[n,k]^T.", rows, rows))
	column, end := m.label("column"), m.label("end")

	n, w, y := m.argument("n"), m.argument("w"), m.argument("y")
	ldx, ldy := m.stride("ldx", 4), m.stride("ldy", 4)
	m.TESTQ(n, n)
	m.JLE(operand.LabelRef(end))

	m.Label(column)
	// Past the last row of w, the block reads the last row again and drops the result.
	ldw := m.stride("ldw", e.bytes)
	wj := [columnsNT]reg.GPVirtual{w}
	for j := 1; j < columnsNT; j++ {
		wj[j] = m.GP64()
		m.MOVQ(wj[j-1], wj[j])
		next := m.GP64()
		m.LEAQ(operand.Mem{Base: wj[j-1], Index: ldw, Scale: 1}, next)
		m.CMPQ(n, operand.U8(j))
		m.CMOVQGT(next, wj[j])
	}
	acc := m.dots(e, rows, ldx, wj[:])

	// Sums across lanes: the four columns of a row of y side by side in an XMM.
	for i := range rows {
		m.acrossLanes(acc[i*columnsNT : (i+1)*columnsNT])
		if e == e4m3 {
			sums := acc[i*columnsNT].AsX()
			m.VMULPS(m.data(math.Float32bits(fromHalf), columnsNT), sums, sums)
		}
	}
	store := m.label("store")
	count := m.GP64()
	m.MOVQ(operand.U32(columnsNT), count)
	m.CMPQ(n, count)
	m.CMOVQLT(n, count)
	keep := m.newPartial(count)
	accumulate := m.GP64()
	m.Load(m.Param("accumulate"), accumulate.As8())
	m.TESTB(accumulate.As8(), accumulate.As8())
	m.JE(operand.LabelRef(store))
	at := m.rowPointers(y, ldy, rows)
	for i := range rows {
		before := m.XMM()
		keep.load(at[i], before)
		m.VADDPS(before, acc[i*columnsNT].AsX(), acc[i*columnsNT].AsX())
	}
	m.Label(store)
	at = m.rowPointers(y, ldy, rows)
	for i := range rows {
		keep.store(acc[i*columnsNT].AsX(), at[i])
	}

	m.ADDQ(operand.U8(columnsNT*4), y)
	ldw = m.stride("ldw", e.bytes)
	m.LEAQ(operand.Mem{Base: w, Index: ldw, Scale: columnsNT}, w)
	m.SUBQ(operand.U8(columnsNT), n)
	m.JG(operand.LabelRef(column))
	m.Label(end)
	m.done()
}

// aheadFactor is how many rows follow one another in what ahead1 and ahead2 ask for: a step of e4m3 takes half a
// line of the cache, so that asking for whole ones leaves time for a second row.
func aheadFactor(e element) int {
	if e == e4m3 {
		return 2
	}
	return 1
}

// dots walks along k, and returns the accumulators of rows x columns, row by row.
func (m *machine) dots(e element, rows int, ldx reg.GPVirtual, w []reg.GPVirtual) []reg.VecVirtual {
	twice, once, tail, done := m.label("twice"), m.label("once"), m.label("tail"), m.label("done")
	columns := len(w)
	acc := m.vectors(rows * columns)
	for _, a := range acc {
		m.zero(a)
	}
	// p counts elements; the pointers to w stay where they are for the next block.
	p, k, x := m.GP64(), m.argument("k"), m.argument("x")
	m.XORQ(p, p)
	xp := m.rowPointers(x, ldx, rows)
	step := func(offset int) {
		xi := m.vectors(rows)
		for i := range xi {
			m.VMOVUPS(xp[i].Offset(offset*4), xi[i])
		}
		for j := range w {
			wj := m.vector()
			m.load(e, operand.Mem{Base: w[j], Index: p, Scale: uint8(e.bytes), Disp: offset * e.bytes}, wj)
			for i := range xi {
				m.VFMADD231PS(xi[i], wj, acc[i*columns+j])
			}
		}
	}
	var ahead []reg.GPVirtual
	advance := func(elements int) {
		m.ADDQ(operand.U32(elements), p)
		if elements == 2*m.lanes() {
			for _, a := range ahead {
				m.ADDQ(operand.U32(elements*aheadFactor(e)), a)
			}
		}
		for _, x := range bases(xp) {
			m.ADDQ(operand.U32(elements*4), x)
		}
	}
	lanes := m.lanes()
	m.SUBQ(operand.U8(2*lanes), k)
	m.JL(operand.LabelRef(once))
	ahead = []reg.GPVirtual{m.argument("ahead1"), m.argument("ahead2")}
	m.Label(twice)
	for _, a := range ahead {
		for line := 0; line < 2*lanes*e.bytes; line += 64 {
			m.PREFETCHT1(operand.Mem{Base: w[0], Index: a, Scale: uint8(e.bytes), Disp: line})
		}
	}
	step(0)
	step(lanes)
	advance(2 * lanes)
	m.SUBQ(operand.U8(2*lanes), k)
	m.JGE(operand.LabelRef(twice))
	m.Label(once)
	m.ADDQ(operand.U8(lanes), k)
	m.JL(operand.LabelRef(tail))
	step(0)
	advance(lanes)
	m.SUBQ(operand.U8(lanes), k)
	m.Label(tail)
	m.ADDQ(operand.U8(lanes), k)
	m.JLE(operand.LabelRef(done))
	if m.wide {
		rest := m.mask(k)
		for i := range rows {
			xi := m.vector()
			m.VMOVUPS_Z(xp[i], rest, xi)
			for j := range w {
				wj := m.vector()
				m.loadMasked(e, operand.Mem{Base: w[j], Index: p, Scale: uint8(e.bytes)}, rest, wj)
				m.VFMADD231PS(xi, wj, acc[i*columns+j])
			}
		}
	} else {
		one := m.label("one")
		m.Label(one)
		for i := range rows {
			xi := m.vector()
			m.loadOne(f32, xp[i], xi)
			for j := range w {
				wj := m.vector()
				m.loadOne(e, operand.Mem{Base: w[j], Index: p, Scale: uint8(e.bytes)}, wj)
				m.VFMADD231PS(xi, wj, acc[i*columns+j])
			}
		}
		advance(1)
		m.DECQ(k)
		m.JNE(operand.LabelRef(one))
	}
	m.Label(done)
	return acc
}

// acrossLanes sums each of four registers across its lanes; the sums come side by
// side in the lowest quarter of the first. The order of additions is fixed.
func (m *machine) acrossLanes(v []reg.VecVirtual) {
	low, high := m.vector(), m.vector()
	pair := func(a, b, sum reg.VecVirtual) {
		m.VUNPCKLPS(b, a, low)
		m.VUNPCKHPS(b, a, high)
		m.VADDPS(high, low, sum)
	}
	pair(v[0], v[1], v[0])
	pair(v[2], v[3], v[2])
	m.VUNPCKLPD(v[2], v[0], low)
	m.VUNPCKHPD(v[2], v[0], high)
	m.VADDPS(high, low, v[0])
	if m.wide {
		m.VEXTRACTF64X4(operand.U8(1), v[0], low.AsY())
		m.VADDPS(low.AsY(), v[0].AsY(), v[0].AsY())
	}
	if m.wide {
		m.VEXTRACTF32X4(operand.U8(1), v[0].AsY(), low.AsX())
	} else {
		m.VEXTRACTF128(operand.U8(1), v[0].AsY(), low.AsX())
	}
	m.VADDPS(low.AsX(), v[0].AsX(), v[0].AsX())
}

// rowPointers addresses rows of a matrix, with one register for every three rows,
// which may then be moved along them.
func (m *machine) rowPointers(base, ld reg.GPVirtual, rows int) []operand.Mem {
	var at []operand.Mem
	var b reg.GPVirtual
	for i := range rows {
		switch i % 3 {
		case 0:
			next := m.GP64()
			if i == 0 {
				m.MOVQ(base, next)
			} else {
				m.LEAQ(operand.Mem{Base: b, Index: ld, Scale: 2}, next)
				m.ADDQ(ld, next)
			}
			b = next
			at = append(at, operand.Mem{Base: b})
		default:
			at = append(at, operand.Mem{Base: b, Index: ld, Scale: uint8(i % 3)})
		}
	}
	return at
}

// bases are the registers of rowPointers.
func bases(at []operand.Mem) []reg.Register {
	var b []reg.Register
	for i := 0; i < len(at); i += 3 {
		b = append(b, at[i].Base)
	}
	return b
}
