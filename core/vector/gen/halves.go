package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
	"github.com/mmcloughlin/avo/x86"
)

const (
	panelColumns = 64 // of a panel, as in package vector
	tileRows     = 6
)

// halves writes the kernels of products of bfloat16, for AVX512_BF16: what packs a panel
// and what multiplies by it.
func halves(m *machine) {
	for rows := 1; rows <= tileRows; rows++ {
		multiplyPairs(m, rows)
	}
	for _, e := range []element{f32, bf16} {
		interleave(m, e)
	}
	transpose(m)
}

// multiplyPairs sums rows x 64 elements of y in registers. Each step takes a pair of k:
// four vectors of the panel, and a pair of each row of x, in all lanes of a register.
func multiplyPairs(m *machine, rows int) {
	m.function(fmt.Sprintf("multiplyPairs%d", rows),
		"func(pairs int, x *uint16, rowStride, pairStride int, panel *uint16, y *float32, ldy int, accumulate bool)",
		fmt.Sprintf("is y[%d,64] (+)= x panel.", rows))
	const vectors = panelColumns / 16
	pairs, panel := m.argument("pairs"), m.argument("panel")
	x, rowStride, pairStride := m.argument("x"), m.stride("rowStride", 2), m.stride("pairStride", 2)
	y, ldy := m.argument("y"), m.stride("ldy", 4)
	sums := m.vectors(rows * vectors)
	for _, v := range sums {
		m.zero(v)
	}
	flag, start, again := m.GP64(), m.label("start"), m.label("again")
	m.Load(m.Param("accumulate"), flag.As8())
	m.TESTB(flag.As8(), flag.As8())
	m.JE(operand.LabelRef(start))
	to := m.rowPointers(y, ldy, rows)
	for i, v := range sums {
		m.VMOVUPS(to[i/vectors].Offset(i%vectors*m.bytes()), v)
	}
	m.Label(start)
	xp := m.rowPointers(x, rowStride, rows)
	m.Label(again)
	b := m.vectors(vectors)
	for c := range b {
		m.VMOVUPS(operand.Mem{Base: panel, Disp: c * m.bytes()}, b[c])
	}
	for i := range rows {
		a := m.vector()
		m.VBROADCASTSS(xp[i], a)
		for c := range b {
			m.encoded(vdpbf16ps)(x86.VFMADD231PS(b[c], a, sums[i*vectors+c]))
		}
	}
	for _, base := range bases(xp) {
		m.ADDQ(pairStride, base)
	}
	m.ADDQ(operand.I32(vectors*m.bytes()), panel)
	m.DECQ(pairs)
	m.JNE(operand.LabelRef(again))
	to = m.rowPointers(y, ldy, rows)
	for i, v := range sums {
		m.VMOVUPS(v, to[i/vectors].Offset(i%vectors*m.bytes()))
	}
	m.done()
}

// interleave makes pairs of rows that follow one another: columns stay, and the two
// elements of a column lie side by side.
func interleave(m *machine, e element) {
	name := map[int]string{4: "interleave", 2: "interleaveBF16"}[e.bytes]
	m.function(name, fmt.Sprintf("func(pairs, n int, src *%s, ld int, dst *uint16, ldd int)", e.goType),
		"makes pairs of two rows.")
	pairs, n, src, dst := m.argument("pairs"), m.argument("n"), m.argument("src"), m.argument("dst")
	ld, ldd := m.stride("ld", e.bytes), m.stride("ldd", 2)
	var order reg.VecVirtual
	if e.bytes == 4 { // lower and upper half, word by word
		words := m.StaticGlobal("interleaved")
		m.DataAttributes(attr.RODATA | attr.NOPTR)
		for i := range 16 {
			m.AddDatum(4*i, operand.U32(uint32(16+i)<<16|uint32(i)))
		}
		order = m.vector()
		m.VMOVUPS(words, order)
	}
	part := m.GP64()
	m.MOVQ(n, part)
	m.ANDQ(operand.U8(15), part)
	rest := m.mask(part)

	row, column, tail, next, end := m.label("row"), m.label("column"), m.label("tail"), m.label("next"), m.label("end")
	step := func(from, second, to reg.GPVirtual, masked bool) {
		even, odd, both := m.vector(), m.vector(), m.vector()
		for _, half := range []struct {
			base reg.GPVirtual
			v    reg.VecVirtual
		}{{from, even}, {second, odd}} {
			at := operand.Mem{Base: half.base}
			switch {
			case e.bytes == 4 && masked:
				m.VMOVUPS_Z(at, rest, half.v)
			case e.bytes == 4:
				m.VMOVUPS(at, half.v)
			case masked:
				m.VPMOVZXWD_Z(at, rest, half.v)
			default:
				m.VPMOVZXWD(at, half.v)
			}
		}
		if e.bytes == 4 {
			m.encoded(vcvtne2ps2bf16)(x86.VADDPS(even, odd, both))
			m.VPERMW(both, order, both)
		} else {
			m.VPSLLD(operand.U8(16), odd, odd)
			m.VPORD(even, odd, both)
		}
		if masked {
			m.VMOVDQU32(both, rest, operand.Mem{Base: to})
		} else {
			m.VMOVUPS(both, operand.Mem{Base: to})
		}
	}
	m.TESTQ(pairs, pairs)
	m.JLE(operand.LabelRef(end))
	m.Label(row)
	from, second, to, left := m.GP64(), m.GP64(), m.GP64(), m.GP64()
	m.MOVQ(src, from)
	m.LEAQ(operand.Mem{Base: src, Index: ld, Scale: 1}, second)
	m.MOVQ(dst, to)
	m.MOVQ(n, left)
	m.Label(column)
	m.CMPQ(left, operand.U8(16))
	m.JLT(operand.LabelRef(tail))
	step(from, second, to, false)
	m.ADDQ(operand.U8(16*e.bytes), from)
	m.ADDQ(operand.U8(16*e.bytes), second)
	m.ADDQ(operand.U8(64), to)
	m.SUBQ(operand.U8(16), left)
	m.JMP(operand.LabelRef(column))
	m.Label(tail)
	m.TESTQ(left, left)
	m.JE(operand.LabelRef(next))
	step(from, second, to, true)
	m.Label(next)
	m.LEAQ(operand.Mem{Base: src, Index: ld, Scale: 2}, src)
	m.ADDQ(ldd, dst)
	m.DECQ(pairs)
	m.JNE(operand.LabelRef(row))
	m.Label(end)
	m.done()
}

