package abi

import (
	"math"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// valid is a float32 matrix [2, 3] in guarded memory.
func valid(t testing.TB) DLTensor {
	var d DLTensor
	d.data = guarded(t, 1, 2, 3, 4, 5, float32(6))
	d.device.device_type = 1
	d.ndim = 2
	d.dtype.code, d.dtype.bits, d.dtype.lanes = codeFloat, 32, 1
	setSizes(&d.shape, guarded[int64](t, 2, 3))
	return d
}

// setSizes sets a shape or strides field, whose pointer type is C's.
func setSizes[P any](field *P, p unsafe.Pointer) { *(*unsafe.Pointer)(unsafe.Pointer(field)) = p }

func convert(t testing.TB, d DLTensor) (*core.Tensor, error) {
	var c tensors
	p := (*DLTensor)(guarded(t, d))
	tensor := c.take("x", &p)
	return tensor, c.err
}

func TestTensorIsViewed(t *testing.T) {
	d := valid(t)
	setSizes(&d.strides, guarded[int64](t, 1, 2))
	d.byte_offset = 4
	tensor, err := convert(t, d)
	require.NoError(t, err)
	require.Equal(t, []int64{2, 3}, tensor.Shape)
	require.Equal(t, []int64{1, 2}, tensor.Strides)
	require.Equal(t, core.Float32, tensor.DType)
	require.Equal(t, core.Device{Type: core.CPU}, tensor.Device)
	require.Equal(t, float32(2), core.Slice[float32](tensor, 0, 1)[0])
}

func TestElementTypes(t *testing.T) {
	for _, c := range []struct {
		code, bits uint8
		want       core.DType
	}{
		{codeFloat, 32, core.Float32},
		{codeFloat, 64, core.Float64},
		{codeBFloat, 16, core.BFloat16},
		{codeInt, 32, core.Int32},
		{codeInt, 64, core.Int64},
	} {
		got, err := elementType("x", c.code, c.bits, 1)
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
	for code := range 256 {
		for _, bits := range []uint8{0, 1, 4, 8, 16, 32, 64, 128, 255} {
			got, err := elementType("x", uint8(code), bits, 1)
			if err == nil {
				require.Equal(t, int(bits), 8*got.Size())
			}
			for _, lanes := range []uint16{0, 2, 4, math.MaxUint16} {
				_, err := elementType("x", uint8(code), bits, lanes)
				require.ErrorContains(t, err, "lanes")
			}
		}
	}
}

func TestGarbageTensorsAreErrors(t *testing.T) {
	cases := map[string]struct {
		spoil func(*DLTensor)
		want  string
	}{
		"negative rank":       {func(d *DLTensor) { d.ndim = -1 }, "ndim -1"},
		"huge rank":           {func(d *DLTensor) { d.ndim = math.MaxInt32 }, "ndim 2147483647"},
		"no shape":            {func(d *DLTensor) { d.shape = nil }, "shape is NULL"},
		"small shape address": {func(d *DLTensor) { setSizes(&d.shape, unsafe.Pointer(pointerTo[byte](8))) }, "x: shape 0x8"},
		"odd shape address":   {func(d *DLTensor) { setSizes(&d.shape, unsafe.Add(unsafe.Pointer(d.shape), 1)) }, "not an address aligned to 8"},
		"odd strides address": {func(d *DLTensor) { setSizes(&d.strides, unsafe.Add(unsafe.Pointer(d.shape), 4)) }, "x: strides 0x"},
		"two lanes":           {func(d *DLTensor) { d.dtype.lanes = 2 }, "2 lanes"},
		"unknown dtype":       {func(d *DLTensor) { d.dtype.code = 77 }, "code 77"},
		"float16":             {func(d *DLTensor) { d.dtype.bits = 16 }, "16 bits"},
		"no device":           {func(d *DLTensor) { d.device.device_type = 0 }, "device_type 0"},
		"pinned memory":       {func(d *DLTensor) { d.device.device_type = 3 }, "device_type 3"},
		"ROCm":                {func(d *DLTensor) { d.device.device_type = 10 }, "device_type 10"},
		"second CPU":          {func(d *DLTensor) { d.device.device_id = 1 }, "device_id 1"},
		"negative GPU":        {func(d *DLTensor) { d.device.device_type, d.device.device_id = 2, -1 }, "device_id -1"},
		"small data address":  {func(d *DLTensor) { d.data = unsafe.Pointer(pointerTo[byte](1)) }, "data 0x1"},
		"wrapping offset":     {func(d *DLTensor) { d.byte_offset = math.MaxUint64 }, "byte_offset 18446744073709551615"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d := valid(t)
			c.spoil(&d)
			_, err := convert(t, d)
			var typed *core.Error
			require.ErrorAs(t, err, &typed)
			require.Equal(t, core.InvalidArgument, typed.Code)
			require.ErrorContains(t, err, "x")
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestEmptyTensorMayHaveAnyData(t *testing.T) {
	d := valid(t)
	setSizes(&d.shape, guarded[int64](t, 0, 3))
	d.data = unsafe.Pointer(pointerTo[byte](4)) // what an empty Vec of Rust holds
	tensor, err := convert(t, d)
	require.NoError(t, err)
	require.Nil(t, tensor.Data)
	require.NoError(t, tensor.Check("x"))
}

func TestTensorPointers(t *testing.T) {
	for _, address := range []uintptr{1, 8, 4095, 0x10001} {
		var c tensors
		p := pointerTo[DLTensor](address)
		require.Nil(t, c.take("x", &p))
		require.ErrorContains(t, c.err, "not an address")
	}
	var c tensors
	var p *DLTensor
	require.Nil(t, c.take("x", &p))
	require.NoError(t, c.err)
}

func TestFirstErrorSticks(t *testing.T) {
	good := valid(t)
	bad := valid(t)
	bad.ndim = -3
	var c tensors
	p, q := &bad, &good
	c.take("first", &p)
	require.Nil(t, c.take("second", &q))
	require.ErrorContains(t, c.err, "first: ndim -3")
}
