package core

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
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
		return Invalidf(a.Name, "shape %s has %d dimensions, want %d: %s", shapeText(t.Shape), len(t.Shape), len(want.Shape), want.Text)
	}
	for d, size := range want.Shape {
		if size >= 0 && t.Shape[d] != size {
			return Invalidf(a.Name, "shape %s, want %s: %s", shapeText(t.Shape), shapeText(want.Shape), want.Text)
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

// shapeText writes a shape or strides as Python does; a wanted size below 0 is any.
func shapeText(shape []int64) string {
	sizes := make([]string, len(shape))
	for d, size := range shape {
		sizes[d] = strconv.FormatInt(size, 10)
		if size == -1 {
			sizes[d] = "any"
		}
	}
	return "[" + strings.Join(sizes, ", ") + "]"
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
			return Invalidf(out.Name, "strides %v over shape %s make elements overlap; an output must not", out.Tensor.Strides, shapeText(out.Tensor.Shape))
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
// stride, each dimension must step over the whole reach of the smaller ones; all
// slices and permutations of a compact tensor do.
func overlapsItself(t *Tensor) bool {
	type dimension struct{ size, stride int64 }
	var dims []dimension
	for d, size := range t.Shape {
		if size > 1 {
			dims = append(dims, dimension{size, abs(t.Stride(d))})
		}
	}
	slices.SortFunc(dims, func(a, b dimension) int { return cmp.Compare(a.stride, b.stride) })
	reach := int64(0)
	for _, d := range dims {
		if d.stride <= reach {
			return true
		}
		reach += d.stride * (d.size - 1)
	}
	return false
}

// overlap reports whether two tensors may share memory: whether the ranges of
// addresses that they span do, unless they are seen to interleave, as the column
// slices x[:, :n] and x[:, n:] of one matrix do.
func overlap(a, b *Tensor) bool {
	if a == nil || b == nil || a.Device != b.Device {
		return false
	}
	aLow, aHigh := a.extent()
	bLow, bHigh := b.extent()
	if aLow >= bHigh || bLow >= aHigh {
		return false
	}
	for _, t := range []*Tensor{a, b} {
		for d, size := range t.Shape {
			pitch := uintptr(abs(t.Stride(d))) * uintptr(t.DType.Size())
			if size > 1 && pitch > 0 && interleave(aLow, a.window(pitch), bLow, b.window(pitch), pitch) {
				return false
			}
		}
	}
	return true
}

// interleave reports whether two tensors stay apart modulo a pitch, and so
// everywhere: a occupies the first aWindow bytes after aLow of each period, b those
// after bLow.
func interleave(aLow, aWindow, bLow, bWindow, pitch uintptr) bool {
	if aWindow > pitch || bWindow > pitch-aWindow {
		return false
	}
	gap := (bLow%pitch + pitch - aLow%pitch) % pitch
	return gap >= aWindow && gap <= pitch-bWindow
}

// window is the number of bytes that the elements span modulo a pitch, which
// dimensions whose stride is a multiple of it do not move.
func (t *Tensor) window(pitch uintptr) uintptr {
	bytes := uintptr(t.DType.Size())
	window := bytes
	for d, size := range t.Shape {
		if stride := uintptr(abs(t.Stride(d))) * bytes; stride%pitch != 0 {
			window += stride * uintptr(size-1)
		}
	}
	return window
}

func abs(x int64) int64 { return max(x, -x) }

// Offsets are 64-bit: genesis-moe does not build where an int or a pointer would not
// hold one.
const _ = uint(unsafe.Sizeof(uintptr(0)) - 8)
