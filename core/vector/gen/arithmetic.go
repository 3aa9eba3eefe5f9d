package main

import (
	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/operand"
)

// arithmetic writes the one-line loops, four vectors at a time.
func arithmetic(m *machine) {
	m.function("add", "func(n int, y, x *float32)", "is y[i] += x[i].")
	n, y, x := m.argument("n"), m.argument("y"), m.argument("x")
	m.each(n, 4, func(l lanewise) {
		sum := l.load(f32, y)
		m.VADDPS(l.load(f32, x), sum, sum)
		l.store(sum, y)
	})
	m.done()

	m.function("axpy", "func(n int, y *float32, a float32, x *float32)", "is y[i] += a*x[i].")
	n, y, x = m.argument("n"), m.argument("y"), m.argument("x")
	a := m.broadcast("a")
	m.each(n, 4, func(l lanewise) {
		sum := l.load(f32, y)
		m.VFMADD231PS(l.load(f32, x), a, sum)
		l.store(sum, y)
	})
	m.done()

	m.function("scale", "func(n int, y *float32, a float32, x *float32)", "is y[i] = a*x[i].")
	n, y, x = m.argument("n"), m.argument("y"), m.argument("x")
	a = m.broadcast("a")
	m.each(n, 4, func(l lanewise) {
		v := l.load(f32, x)
		m.VMULPS(v, a, v)
		l.store(v, y)
	})
	m.done()

	m.function("dot", "func(n int, x, y *float32) float32", "is the sum of x[i]*y[i].")
	n, x, y = m.argument("n"), m.argument("x"), m.argument("y")
	sums := m.vectors(4)
	for _, s := range sums {
		m.zero(s)
	}
	m.each(n, 4, func(l lanewise) {
		m.VFMADD231PS(l.load(f32, x), l.load(f32, y), sums[l.ahead])
	})
	m.VADDPS(sums[1], sums[0], sums[0])
	m.VADDPS(sums[3], sums[2], sums[2])
	m.VADDPS(sums[2], sums[0], sums[0])
	m.fold(sums[0], m.VADDPS)
	m.give(sums[0])

	weightedSum(m)
	zero(m)
}

// weightedSum sums a block of columns over all rows in registers.
func weightedSum(m *machine) {
	m.function("weightedSum", "func(n int, y *float32, k int, rows **float32, weights *float32)", "is y[i] = sum over k of weights[k]*rows[k][i].")
	n, y, k := m.argument("n"), m.argument("y"), m.argument("k")
	rows, weights := m.argument("rows"), m.argument("weights")
	m.eachBlock(n, 4, func(ls []lanewise) {
		row, done := m.label("row"), m.label("done")
		sums := m.vectors(len(ls))
		for _, s := range sums {
			m.zero(s)
		}
		slot := m.GP64()
		m.XORQ(slot, slot)
		m.CMPQ(slot, k)
		m.JGE(operand.LabelRef(done))
		m.Label(row)
		base, w := m.GP64(), m.vector()
		m.MOVQ(operand.Mem{Base: rows, Index: slot, Scale: 8}, base)
		m.VBROADCASTSS(operand.Mem{Base: weights, Index: slot, Scale: 4}, w)
		for c, l := range ls {
			m.VFMADD231PS(l.load(f32, base), w, sums[c])
		}
		m.INCQ(slot)
		m.CMPQ(slot, k)
		m.JLT(operand.LabelRef(row))
		m.Label(done)
		for c, l := range ls {
			l.store(sums[c], y)
		}
	})
	m.done()
}

// zero streams zeros; y is aligned to a vector and n a multiple of one. The fence
// orders the streamed stores of any kernel before what follows.
func zero(m *machine) {
	m.function("zeroStream", "func(n int, y *float32)", "streams zeros to y, aligned and in whole vectors.")
	n, y := m.argument("n"), m.argument("y")
	loop, end := m.label("loop"), m.label("end")
	v := m.vector()
	m.zero(v)
	m.SUBQ(operand.U32(m.lanes()), n)
	m.JL(operand.LabelRef(end))
	m.Label(loop)
	m.VMOVNTPS(v, operand.Mem{Base: y})
	m.ADDQ(operand.U32(m.bytes()), y)
	m.SUBQ(operand.U32(m.lanes()), n)
	m.JGE(operand.LabelRef(loop))
	m.Label(end)
	m.done()

	if !m.wide {
		m.Function("fence")
		m.Attributes(attr.NOSPLIT)
		m.SignatureExpr("func()")
		m.Doc("fence orders streamed stores before all that follow.")
		m.SFENCE()
		m.RET()
	}
}
