package main

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
	"github.com/mmcloughlin/avo/x86"
)

// An e4m3 number is a float16 of exponents 8 lower, but for its NaN: with the bits of both,
//
//	e4m3             S EEEE MMM
//	float16          S 0EEEE MMM0000000      2^-8 of the number
//
// so that subnormal numbers come right too, and whatever the processor is told to do with such.
// All machines with AVX2 convert float16.

// fromHalf is what the float16 of a number is multiplied by to give the number.
const fromHalf = 256

// halvesOfE4M3 makes 16 (AVX2: 8) words of float16 of the sign-extended bytes in h.
func (m *machine) halvesOfE4M3(h reg.VecVirtual) {
	words := m.lanes() / 2
	m.VPSLLW(operand.U8(7), h, h)
	twice := m.half()
	if m.wide {
		m.VPANDD(m.data(0xbf80bf80, words), h, h)
		nan := m.K()
		m.VPADDW(h, h, twice)
		m.VPCMPEQW(m.data(0x7f007f00, words), twice, nan)
		m.VMOVDQU16(m.data(0x7e007e00, words), nan, h)
		return
	}
	m.VPAND(m.data(0xbf80bf80, words), h, h)
	m.VPADDW(h, h, twice)
	m.VPCMPEQW(m.data(0x7f007f00, words), twice, twice)
	m.VPOR(twice, h, h)
}

// half is a register for as many words as there are lanes.
func (m *machine) half() reg.VecVirtual {
	if m.wide {
		return m.YMM()
	}
	return m.XMM()
}

// loadE4M3 widens a vector of bytes to 1/fromHalf of the numbers.
func (m *machine) loadE4M3(from operand.Mem, v reg.VecVirtual) {
	h := m.half()
	m.VPMOVSXBW(from, h)
	m.halvesOfE4M3(h)
	m.VCVTPH2PS(h, v)
}

// loadE4M3Masked is loadE4M3 of the lanes of a mask, AVX-512 only; the others become 0.
func (m *machine) loadE4M3Masked(from operand.Mem, k reg.OpmaskVirtual, v reg.VecVirtual) {
	h := m.half()
	m.VPMOVSXBW_Z(from, k, h)
	m.halvesOfE4M3(h)
	m.VCVTPH2PS(h, v)
}

// loadE4M3One loads one number to the lowest lane; the others become 0.
func (m *machine) loadE4M3One(from operand.Mem, v reg.VecVirtual) {
	bits, h := m.GP32(), m.half()
	m.MOVBLSX(from, bits)
	m.MOVWLZX(bits.As16(), bits)
	m.whole(h)(x86.VMOVD(bits, h.AsX()))
	m.halvesOfE4M3(h)
	m.VCVTPH2PS(h, v)
}

// eights writes what has to do with numbers of 8 bits.
func eights(m *machine) {
	m.function("fromE4M3", "func(n int, dst *float32, src *uint8, scale float32)", "is dst[i] = scale*src[i].")
	n, dst, src := m.argument("n"), m.argument("dst"), m.argument("src")
	scale, exact := m.broadcast("scale"), m.constant(fromHalf)
	m.each(n, 4, func(l lanewise) {
		v := l.load(e4m3, src)
		m.VMULPS(exact, v, v)
		m.VMULPS(scale, v, v)
		l.store(v, dst)
	})
	m.done()

	// As integers, magnitudes are in the order of the numbers, and NaN comes last.
	m.function("largestMagnitude", "func(n int, x *float32) float32", "is the largest |x[i]|, or a NaN if there is one.")
	n, x := m.argument("n"), m.argument("x")
	magnitude, largest := m.integers(math.MaxInt32), m.vector()
	m.zero(largest)
	m.each(n, 4, func(l lanewise) {
		v := l.load(f32, x)
		m.VANDPS(magnitude, v, v)
		m.VPMAXSD(v, largest, largest)
	})
	m.fold(largest, m.VPMAXSD)
	m.give(largest)

	m.function("roundE4M3", "func(n int, x *float32, scale float32)",
		"is x[i] = scale*e4m3(x[i]/scale), to nearest, ties to even. All is finite.")
	n, x = m.argument("n"), m.argument("x")
	scale = m.broadcast("scale")
	const (
		dropped = 20 // bits of the mantissa
		most    = 448
		// With an exponent of 2^14 a unit in the last place is 2^-9, which is that of numbers below 2^-6.
		coarse, least = 3 << 13, 1.0 / 64
	)
	high, low := m.constant(most), m.constant(-most)
	half, one, kept := m.integers(1<<(dropped-1)-1), m.integers(1), m.integers(math.MaxUint32&^(1<<dropped-1))
	toCoarse, small := m.constant(coarse), m.constant(least)
	magnitude = m.integers(math.MaxInt32)
	m.each(n, 1, func(l lanewise) {
		v := l.load(f32, x)
		rounded, size := m.vector(), m.vector()
		m.VDIVPS(scale, v, v)
		m.VMINPS(high, v, v)
		m.VMAXPS(low, v, v)
		m.VANDPS(magnitude, v, size)
		m.VPSRLD(operand.U8(dropped), v, rounded)
		if m.wide {
			m.VPANDD(one, rounded, rounded)
			m.VPADDD(half, rounded, rounded)
			m.VPADDD(v, rounded, rounded)
			m.VPANDD(kept, rounded, rounded)
			below := m.K()
			m.VCMPPS(operand.U8(1), small, size, below)
			m.VADDPS(toCoarse, v, v)
			m.VSUBPS(toCoarse, v, v)
			m.VBLENDMPS(v, rounded, below, rounded)
		} else {
			m.VPAND(one, rounded, rounded)
			m.VPADDD(half, rounded, rounded)
			m.VPADDD(v, rounded, rounded)
			m.VPAND(kept, rounded, rounded)
			m.VCMPPS(operand.U8(1), small, size, size)
			m.VADDPS(toCoarse, v, v)
			m.VSUBPS(toCoarse, v, v)
			m.VBLENDVPS(size, v, rounded, rounded)
		}
		m.VMULPS(scale, rounded, rounded)
		l.store(rounded, x)
	})
	m.done()
}
