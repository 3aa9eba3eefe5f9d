package main

import (
	"encoding/binary"
	"fmt"

	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Neither avo nor Go's assembler knows the instructions of AVX512_BF16. They are encoded
// here: an instruction that has the same operands goes through avo's register allocation in
// their place, and afterwards becomes their bytes.

// encoding is an instruction of three ZMM registers, EVEX.512.<prefix>.0F38.W0 <opcode> /r.
type encoding struct {
	name           string
	prefix, opcode byte
}

const (
	prefixF3 = 0b10
	prefixF2 = 0b11
)

var (
	// VDPBF16PS adds to each float32 the two products of a pair of bfloat16.
	vdpbf16ps = encoding{"VDPBF16PS", prefixF3, 0x52}
	// VCVTNE2PS2BF16 rounds the float32 of two registers to bfloat16; those of the first
	// operand, in Go's order, become the lower half.
	vcvtne2ps2bf16 = encoding{"VCVTNE2PS2BF16", prefixF2, 0x72}
)

// encoded adds an instruction that stands for e.
func (m *machine) encoded(e encoding) func(*ir.Instruction, error) {
	return func(i *ir.Instruction, err error) {
		if err != nil {
			panic(err)
		}
		m.encodings[i] = e
		m.Instruction(i)
	}
}

// encode replaces what stands for others, once all registers are known.
func (m *machine) encode(file *ir.File) {
	for _, f := range file.Functions() {
		found := false
		for _, i := range f.Instructions() {
			if e, ok := m.encodings[i]; ok {
				i.Opcode, i.Operands, found = "LONG", []operand.Op{e.bytes(i.Operands)}, true
			}
		}
		if found {
			f.ISA = append(f.ISA, "AVX512_BF16")
		}
	}
}

// bytes are those of the instruction with operands in Go's order: the destination is last.
func (e encoding) bytes(operands []operand.Op) literal {
	number := func(i int) byte { return byte(reg.ToPhysical(operands[i].(reg.Register)).PhysicalIndex()) }
	rm, vvvv, register := number(0), number(1), number(2)
	// The prefix holds the upper bits of the registers' numbers, inverted.
	inverted := func(number, bit, to byte) byte { return (^number >> bit & 1) << to }
	const map0F38, vectors512 = 0b010, 0b10 << 5
	code := [6]byte{
		0x62,
		inverted(register, 3, 7) | inverted(rm, 4, 6) | inverted(rm, 3, 5) | inverted(register, 4, 4) | map0F38,
		^vvvv&15<<3 | 1<<2 | e.prefix,
		vectors512 | inverted(vvvv, 4, 3),
		e.opcode,
		0b11<<6 | register&7<<3 | rm&7,
	}
	return literal(fmt.Sprintf("$0x%08x; WORD $0x%04x // %s %s, %s, %s",
		binary.LittleEndian.Uint32(code[:4]), binary.LittleEndian.Uint16(code[4:]),
		e.name, operands[0].Asm(), operands[1].Asm(), operands[2].Asm()))
}

// literal is an operand that is printed as it is.
type literal string

func (l literal) Asm() string { return string(l) }
