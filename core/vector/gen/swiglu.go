package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// sigmoidVanishes is beyond where the sigmoid is 0; see the twin.
const sigmoidVanishes = 128

// sigmoid is 1/(1+e) for g >= 0 and e/(1+e) for g < 0, e = exp(-|g|).
func (e exponential) sigmoid(sign operand.Op, g reg.VecVirtual) reg.VecVirtual {
	m := e.m
	s, below := m.vector(), m.vector()
	m.VORPS(sign, g, s)
	e.of(s)
	m.VADDPS(e.one, s, below)
	if m.wide {
		negative := m.K()
		m.VPMOVD2M(g, negative)
		m.VBLENDMPS(s, m.inRegister(e.one), negative, s)
	} else {
		m.VBLENDVPS(g, s, m.inRegister(e.one), s)
	}
	m.VDIVPS(below, s, s)
	return s
}

func swiGLU(m *machine) {
	m.function("swiGLU", "func(n int, h, gate, up *float32)", "is h[i] = silu(gate[i])*up[i].")
	n, h, gate, up := m.argument("n"), m.argument("h"), m.argument("gate"), m.argument("up")
	e := m.newExponential()
	sign := m.fixedBits(0x80000000)
	least := m.fixed(-sigmoidVanishes)
	m.each(n, 1, func(l lanewise) {
		g := l.load(f32, gate)
		s := e.sigmoid(sign, g)
		m.VMAXPS(g, m.inRegister(least), g)
		m.VMULPS(s, g, g)
		m.VMULPS(l.load(f32, up), g, g)
		l.store(g, h)
	})
	m.done()

	m.function("swiGLUBackward", "func(n int, dGate, dUp, scaledH, gate, up, dh *float32, weight float32) float32", "is the backward pass of SwiGLU.")
	n, gate, up = m.argument("n"), m.argument("gate"), m.argument("up")
	dGate, dUp, scaledH, dh := m.argument("dGate"), m.argument("dUp"), m.argument("scaledH"), m.argument("dh")
	weight := m.broadcast("weight")
	e = m.newExponential()
	sign = m.fixedBits(0x80000000)
	least, most := m.fixed(-sigmoidVanishes), m.fixed(sigmoidVanishes)
	dot := m.vector()
	m.zero(dot)
	m.each(n, 1, func(l lanewise) {
		g := l.load(f32, gate)
		s := e.sigmoid(sign, g)
		m.VMAXPS(g, m.inRegister(least), g)
		silu := m.vector()
		m.VMULPS(s, g, silu)
		// slope = s (1 + g (1-s))
		slope := m.vector()
		m.VMINPS(g, m.inRegister(most), g)
		m.VMOVUPS(e.one, slope)
		m.VSUBPS(s, slope, slope)
		m.VFMADD213PS(e.one, g, slope)
		m.VMULPS(s, slope, slope)

		u, d := l.load(f32, up), l.load(f32, dh)
		product := m.vector()
		m.VMULPS(u, silu, product)
		m.VFMADD231PS(d, product, dot)
		m.VMULPS(weight, product, product)
		m.VMULPS(weight, d, d)
		m.VMULPS(d, silu, silu)
		m.VMULPS(d, u, u)
		m.VMULPS(u, slope, slope)
		l.store(product, scaledH)
		l.store(silu, dUp)
		l.store(slope, dGate)
	})
	m.fold(dot, m.VADDPS)
	m.give(dot)
}
