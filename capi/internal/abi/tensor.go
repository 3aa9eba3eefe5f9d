package abi

import (
	"slices"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// maxRank bounds ndim; numpy's bound is 64, torch has none, our operations take 3.
const maxRank = 64

// The values of dlpack.h that DLTensors may hold here.
const (
	codeInt    = 0
	codeFloat  = 2
	codeBFloat = 4
	codeE4M3   = 10
)

// tensors converts the DLTensors of one call. The first error sticks, so that a
// list of conversions reads as a list.
type tensors struct {
	room    room // for the struct that holds them, if its header was older
	options room // and for its options
	views   [maxTensors]core.Tensor
	used    int
	err     error
}

// maxTensors is the number of DLTensor arguments of the call that has most.
const maxTensors = 16

// take converts the DLTensor that a field points to. NULL gives nil: the
// operations know which of their arguments may be missing.
func (c *tensors) take(argument string, field **DLTensor) *core.Tensor {
	if c.err != nil {
		return nil
	}
	var p *DLTensor
	if p, c.err = pointer[DLTensor](argument, field); p == nil {
		return nil
	}
	t := &c.views[c.used]
	c.used++
	c.err = view(t, argument, p)
	return t
}

// clear forgets the views and the error.
func (c *tensors) clear() {
	clear(c.views[:c.used])
	c.used, c.err = 0, nil
}

// view fills t with the view that p describes. Shape and strides stay the caller's
// memory.
func view(t *core.Tensor, argument string, p *DLTensor) error {
	dtype, err := elementType(argument, uint8(p.dtype.code), uint8(p.dtype.bits), uint16(p.dtype.lanes))
	if err != nil {
		return err
	}
	device, err := deviceOf(argument, int32(p.device.device_type), int32(p.device.device_id))
	if err != nil {
		return err
	}
	rank := int(p.ndim)
	if rank < 0 || rank > maxRank {
		return core.Invalidf(argument, "ndim %d, want 0 to %d", rank, maxRank)
	}
	shape, err := pointerIn[int64](argument, "shape", &p.shape)
	if err != nil {
		return err
	}
	if shape == nil && rank > 0 {
		return core.Invalidf(argument, "shape is NULL, want %d sizes", rank)
	}
	strides, err := pointerIn[int64](argument, "strides", &p.strides)
	if err != nil {
		return err
	}
	*t = core.Tensor{DType: dtype, Device: device, Shape: unsafe.Slice(shape, rank)}
	if strides != nil {
		t.Strides = unsafe.Slice(strides, rank)
	}
	if slices.Contains(t.Shape, 0) {
		return nil // Without elements data may be anything: empty slices of Rust hold the address 4.
	}
	offset := uint64(p.byte_offset)
	if address := uint64(*(*uintptr)(unsafe.Pointer(&p.data))); address != 0 && (address < lowestAddress || address+offset < address) {
		return core.Invalidf(argument, "data %#x with byte_offset %d is not an address", address, offset)
	}
	t.Data, t.ByteOffset = p.data, offset
	return nil
}

// elementType maps a DLDataType.
func elementType(argument string, code, bits uint8, lanes uint16) (core.DType, error) {
	if lanes == 1 {
		switch {
		case code == codeFloat && bits == 32:
			return core.Float32, nil
		case code == codeFloat && bits == 64:
			return core.Float64, nil
		case code == codeBFloat && bits == 16:
			return core.BFloat16, nil
		case code == codeE4M3 && bits == 8:
			return core.Float8E4M3, nil
		case code == codeInt && bits == 32:
			return core.Int32, nil
		case code == codeInt && bits == 64:
			return core.Int64, nil
		}
	}
	return 0, core.Invalidf(argument,
		"DLPack dtype code %d, %d bits, %d lanes, want float32, float64, bfloat16, float8_e4m3fn, int32 or int64 with 1 lane", code, bits, lanes)
}

// deviceOf maps a DLDevice. Pinned and managed memory have their own kinds in
// DLPack: the caller passes them as the device that is to work on them.
func deviceOf(argument string, kind, id int32) (core.Device, error) {
	device := core.Device{Type: core.DeviceType(kind), ID: id}
	switch {
	case device.Type != core.CPU && device.Type != core.CUDA:
		return device, core.Invalidf(argument, "DLPack device_type %d, want 1 (CPU) or 2 (CUDA)", kind)
	case id < 0, device.Type == core.CPU && id != 0:
		return device, core.Invalidf(argument, "device_id %d, want 0 on the CPU and at least 0 elsewhere", id)
	}
	return device, nil
}
