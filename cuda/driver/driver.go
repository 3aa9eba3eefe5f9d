// Package driver reaches the CUDA driver: gorgonia.org/cu for devices, contexts, modules,
// memory and streams, purego for the few functions that cu lacks. It is compiled in by
// the build tag gmoe_cuda, which build.mk sets when it is given the headers of CUDA
// 12.x; without the tag there are no devices and every question says why.
//
// Nothing touches the driver before the first call of a function here. That call
// initialises it (cuInit) and creates no context: operations use the primary context
// of a device, which is the one that torch uses.
package driver

import "unsafe"

// GPU is what the driver says of one device.
type GPU struct {
	Name              string `json:"name"`
	ComputeCapability string `json:"compute_capability"` // "9.0"
	MemoryBytes       int64  `json:"memory_bytes"`
}

// Info describes the driver.
type Info struct {
	Library   string   `json:"library,omitempty"`           // the file that was loaded
	Supported string   `json:"supports_cuda,omitempty"`     // the newest CUDA that it runs: "12.9"
	Missing   []string `json:"missing_functions,omitempty"` // that cu could call, if any
}

// Attributes are what the geometry of a launch may depend on.
type Attributes struct {
	ComputeMajor, ComputeMinor int
	MultiProcessors            int
	SharedPerBlock             int // bytes that a block may have, once asked for
	SharedPerMultiProcessor    int // bytes
	L2Bytes                    int
}

// Dim is the size of a grid in blocks, or of a block in threads.
type Dim struct{ X, Y, Z uint32 }

// Launch is one run of a kernel. Every kernel has one parameter, a struct, that Params
// points to; it is copied when the kernel is launched. A grid with a size of 0 is no
// work: nothing is launched.
type Launch struct {
	Kernel      string
	Grid, Block Dim
	SharedBytes uint32 // dynamic shared memory of a block
	Params      unsafe.Pointer
	Maps        []TensorMap // to be encoded into the parameter before it is copied
}

// TensorMap describes a tensor of bfloat16, or of bytes, with three axes, the fastest first, and the box of it that a
// kernel copies at a time into lines of shared memory that are swizzled by 128 bytes.
type TensorMap struct {
	Offset       uintptr // in the parameter: a multiple of 64
	Address      uintptr
	ElementBytes int // 2, or 1
	Size         [3]uint64
	StrideBytes  [2]uint64 // of the second and third axis
	Box          [3]uint32
}
