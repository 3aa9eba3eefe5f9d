package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// partial loads and stores the first few of the four lanes of an XMM register.
type partial struct {
	m *machine
	k reg.OpmaskVirtual
	v reg.VecVirtual
}

// newPartial keeps count lanes, 1 to 4.
func (m *machine) newPartial(count reg.GPVirtual) partial {
	if m.wide {
		return partial{m: m, k: m.mask(count)}
	}
	// Four words of ones, then zeros: read from 4-count words in.
	table := m.StaticGlobal(fmt.Sprintf("lanes%d", m.labels))
	m.labels++
	m.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 8 {
		bits := uint32(0)
		if i < 4 {
			bits = 0xffffffff
		}
		m.AddDatum(4*i, operand.U32(bits))
	}
	address, v := m.GP64(), m.XMM()
	m.LEAQ(table.Offset(16), address)
	offset := m.GP64()
	m.MOVQ(count, offset)
	m.NEGQ(offset)
	m.VMOVUPS(operand.Mem{Base: address, Index: offset, Scale: 4}, v)
	return partial{m: m, v: v}
}

func (p partial) load(from operand.Mem, to reg.Register) {
	if p.m.wide {
		p.m.VMOVUPS_Z(from, p.k, to)
	} else {
		p.m.VMASKMOVPS(from, p.v, to)
	}
}

func (p partial) store(from reg.Register, to operand.Mem) {
	if p.m.wide {
		p.m.VMOVUPS(from, p.k, to)
	} else {
		p.m.VMASKMOVPS(from, p.v, to)
	}
}
