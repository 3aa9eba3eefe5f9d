//go:build !gmoe_cuda || !cgo || !linux || !(amd64 || arm64)

package driver

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// errAbsent is why there are no devices.
var errAbsent = core.Errorf(core.NoDevice, "cuda: this build has no access to the CUDA driver: it was made without the headers of CUDA 12")

// Load says that there is no driver access in this build.
func Load() error { return errAbsent }

// Count is the number of devices: none.
func Count() (int, error) { return 0, errAbsent }

// GPUs lists the devices: none.
func GPUs() ([]GPU, error) { return nil, errAbsent }

// Describe is the empty description.
func Describe() Info { return Info{} }

// Kernels is what the doctor says of the kernels: nothing without a driver.
func Kernels() string { return "none: no access to the CUDA driver" }

// Device cannot be had in this build.
type Device struct{}

// Open says why there is no device.
func Open(int32) (*Device, error) { return nil, errAbsent }

// Attributes is never called: there is no device.
func (*Device) Attributes() Attributes { return Attributes{} }

// Run is never called: there is no device.
func (*Device) Run(core.Stream, ...Launch) error { return errAbsent }

// Zeros is never called: there is no device.
func (*Device) Zeros(uint64, core.Stream) (uintptr, error) { return 0, errAbsent }

// Memset is never called: there is no device.
func (*Device) Memset(uintptr, byte, uint64, core.Stream) error { return errAbsent }

// Read is never called: there is no device.
func (*Device) Read(unsafe.Pointer, uintptr, uint64, core.Stream) error { return errAbsent }
