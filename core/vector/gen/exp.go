package main

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// exponential holds the constants of the exponential function.
//
// With n the integer nearest to x/ln 2 and r = x - n ln 2, exp(x) = 2^n exp(r),
// and exp(r) = 1 + r + r^2 q(r) on |r| <= ln(2)/2. q has degree 4 and the smallest
// largest error relative to exp(r), 3.1e-9 (Lawson's algorithm), a twentieth of a
// rounding error.
type exponential struct {
	m                                 *machine
	low, high, log2e, ln2High, ln2Low operand.Op
	q                                 [5]operand.Op
	one                               operand.Op
}

func (m *machine) newExponential() exponential {
	ln2High := float32(math.Ln2)
	e := exponential{
		m: m,
		// Beyond these, results are 0 and infinity even before and after rounding.
		low: m.fixed(-104), high: m.fixed(89),
		log2e: m.fixed(math.Log2E), ln2High: m.fixed(ln2High), ln2Low: m.fixed(float32(math.Ln2 - float64(ln2High))),
		one: m.fixed(1),
	}
	for i, c := range []float32{0.49999994, 0.16666521, 0.04166839, 0.008368745, 0.001381454} {
		e.q[i] = m.fixed(c)
	}
	return e
}

// of replaces x by exp(x). NaN stays NaN: the minimum and maximum return their
// second source, x, when there is one.
func (e exponential) of(x reg.VecVirtual) {
	m := e.m
	m.VMINPS(x, m.inRegister(e.high), x)
	m.VMAXPS(x, m.inRegister(e.low), x)
	n, p := m.vector(), m.vector()
	m.VMULPS(e.log2e, x, n)
	if m.wide {
		m.VRNDSCALEPS(operand.U8(0), n, n)
	} else {
		m.VROUNDPS(operand.U8(0), n, n)
	}
	m.VFNMADD231PS(e.ln2High, n, x)
	m.VFNMADD231PS(e.ln2Low, n, x)
	m.VMOVUPS(e.q[4], p)
	for i := 3; i >= 0; i-- {
		m.VFMADD213PS(e.q[i], x, p)
	}
	m.VFMADD213PS(e.one, x, p)
	m.VFMADD213PS(e.one, x, p)
	if m.wide {
		m.VSCALEFPS(n, p, x)
		return
	}
	// In two factors, as 2^n itself may be out of range while p 2^n is not.
	first := m.vector()
	m.VCVTPS2DQ(n, n)
	m.VPSRAD(operand.U8(1), n, first)
	m.VPSUBD(first, n, n)
	bias := m.fixedBits(math.Float32bits(1))
	for _, power := range []reg.VecVirtual{first, n} {
		m.VPSLLD(operand.U8(23), power, power)
		m.VPADDD(bias, power, power)
		m.VMULPS(power, p, p)
	}
	m.VMOVAPS(p, x)
}

func exponentials(m *machine) {
	m.function("exp", "func(n int, y, x *float32)", "is y[i] = exp(x[i]).")
	n, y, x := m.argument("n"), m.argument("y"), m.argument("x")
	e := m.newExponential()
	m.each(n, 1, func(l lanewise) {
		v := l.load(f32, x)
		e.of(v)
		l.store(v, y)
	})
	m.done()

	m.function("expSum", "func(n int, y, x *float32, top float32) float32", "is y[i] = exp(x[i]-top); it returns their sum.")
	n, y, x = m.argument("n"), m.argument("y"), m.argument("x")
	e = m.newExponential()
	top, sum := m.broadcast("top"), m.vector()
	m.zero(sum)
	m.each(n, 1, func(l lanewise) {
		v := l.load(f32, x)
		m.VSUBPS(top, v, v)
		e.of(v)
		l.store(v, y)
		l.clear(v)
		m.VADDPS(v, sum, sum)
	})
	m.fold(sum, m.VADDPS)
	m.give(sum)

	m.function("most", "func(n int, x *float32) float32", "is the largest of x, -Inf without any; what it is with a NaN is left open.")
	n, x = m.argument("n"), m.argument("x")
	lowest := m.constant(float32(math.Inf(-1)))
	best := m.vector()
	m.VMOVAPS(lowest, best)
	m.each(n, 1, func(l lanewise) { m.VMAXPS(l.loadOver(x, lowest), best, best) })
	m.fold(best, m.VMAXPS)
	m.give(best)
}
