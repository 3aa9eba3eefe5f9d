package main

import "github.com/mmcloughlin/avo/operand"

// conversions writes those between float32 and bfloat16.
func conversions(m *machine) {
	m.function("fromBF16", "func(n int, dst *float32, src *uint16)", "widens.")
	n, dst, src := m.argument("n"), m.argument("dst"), m.argument("src")
	m.each(n, 4, func(l lanewise) { l.store(l.load(bf16, src), dst) })
	m.done()

	// To round to nearest, ties to even, add half a unit less one, plus the bit
	// that decides a tie; a carry into the exponent is right, up to infinity.
	m.function("toBF16", "func(n int, dst *uint16, src *float32)", "rounds to nearest, ties to even.")
	n, dst, src = m.argument("n"), m.argument("dst"), m.argument("src")
	half, one, quiet := m.integers(0x7fff), m.integers(1), m.integers(0x40)
	m.each(n, 1, func(l lanewise) {
		x := l.load(f32, src)
		rounded, high := m.vector(), m.vector()
		m.VPSRLD(operand.U8(16), x, high)
		if m.wide {
			nan := m.K()
			m.VPANDD(one, high, rounded)
			m.VPADDD(half, rounded, rounded)
			m.VPADDD(x, rounded, rounded)
			m.VPSRLD(operand.U8(16), rounded, rounded)
			m.VCMPPS(operand.U8(3), x, x, nan) // unordered
			m.VPORD(quiet, high, nan, rounded)
			if l.part {
				m.VPMOVDW(rounded, l.rest, l.at(dst, 2))
			} else {
				m.VPMOVDW(rounded, l.at(dst, 2))
			}
			return
		}
		nan := m.vector()
		m.VPAND(one, high, rounded)
		m.VPADDD(half, rounded, rounded)
		m.VPADDD(x, rounded, rounded)
		m.VPSRLD(operand.U8(16), rounded, rounded)
		m.VCMPPS(operand.U8(3), x, x, nan)
		m.VPOR(quiet, high, high)
		m.VBLENDVPS(nan, high, rounded, rounded)
		if l.part {
			bits := m.GP32()
			m.VMOVD(rounded.AsX(), bits)
			m.MOVW(bits.As16(), l.at(dst, 2))
			return
		}
		m.VPACKUSDW(rounded, rounded, rounded)
		m.VPERMQ(operand.U8(0b1000), rounded, rounded)
		m.VMOVUPS(rounded.AsX(), l.at(dst, 2))
	})
	m.done()
}
