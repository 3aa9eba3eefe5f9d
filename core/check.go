package core

import (
	"slices"
	"unsafe"
)

// Argument is a tensor argument with its name in messages.
type Argument struct {
	Name   string
	Tensor *Tensor
}

// Want says what an argument must look like. A dimension of -1 accepts any size.
type Want struct {
	Shape  []int64
	DTypes []DType
	Device Device
	// Text describes the shape in the words of the documentation: "[E, 2*I, H]".
	Text string
}

// CheckArgument validates a required tensor against what is wanted of it.
func CheckArgument(a Argument, want Want) error {
	t := a.Tensor
	if t == nil {
		return Invalidf(a.Name, "is missing (NULL), want a tensor of shape %s", want.Text)
	}
	if err := t.Check(a.Name); err != nil {
		return err
	}
	if len(t.Shape) != len(want.Shape) {
		return Invalidf(a.Name, "shape %v has %d dimensions, want %d: %s", t.Shape, len(t.Shape), len(want.Shape), want.Text)
	}
	for d, size := range want.Shape {
		if size >= 0 && t.Shape[d] != size {
			return Invalidf(a.Name, "shape %v, want %v: %s", t.Shape, want.Shape, want.Text)
		}
	}
	if !slices.Contains(want.DTypes, t.DType) {
		return Invalidf(a.Name, "dtype %s, want one of %v", t.DType, want.DTypes)
	}
	if t.Device != want.Device {
		return Invalidf(a.Name, "is on %s, want %s", t.Device, want.Device)
	}
	return nil
}

// CheckOutputs refuses outputs whose elements overlap themselves (a stride of 0,
// say), another output, or an input. Tensors that are nil are passed over. An
// output that may be updated in place is left out of inputs by the caller.
func CheckOutputs(outputs, inputs []Argument) error {
	for i, out := range outputs {
		if out.Tensor == nil || out.Tensor.Elements() == 0 {
			continue
		}
		if overlapsItself(out.Tensor) {
			return Invalidf(out.Name, "strides %v over shape %v make elements overlap; an output must not", out.Tensor.Strides, out.Tensor.Shape)
		}
		for _, other := range outputs[:i] {
			if overlap(out.Tensor, other.Tensor) {
				return Invalidf(out.Name, "overlaps the memory of %s", other.Name)
			}
		}
		for _, in := range inputs {
			if overlap(out.Tensor, in.Tensor) {
				return Invalidf(out.Name, "overlaps the memory of %s", in.Name)
			}
		}
	}
	return nil
}

// overlapsItself reports whether two indices may name one element. Sorted by
// stride, each dimension must step over the whole reach of the smaller ones.
func overlapsItself(t *Tensor) bool {
	if t.Strides == nil {
		return false
	}
	type dimension struct{ size, stride int64 }
	var dims []dimension
	for d, size := range t.Shape {
		if size > 1 {
			dims = append(dims, dimension{size, max(t.Strides[d], -t.Strides[d])})
		}
	}
	slices.SortFunc(dims, func(a, b dimension) int { return int(min(1, max(-1, a.stride-b.stride))) })
	reach := int64(0)
	for _, d := range dims {
		if d.stride <= reach {
			return true
		}
		reach += d.stride * (d.size - 1)
	}
	return false
}

func overlap(a, b *Tensor) bool {
	if a == nil || b == nil || a.Device != b.Device {
		return false
	}
	aLow, aHigh := a.extent()
	bLow, bHigh := b.extent()
	return aLow < bHigh && bLow < aHigh
}

// pointerSize documents that offsets are 64-bit: genesis-moe does not build on
// 32-bit machines, where an int would not hold one.
const _ = uint(unsafe.Sizeof(uintptr(0)) - 8)
