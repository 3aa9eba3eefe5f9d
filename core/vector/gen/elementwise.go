package main

import (
	"slices"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// lanewise is one step of a loop over elements: a body written once serves whole
// vectors and what is left at the end, by masks in AVX-512 and one by one in AVX2.
type lanewise struct {
	m     *machine
	index reg.GPVirtual // of the element
	part  bool          // fewer elements than lanes
	rest  reg.OpmaskVirtual
	ahead int // vectors from index
}

// each loops over n elements, unrolled vectors at a time.
func (m *machine) each(n reg.GPVirtual, unrolled int, body func(l lanewise)) {
	m.eachBlock(n, unrolled, func(vectors []lanewise) {
		for _, l := range vectors {
			body(l)
		}
	})
}

// eachBlock is each with a body for all unrolled vectors at once.
func (m *machine) eachBlock(n reg.GPVirtual, unrolled int, body func(vectors []lanewise)) {
	i := m.GP64()
	m.XORQ(i, i)
	for _, count := range slices.Compact([]int{unrolled, 1}) {
		step := operand.U32(count * m.lanes())
		loop, end := m.label("loop"), m.label("end")
		m.SUBQ(step, n)
		m.JL(operand.LabelRef(end))
		m.Label(loop)
		var vectors []lanewise
		for c := range count {
			vectors = append(vectors, lanewise{m: m, index: i, ahead: c})
		}
		body(vectors)
		m.ADDQ(step, i)
		m.SUBQ(step, n)
		m.JGE(operand.LabelRef(loop))
		m.Label(end)
		m.ADDQ(step, n)
	}
	end := m.label("end")
	m.TESTQ(n, n)
	m.JLE(operand.LabelRef(end))
	if m.wide {
		body([]lanewise{{m: m, index: i, part: true, rest: m.mask(n)}})
	} else {
		one := m.label("one")
		m.Label(one)
		body([]lanewise{{m: m, index: i, part: true}})
		m.INCQ(i)
		m.DECQ(n)
		m.JNE(operand.LabelRef(one))
	}
	m.Label(end)
}

func (l lanewise) at(base reg.Register, elementBytes int) operand.Mem {
	return operand.Mem{Base: base, Index: l.index, Scale: uint8(elementBytes), Disp: l.ahead * l.m.lanes() * elementBytes}
}

// load reads elements; lanes past the end are 0.
func (l lanewise) load(e element, base reg.Register) reg.VecVirtual {
	v := l.m.vector()
	switch from := l.at(base, e.bytes); {
	case !l.part:
		l.m.load(e, from, v)
	case l.m.wide:
		l.m.loadMasked(e, from, l.rest, v)
	default:
		l.m.loadOne(e, from, v)
	}
	return v
}

// loadOver reads elements; lanes past the end repeat one of them, or other.
func (l lanewise) loadOver(base reg.Register, other reg.VecVirtual) reg.VecVirtual {
	v := l.m.vector()
	switch from := l.at(base, 4); {
	case !l.part:
		l.m.VMOVUPS(from, v)
	case l.m.wide:
		l.m.VBLENDMPS(from, other, l.rest, v)
	default:
		l.m.VBROADCASTSS(from, v)
	}
	return v
}

// store writes float32 elements.
func (l lanewise) store(v reg.VecVirtual, base reg.Register) {
	switch to := l.at(base, 4); {
	case !l.part:
		l.m.VMOVUPS(v, to)
	case l.m.wide:
		l.m.VMOVUPS(v, l.rest, to)
	default:
		l.m.VMOVSS(v.AsX(), to)
	}
}

// clear makes lanes past the end 0.
func (l lanewise) clear(v reg.VecVirtual) {
	switch {
	case !l.part:
	case l.m.wide:
		l.m.VMOVAPS_Z(v, l.rest, v)
	default:
		l.m.VINSERTPS(operand.U8(0b1110), v.AsX(), v.AsX(), v.AsX())
	}
}

// broadcast loads a float32 parameter to all lanes.
func (m *machine) broadcast(name string) reg.VecVirtual {
	v := m.vector()
	address, err := m.Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	m.VBROADCASTSS(address.Addr, v)
	return v
}

// give stores the lowest lane as the result, and returns.
func (m *machine) give(v reg.VecVirtual) {
	address, err := m.ReturnIndex(0).Resolve()
	if err != nil {
		panic(err)
	}
	m.VMOVSS(v.AsX(), address.Addr)
	m.done()
}

// fold combines the lanes of a vector into the lowest one, in a fixed order.
func (m *machine) fold(v reg.VecVirtual, op func(ops ...operand.Op)) {
	half := m.vector()
	if m.wide {
		m.VEXTRACTF64X4(operand.U8(1), v, half.AsY())
		op(half.AsY(), v.AsY(), v.AsY())
		m.VEXTRACTF32X4(operand.U8(1), v.AsY(), half.AsX())
	} else {
		m.VEXTRACTF128(operand.U8(1), v.AsY(), half.AsX())
	}
	op(half.AsX(), v.AsX(), v.AsX())
	m.VPERMILPS(operand.U8(0b1110), v.AsX(), half.AsX())
	op(half.AsX(), v.AsX(), v.AsX())
	m.VPERMILPS(operand.U8(0b01), v.AsX(), half.AsX())
	op(half.AsX(), v.AsX(), v.AsX())
}
