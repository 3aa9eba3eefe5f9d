package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
	"github.com/mmcloughlin/avo/x86"
)

// machine emits code for one instruction set. What the two sets share, the
// kernels write once; what they do not share is behind its methods.
type machine struct {
	*build.Context
	wide      bool // AVX-512, else AVX2 with FMA
	labels    int
	constants map[string]operand.Mem
	encodings map[*ir.Instruction]encoding // instructions that stand for others
}

// lanes is the number of float32 in a vector register.
func (m *machine) lanes() int {
	if m.wide {
		return 16
	}
	return 8
}

// bytes is the size of a vector register.
func (m *machine) bytes() int { return 4 * m.lanes() }

// suffix names the instruction set in function names.
func (m *machine) suffix() string {
	if m.wide {
		return "AVX512"
	}
	return "AVX2"
}

// function starts a function. Its stack frame is what avo makes it: empty, or
// eight bytes to save the base pointer.
func (m *machine) function(name, signature, doc string) {
	m.Function(name + m.suffix())
	m.Attributes(attr.NOSPLIT)
	m.SignatureExpr(signature)
	m.Doc(name + m.suffix() + " " + doc)
	m.Pragma("noescape")
}

// done returns; the upper halves of vector registers must be clean for SSE code.
func (m *machine) done() {
	m.VZEROUPPER()
	m.RET()
}

// label makes a name for a place in the current function.
func (m *machine) label(what string) string {
	m.labels++
	return fmt.Sprintf("%s%d", what, m.labels)
}

func (m *machine) vector() reg.VecVirtual {
	if m.wide {
		return m.ZMM()
	}
	return m.YMM()
}

func (m *machine) vectors(n int) []reg.VecVirtual {
	v := make([]reg.VecVirtual, n)
	for i := range v {
		v[i] = m.vector()
	}
	return v
}

// whole adds an instruction that writes all of v and reads no register but those
// that address memory. To avo, an instruction that names the XMM part of a wider
// register leaves the rest alone, when in truth it clears it; and VPXORD of a
// register with itself reads it. Both would keep the register occupied from the
// start of the function on.
func (m *machine) whole(v reg.VecVirtual) func(*ir.Instruction, error) {
	return func(i *ir.Instruction, err error) {
		if err != nil {
			panic(err)
		}
		var inputs []operand.Op
		for _, op := range i.Inputs {
			if r, ok := op.(reg.Register); !ok || r.Kind() == reg.KindGP {
				inputs = append(inputs, op)
			}
		}
		i.Inputs, i.Outputs, i.CancellingInputs = inputs, []operand.Op{v}, false
		m.Instruction(i)
	}
}

// zero clears a vector register.
func (m *machine) zero(v reg.VecVirtual) {
	if m.wide {
		m.whole(v)(x86.VPXORD(v, v, v))
	} else {
		m.whole(v)(x86.VXORPS(v, v, v))
	}
}

// argument loads a parameter of a machine word.
func (m *machine) argument(name string) reg.GPVirtual {
	r := m.GP64()
	m.Load(m.Param(name), r)
	return r
}

// stride loads a leading dimension and turns elements into bytes.
func (m *machine) stride(name string, elementBytes int) reg.GPVirtual {
	r := m.argument(name)
	m.SHLQ(operand.U8(uint8(math.Log2(float64(elementBytes)))), r)
	return r
}

// data is a constant in memory: the same 32 bits, repeated.
func (m *machine) data(bits uint32, repeat int) operand.Mem {
	name := fmt.Sprintf("x%d_%08x_%s", repeat, bits, m.suffix())
	if c, ok := m.constants[name]; ok {
		return c
	}
	c := m.StaticGlobal(name)
	m.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range repeat {
		m.AddDatum(4*i, operand.U32(bits))
	}
	m.constants[name] = c
	return c
}

// constant is a register with a float32 in all lanes.
func (m *machine) constant(f float32) reg.VecVirtual {
	return m.integers(math.Float32bits(f))
}

// integers is a register with 32 bits in all lanes.
func (m *machine) integers(bits uint32) reg.VecVirtual {
	v := m.vector()
	m.VBROADCASTSS(m.data(bits, 1), v)
	return v
}

// fixed is an operand with a float32 in all lanes: a register in AVX-512, which
// has plenty, and memory in AVX2.
func (m *machine) fixed(f float32) operand.Op { return m.fixedBits(math.Float32bits(f)) }

func (m *machine) fixedBits(bits uint32) operand.Op {
	if m.wide {
		return m.integers(bits)
	}
	return m.data(bits, m.lanes())
}

// inRegister is a fixed operand for where memory is not allowed.
func (m *machine) inRegister(fixed operand.Op) reg.VecVirtual {
	if v, ok := fixed.(reg.VecVirtual); ok {
		return v
	}
	v := m.vector()
	m.VMOVUPS(fixed, v)
	return v
}

// mask is an AVX-512 mask of the low count lanes; count in 0..16.
func (m *machine) mask(count reg.GPVirtual) reg.OpmaskVirtual {
	bits, k := m.GP64(), m.K()
	m.MOVQ(operand.I32(-1), bits)
	m.BZHIQ(count, bits, bits)
	m.KMOVW(bits.As32(), k)
	return k
}

// element is the type of a weight matrix.
type element struct {
	name   string // in function names
	goType string
	bytes  int
}

var (
	f32  = element{"", "float32", 4}
	bf16 = element{"BF16", "uint16", 2}
	e4m3 = element{"E4M3", "uint8", 1}
)

// load widens a vector of elements to float32; of e4m3 it gives 1/fromHalf, and so do those below.
func (m *machine) load(e element, from operand.Mem, v reg.VecVirtual) {
	switch e {
	case f32:
		m.VMOVUPS(from, v)
	case e4m3:
		m.loadE4M3(from, v)
	default:
		m.VPMOVZXWD(from, v)
		m.VPSLLD(operand.U8(16), v, v)
	}
}

// loadMasked is load of the lanes of a mask, AVX-512 only; the others become 0.
func (m *machine) loadMasked(e element, from operand.Mem, k reg.OpmaskVirtual, v reg.VecVirtual) {
	switch e {
	case f32:
		m.VMOVUPS_Z(from, k, v)
	case e4m3:
		m.loadE4M3Masked(from, k, v)
	default:
		m.VPMOVZXWD_Z(from, k, v)
		m.VPSLLD(operand.U8(16), v, v)
	}
}

// loadOne loads one element to the lowest lane; the others become 0.
func (m *machine) loadOne(e element, from operand.Mem, v reg.VecVirtual) {
	switch e {
	case f32:
		m.whole(v)(x86.VMOVSS(from, v.AsX()))
		return
	case e4m3:
		m.loadE4M3One(from, v)
		return
	}
	bits := m.GP32()
	m.MOVWLZX(from, bits)
	m.SHLL(operand.U8(16), bits)
	m.whole(v)(x86.VMOVD(bits, v.AsX()))
}
