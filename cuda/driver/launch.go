//go:build gmoe_cuda && cgo && linux && (amd64 || arm64)

package driver

/*
#include <cuda.h>
*/
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// launch runs one kernel. The device's context is current.
func (d *Device) launch(stream core.Stream, l *Launch) error {
	if l.Grid.X == 0 || l.Grid.Y == 0 || l.Grid.Z == 0 {
		return nil
	}
	function, err := d.function(l.Kernel)
	if err != nil {
		return err
	}
	for i := range l.Maps {
		if err := d.encode(l, &l.Maps[i]); err != nil {
			return err
		}
	}
	config := &C.CUlaunchConfig{
		gridDimX: C.uint(l.Grid.X), gridDimY: C.uint(l.Grid.Y), gridDimZ: C.uint(l.Grid.Z),
		blockDimX: C.uint(l.Block.X), blockDimY: C.uint(l.Block.Y), blockDimZ: C.uint(l.Block.Z),
		sharedMemBytes: C.uint(l.SharedBytes),
	}
	*(*core.Stream)(unsafe.Pointer(&config.hStream)) = stream // a number: it may be 1 or 2
	parameters := &[1]unsafe.Pointer{l.Params}
	status := call(d.extra.launchKernelEx, uintptr(unsafe.Pointer(config)), function, uintptr(unsafe.Pointer(parameters)), 0)
	runtime.KeepAlive(parameters)
	if status != 0 {
		return failure(status, "cuLaunchKernelEx", fmt.Sprintf("kernel %s on %s (grid %d x %d x %d of %d x %d x %d threads, %d bytes of shared memory)",
			l.Kernel, d, l.Grid.X, l.Grid.Y, l.Grid.Z, l.Block.X, l.Block.Y, l.Block.Z, l.SharedBytes))
	}
	return nil
}

// encode writes a tensor map into the parameter of a launch.
func (d *Device) encode(l *Launch, m *TensorMap) error {
	const bytes, alignment = 128, 64
	memory := &[bytes + alignment]byte{}
	place := (alignment - uintptr(unsafe.Pointer(memory))%alignment) % alignment
	step := &[3]uint32{1, 1, 1}
	elements := uintptr(C.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16)
	if m.ElementBytes == 1 {
		elements = C.CU_TENSOR_MAP_DATA_TYPE_UINT8
	}
	status := call(d.extra.tensorMapEncodeTiled, uintptr(unsafe.Pointer(&memory[place])), elements, 3, m.Address,
		uintptr(unsafe.Pointer(&m.Size)), uintptr(unsafe.Pointer(&m.StrideBytes)), uintptr(unsafe.Pointer(&m.Box)), uintptr(unsafe.Pointer(step)),
		C.CU_TENSOR_MAP_INTERLEAVE_NONE, C.CU_TENSOR_MAP_SWIZZLE_128B, C.CU_TENSOR_MAP_L2_PROMOTION_L2_128B, C.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
	if status != 0 {
		return failure(status, "cuTensorMapEncodeTiled", fmt.Sprintf("kernel %s on %s (address %#x, sizes %v, strides of %v bytes, box %v)",
			l.Kernel, d, m.Address, m.Size, m.StrideBytes, m.Box))
	}
	copy(unsafe.Slice((*byte)(unsafe.Add(l.Params, m.Offset)), bytes), memory[place:])
	return nil
}
