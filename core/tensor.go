package core

import (
	"math"
	"math/bits"
	"unsafe"
)

// Tensor is a borrowed strided view with the semantics of DLPack's DLTensor. It
// does not own its memory. Element (i0, i1, ...) is at
//
//	Data + ByteOffset + (i0*Strides[0] + i1*Strides[1] + ...) * DType.Size()
//
// Strides count elements; nil means compact row-major.
type Tensor struct {
	Data       unsafe.Pointer
	ByteOffset uint64
	DType      DType
	Device     Device
	Shape      []int64
	Strides    []int64
}

// Element lists the Go types that tensors hold.
type Element interface {
	float32 | float64 | BF16 | E4M3 | int32 | int64
}

// DTypeOf is the [DType] whose elements have Go type E.
func DTypeOf[E Element]() DType {
	var e E
	switch any(e).(type) {
	case float32:
		return Float32
	case float64:
		return Float64
	case BF16:
		return BFloat16
	case E4M3:
		return Float8E4M3
	case int32:
		return Int32
	default:
		return Int64
	}
}

// FromSlice views a slice as a compact tensor of the given shape on the CPU. The
// slice must hold exactly the elements of the shape; it panics when it does not,
// as that is a mistake of the program and not of its input.
func FromSlice[E Element](data []E, shape ...int64) *Tensor {
	n := int64(1)
	for _, s := range shape {
		if s < 0 {
			panic(Invalidf("shape", "%v, want no negative size", shape))
		}
		n *= s
	}
	if n != int64(len(data)) {
		panic(Invalidf("data", "holds %d elements, want %d for shape %v", len(data), n, shape))
	}
	return &Tensor{
		Data:   unsafe.Pointer(unsafe.SliceData(data)),
		DType:  DTypeOf[E](),
		Device: Device{Type: CPU},
		Shape:  shape,
	}
}

// Rank is the number of dimensions.
func (t *Tensor) Rank() int { return len(t.Shape) }

// Elements is the number of elements of the shape.
func (t *Tensor) Elements() int64 {
	n := int64(1)
	for _, s := range t.Shape {
		n *= s
	}
	return n
}

// Stride is the distance in elements between neighbours along a dimension.
func (t *Tensor) Stride(dim int) int64 {
	if t.Strides != nil {
		return t.Strides[dim]
	}
	s := int64(1)
	for d := len(t.Shape) - 1; d > dim; d-- {
		s *= t.Shape[d]
	}
	return s
}

// IsCompact reports whether the elements lie in row-major order with no gaps.
func (t *Tensor) IsCompact() bool {
	if t.Elements() == 0 {
		return true
	}
	want := int64(1)
	for d := len(t.Shape) - 1; d >= 0; d-- {
		if t.Shape[d] != 1 && t.Stride(d) != want {
			return false
		}
		want *= t.Shape[d]
	}
	return true
}

// At is the address of the element at an offset counted in elements.
func (t *Tensor) At(offset int64) unsafe.Pointer {
	return unsafe.Add(t.Data, int64(t.ByteOffset)+offset*int64(t.DType.Size()))
}

// Slice views n elements that lie one behind the other from an element offset.
// The caller has checked that they do and that E is the tensor's type.
func Slice[E Element](t *Tensor, offset, n int64) []E {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*E)(t.At(offset)), n)
}

// Check validates the view itself: a known element type, sizes that are not
// negative and do not overflow, one stride per dimension, memory where there
// are elements, aligned and within the address space. name is the argument for
// the message.
func (t *Tensor) Check(name string) error {
	if t.DType.Size() == 0 {
		return Invalidf(name, "unknown dtype %s", t.DType)
	}
	if t.Strides != nil && len(t.Strides) != len(t.Shape) {
		return Invalidf(name, "%d strides for %d dimensions", len(t.Strides), len(t.Shape))
	}
	empty := false
	for d, s := range t.Shape {
		if s < 0 {
			return Invalidf(name, "shape %v, dimension %d is negative", t.Shape, d)
		}
		empty = empty || s == 0
	}
	if empty {
		return nil
	}
	limit := uint64(math.MaxInt64) / uint64(t.DType.Size())
	// span is how far the elements reach on both sides of the first, first how far below.
	elements, span, first := uint64(1), uint64(0), uint64(0)
	for d, s := range t.Shape {
		high, low := bits.Mul64(elements, uint64(s))
		if high != 0 || low > limit {
			return Invalidf(name, "shape %s is too large for 64-bit offsets", shapeText(t.Shape))
		}
		elements = low
		if t.Strides == nil {
			span = elements - 1
			continue
		}
		stride := t.Strides[d]
		if stride == math.MinInt64 {
			return Invalidf(name, "stride %d of dimension %d is too large", stride, d)
		}
		high, low = bits.Mul64(uint64(abs(stride)), uint64(s-1))
		if high != 0 || low > limit || span+low > limit {
			return Invalidf(name, "strides %v are too large for 64-bit offsets", t.Strides)
		}
		span += low
		if stride < 0 {
			first += low
		}
	}
	if t.ByteOffset > math.MaxInt64 {
		return Invalidf(name, "byte_offset %d is too large", t.ByteOffset)
	}
	if t.Data == nil {
		return Invalidf(name, "data is NULL but shape %s has elements", shapeText(t.Shape))
	}
	size := uint64(t.DType.Size())
	address, carry := bits.Add64(uint64(uintptr(t.Data)), t.ByteOffset, 0)
	low, borrow := bits.Sub64(address, first*size, 0)
	_, carryEnd := bits.Add64(low, (span+1)*size, 0)
	if carry != 0 || borrow != 0 || carryEnd != 0 || low < lowestAddress {
		return Invalidf(name, "elements from address %#x over strides %v leave the address space", address, t.Strides)
	}
	if address%size != 0 {
		return Invalidf(name, "address %#x is not aligned to %s", address, t.DType)
	}
	return nil
}

// Below lies no memory of any process, and the Go runtime aborts when it meets a
// pointer to there.
const lowestAddress = 4096

// extent is the range [low, high) of addresses that the elements span.
func (t *Tensor) extent() (low, high uintptr) {
	if t.Elements() == 0 {
		return 0, 0
	}
	var first, last int64
	for d, s := range t.Shape {
		reach := t.Stride(d) * (s - 1)
		if reach < 0 {
			first += reach
		} else {
			last += reach
		}
	}
	zero, size := int64(uintptr(t.Data))+int64(t.ByteOffset), int64(t.DType.Size())
	return uintptr(zero + first*size), uintptr(zero + (last+1)*size)
}
