package core

import (
	"math"
	"testing"
	"testing/quick"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestFromSlice(t *testing.T) {
	data := []float32{0, 1, 2, 3, 4, 5}
	x := FromSlice(data, 2, 3)
	require.NoError(t, x.Check("x"))
	require.Equal(t, Float32, x.DType)
	require.Equal(t, Device{Type: CPU}, x.Device)
	require.Equal(t, 2, x.Rank())
	require.EqualValues(t, 6, x.Elements())
	require.EqualValues(t, 3, x.Stride(0))
	require.EqualValues(t, 1, x.Stride(1))
	require.Equal(t, []float32{3, 4, 5}, Slice[float32](x, 3, 3))
	require.Nil(t, Slice[float32](x, 0, 0))
	require.Equal(t, float32(4), *(*float32)(x.At(4)))

	require.PanicsWithError(t, "data: holds 6 elements, want 8 for shape [2 4]", func() { FromSlice(data, 2, 4) })
	require.PanicsWithError(t, "shape: [-2 -3], want no negative size", func() { FromSlice(data, -2, -3) })
	require.NoError(t, FromSlice([]int64{}, 0, 7).Check("empty"))
	require.EqualValues(t, 1, FromSlice([]BF16{7}).Elements(), "no dimensions: a scalar")
}

func TestByteOffset(t *testing.T) {
	x := FromSlice([]int32{10, 11, 12, 13}, 4)
	x.ByteOffset, x.Shape = 8, []int64{2}
	require.NoError(t, x.Check("x"))
	require.Equal(t, []int32{12, 13}, Slice[int32](x, 0, 2))
}

func TestDTypes(t *testing.T) {
	for _, test := range []struct {
		got, want DType
		size      int
		name      string
	}{
		{DTypeOf[float32](), Float32, 4, "float32"},
		{DTypeOf[float64](), Float64, 8, "float64"},
		{DTypeOf[BF16](), BFloat16, 2, "bfloat16"},
		{DTypeOf[int32](), Int32, 4, "int32"},
		{DTypeOf[int64](), Int64, 8, "int64"},
	} {
		require.Equal(t, test.want, test.got)
		require.Equal(t, test.size, test.got.Size())
		require.Equal(t, test.name, test.got.String())
		require.NotEqual(t, test.got.IsFloat(), test.got.IsInt())
	}
	require.Zero(t, DType(0).Size())
	require.Equal(t, "DType(77)", DType(77).String())
	require.Equal(t, "cpu", Device{Type: CPU}.String())
	require.Equal(t, "cpu:2", Device{Type: CPU, ID: 2}.String())
	require.Equal(t, "cuda:1", Device{Type: CUDA, ID: 1}.String())
	require.Equal(t, "DeviceType(9):0", Device{Type: 9}.String())
}

func TestIsCompact(t *testing.T) {
	data := make([]float32, 24)
	for _, test := range []struct {
		shape, strides []int64
		want           bool
	}{
		{[]int64{2, 3, 4}, nil, true},
		{[]int64{2, 3, 4}, []int64{12, 4, 1}, true},
		{[]int64{2, 3, 1}, []int64{3, 1, 99}, true}, // a single column may have any stride
		{[]int64{1, 3}, []int64{-5, 1}, true},
		{[]int64{0, 3}, []int64{7, 7}, true},
		{[]int64{}, []int64{}, true},
		{[]int64{3, 2}, []int64{1, 3}, false},
		{[]int64{3, 2}, []int64{3, 1}, false},
		{[]int64{3, 2}, []int64{2, -1}, false},
		{[]int64{3, 2}, []int64{0, 1}, false},
	} {
		x := FromSlice(data, 24)
		x.Shape, x.Strides = test.shape, test.strides
		require.Equal(t, test.want, x.IsCompact(), "%v %v", test.shape, test.strides)
	}
}

func TestCheck(t *testing.T) {
	data := make([]float32, 24)
	for name, test := range map[string]struct {
		change func(x *Tensor)
		want   string
	}{
		"dtype":                 {func(x *Tensor) { x.DType = 0 }, "x: unknown dtype DType(0)"},
		"strides":               {func(x *Tensor) { x.Strides = []int64{1} }, "x: 1 strides for 2 dimensions"},
		"negative size":         {func(x *Tensor) { x.Shape = []int64{2, -1} }, "x: shape [2 -1], dimension 1 is negative"},
		"negative beside empty": {func(x *Tensor) { x.Shape = []int64{0, -1} }, "x: shape [0 -1], dimension 1 is negative"},
		"shape overflow":        {func(x *Tensor) { x.Shape = []int64{1 << 40, 1 << 40} }, "is too large for 64-bit offsets"},
		"bytes overflow":        {func(x *Tensor) { x.Shape = []int64{1 << 31, 1 << 30} }, "is too large for 64-bit offsets"},
		"stride overflow":       {func(x *Tensor) { x.Strides = []int64{math.MaxInt64, 1} }, "too large for 64-bit offsets"},
		"sum of strides":        {func(x *Tensor) { x.Strides = []int64{1 << 60, 1 << 60} }, "too large for 64-bit offsets"},
		"least stride":          {func(x *Tensor) { x.Strides = []int64{1, math.MinInt64} }, "x: stride -9223372036854775808 of dimension 1 is too large"},
		"byte offset":           {func(x *Tensor) { x.ByteOffset = math.MaxUint64 }, "x: byte_offset 18446744073709551615 is too large"},
		"null":                  {func(x *Tensor) { x.Data = nil }, "x: data is NULL but shape [4, 6] has elements"},
		"misaligned offset":     {func(x *Tensor) { x.ByteOffset = 2 }, "is not aligned to float32"},
		"above the address space": {func(x *Tensor) {
			setAddress(x, math.MaxUint64-1<<32+1)
			x.ByteOffset = 1 << 32
		}, "leave the address space"},
		"first page": {func(x *Tensor) { setAddress(x, 64) }, "x: elements from address 0x40 over strides [] leave the address space"},
		"over the end": {func(x *Tensor) {
			setAddress(x, math.MaxUint64-1<<32+1)
			x.Strides = []int64{1 << 30, 1}
		}, "leave the address space"},
		"below zero": {func(x *Tensor) { x.Strides = []int64{-1 << 58, 1} }, "leave the address space"},
	} {
		t.Run(name, func(t *testing.T) {
			x := FromSlice(data, 4, 6)
			test.change(x)
			err := x.Check("x")
			require.ErrorContains(t, err, test.want)
			require.Equal(t, InvalidArgument, err.(*Error).Code)
		})
	}
	for name, change := range map[string]func(x *Tensor){
		"NULL where there is nothing":   func(x *Tensor) { x.Data, x.Shape = nil, []int64{0, 6} },
		"any strides where nothing":     func(x *Tensor) { x.Strides, x.Shape = []int64{math.MinInt64, 1}, []int64{4, 0} },
		"huge beside nothing":           func(x *Tensor) { x.Shape = []int64{math.MaxInt64, math.MaxInt64, 0} },
		"broadcast":                     func(x *Tensor) { x.Strides = []int64{0, 0} },
		"backwards":                     func(x *Tensor) { x.ByteOffset, x.Strides = 23*4, []int64{-6, -1} },
		"any stride of a single column": func(x *Tensor) { x.Shape, x.Strides = []int64{4, 1}, []int64{1, math.MaxInt64} },
	} {
		t.Run(name, func(t *testing.T) {
			x := FromSlice(data, 4, 6)
			change(x)
			require.NoError(t, x.Check("x"))
		})
	}
}

// setAddress gives a tensor an address that Go's checks would not let be made.
func setAddress(x *Tensor, address uintptr) { *(*uintptr)(unsafe.Pointer(&x.Data)) = address }

// small is a tensor over the first elements of a buffer, made from arbitrary numbers.
type small struct {
	Sizes   [3]uint8
	Strides [3]int8
	Offset  uint8
}

const middle = 200 // every small tensor lies within [0, 2*middle)

func (s small) tensor(data []float32) *Tensor {
	x := FromSlice(data, int64(len(data)))
	x.ByteOffset = 4 * (middle - 20 + uint64(s.Offset%40))
	x.Shape, x.Strides = nil, nil
	for d := range s.Sizes {
		x.Shape = append(x.Shape, int64(s.Sizes[d]%4))
		x.Strides = append(x.Strides, int64(s.Strides[d]%16))
	}
	return x
}

// addresses lists the address of every element, with repetitions.
func addresses(x *Tensor) []uintptr {
	var all []uintptr
	for i := range x.Shape[0] {
		for j := range x.Shape[1] {
			for k := range x.Shape[2] {
				all = append(all, uintptr(x.At(i*x.Strides[0]+j*x.Strides[1]+k*x.Strides[2])))
			}
		}
	}
	return all
}

func TestExtentHoldsEveryElement(t *testing.T) {
	data := make([]float32, 2*middle)
	require.NoError(t, quick.Check(func(s small) bool {
		x := s.tensor(data)
		low, high := x.extent()
		all := addresses(x)
		touchesLow, touchesHigh := len(all) == 0, len(all) == 0
		for _, address := range all {
			if address < low || address+4 > high {
				return false
			}
			touchesLow = touchesLow || address == low
			touchesHigh = touchesHigh || address+4 == high
		}
		return x.Check("x") == nil && touchesLow && touchesHigh
	}, nil))
}

func TestCompactMeansInOrder(t *testing.T) {
	data := make([]float32, 2*middle)
	compact := 0
	require.NoError(t, quick.Check(func(s small) bool {
		x := s.tensor(data)
		inOrder := true
		for i, address := range addresses(x) {
			inOrder = inOrder && address == uintptr(x.At(int64(i)))
		}
		if inOrder {
			compact++
		}
		return x.IsCompact() == inOrder
	}, &quick.Config{MaxCount: 3000}))
	require.Positive(t, compact)
}

// What passes Check has addresses and offsets that do not overflow, whatever it says.
func FuzzCheck(f *testing.F) {
	f.Add(int64(2), int64(3), int64(3), int64(1), uint64(0), uint8(1))
	f.Add(int64(math.MaxInt64), int64(0), int64(math.MinInt64), int64(-1), uint64(8), uint8(2))
	f.Add(int64(1<<31), int64(1<<31), int64(1<<31), int64(1), uint64(4), uint8(3))
	f.Add(int64(1<<20), int64(1<<20), int64(-1<<41), int64(1<<21), uint64(1<<62), uint8(5))
	data := make([]float32, 64)
	f.Fuzz(func(t *testing.T, rows, columns, rowStride, columnStride int64, offset uint64, dtype uint8) {
		x := FromSlice(data, 64)
		x.DType, x.ByteOffset = DType(dtype), offset
		x.Shape, x.Strides = []int64{rows, columns}, []int64{rowStride, columnStride}
		if x.Check("x") != nil || x.Elements() == 0 {
			return
		}
		size := uintptr(x.DType.Size())
		low, high := x.extent()
		require.Less(t, low, high)
		require.Zero(t, low%size)
		require.Zero(t, (high-low)%size)
		require.LessOrEqual(t, x.Elements(), int64(math.MaxInt64)/int64(size))
		if !overlapsItself(x) {
			require.GreaterOrEqual(t, uint64(high-low), uint64(x.Elements())*uint64(size))
		}
		require.True(t, overlap(x, x))
	})
}