// transpose makes 16 columns of a panel from as many rows, 32 elements of each at a time:
// a 16 x 16 transpose of pairs.
func transpose(m *machine) {
	m.function("transposePairs", "func(rows, k int, src *uint16, ld int, panel *uint16)",
		"makes rows, 1 to 16 of them, columns of a panel; k is padded with zeros to a multiple of 32.")
	rows, k, src, panel := m.argument("rows"), m.argument("k"), m.argument("src"), m.argument("panel")
	ld := m.stride("ld", 2)
	block := func(load func(operand.Mem, reg.VecVirtual)) {
		in := m.vectors(16)
		at := m.GP64()
		m.MOVQ(src, at)
		for j := range in {
			load(operand.Mem{Base: at}, in[j])
			m.PREFETCHT0(operand.Mem{Base: at, Disp: 256})
			// Past the last row, it is read again, for columns that nobody reads.
			next := m.GP64()
			m.LEAQ(operand.Mem{Base: at, Index: ld, Scale: 1}, next)
			m.CMPQ(rows, operand.U8(j+1))
			m.CMOVQGT(next, at)
		}
		var quads [4][]reg.VecVirtual // [row/4][pair%4], a pair/4 in each 128 bits
		for g := range quads {
			r, t := in[4*g:4*g+4], m.vectors(4)
			m.VPUNPCKLDQ(r[1], r[0], t[0])
			m.VPUNPCKHDQ(r[1], r[0], t[1])
			m.VPUNPCKLDQ(r[3], r[2], t[2])
			m.VPUNPCKHDQ(r[3], r[2], t[3])
			u := m.vectors(4)
			m.VPUNPCKLQDQ(t[2], t[0], u[0])
			m.VPUNPCKHQDQ(t[2], t[0], u[1])
			m.VPUNPCKLQDQ(t[3], t[1], u[2])
			m.VPUNPCKHQDQ(t[3], t[1], u[3])
			quads[g] = u
		}
		for c := range 4 {
			low, high := m.vectors(2), m.vectors(2)
			for h := range 2 {
				first, second := quads[2*h][c], quads[2*h+1][c]
				m.VSHUFI32X4(operand.U8(0x44), second, first, low[h])
				m.VSHUFI32X4(operand.U8(0xee), second, first, high[h])
			}
			for quad := range 4 {
				from := [][]reg.VecVirtual{low, high}[quad/2]
				out := m.vector()
				m.VSHUFI32X4(operand.U8([]uint8{0x88, 0xdd}[quad%2]), from[1], from[0], out)
				m.VMOVUPS(out, operand.Mem{Base: panel, Disp: (4*quad + c) * 4 * panelColumns})
			}
		}
	}
	again, tail, end := m.label("again"), m.label("tail"), m.label("end")
	m.Label(again)
	m.CMPQ(k, operand.U8(32))
	m.JLT(operand.LabelRef(tail))
	block(func(from operand.Mem, to reg.VecVirtual) { m.VMOVUPS(from, to) })
	m.ADDQ(operand.U8(64), src)
	m.ADDQ(operand.I32(16*4*panelColumns), panel)
	m.SUBQ(operand.U8(32), k)
	m.JMP(operand.LabelRef(again))
	m.Label(tail)
	m.TESTQ(k, k)
	m.JLE(operand.LabelRef(end))
	bits, rest := m.GP64(), m.K()
	m.MOVQ(operand.I32(-1), bits)
	m.BZHIQ(k, bits, bits)
	m.KMOVD(bits.As32(), rest)
	block(func(from operand.Mem, to reg.VecVirtual) { m.VMOVDQU16_Z(from, rest, to) })
	m.Label(end)
	m.done()
}
